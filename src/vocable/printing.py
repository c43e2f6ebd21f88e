"""Tables on the screen; the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 200
"""Columns of a table that goes into a file or a pipe, where nothing says how many fit."""


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", width: int | None = None
) -> None:
    """Print rows under the names of their columns; None is shown as a dash, and square brackets mean nothing.

    With a `width`, the table has so many columns of characters at most, and no lines between its own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None, show_header=any(columns), box=box.SIMPLE_HEAD if width else box.HEAVY_HEAD
    )
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("-" if cell is None else str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH)
    console.print(table, width=min(width, console.width) if width else None)
