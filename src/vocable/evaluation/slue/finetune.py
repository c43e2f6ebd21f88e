"""Fine-tune a head, alone or with all weights of the language model, on one modality.

    head only: features of every row, once -> epochs over them          all: rows -> model -> head, in every epoch

The epoch with the best score on the dev set of the same modality is kept. Nothing of the other modality is looked at.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError, NumericsError
from vocable.evaluation.slue.heads import Pooling, Task, frozen_features
from vocable.evaluation.slue.labels import Labels
from vocable.evaluation.slue.rows import TaskRow
from vocable.lm.packed import hidden_states


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneConfig:
    """How a head is trained. SUTLM's own settings are not known to us; these are ours."""

    train: Literal["head", "all"] = "head"
    """The linear layer alone, or all weights of the language model too."""
    pooling: Pooling = "mean"
    """Of sentiment: the mean of all states of a row, or the state of its last position."""
    head_learning_rate: float = 3e-3
    learning_rate: float = 2e-5
    """Of the language model's weights, when all are trained. 2e-5 is that of SLUE's own sentiment baseline."""
    weight_decay: float = 0.01
    dropout: float = 0.2
    """On what the linear layer reads; 0.2 is that of SLUE's own sentiment baseline."""
    epochs: int = 60
    patience: int = 10
    """Epochs without a better dev score after which to stop."""
    batch_utterances: int = 32
    warmup_steps: int = 20
    """Updates over which learning rates grow to their value, at which they stay."""
    max_gradient_norm: float = 1.0
    max_tokens: int = 4096
    """In one forward pass without gradients."""

    def __post_init__(self) -> None:
        if self.train not in ("head", "all"):
            raise ConfigError(f"train is {self.train!r}; it is head or all.")
        if self.pooling not in ("mean", "last"):
            raise ConfigError(f"pooling is {self.pooling!r}; it is mean or last.")
        for name in ("epochs", "patience", "batch_utterances", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("head_learning_rate", "learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.dropout < 1 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError(
                f"dropout is {self.dropout} (0 to below 1), weight_decay {self.weight_decay} and warmup_steps "
                f"{self.warmup_steps} (0 or more)."
            )


class Example(NamedTuple):
    """A row and what is known about it."""

    row: TaskRow
    labels: Labels


class FineTuned(NamedTuple):
    """A head, and the weights that go with it."""

    head: nn.Linear
    model: nn.Module
    """The language model: the given one when the head alone was trained, else a copy with its own weights."""
    best_epoch: int
    """Counted from 1."""
    dev_scores: list[float]
    """One for each epoch that was run."""


def fine_tune(
    model: nn.Module,
    task: Task,
    train: Sequence[Example],
    dev: Sequence[Example],
    config: FineTuneConfig,
    seed: int = 0,
    features: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Train a head on `train` and keep the epoch that is best on `dev`; the given model is not changed.

    Args:
        model: a causal LM.
        task: sentiment or entities.
        train: to learn from.
        dev: to choose the epoch by.
        config: see there.
        seed: of the head's first weights, of dropout and of the order.
        features: `frozen_features` of train and dev, where they are there already; used when only the head is trained.
        on_epoch: called with 1 after every epoch, and with how many there are at most.

    Raises:
        ConfigError: there is nothing to train on or to choose by, or all of `train` has one class.
        NumericsError: the loss is not a number.
    """
    _check(task, train, dev)
    targets = [task.targets(*example) for example in train]
    frozen = config.train == "head"
    if frozen and features is None:
        rows = [[example.row for example in part] for part in (train, dev)]
        features = (
            frozen_features(model, task, rows[0], config.max_tokens),
            frozen_features(model, task, rows[1], config.max_tokens),
        )
    learner = model if frozen else copy.deepcopy(model)
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(_width(learner), len(task.classes)).to(device)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        stepper = _Stepper(learner, head, task, config)
        best, best_weights, best_epoch = -1.0, None, 0
        scores: list[float] = []
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(1, config.epochs + 1):
            order = torch.randperm(len(train), generator=generator).tolist()
            for start in range(0, len(order), config.batch_utterances):
                chosen = order[start : start + config.batch_utterances]
                cached = None if features is None or not frozen else [features[0][index] for index in chosen]
                stepper.step([train[index].row for index in chosen], [targets[index] for index in chosen], cached)
            found = predict(learner, head, task, [e.row for e in dev], config, features[1] if features else None)
            scores.append(dev_score(task, dev, found))
            if scores[-1] > best:
                best, best_epoch = scores[-1], epoch
                best_weights = _weights(head, None if frozen else learner)
            if on_epoch is not None:
                on_epoch(1, config.epochs)
            if epoch - best_epoch >= config.patience:
                break
    assert best_weights is not None, "a score is at least 0"
    head.load_state_dict(best_weights[0])
    if best_weights[1] is not None:
        learner.load_state_dict(best_weights[1])
    return FineTuned(head.eval(), learner.eval(), best_epoch, scores)


def predict(
    model: nn.Module,
    head: nn.Linear,
    task: Task,
    rows: Sequence[TaskRow],
    config: FineTuneConfig,
    features: Sequence[Float[Tensor, "outputs dim"]] | None = None,
) -> list[Any]:
    """Return what the head says about every row.

    Args:
        model: a causal LM.
        head: as `fine_tune` trained it.
        task: that it was trained for.
        rows: to read.
        config: for the size of a forward pass.
        features: `frozen_features` of the rows, where the model's weights are those that they were computed with.
    """
    if features is None or config.train == "all":
        features = frozen_features(model, task, rows, config.max_tokens)
    with torch.no_grad():
        logits = [head(found.to(head.weight)) for found in features]
    return [task.predict(scores, row) for scores, row in zip(logits, rows)]


def dev_score(task: Task, examples: Sequence[Example], found: Sequence[Any]) -> float:
    """Return the headline score of predictions."""
    counts = [task.counts(task.gold(example.labels), guess) for example, guess in zip(examples, found, strict=True)]
    return float(task.score(np.asarray(counts, dtype=float).sum(axis=0)))


class _Stepper:
    """Optimiser and schedule, and one update."""

    def __init__(self, model: nn.Module, head: nn.Linear, task: Task, config: FineTuneConfig) -> None:
        self.model, self.head, self.task, self.config = model, head, task, config
        groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": config.head_learning_rate}]
        if config.train == "all":
            groups.append({"params": list(model.parameters()), "lr": config.learning_rate})
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
        warmup = max(1, config.warmup_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / warmup))

    def step(self, rows: Sequence[TaskRow], targets: Sequence[Tensor], cached: Sequence[Tensor] | None) -> None:
        if cached is None:
            self.model.train()
            cached = [
                self.task.features(*pair)
                for pair in zip(hidden_states(self.model, [row.token_ids for row in rows]), rows)
            ]
        wanted: Int[Tensor, " outputs"] = torch.cat(list(targets)).to(self.head.weight.device)
        if not len(wanted):
            return
        inputs = F.dropout(torch.cat(list(cached)).to(self.head.weight), self.config.dropout)
        loss = F.cross_entropy(self.head(inputs), wanted)
        if not math.isfinite(loss.item()):
            raise NumericsError(f"The loss is {loss.item()} while fine-tuning. Lower the learning rates.")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        self.optimizer.step()
        self.schedule.step()


def _check(task: Task, train: Sequence[Example], dev: Sequence[Example]) -> None:
    if not train or not dev:
        raise ConfigError(f"{task.name} has {len(train)} train and {len(dev)} dev utterances; both need some.")
    found = {int(target) for example in train for target in task.targets(*example)}
    if len(found) < 2:
        only = task.classes[found.pop()] if found else "none"
        raise ConfigError(
            f"All {len(train)} train utterances have one class for {task.name}, {only!r}: there is nothing to learn."
        )


def _width(model: Any) -> int:
    """What the final hidden states measure; OPT-350M projects them to another width than its layers'."""
    config = model.config.get_text_config(decoder=True)
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def _weights(head: nn.Module, model: nn.Module | None) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Copies, on the CPU."""
    kept = [
        None if part is None else {name: value.detach().cpu().clone() for name, value in part.state_dict().items()}
        for part in (head, model)
    ]
    assert kept[0] is not None
    return kept[0], kept[1]
