"""The few values that pass between stages: an utterance on disk, and the tokens of one utterance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word and when it is spoken, in seconds from the start of its utterance."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A speech sound and when it is spoken, in seconds from the start of its utterance."""

    phone: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One line of a manifest: a stretch of an audio file, and what is known about it."""

    id: str
    audio: Path
    """The audio file; absolute in memory, relative to the manifest on disk."""
    start: float = 0.0
    """Where the utterance starts in the file, in seconds."""
    duration: float | None = None
    """Length in seconds; None means up to the end of the file."""
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    corpus: str | None = None
    licence: str | None = None
    words: tuple[Word, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the manifest line that Vocable does not use; kept when the manifest is written again."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechTokens:
    """The discrete tokens of one utterance.

    Frames or runs: without `durations`, `codes` has one column a frame; with `durations`, one column a run of equal
    frames, and `durations` says how many frames each run lasts.
    """

    codes: Int[Tensor, "num_codebooks positions"]
    durations: Int[Tensor, " positions"] | None = None
    """Frames per run, when runs are collapsed."""
    words: tuple[Word, ...] | None = None
    """For text-aligned tokens: the word that each span stands for."""
    spans: Int[Tensor, "words 2"] | None = None
    """For text-aligned tokens: first position and one past the last, per word."""

    def __post_init__(self) -> None:
        if self.codes.ndim != 2:
            raise ValueError(f"codes have shape {tuple(self.codes.shape)}; expected (num_codebooks, positions).")
        if self.durations is not None and self.durations.shape != self.codes.shape[1:]:
            raise ValueError(
                f"durations have shape {tuple(self.durations.shape)}, codes {tuple(self.codes.shape)}: "
                "there must be one duration per column."
            )

    @property
    def units(self) -> Int[Tensor, " positions"]:
        """The ids of the only codebook."""
        if self.codes.shape[0] != 1:
            raise ValueError(f"These tokens have {self.codes.shape[0]} codebooks; 'units' needs exactly one.")
        return self.codes[0]

    @property
    def num_frames(self) -> int:
        """Frames before run collapsing."""
        return int(self.codes.shape[1] if self.durations is None else self.durations.sum())

    def __eq__(self, other: object) -> bool:
        """Equal codes, durations, words and spans."""
        if not isinstance(other, SpeechTokens):
            return NotImplemented
        return (
            torch.equal(self.codes, other.codes)
            and _equal_or_both_none(self.durations, other.durations)
            and self.words == other.words
            and _equal_or_both_none(self.spans, other.spans)
        )

    __hash__ = None  # type: ignore[assignment]  # tensors inside: equal values need not be the same object


def _equal_or_both_none(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)
