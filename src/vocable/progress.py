"""Bars that show how far long work is and how long it will take, on the error stream; the same everywhere."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")
Advance = Callable[..., None]
"""Called with the number of items done, and with their total if only the work itself knows it."""


@contextlib.contextmanager
def progress_steps(in_bytes: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar for each step of the work, from its first report: called with its name, then as `Advance`."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count_column = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count_column, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
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
    """Show one bar; see `Advance`. Without a description there is none."""
    if not description:
        yield lambda count, total=None: None
        return
    with progress_bars(description) as (advance,):
        advance(0, total)
        yield advance


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Pass items on under a bar; their number is asked of themselves where it is not given."""
    with progress(description, len(items) if total is None and isinstance(items, Sized) else total) as advance:
        for item in items:
            yield item
            advance(1)
