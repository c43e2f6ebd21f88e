"""What a run says of itself: what is trained on what, before its first step, and where everything is, after its last.

model 134.5 M parameters on cpu, bf16
train 1,203 utterances, 3.20 h
valid 24 utterances, 3.6 min
disk  up to 6.4 GB in runs/lm (checkpoint 1.6 GB, 2 are kept; model 0.5 GB), 12.0 GB are free
step  8,192 tokens in 2 batches; loss before the first step 7.013
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vocable.training.logs import clock, read_metrics
from vocable.training.task import DataSize, Learner

if TYPE_CHECKING:
    from vocable.training.loop import Loop


class Announcements:
    """Lines of one run that stay on the screen, beside its moving bar; nothing where there is no display."""

    def __init__(self, loop: "Loop") -> None:
        self.loop = loop
        self._is_first = False
        """Whether the next step is the first of the run."""
        self._num_saved = 0

    def begin(self, out: Path, reason: str | None) -> None:
        """Say what is about to be trained, on what, where, and why in this precision."""
        loop = self.loop
        if not loop.display.active or loop.state.finished:
            return
        self._is_first = loop.state.step == 0
        lines = [] if reason is None else [f"precision: {reason}"]
        for line in [*lines, *header(loop), disk_line(loop, out)]:
            loop.display.say(line)

    def stepped(self) -> None:
        """After the first step, say how much a step is, and its loss, which was computed before anything changed."""
        loop = self.loop
        if not self._is_first or not loop.targets:
            return
        self._is_first = False
        size, batches = count(loop.targets, loop.task.target_name), count(loop.config.batches_per_step, "batch")
        loss = loop.state.window["loss"] / loop.state.window["targets"]
        loop.display.say(f"step  {size} in {batches}; loss before the first step {loss:.4g}")

    def saved(self, checkpoint: Path) -> None:
        """Say how large the first checkpoint is."""
        loop = self.loop
        self._num_saved += 1
        if self._num_saved == 1 and loop.display.active and not loop.state.finished:
            loop.display.say(f"checkpoint {checkpoint}, {amount(folder_bytes(checkpoint))}")

    def end(self) -> None:
        """Say how the run ended, where the model is, and how the run could be made longer."""
        loop, out = self.loop, self.loop.out
        if out is None or not (loop.display.active and loop.state.finished and self._num_saved):
            return
        valid = [line for line in read_metrics(out) if line["split"] == "valid"]
        best = min(valid, key=lambda line: line["loss"], default=None)
        result = "" if best is None else f"; best validation loss {best['loss']:.4g}, at step {best['step']}"
        model, checkpoints = out / ("best" if (out / "best").is_dir() else "last"), out / "checkpoints"
        kept = count(len(list(checkpoints.glob("step-*"))), "checkpoint")
        steps = loop.config.max_steps
        longer = f" (training.max_steps={2 * steps}, say)" if steps else ""
        for line in (
            f"done  {count(loop.state.step, 'step')} in {clock(loop.state.seconds)}{result}",
            f"model {model}, {amount(folder_bytes(model))}",
            f"kept  {kept} of {amount(folder_bytes(checkpoints))} in {checkpoints}, needed only to go on{longer}",
        ):
            loop.display.say(line)


def header(loop: "Loop") -> list[str]:
    """Say how large the models are, where they run, and how much there is to train and to validate on."""
    task, several = loop.task, len(loop.task.learners) > 1
    models = [f"{parameters(one.module)}{f' ({name})' * several}" for name, one in task.learners.items()]
    processes = f" ({loop.num_processes} processes)" if loop.num_processes > 1 else ""
    begun = f", going on after step {loop.state.step}" if loop.state.step else ""
    sizes = task.data_sizes()
    lines = [f"model {' and '.join(models)} on {loop.accelerator.device}{processes}, {loop.precision}{begun}"]
    lines += [f"{name} {describe(size)}" for name, size in sizes.items() if size.count]
    if sizes and not sizes.get("valid", DataSize(0)).count:
        lines.append("valid nothing: the final model is kept, not the best one")
    return lines


def parameters(module: nn.Module) -> str:
    """Say how many parameters there are, and how many of them are trained."""
    counts = [(one.numel(), one.requires_grad) for one in module.parameters()]
    whole, trained = sum(count for count, _ in counts), sum(count for count, is_trained in counts if is_trained)
    shown = f"{whole / 1e6:.2f}" if whole < 1e7 else f"{whole / 1e6:.1f}"
    part = "" if trained == whole else f", {trained / 1e6:.2f} M of them trained"
    return f"{shown} M parameters{part}"


def describe(size: DataSize) -> str:
    """Write how much speech or text there is."""
    parts = [count(size.count, size.thing)]
    if size.tokens is not None:
        parts.append(count(size.tokens, "token"))
    if size.seconds:
        hours = size.seconds / 3600
        parts.append(f"{hours:.2f} h" if hours >= 1 else f"{size.seconds / 60:.1f} min")
    return ", ".join(parts)


def count(number: int, thing: str) -> str:
    """Write a number of things: 1 batch, 2 batches, 8,192 tokens."""
    ending = "" if number == 1 else "es" if thing.endswith(("ch", "s", "x")) else "s"
    return f"{number:,} {thing}{ending}"


def disk_line(loop: "Loop", out: Path) -> str:
    """Say how much room the run will take at most, and how much there is."""
    checkpoint, model = checkpoint_bytes(loop.task.learners, loop.average), weight_bytes(loop.first)
    keep = loop.config.keep_checkpoints
    needed = (keep + 1) * checkpoint + 3 * model  # one more of each while it is written, beside what it replaces
    free = shutil.disk_usage(next(path for path in (out, *out.absolute().parents) if path.exists())).free
    sizes = f"checkpoint {amount(checkpoint)}, {keep} are kept; model {amount(model)}"
    warning = ", which is too little" if free < needed else ""
    return f"disk  up to {amount(needed)} in {out} ({sizes}), {amount(free)} are free{warning}"


def checkpoint_bytes(learners: Mapping[str, Learner], average: nn.Module | None = None) -> int:
    """Estimate the size of a checkpoint: weights, and two moments in float32 of each weight that is trained (Adam)."""
    total = 0 if average is None else weight_bytes(average)
    for learner in learners.values():
        trained = [one for group in learner.optimizer.param_groups for one in group["params"]]
        total += weight_bytes(learner.module) + 8 * sum(one.numel() for one in trained)
    return total


def weight_bytes(module: nn.Module) -> int:
    """Add up the bytes of weights and buffers that are saved; tied ones count once."""
    saved: dict[int, Tensor] = {one.data_ptr(): one for one in module.state_dict().values() if isinstance(one, Tensor)}
    return sum(one.numel() * one.element_size() for one in saved.values())


def folder_bytes(folder: Path) -> int:
    """Add up the sizes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def amount(size: int) -> str:
    """Write a number of bytes as 870 kB, 23.1 MB or 1.6 GB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
