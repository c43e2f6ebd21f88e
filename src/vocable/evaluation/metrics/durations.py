"""Do words last as long as in the original? Duration consistency of a resynthesis.

    words with times, twice  ->  the words said in both, in order  ->  share whose durations differ by at most 50 ms

Source: TASTE (Tseng et al., 2025, arXiv:2504.07053), which aligns both recordings by force and counts the same words.
Differs: where the words differ, those of the longest common subsequence are compared and the others counted, instead
of leaving out the utterance. Published numbers also use 25 and 40 ms: the tolerance belongs to the score.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

from vocable.types import Word

TOLERANCE_SECONDS = 0.05


class DurationCounts(NamedTuple):
    """Counts of the words of one utterance."""

    num_consistent: int
    """Said in both, durations within the tolerance."""
    num_matched: int
    """Said in both."""
    num_words: int
    """Words of the original."""
    mean_difference: float | None
    """Mean absolute difference of durations of matched words, in seconds; None without any."""


def compare_durations(
    original: Sequence[Word], copy: Sequence[Word], tolerance_seconds: float = TOLERANCE_SECONDS
) -> DurationCounts:
    """Match the words of two alignments in order, by their letters and digits, and compare durations."""
    spelt = [[_spelling(word.word) for word in words] for words in (original, copy)]
    matcher = difflib.SequenceMatcher(a=spelt[0], b=spelt[1], autojunk=False)
    pairs = [
        (original[block.a + i], copy[block.b + i])
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
        if spelt[0][block.a + i]
    ]
    differences = [abs((a.end - a.start) - (b.end - b.start)) for a, b in pairs]
    return DurationCounts(
        # a microsecond of grace: times are rounded in files
        num_consistent=sum(difference <= tolerance_seconds + 1e-6 for difference in differences),
        num_matched=len(pairs),
        num_words=sum(bool(word) for word in spelt[0]),
        mean_difference=sum(differences) / len(differences) if differences else None,
    )


def _spelling(word: str) -> str:
    return re.sub(r"[\W_]+", "", word.lower())
