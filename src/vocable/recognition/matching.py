"""Match the words that another program timed with the words of a text.

    text   Grandma  Rose   paid     $5
    heard  grandma  Roes   paid  five dollars

"Roes" stands where "Rose" does: it lends its time, with a note. "$5" and "five dollars" are the same when spoken: both
sides are compared by what is said for them (normalise.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from vocable.recognition.aligner import Stamp, Timed
from vocable.recognition.normalise import SpokenWord, comparable


class Matched(NamedTuple):
    """Result of a match."""

    times: list[Timed | None]
    """One per word of the text."""
    unused: list[Stamp]
    """Timed words that the text has no place for."""


class _Part(NamedTuple):
    """One spoken word, of the text or of a stamp."""

    spoken: str
    owner: int
    start: float = 0.0
    end: float = 0.0


def match_stamps(words: Sequence[SpokenWord], stamps: Sequence[Stamp], language: str = "en") -> Matched:
    """Give each word of the text the time of the stamps that say the same.

    Where as many other words stand between two matches as the text has there, they are taken to be the same words,
    heard or spelled differently, with a note. A word of several spoken parts lasts from the first that is matched to
    the last; a stamp of several parts is divided by letters.
    """
    wanted = [_Part(part, index) for index, word in enumerate(words) for part in word.spoken]
    offered = [part for index, stamp in enumerate(stamps) for part in _parts(index, stamp, language)]
    matcher = SequenceMatcher(None, [p.spoken for p in wanted], [p.spoken for p in offered], autojunk=False)
    found: dict[int, list[_Part]] = {}
    heard: dict[int, list[str]] = {}
    used: set[int] = set()
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal" or (kind == "replace" and b - a == d - c):
            for mine, theirs in zip(wanted[a:b], offered[c:d]):
                found.setdefault(mine.owner, []).append(theirs)
                used.add(theirs.owner)
                if kind == "replace":
                    heard.setdefault(mine.owner, []).append(theirs.spoken)
    times: list[Timed | None] = []
    for index in range(len(words)):
        parts = found.get(index)
        if parts is None:
            times.append(None)
            continue
        given = [c for c in (stamps[part.owner].confidence for part in parts) if c is not None]
        confidences = [c for c in given if math.isfinite(c)]
        notes = [f"stands as {' '.join(heard[index])!r} in the other list"] if index in heard else []
        notes += ["its confidence in the other list is not a number"] * (len(confidences) < len(given))
        note = "; ".join(notes) or None
        confidence = min(confidences) if confidences else None
        times.append(Timed(min(p.start for p in parts), max(p.end for p in parts), confidence, note))
    return Matched(times, [stamp for index, stamp in enumerate(stamps) if index not in used])


def _parts(index: int, stamp: Stamp, language: str) -> list[_Part]:
    """The spoken words of a stamp, each with its share of the time."""
    spoken = comparable(stamp.word, language)
    total, begin, parts = sum(map(len, spoken)), 0, []
    for word in spoken:
        edges = [stamp.start + (stamp.end - stamp.start) * count / total for count in (begin, begin + len(word))]
        parts.append(_Part(word, index, *edges))
        begin += len(word)
    return parts
