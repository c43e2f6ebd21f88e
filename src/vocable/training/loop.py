"""The one training loop: accumulation, precision, averaged weights, validation, checkpoints, exact resume.

    task.next_batches -> task.step: updates of its learners -> log, validate, checkpoint -> ... -> out/best, out/last

The loop knows nothing of units: a task (training/task.py) owns the models, their optimisers and the data, and says
what a step is. Every update averages over all tokens of all its batches, on whatever processes they are, so neither
accumulation nor the number of processes changes the result beyond rounding. `accelerate launch` gives several
processes on GPUs, `torchrun` also on CPUs (where `accelerate launch --cpu` starts one process, unless through MPI).
`fit` runs the same loop on small models in memory, such as probes, without a folder.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import Tensor, nn

from vocable.config import config_to_dict
from vocable.errors import ConfigError, NumericsError, OutputError
from vocable.files import replace_folder, restore_folder
from vocable.training.announcements import Announcements
from vocable.training.checkpoints import Checkpoints
from vocable.training.config import MAY_CHANGE, TrainingConfig
from vocable.training.logs import Display, RunLog, read_metrics
from vocable.training.precision import DTYPES, fastest_precision
from vocable.training.schedules import budget_spent
from vocable.training.task import LossSum, Progress, TrainingTask, ValidationSums


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
    precision: str
    """Type that the run computed in: fp32, bf16 or fp16."""


@dataclass(slots=True)
class _LoopState:
    """Everything besides weights, optimisers and random states that a resumed run needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    warmup_spent: float = 0.0
    """Share of the budget that was spent at the end of warm-up; the cosine starts there."""
    best_loss: float | None = None
    stale: int = 0
    """Validations since the best one."""
    finished: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaling; empty unless the precision is fp16."""
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("loss", "targets", "norm", "steps"), 0.0))
    """Sums since the last line of the log."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """Sums and numbers of tokens of the parts of the loss, since then."""
    window_seconds: float = 0.0


def train(
    task: TrainingTask, config: TrainingConfig, out: Path, *, stop_at_step: int | None = None, show: bool = True
) -> TrainingResult:
    """Train the task's models in place until a budget is spent; go on from the last checkpoint in `out`, if any.

    Args:
        task: models, optimisers, data and losses.
        config: budgets, precision, logging.
        out: the run's folder; see training/checkpoints.py.
        stop_at_step: checkpoint and return at this step; a later call goes on. The schedule is that of the whole run.
        show: display progress.

    Raises:
        ConfigError: `batches_per_step` is no multiple of the number of processes.
        NumericsError: the loss became NaN or infinite; checkpoints before that stay.
        OutputError: `out` holds another run, none of its checkpoints can be read, or the disk is full.
    """
    out = Path(out)
    loop = Loop(task, config, Accelerator(mixed_precision="no"))
    loop.open(out, show)
    loop.run(stop_at_step)
    curves = read_metrics(out)
    return TrainingResult(
        best=out / ("best" if (out / "best").is_dir() else "last"),
        last=out / "last",
        train_curve=[line for line in curves if line["split"] == "train"],
        valid_curve=[line for line in curves if line["split"] == "valid"],
        finished=loop.state.finished,
        precision=loop.precision,
    )


def fit(task: TrainingTask, config: TrainingConfig, device: str | torch.device) -> list[dict[str, Any]]:
    """Train small models in memory, on one device; nothing is written, and random numbers go on as they are.

    Afterwards the first learner's module has the weights of the best validation, or the final ones where there is none.
    The precision `auto` is fp32 here.

    Returns:
        The lines that metrics.jsonl would have.

    Raises:
        NumericsError: the loss became NaN or infinite.
    """
    loop = Loop(task, config, _OneProcess(torch.device(device)))
    loop.run(None)
    if loop.best_weights is not None:
        loop.first.load_state_dict(loop.best_weights)
    return loop.lines


class _OneProcess:
    """The part of accelerate that the loop uses, for a run in memory."""

    process_index, num_processes, is_main_process = 0, 1, True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def unwrap_model(self, module: nn.Module) -> nn.Module:
        return module

    def no_sync(self, module: nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Iterable[Tensor], largest: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, largest)


class Loop:
    """One call of `train` or `fit`; a task's step sees `modules`, `progress` and `process`, and calls `update`."""

    def __init__(self, task: TrainingTask, config: TrainingConfig, accelerator: Any) -> None:
        # lower precision is done with torch's autocast below: accelerate's own would stay on the models after training
        self.task, self.config, self.accelerator = task, config, accelerator
        self.process, self.num_processes = accelerator.process_index, accelerator.num_processes
        if config.batches_per_step % self.num_processes:
            raise ConfigError(
                f"training.batches_per_step is {config.batches_per_step}, which {self.num_processes} processes cannot "
                "share evenly. Use a multiple of the number of processes."
            )
        self.state, self.progress = _LoopState(), Progress()
        self.out: Path | None = None
        self.lines: list[dict[str, Any]] = []
        self.best_weights: dict[str, Tensor] | None = None
        self.display = Display(active=False)
        self.announcements = Announcements(self)
        self.precision = config.precision
        self._prepare()
        self.scaler = self._make_scaler()

    def _prepare(self) -> None:
        """Put models and optimisers where they run, and note the optimisers' own learning rates."""
        names, learners = list(self.task.learners), self.task.learners.values()
        self.main_learner = names[0]
        self.peaks = {
            name: [group["lr"] for group in learner.optimizer.param_groups]
            for name, learner in zip(names, learners, strict=True)
        }
        prepared = self.accelerator.prepare(*(one.module for one in learners), *(one.optimizer for one in learners))
        self.modules: Mapping[str, nn.Module] = dict(zip(names, prepared[: len(names)]))
        self.optimizers: dict[str, torch.optim.Optimizer] = dict(zip(names, prepared[len(names) :]))
        self.first = self.accelerator.unwrap_model(self.modules[self.main_learner])
        self.average: nn.Module | None = None
        if self.config.ema_decay is not None:
            average = copy.deepcopy(self.first).requires_grad_(False)
            if isinstance(self.accelerator, Accelerator):  # so that it is in the checkpoints
                self.accelerator.prepare_model(average, evaluation_mode=True)
            self.average = average

    def open(self, out: Path, show: bool) -> None:
        """Take the run's folder, and go on where a run in it stopped."""
        self.out, accelerator, config = out, self.accelerator, self.config
        self.checkpoints = Checkpoints(out, accelerator)
        reason = self._choose_precision()
        if accelerator.is_main_process:
            identity = {"training": config_to_dict(config), "precision": self.precision, **self.task.identity()}
            self.checkpoints.claim(identity, MAY_CHANGE + self.task.may_change)
        accelerator.wait_for_everyone()
        set_seed(config.seed + self.process)
        for name in ("best", "last"):
            if accelerator.is_main_process:
                restore_folder(out / name)
        accelerator.wait_for_everyone()
        self.scaler = self._make_scaler()
        self.checkpoints.resume(self._restore)
        self.log = RunLog(out, resume_step=self.state.step, active=accelerator.is_main_process)
        self.display = Display(active=show and accelerator.is_main_process)
        self.announcements.begin(out, reason)

    def _choose_precision(self) -> str | None:
        """Settle what `auto` stands for, as the run began where there is one; return why, if it was settled now."""
        if self.config.precision != "auto":
            return None
        recorded, reason = self.checkpoints.recorded_precision(), None
        if recorded not in DTYPES:
            recorded, reason = fastest_precision(self.first, self.accelerator.device)
        names = list(DTYPES)
        self.precision = names[int(self._agree(float(names.index(recorded))))]  # processes may have timed differently
        return reason

    def _restore(self, values: dict[str, Any]) -> None:
        self.state = _LoopState(**values)
        self.state.finished = self._is_over()  # the budget may have grown
        self.scaler.load_state_dict(self.state.scaler)
        self.task.load_state_dict(self.state.data)

    def run(self, stop_at_step: int | None) -> None:
        state, config = self.state, self.config
        clock = time.perf_counter()
        try:
            while not state.finished and (stop_at_step is None or state.step < stop_at_step):
                self._step()
                self.announcements.stepped()
                now = time.perf_counter()
                state.window_seconds += now - clock
                state.seconds = self._agree(state.seconds + now - clock)
                clock = now
                state.finished = self._is_over()
                if state.finished or state.step % config.log_every == 0:
                    self._write_log()
                if state.finished or _due(config.validate_every, state.step):
                    self._validate()
                    if not state.finished and self._is_over():  # patience is at its end
                        state.finished = True
                        self._write_log()
                if state.finished:
                    self._save_model("last")
                now = time.perf_counter()
                state.seconds = self._agree(state.seconds + now - clock)  # validating counts as time, not as speed
                clock = now
                if state.finished or state.step == stop_at_step or _due(config.checkpoint_every, state.step):
                    self._checkpoint()
                    clock = time.perf_counter()
            self.announcements.end()
        finally:
            if self.out is not None:
                self.log.close()
            self.display.close()

    def _step(self) -> None:
        """One step over `batches_per_step` batches, this process taking its share."""
        state, config, task = self.state, self.config, self.task
        batches = task.next_batches(config.batches_per_step, self.process, self.num_processes)
        spent = self._spent()
        self.targets = int(self._sum(float(sum(task.num_targets(batch) for batch in batches))))
        state.step += 1
        state.tokens += self.targets
        if state.step <= task.warmup_steps:
            state.warmup_spent = self._spent()
        decayed = (self._spent() - state.warmup_spent) / max(1 - state.warmup_spent, 1e-9)
        self.progress = Progress(state.step, spent, decayed)
        for name, optimizer in self.optimizers.items():
            for group, peak in zip(optimizer.param_groups, self.peaks[name], strict=True):
                group["lr"] = task.learning_rate(peak, self.progress)
        for module in self.modules.values():
            module.train()
        if not self.targets:  # nothing counts in any of the batches
            return
        task.step(self, [self._placed(batch) for batch in batches])
        self.scaler.update()
        state.window["targets"] += self.targets
        state.window["steps"] += 1
        if self.average is not None and config.ema_decay is not None:
            move_average(self.average, self.first, min(config.ema_decay, state.step / (9 + state.step)))

    def update(self, learner: str, batches: Sequence[Any], loss: Callable[[nn.Module, Any], LossSum]) -> None:
        """Add up the gradients of all batches and let the learner's optimiser take one step."""
        module, optimizer = self.modules[learner], self.optimizers[learner]
        total, parts = 0.0, []
        for index, batch in enumerate(batches):
            accumulating = index + 1 < len(batches)
            with self.accelerator.no_sync(module) if accumulating else nullcontext():
                with self._autocast():
                    found = loss(module, batch)
                # gradients are averaged over processes: times their number, over all targets, is the mean over tokens
                self.accelerator.backward(self.scaler.scale(found.total * (self.num_processes / self.targets)))
            total += float(found.total.detach())
            parts.append(found.parts)
        total = self._sum(total)
        if not torch.isfinite(torch.tensor(total)):
            rates = ", ".join(f"{peak:g}" for peak in self.peaks[learner])
            where, kept = ("The", "") if self.out is None else (f"{self.out}: the", "; earlier checkpoints are kept")
            raise NumericsError(
                f"{where} loss is {total} at step {self.state.step}. Lower the learning rate (now {rates}), or look "
                f"for broken data{kept}."
            )
        self.scaler.unscale_(optimizer)
        if self.task.learners[learner].is_clipped:
            largest = self.config.max_gradient_norm
            norm = self.accelerator.clip_grad_norm_(module.parameters(), float("inf") if largest is None else largest)
            if learner == self.main_learner and (not self.scaler.is_enabled() or torch.isfinite(norm)):
                self.state.window["norm"] += float(norm if norm is not None else 0.0)
        self.scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
        if learner == self.main_learner:
            self.state.window["loss"] += total
        for name, (value, count) in self._sum_parts(parts).items():
            before = self.state.parts.get(name, [0.0, 0.0])
            self.state.parts[name] = [before[0] + value, before[1] + count]

    def add_up(
        self, model: nn.Module, batches: Sequence[Any], loss: Callable[[nn.Module, Any], LossSum]
    ) -> ValidationSums:
        """Add up the losses of batches over all processes, without gradients."""
        found = []
        for batch in batches:
            with self._autocast():
                found.append(loss(model, self._placed(batch)))
        total = self._sum(sum(float(item.total) for item in found))
        targets = int(self._sum(float(sum(self.task.num_targets(batch) for batch in batches))))
        return ValidationSums(total, targets, self._sum_parts(item.parts for item in found))

    def _make_scaler(self) -> torch.amp.GradScaler:
        """Scale the loss where small gradients would be lost: in fp16; otherwise do nothing."""
        return torch.amp.GradScaler(self.accelerator.device.type, enabled=self.precision == "fp16")

    def _autocast(self) -> Any:
        enabled = self.precision not in ("fp32", "auto")
        dtype = DTYPES[self.precision] if enabled else None
        return torch.autocast(self.accelerator.device.type, dtype=dtype, enabled=enabled)

    def _placed(self, batch: Any) -> Any:
        return batch.to(self.accelerator.device) if hasattr(batch, "to") else batch

    def _spent(self) -> float:
        return budget_spent(self.config, self.state.step, self.state.tokens, self.state.seconds)

    def _is_over(self) -> bool:
        patience = self.config.patience
        return self._spent() >= 1 or (patience is not None and self.state.stale >= patience)

    def _write_log(self) -> None:
        state, window = self.state, self.state.window
        if not window["steps"]:
            return
        values = {
            "loss": window["loss"] / window["targets"],
            **self.task.training_metrics({name: (sums[0], sums[1]) for name, sums in state.parts.items()}),
            "learning_rate": self.optimizers[self.main_learner].param_groups[0]["lr"],
            "gradient_norm": window["norm"] / window["steps"],
            "tokens_per_second": window["targets"] / max(state.window_seconds, 1e-9),
            "tokens": state.tokens,
            "seconds": state.seconds,
        }
        self._write("train", values, {key: values[key] for key in ("loss", "tokens_per_second")})
        state.window = dict.fromkeys(window, 0.0)
        state.parts = {}
        state.window_seconds = 0.0

    def _validate(self) -> None:
        """Log what the task finds, and keep the model if it is the best so far."""
        model = self.first if self.average is None else self.average  # unwrapped: processes may have unequal batches
        model.eval()
        with torch.no_grad():
            values = self.task.validate(self, model)
        self.first.train()
        if not values:
            return
        self._write("valid", values, {f"valid {key}": value for key, value in values.items()})
        if self.out is not None and self.accelerator.is_main_process:
            model.eval()
            with torch.no_grad():
                self.task.show_examples(model, self.log, self.state.step)
            self.first.train()
        self.state.stale += 1
        if self.state.best_loss is None or values["loss"] < self.state.best_loss:
            self.state.best_loss, self.state.stale = values["loss"], 0
            self._save_model("best")

    def _write(self, split: str, values: Mapping[str, float], shown: Mapping[str, float]) -> None:
        if self.out is None:
            self.lines.append({"step": self.state.step, "split": split, **values})
            return
        self.log.write(self.state.step, split, values)
        self.display.update(self._spent(), self.state.step, shown, self.state.seconds)

    def _save_model(self, name: str) -> None:
        """Write the model for use; the old one of this name is there until the new one is whole."""
        model = self.first if self.average is None else self.average
        if self.out is None:
            if name == "best":
                weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
                self.best_weights = weights
            return
        if self.accelerator.is_main_process:
            try:
                with replace_folder(self.out / name) as folder:
                    self.task.save(model, folder)
            except SafetensorError as error:  # its name for a full disk
                raise OutputError(
                    f"{self.out / name}: could not write the model ({error}). Is the disk full?"
                ) from error
        self.accelerator.wait_for_everyone()

    def _checkpoint(self) -> None:
        if self.out is None:
            return
        self.state.data, self.state.scaler = self.task.state_dict(), self.scaler.state_dict()
        written = self.checkpoints.save(self.state.step, asdict(self.state), self.config.keep_checkpoints)
        self.announcements.saved(written)

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
        return self.accelerator.reduce(values, reduction="sum")

    def _agree(self, value: float) -> float:
        """Take the first process's value everywhere: its clock, say, so that all stop at the same step."""
        return self._sum(value if self.accelerator.is_main_process else 0.0)


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards those of the model by 1 - `decay`, and take its buffers as they are."""
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
