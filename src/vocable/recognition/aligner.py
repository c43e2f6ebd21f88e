"""The contract of every aligner: words of a text in, times and notes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vocable.recognition.normalise import SpokenWord
from vocable.types import Utterance


class Timed(NamedTuple):
    """When a word was found, in seconds from the start of the utterance."""

    start: float
    end: float
    confidence: float | None = None
    """Between 0 and 1; what it means depends on the aligner. None where the aligner gives none."""
    note: str | None = None


class WordNote(NamedTuple):
    """Something to know about one word of an utterance."""

    index: int
    word: str
    note: str


class Stamp(NamedTuple):
    """A word with its time, as another program wrote it; seconds from the start of the utterance."""

    word: str
    start: float
    end: float
    confidence: float | None = None


class Found(NamedTuple):
    """Words that an aligner found in an utterance."""

    times: list[Timed | None]
    """One per word of the text; None where it was not found."""
    notes: Sequence[WordNote] = ()
    unused: Sequence[Stamp] = ()
    """Timed words that the text has no place for."""


class Aligner(Protocol):
    """Finds the words of an utterance in its audio, or in what another program wrote about it."""

    name: str
    """As on the command line; kept with every utterance."""

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Time the words.

        Raises:
            AlignmentError, AudioFormatError: this utterance cannot be aligned.
        """
        ...
