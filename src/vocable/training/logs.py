"""Logs of a run: metrics.jsonl, TensorBoard, and a live line on the terminal.

    {"step": 20, "split": "train", "loss": 5.31, "learning_rate": 2e-05, "gradient_norm": 1.9, ...}
    {"step": 20, "split": "valid", "nll_per_token": 5.27, "nll_per_second": 102.6, ...}

A resumed run first takes back the lines after its checkpoint, so that no step is in the file twice.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from jaxtyping import Float
from torch import Tensor

from vocable.files import split_lines, write_text

METRICS_NAME = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line that was cut off by a crash is left out, a missing file is empty."""
    path = Path(folder) / METRICS_NAME
    if not path.is_file():
        return []
    lines = []
    for line in split_lines(path.read_text(encoding="utf-8")):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break  # nothing is written after a line that was cut off
    return lines


def quiet_transformers() -> None:
    """Switch off transformers' bars for loading and writing weights, which come between our own lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class RunLog:
    """Writes the metrics of one run; on all processes but the first it does nothing."""

    def __init__(self, folder: Path, *, resume_step: int, active: bool = True) -> None:
        """Open the log, and take back lines after `resume_step` (0: all of them)."""
        self.folder, self.active = folder, active
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        kept = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        write_text("".join(json.dumps(line) + "\n" for line in kept), folder / METRICS_NAME)
        self._file: TextIO = (folder / METRICS_NAME).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add one line, and the same values to TensorBoard."""
        if not self.active:
            return
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{split}/{name}", value, step)

    def add_sound(self, step: int, name: str, waveform: Float[Tensor, " samples"], sample_rate: int) -> None:
        """Add speech to TensorBoard. What a resumed run shall not lose, however early it stopped, has step 0."""
        if self.active:
            self._board.add_audio(name, waveform.clamp(-1, 1)[None], step, sample_rate)

    def add_picture(self, step: int, name: str, pixels: Any) -> None:
        """Add an array of pixels (height, width, colours), 0 to 255, to TensorBoard."""
        if self.active:
            self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self._file.close()
            self._board.close()


class Display:
    """Shows how far a run is: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, *, active: bool = True, stream: TextIO | None = None) -> None:
        self.active = active
        self.stream = stream or sys.stderr
        self._bar = None
        if active and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("training"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(file=self.stream))
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self.active:
            print(text, file=self.stream, flush=True)

    def update(self, spent: float, step: int, values: Mapping[str, float], seconds: float = 0.0) -> None:
        """Show the newest values, and the time that is left at this pace.

        Args:
            spent: share of the budget that is used up.
            step: number of steps made.
            values: what to show, by name.
            seconds: time that it took so far.
        """
        if not self.active:
            return
        left = f"{clock(seconds * (1 - spent) / spent)} left  " if 0 < spent < 1 and seconds else ""
        text = f"{left}step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=spent, description=text)
        else:
            print(f"[{spent:4.0%}] {text}", file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def clock(seconds: float) -> str:
    """Write a time as 0:07, 12:05 or 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
