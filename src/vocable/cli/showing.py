"""What several commands print in the same way: a table of scores, a row as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from vocable.evaluation.results import EvaluationResult
    from vocable.sequences.joint_rows import JointSequence
    from vocable.sequences.joint_vocabulary import JointVocabulary


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
