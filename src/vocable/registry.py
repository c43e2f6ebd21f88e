"""Look a name up, and name the nearest one when it is unknown.

Unknown benchmark 'sblmip'. Did you mean 'sblimp'? Known: sblimp, storycloze, swuggy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from vocable.errors import UnknownNameError

T = TypeVar("T")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the entry of `known` that is spelt most like `name`, or None when nothing comes close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name_message(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, which one is nearest, and which there are."""
    known = sorted(known)
    guess = nearest_name(name, known)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Raises:
        UnknownNameError: `name` is not in `table`; the message names the nearest entry.
    """
    if name not in table:
        raise UnknownNameError(unknown_name_message(kind, name, table))
    return table[name]
