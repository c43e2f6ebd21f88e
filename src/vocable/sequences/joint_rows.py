"""What goes into a row of speech and text, and what comes out: an example, and segments with their modality.

JointExample -> layout (joint_layouts.py) -> JointSequence: token ids, and Segments that say what each stretch holds
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.sequences.spans import Modality
from vocable.types import SpeechTokens, Split, Utterance, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class JointExample:
    """Parts of a row; a layout asks for those that it needs."""

    id: str = ""
    """Decides, with seed and epoch, what is drawn."""
    tokens: SpeechTokens | None = None
    frame_rate: float | None = None
    """Frames per second of the tokens; needed where units are cut at word borders."""
    text: str | None = None
    words: tuple[Word, ...] | None = None
    """With their times, in seconds from the start of the tokens."""
    speaker: str | None = None
    split: Split | None = None

    @classmethod
    def of(cls, utterance: Utterance, tokens: SpeechTokens | None, frame_rate: float | None) -> "JointExample":
        """Take from an utterance what is known about it."""
        names = ("id", "text", "words", "speaker", "split")
        return cls(tokens=tokens, frame_rate=frame_rate, **{name: getattr(utterance, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of speech or of text, without the symbols around it; in a row, where it stands there."""

    tokens: SpeechTokens | None = None
    """Speech. Built: as in the utterance, with durations; reverted: the row's own, so without."""
    text: str | None = None
    """Writing. Inside a row it begins with the blank that divides it from the word before."""
    start: int = 0
    """First position in the row."""
    stop: int = 0
    """One past its last."""
    words: tuple[Word, ...] | None = None
    """Which words it holds, where a layout cuts at words; None for a reverted row."""
    frames: tuple[int, int] | None = None
    """First frame of a built speech segment, and one past its last."""

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.text is None):
            raise ConfigError("A segment holds either speech tokens or text, and never both.")

    @property
    def modality(self) -> Modality:
        """Which of the two it holds."""
        return "text" if self.tokens is None else "speech"


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSequence:
    """A row, and the segments that it is made of."""

    token_ids: Int[Tensor, " positions"]
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All that is written, joined."""
        return "".join(segment.text or "" for segment in self.segments)

    @property
    def tokens(self) -> SpeechTokens:
        """All that is spoken, joined; runs that meet at a seam stay apart. Durations where all segments have them."""
        parts = [segment.tokens for segment in self.segments if segment.tokens is not None]
        if not parts:
            return SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.int64))
        words = [part.words for part in parts if part.words is not None]
        if len(words) == len(parts):
            return join_words(parts)
        durations = [part.durations for part in parts if part.durations is not None]
        return SpeechTokens(
            codes=torch.cat([part.codes for part in parts], dim=1),
            durations=torch.cat(durations) if len(durations) == len(parts) else None,
        )


def join_words(parts: Sequence[SpeechTokens]) -> SpeechTokens:
    """Join tokens that have one position for each word; words keep the times that they have in their part."""
    words = tuple(word for part in parts for word in part.words or ())
    spans = torch.arange(len(words))[:, None] + torch.tensor([0, 1])
    return SpeechTokens(codes=torch.cat([part.codes.long() for part in parts], dim=1), words=words, spans=spans)


class Part(NamedTuple):
    """A special symbol, or the content of a segment, before it has a place in a row."""

    special: int | None = None
    tokens: SpeechTokens | None = None
    text: str | None = None
    words: tuple[Word, ...] | None = None
    frames: tuple[int, int] | None = None
    is_instruction: bool = False
    """Whether its text says what to do; it is then around the segments, as symbols are."""

    @property
    def is_segment(self) -> bool:
        """Whether it is the content of a segment."""
        return self.special is None and not self.is_instruction
