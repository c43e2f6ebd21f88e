"""The contract of what is trained: models, their optimisers, data, and what a step is.

    task: batches, losses, optimisers, rates, a step
    loop: accumulation, precision, clipping, averaging, logs, validation, checkpoints, resuming

A step of most tasks is one update of one model. An adversarial task makes several, one for each of its learners:

    def step(self, loop, batches):
        loop.update("discriminators", batches, self.discriminator_loss)
        loop.update("vocoder", batches, self.vocoder_loss)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from vocable.training.config import AdamWTrainingConfig
from vocable.training.schedules import learning_rate

if TYPE_CHECKING:
    from vocable.training.logs import RunLog
    from vocable.training.loop import Loop


class LossSum(NamedTuple):
    """The loss of a batch."""

    total: Tensor
    """Sum over the batch's tokens; the gradient is that of the mean over all tokens of a step."""
    parts: Mapping[str, tuple[float, int]]
    """Sums and numbers of tokens of parts of it, by name, for the logs: of speech and of text, say."""


class Learner(NamedTuple):
    """A module, and the optimiser that changes it."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    is_clipped: bool = True
    """Whether `max_gradient_norm` holds for it."""


class Progress(NamedTuple):
    """How far a run is."""

    step: int = 0
    """Number of the current step, from 1."""
    spent: float = 0.0
    """Share of the budget that was spent before this step."""
    decayed: float = 0.0
    """Share of the budget after warm-up that is spent, this step counted in."""


class ValidationSums(NamedTuple):
    """Losses of all validation batches on all processes, added up."""

    loss: float
    num_targets: int
    parts: Mapping[str, tuple[float, int]]


class DataSize(NamedTuple):
    """How much there is to train on, or to validate on."""

    count: int
    thing: str = "utterance"
    """Name of what is counted."""
    seconds: float | None = None
    """Length of the speech; None where it is not known."""
    tokens: int | None = None
    """Tokens that a language model reads in all."""


class TrainingTask(ABC):
    """Models, data and losses as the loop sees them; a task says where it differs from these defaults."""

    learners: Mapping[str, Learner]
    """By name. The first one is the model that is averaged, validated and saved."""
    part_names: tuple[str, ...] = ()
    """Parts of the loss that are added up for the logs; the same on all processes."""
    target_name: str = "token"
    """Name of what `num_targets` counts."""
    warmup_steps: int = 0
    """Steps before the learning rate begins to fall."""
    may_change: tuple[str, ...] = ()
    """Dotted settings that a run may change when it goes on, besides those of `training.config.MAY_CHANGE`."""

    @abstractmethod
    def next_batches(self, count: int, process: int, num_processes: int) -> Sequence[Any]:
        """Return this process's share of the next `count` training batches, on the CPU."""

    @abstractmethod
    def num_targets(self, batch: Any) -> int:
        """Count the tokens that the loss of this batch is a sum over."""

    def data_sizes(self) -> Mapping[str, DataSize]:
        """Return how much there is to `train` and to `valid` on, for people to read; empty: not known."""
        return {}

    @abstractmethod
    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Return the learning rate of this step, for parameters whose optimiser was made with the rate `peak`."""

    def loss_sum(self, model: nn.Module, batch: Any) -> LossSum:
        """Return the loss of a batch summed over its tokens; `model` is a learner's module, perhaps wrapped."""
        raise NotImplementedError

    def step(self, loop: "Loop", batches: Sequence[Any]) -> None:
        """Take one step on batches, which are on the device."""
        (name,) = self.learners
        loop.update(name, batches, self.loss_sum)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Turn the sums and numbers of all parts since the last line of the log into what that line says."""
        return {name: total / count for name, (total, count) in parts.items() if count}

    def validate(self, loop: "Loop", model: nn.Module) -> dict[str, float]:
        """Return what is logged of a model; `loss` is the number that should fall. Empty: there is nothing to check."""
        batches = self.validation_batches(loop.process, loop.num_processes)
        sums = loop.add_up(model, batches, self.loss_sum)
        return self.validation_metrics(*sums) if sums.num_targets else {}

    def validation_batches(self, process: int, num_processes: int) -> Sequence[Any]:
        """Return this process's share of the validation batches; the same ones every time."""
        return ()

    def validation_metrics(
        self, loss_sum: float, num_targets: int, parts: Mapping[str, tuple[float, int]]
    ) -> dict[str, float]:
        """Turn the sums over all validation batches into what is logged."""
        return {"loss": loss_sum / num_targets, **self.training_metrics(parts)}

    def show_examples(self, model: nn.Module, log: "RunLog", step: int) -> None:  # noqa: B027  (most tasks have none)
        """Show in the log and its folder what a model that was just validated makes of examples; nothing by default.

        Only the first process shows them.
        """

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model for use to `folder`, which does not exist."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, as JSON values."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the data."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Describe models and data, as JSON values: a run is resumed only with an equal description."""
        raise NotImplementedError


class AdamWTask(TrainingTask):
    """A task with one model, one AdamW, and one of the schedules that the config names."""

    def __init__(self, model: nn.Module, config: AdamWTrainingConfig) -> None:
        """Make the optimiser."""
        self.model, self.training = model, config
        self.learners = {"model": Learner(model, make_optimizer(model, config))}
        self.warmup_steps = config.warmup_steps

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Follow the config's schedule."""
        return learning_rate(self.training, progress.step, progress.decayed)


def make_optimizer(model: nn.Module, config: AdamWTrainingConfig) -> torch.optim.Optimizer:
    """Make a fused AdamW that decays matrices, not biases, norms, or parameters with an attribute `no_decay`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p.ndim >= 2 and not getattr(p, "no_decay", False) for p in parameters]
    groups = [
        {"params": list(compress(parameters, decayed)), "weight_decay": config.weight_decay},
        {"params": [p for p, wanted in zip(parameters, decayed) if not wanted], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=betas,
        eps=config.epsilon,
        fused=True,
    )
