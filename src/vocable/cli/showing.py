"""What several commands show in the same way: a bar on long work, a table of scores, a row as a table."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from vocable.evaluation.results import EvaluationResult
    from vocable.sequences.joint_rows import JointSequence
    from vocable.sequences.joint_vocabulary import JointVocabulary


def best_device() -> str:
    """Return cuda where there is a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


Advance = Callable[..., None]
"""Called with the number of items done, and with their total if only the work itself knows it."""


@contextlib.contextmanager
def progress_steps() -> Iterator[Callable[..., None]]:
    """Show a bar for each step of the work, from its first report: called with its name, then as `Advance`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        tasks: dict[str, Any] = {}

        def advance(step: str, count: int, total: int | None = None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], advance=count, total=total)

        yield advance


@contextlib.contextmanager
def progress_bars(*descriptions: str) -> Iterator[list[Advance]]:
    """Show a bar for each stage of the work, from the moment that it has begun."""
    with progress_steps() as advance:
        yield [functools.partial(advance, description) for description in descriptions]


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Advance]:
    """Show one bar; see `Advance`."""
    with progress_bars(description) as (advance,):
        advance(0, total)
        yield advance


def print_scores(result: EvaluationResult, items: str = "utterances", speakers: str = "speakers") -> None:
    """Print the scores of a result; `items` and `speakers` are what the two intervals are over."""
    from vocable.evaluation.runner import print_result

    print_result(result, counted=items, grouped=speakers)


def print_notes(console: Console, result: EvaluationResult) -> None:
    """Print what a reader of the scores must know, and what was left out."""
    from vocable.evaluation import runner

    runner.print_notes(console, result)


def print_sequence(sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None, title: str) -> None:
    """Print a row of speech and text as a table, one line a segment."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vocable.sequences.picture import COLUMNS, line_cells, sequence_lines

    colours = {"speech": "cyan", "text": "yellow", "": "dim"}
    table = Table(title=Text(title))
    for name in COLUMNS:
        table.add_column(name)
    for line in sequence_lines(sequence, vocabulary, frame_rate):
        table.add_row(*(Text(cell, style=colours[line.modality or ""]) for cell in line_cells(line)))
    Console().print(table)
