"""Pairs before they are spoken: what is said in each half, and who says it.

texts -> PlannedPair -> deal_voices -> one PlannedPair a voice -> speak.py
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vocable.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenText:
    """Content of one segment."""

    text: str
    """As it is written; for a pseudo-word, a spelling."""
    phones: tuple[str, ...] | None = None
    """As it is pronounced, in the symbols of the lexicon; None leaves the pronunciation to the synthesiser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPair:
    """One pair of texts; equal first segments of both halves are a shared context."""

    id: str
    positive: tuple[SpokenText, ...]
    negative: tuple[SpokenText, ...]
    group: Mapping[str, str] = field(default_factory=dict)
    turn: int = 0
    """Which turn in the row of voices: pairs with equal turns have the same voice, and share what they both say."""
    voice: str | None = None


def deal_voices(pairs: Sequence[PlannedPair], voices: Sequence[str], voices_per_item: int = 1) -> list[PlannedPair]:
    """Give every pair `voices_per_item` voices, one after the other in turn; one copy of the pair for each.

    Raises:
        ConfigError: no voice, one given twice, or fewer voices than `voices_per_item`.
    """
    if not voices or len(set(voices)) != len(voices):
        raise ConfigError(f"voices are {list(voices)}; name at least one, each once.")
    if not 1 <= voices_per_item <= len(voices):
        raise ConfigError(f"voices_per_item is {voices_per_item}; there are {len(voices)} voices to take 1 or more of.")
    return [
        dataclasses.replace(pair, id=f"{pair.id}.{voice}", voice=voice)
        for pair in pairs
        for voice in (voices[(pair.turn + shift) % len(voices)] for shift in range(voices_per_item))
    ]


def draw_evenly(items: Sequence[T], count: int | None, key: Callable[[T], Hashable], seed: int) -> list[T]:
    """Draw `count` items, as evenly as it goes from every value of `key`; the order is that of the draw.

    None, or more than there are, takes all.
    """
    generator = random.Random(seed)
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    rows = list(groups.values())
    for row in rows:
        generator.shuffle(row)
    turns = max(map(len, rows), default=0)
    drawn = [row[turn] for turn in range(turns) for row in rows if turn < len(row)]
    return drawn if count is None else drawn[:count]


def check_count(name: str, count: int | None) -> None:
    """Refuse a number of pairs below one.

    Raises:
        ConfigError: `count` is zero or negative.
    """
    if count is not None and count < 1:
        raise ConfigError(f"{name} is {count}; it must be at least 1.")
