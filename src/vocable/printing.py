"""Tables on the screen; the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 200
"""Columns of a table that goes into a file or a pipe, where nothing says how many fit."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print rows under the names of their columns; None is shown as a dash, and square brackets mean nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, show_header=any(columns))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("-" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH).print(table)
