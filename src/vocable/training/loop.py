"""The training loop: gradient accumulation, several processes, validation, checkpoints, exact resume.

    task.next_batches -> loss summed over tokens -> one optimiser step -> log, validate, checkpoint -> ... -> out/best

The loop knows nothing of units: a task gives it batches and their summed losses (`training/language_model.py` is the
one for language models). Every step averages over all tokens of all its batches, on whatever processes they are, so
neither accumulation nor the number of processes changes the result beyond rounding. `accelerate launch` gives several
processes on GPUs, `torchrun` also on CPUs (where `accelerate launch --cpu` starts one process, unless through MPI).
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from vocable.config import config_to_dict
from vocable.errors import ConfigError, NumericsError
from vocable.files import put_folder, restore_folder
from vocable.training.checkpoints import Checkpoints
from vocable.training.config import TrainingConfig
from vocable.training.logs import Display, RunLog, read_metrics
from vocable.training.schedules import budget_spent, learning_rate


class LossSum(NamedTuple):
    """The loss of a batch."""

    total: Tensor
    """Summed over tokens; what is differentiated."""
    parts: Mapping[str, tuple[float, int]]
    """Sums and numbers of tokens of parts of it, by name, for the logs: of speech and of text, say."""


class TrainingTask(Protocol):
    """What the loop needs to know of a model and its data."""

    model: nn.Module
    part_names: tuple[str, ...]
    """Parts of the loss that are added up for the logs; the same on all processes."""

    def next_batches(self, count: int, process: int, num_processes: int) -> Sequence[Any]:
        """Return this process's share of the next `count` training batches, on the CPU."""
        ...

    def validation_batches(self, process: int, num_processes: int) -> Sequence[Any]:
        """Return this process's share of the validation batches; the same ones every time."""
        ...

    def num_targets(self, batch: Any) -> int:
        """Count the tokens that the loss of this batch is a sum over."""
        ...

    def loss_sum(self, model: nn.Module, batch: Any) -> LossSum:
        """Return the loss of a batch summed over its tokens; `model` is `self.model`, perhaps wrapped."""
        ...

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Turn the sums and numbers of all parts since the last line of the log into what that line says."""
        ...

    def validation_metrics(
        self, loss_sum: float, num_targets: int, parts: Mapping[str, tuple[float, int]]
    ) -> dict[str, float]:
        """Turn the sums over all validation batches into what is logged; `loss` is the one that should fall."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model for use to `folder`, which does not exist."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the data."""
        ...

    def identity(self) -> dict[str, Any]:
        """Describe model and data, as JSON values: a run is resumed only with an equal description."""
        ...


class TrainingResult(NamedTuple):
    """Where the models are, and the curves."""

    best: Path
    """Folder of the model with the lowest validation loss (without validation data: the final one)."""
    last: Path
    """Folder of the final model."""
    train_curve: list[dict[str, Any]]
    """The lines of metrics.jsonl about training."""
    valid_curve: list[dict[str, Any]]
    """The lines of metrics.jsonl about validation."""
    finished: bool
    """False when `stop_at_step` ended the run before its budget did."""


@dataclass(slots=True)
class _LoopState:
    """Everything besides weights, optimiser and random states that a resumed run needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    warmup_spent: float = 0.0
    """Share of the budget that was spent at the end of warm-up; the cosine starts there."""
    best_loss: float | None = None
    finished: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("loss", "targets", "norm", "steps"), 0.0))
    """Sums since the last line of the log."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Sums and numbers of tokens of the parts of the loss, since then."""
    window_seconds: float = 0.0


def train(
    task: TrainingTask, config: TrainingConfig, out: Path, *, stop_at_step: int | None = None, show: bool = True
) -> TrainingResult:
    """Train `task.model` in place until a budget is spent; go on from the last checkpoint in `out`, if there is one.

    Args:
        task: model, data and loss.
        config: budgets, optimiser, logging.
        out: the run's folder; see training/checkpoints.py.
        stop_at_step: checkpoint and return at this step; a later call goes on. The schedule is that of the whole run.
        show: display progress.

    Raises:
        ConfigError: `batches_per_step` is no multiple of the number of processes.
        NumericsError: the loss became NaN or infinite; checkpoints before that stay.
        OutputError: `out` holds another run, or the disk is full.
    """
    return _Trainer(task, config, Path(out), show).run(stop_at_step)


