"""A sequence as several commands print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocable.sequences.joint_rows import JointSequence
    from vocable.sequences.joint_vocabulary import JointVocabulary


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
