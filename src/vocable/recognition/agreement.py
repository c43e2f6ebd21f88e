"""How well two lists of word times agree.

    words of A and of B  ->  words that both have  ->  start and end of each: how many seconds B is after A

Words are matched by what is spoken for them; interpolated words have no time to compare. Measures: the share of
boundaries (starts and ends) within 20, 50 and 100 ms; mean and median absolute deviation; mean deviation, which shows
that one list is late; and the share of A's words that were compared. The limits are our choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vocable.errors import AlignmentError
from vocable.recognition.aligner import Stamp
from vocable.recognition.matching import match_stamps
from vocable.recognition.normalise import SpokenWord, comparable
from vocable.recognition.run import has_own_time
from vocable.types import Utterance

WITHIN_SECONDS = (0.02, 0.05, 0.1)
ROUNDING_SECONDS = 1e-6
"""A deviation that exceeds a limit by less was rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviations:
    """How far the words of one utterance lie apart in two lists."""

    id: str
    num_words: int
    """Words of the first list."""
    starts: tuple[float, ...]
    """Start in the second list minus start in the first, in seconds, of each word that was compared."""
    ends: tuple[float, ...]

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Starts and ends together."""
        return self.starts + self.ends


def word_deviations(first: Utterance, second: Utterance, language: str = "en") -> Deviations:
    """Compare the words of one utterance in two manifests.

    Raises:
        AlignmentError: one of them has no words.
    """
    for utterance in (first, second):
        if not utterance.words:
            raise AlignmentError(f"{utterance.id} has no words with times. Align it first: vocable align")
    words = [SpokenWord(word=w.word, spoken=comparable(w.word, language)) for w in first.words or ()]
    stamps = [
        Stamp(word.word, word.start, word.end) for word, own in zip(second.words or (), has_own_time(second)) if own
    ]
    times = match_stamps(words, stamps, language).times
    pairs = [
        (word, time)
        for word, time, own in zip(first.words or (), times, has_own_time(first))
        if own and time is not None and time.note is None
    ]
    return Deviations(
        id=first.id,
        num_words=len(first.words or ()),
        starts=tuple(time.start - word.start for word, time in pairs),
        ends=tuple(time.end - word.end for word, time in pairs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure that is a ratio of sums over utterances, with the two numbers of each utterance."""

    name: str
    unit: str
    numerators: tuple[float, ...]
    denominators: tuple[float, ...]

    @property
    def value(self) -> float | None:
        """The ratio; None where there is nothing to divide by."""
        total = sum(self.denominators)
        return sum(self.numerators) / total if total else None


def agreement(deviations: Sequence[Deviations]) -> list[Measure]:
    """Measure the agreement; all measures are ratios, so that intervals can be drawn over utterances."""
    boundaries = [np.asarray(d.boundaries) for d in deviations]
    counts = [len(values) for values in boundaries]
    measures = []
    for limit in WITHIN_SECONDS:
        close = [(np.abs(values) <= limit + ROUNDING_SECONDS).sum() for values in boundaries]
        measures.append(_measure(f"boundaries within {1000 * limit:.0f} ms", "share", close, counts))
    sums = [np.abs(values).sum() for values in boundaries]
    measures.append(_measure("mean absolute deviation", "seconds", sums, counts))
    for name, sides in (("starts", [d.starts for d in deviations]), ("ends", [d.ends for d in deviations])):
        measures.append(_measure(f"mean deviation of {name}", "seconds", map(sum, sides), map(len, sides)))
    matched, words = [len(d.starts) for d in deviations], [d.num_words for d in deviations]
    return [*measures, _measure("words matched", "share", matched, words)]


def _measure(name: str, unit: str, numerators: Iterable[float], denominators: Iterable[float]) -> Measure:
    above, below = tuple(map(float, numerators)), tuple(map(float, denominators))
    return Measure(name=name, unit=unit, numerators=above, denominators=below)


def median_deviation(deviations: Sequence[Deviations]) -> float | None:
    """Median of the absolute deviation of all boundaries, in seconds; None where there is none."""
    values = [abs(value) for d in deviations for value in d.boundaries]
    return float(np.median(values)) if values else None