class _Trainer:
    """One call of `train`."""

    def __init__(self, task: TrainingTask, config: TrainingConfig, out: Path, show: bool) -> None:
        self.task, self.config, self.out = task, config, out
        # bf16 is done with torch's autocast below: accelerate's own would stay on the model after training
        self.accelerator = Accelerator(mixed_precision="no")
        self.num_processes = self.accelerator.num_processes
        if config.batches_per_step % self.num_processes:
            raise ConfigError(
                f"training.batches_per_step is {config.batches_per_step}, which {self.num_processes} processes cannot "
                "share evenly. Use a multiple of the number of processes."
            )
        self.checkpoints = Checkpoints(out, self.accelerator)
        if self.accelerator.is_main_process:
            self.checkpoints.claim({"training": config_to_dict(config), **task.identity()})
        self.accelerator.wait_for_everyone()
        set_seed(config.seed + self.accelerator.process_index)
        self.model, self.optimizer = self.accelerator.prepare(task.model, make_optimizer(task.model, config))
        self.state = _LoopState()
        self._resume()
        first = self.accelerator.is_main_process
        self.log = RunLog(out, resume_step=self.state.step, active=first)
        self.display = Display(active=show and first)

    def run(self, stop_at_step: int | None) -> TrainingResult:
        state, config = self.state, self.config
        clock = time.perf_counter()
        try:
            while not state.finished and (stop_at_step is None or state.step < stop_at_step):
                self._step()
                now = time.perf_counter()
                state.window_seconds += now - clock
                state.seconds = self._agree(state.seconds + now - clock)
                clock = now
                state.finished = self._spent() >= 1
                stopping = state.finished or state.step == stop_at_step
                if state.finished or state.step % config.log_every == 0:
                    self._write_log()
                if state.finished or _due(config.validate_every, state.step):
                    self._validate()
                if state.finished:
                    self._save_model("last")
                now = time.perf_counter()
                state.seconds = self._agree(state.seconds + now - clock)  # validating counts as time, not as speed
                clock = now
                if stopping or _due(config.checkpoint_every, state.step):
                    self._checkpoint()
                    clock = time.perf_counter()
        finally:
            self.log.close()
            self.display.close()
        curves = read_metrics(self.out)
        return TrainingResult(
            best=self.out / ("best" if (self.out / "best").is_dir() else "last"),
            last=self.out / "last",
            train_curve=[line for line in curves if line["split"] == "train"],
            valid_curve=[line for line in curves if line["split"] == "valid"],
            finished=state.finished,
        )

    def _step(self) -> None:
        """One optimiser step over `batches_per_step` batches, this process taking its share."""
        state, config = self.state, self.config
        batches = self.task.next_batches(config.batches_per_step, self.accelerator.process_index, self.num_processes)
        targets = int(self._sum(float(sum(self.task.num_targets(batch) for batch in batches))))
        state.step += 1
        state.tokens += targets
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        loss, parts = 0.0, []
        for index, batch in enumerate(batches):
            accumulating = index + 1 < len(batches)
            with self.accelerator.no_sync(self.model) if accumulating else nullcontext():
                found = self._loss_sum(self.model, batch)
                # gradients are averaged over processes: times their number, over all targets, is the mean over tokens
                self.accelerator.backward(found.total * (self.num_processes / targets))
            loss += float(found.total.detach())
            parts.append(found.parts)
        loss = self._sum(loss)
        if not torch.isfinite(torch.tensor(loss)):
            raise NumericsError(
                f"{self.out}: the loss is {loss} at step {state.step}. Lower training.learning_rate (now "
                f"{config.learning_rate}), or look for broken documents; earlier checkpoints are kept."
            )
        largest = config.max_gradient_norm if config.max_gradient_norm is not None else float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), largest)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in (("loss", loss), ("targets", targets), ("norm", float(norm or 0.0)), ("steps", 1)):
            state.window[name] += value
        for name, (value, count) in self._sum_parts(parts).items():
            before = state.parts.get(name, [0.0, 0.0])
            state.parts[name] = [before[0] + value, before[1] + count]

    def _loss_sum(self, model: nn.Module, batch: Any) -> LossSum:
        device = self.accelerator.device
        batch = batch.to(device) if hasattr(batch, "to") else batch
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.task.loss_sum(model, batch)

    def _learning_rate(self) -> float:
        state = self.state
        spent = self._spent()
        if state.step <= self.config.warmup_steps:
            state.warmup_spent = spent
        decayed = (spent - state.warmup_spent) / max(1 - state.warmup_spent, 1e-9)
        return learning_rate(self.config, state.step, decayed)

    def _spent(self) -> float:
        return budget_spent(self.config, self.state.step, self.state.tokens, self.state.seconds)

    def _write_log(self) -> None:
        state, window = self.state, self.state.window
        values = {
            "loss": window["loss"] / window["targets"],
            **self.task.training_metrics({name: (sums[0], sums[1]) for name, sums in state.parts.items()}),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": window["norm"] / window["steps"],
            "tokens_per_second": window["targets"] / max(state.window_seconds, 1e-9),
            "tokens": state.tokens,
            "seconds": state.seconds,
        }
        self.log.write(state.step, "train", values)
        self.display.update(self._spent(), state.step, {key: values[key] for key in ("loss", "tokens_per_second")})
        state.window = dict.fromkeys(window, 0.0)
        state.parts = {}
        state.window_seconds = 0.0

    def _validate(self) -> None:
        """Log the validation loss, and keep the model if it is the best so far."""
        batches = self.task.validation_batches(self.accelerator.process_index, self.num_processes)
        model = self.accelerator.unwrap_model(self.model)  # processes may have unequal numbers of batches
        model.eval()
        with torch.no_grad():
            found = [self._loss_sum(model, batch) for batch in batches]
        loss_sum = self._sum(sum(float(item.total) for item in found))
        targets = int(self._sum(float(sum(self.task.num_targets(batch) for batch in batches))))
        model.train()
        if not targets:
            return
        values = self.task.validation_metrics(loss_sum, targets, self._sum_parts(item.parts for item in found))
        self.log.write(self.state.step, "valid", values)
        self.display.update(self._spent(), self.state.step, {f"valid {key}": value for key, value in values.items()})
        if self.state.best_loss is None or values["loss"] < self.state.best_loss:
            self.state.best_loss = values["loss"]
            self._save_model("best")

    def _save_model(self, name: str) -> None:
        """Write the model for use; the old one of this name is there until the new one is whole."""
        if self.accelerator.is_main_process:
            temporary = self.out / f".{name}.writing"
            shutil.rmtree(temporary, ignore_errors=True)
            self.task.save(self.accelerator.unwrap_model(self.model), temporary)
            put_folder(temporary, self.out / name)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        self.state.data = self.task.state_dict()
        values = {name: getattr(self.state, name) for name in self.state.__dataclass_fields__}
        self.checkpoints.save(self.state.step, values, self.config.keep_checkpoints)

    def _resume(self) -> None:
        for name in ("best", "last"):
            if self.accelerator.is_main_process:
                restore_folder(self.out / name)
        self.accelerator.wait_for_everyone()
        checkpoint = self.checkpoints.last()
        if checkpoint is not None:
            self.state = _LoopState(**self.checkpoints.load(checkpoint))
            self.task.load_state_dict(self.state.data)

    def _sum_parts(self, batches: Iterable[Mapping[str, tuple[float, int]]]) -> dict[str, tuple[float, int]]:
        """Add the parts of the loss up over batches and processes; parts without a token are left out."""
        totals = torch.zeros(len(self.task.part_names), 2, dtype=torch.float64)
        for parts in batches:
            for index, name in enumerate(self.task.part_names):
                totals[index] += torch.tensor(parts.get(name, (0.0, 0)), dtype=torch.float64)
        sums = self._sum_tensor(totals).tolist() if len(totals) else []
        return {name: (value, int(count)) for name, (value, count) in zip(self.task.part_names, sums) if count}

    def _sum(self, value: float) -> float:
        """Add a number up over all processes."""
        return float(self._sum_tensor(torch.tensor([value], dtype=torch.float64)))

    def _sum_tensor(self, values: Tensor) -> Tensor:
        if self.num_processes == 1:
            return values
        return self.accelerator.reduce(values, reduction="sum")  # type: ignore[return-value]  # a tensor, as came in

    def _agree(self, value: float) -> float:
        """Take the first process's clock everywhere, so that all stop at the same step."""
        return self._sum(value if self.accelerator.is_main_process else 0.0)


def mean_parts(parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return the mean of each part under the name `<part>_loss`."""
    return {f"{name}_loss": value / count for name, (value, count) in parts.items() if count}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
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


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
