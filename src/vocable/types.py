"""The few values that pass between stages: an utterance on disk, a clip of it, its tokens and their streams."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


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
    split: Split | None = None
    """Whether it is trained on, validated on or tested on; every stage obeys. None: splits.py decides."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the manifest line that Vocable does not use; kept when the manifest is written again."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """The waveform that a tokenizer encodes, alone or with the text and the words that are spoken in it."""

    waveform: Float[Tensor, " samples"]
    text: str | None = None
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One of the parallel sequences of codes that a tokenizer writes.

    Every position of a stream has one code per level; levels may have codebooks of different sizes.
    """

    name: str
    """Name such as units, semantic, acoustic or words."""
    codebook_sizes: tuple[int, ...]
    """Distinct codes of each level."""
    rate: float | None
    """Positions per second before run collapsing, Hz; None where positions follow words."""

    def __post_init__(self) -> None:
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ConfigError(f"The stream {self.name!r} has codebook sizes {self.codebook_sizes}; all are 1 or more.")
        if self.rate is not None and self.rate <= 0:
            raise ConfigError(f"The stream {self.name!r} has rate {self.rate}; it is positive, or None for words.")

    def __str__(self) -> str:
        rate = "one position a word" if self.rate is None else f"{self.rate:g} Hz"
        return f"{' x '.join(map(str, self.codebook_sizes))} codes, {rate}"

    @property
    def num_levels(self) -> int:
        """Codes per position."""
        return len(self.codebook_sizes)

    @property
    def bits_per_position(self) -> float:
        """Sum of log2(codebook size) over the levels."""
        return sum(math.log2(size) for size in self.codebook_sizes)

    @property
    def bits_per_second(self) -> float | None:
        """Rate without run collapsing or entropy coding; None where positions follow words."""
        return None if self.rate is None else self.rate * self.bits_per_position

    @property
    def codebook_size(self) -> int:
        """Distinct codes of the only level.

        Raises:
            ConfigError: there are several levels.
        """
        if self.num_levels != 1:
            raise ConfigError(
                f"The stream {self.name!r} has {self.num_levels} codebooks (levels), of sizes "
                f"{', '.join(map(str, self.codebook_sizes))}; a reader of units needs a stream with exactly one."
            )
        return self.codebook_sizes[0]

    def seconds(self, tokens: "SpeechTokens") -> float | None:
        """Return the seconds of speech that tokens of this stream stand for; None where positions follow words."""
        return None if self.rate is None else tokens.num_frames / self.rate


class SpeechTokens:
    """The discrete tokens of one utterance: codes of one stream, or several streams by name.

    One stream: `codes` has a row per level. Without `durations` it has one column a frame; with `durations`, one column
    a run of equal frames, and `durations` says how many frames each run lasts. In text-aligned tokens a column belongs
    to a word, and `words` says to which. Several streams: `stream(name)` gives the tokens of one.

    Not changed once made; equal when all codes, durations, words and spans are.
    """

    __slots__ = ("_codes", "_durations", "_spans", "_streams", "_words")
    __hash__ = None  # type: ignore[assignment]  # tensors inside: equal values need not be the same object

    def __init__(
        self,
        *,
        codes: Int[Tensor, "levels positions"] | None = None,
        durations: Int[Tensor, " positions"] | None = None,
        words: tuple[Word, ...] | None = None,
        spans: Int[Tensor, "words 2"] | None = None,
        streams: Mapping[str, "SpeechTokens"] | None = None,
    ) -> None:
        """Hold one stream or several.

        Args:
            codes: Codes of one stream.
            durations: Frames per run, when runs are collapsed.
            words: For text-aligned tokens, the word that each span stands for.
            spans: For text-aligned tokens, first position and one past the last, per word.
            streams: Tokens of each stream, by name, instead of all the others.
        """
        if (codes is None) == (streams is None):
            raise ValueError("SpeechTokens take either the codes of one stream, or several streams by name.")
        if codes is not None and codes.ndim != 2:
            raise ValueError(f"codes have shape {tuple(codes.shape)}; expected (levels, positions).")
        if streams is not None and (durations is not None or words is not None or spans is not None):
            raise ValueError("Durations, words and spans belong to one stream: give them with its tokens.")
        if codes is not None and durations is not None and durations.shape != codes.shape[1:]:
            raise ValueError(
                f"durations have shape {tuple(durations.shape)}, codes {tuple(codes.shape)}: "
                "there must be one duration per column."
            )
        self._codes, self._durations, self._words, self._spans = codes, durations, words, spans
        self._streams = None if streams is None else dict(streams)

    def stream(self, name: str) -> "SpeechTokens":
        """Return the tokens of one stream. Tokens of a single stream carry no name and are returned as they are.

        Raises:
            ConfigError: there is no such stream.
        """
        if self._streams is None:
            return self
        if name not in self._streams:
            raise ConfigError(f"There is no stream {name!r} in these tokens; they have {', '.join(self._streams)}.")
        return self._streams[name]

    @property
    def streams(self) -> Mapping[str, "SpeechTokens"] | None:
        """Tokens of each of several streams; None where there is only one, which has no name here."""
        return self._streams

    def map_streams(self, change: Callable[["SpeechTokens"], "SpeechTokens"]) -> "SpeechTokens":
        """Apply a function of one stream's tokens to each stream."""
        if self._streams is None:
            return change(self)
        return SpeechTokens(streams={name: change(tokens) for name, tokens in self._streams.items()})

    @property
    def codes(self) -> Int[Tensor, "levels positions"]:
        """Codes of the only stream."""
        if self._codes is None:
            names = ", ".join(self._streams or ())
            raise ConfigError(
                f"These tokens have several streams ({names}); choose the one to read: tokens.stream(NAME)."
            )
        return self._codes

    @property
    def durations(self) -> Int[Tensor, " positions"] | None:
        """Frames per run of the only stream; None where runs are not collapsed."""
        return self._only(self._durations)

    @property
    def words(self) -> tuple[Word, ...] | None:
        """Words of the only stream; None where tokens do not follow words."""
        return self._only(self._words)

    @property
    def spans(self) -> Int[Tensor, "words 2"] | None:
        """First position of each word, and one past the last; None where tokens do not follow words."""
        return self._only(self._spans)

    def _only(self, value: Any) -> Any:
        assert self.codes is not None  # raises where there are several streams
        return value

    @property
    def units(self) -> Int[Tensor, " positions"]:
        """The ids of the only level of the only stream."""
        if self.codes.shape[0] != 1:
            raise ValueError(f"These tokens have {self.codes.shape[0]} codebooks; 'units' needs exactly one.")
        return self.codes[0]

    @property
    def num_positions(self) -> int:
        """Columns of codes (frames, runs or words), over all streams."""
        if self._streams is not None:
            return sum(tokens.num_positions for tokens in self._streams.values())
        return self.codes.shape[1]

    @property
    def has_frames(self) -> bool:
        """Whether there is one stream, whose positions are frames or runs of frames."""
        return self._streams is None and self._words is None

    @property
    def num_frames(self) -> int:
        """Frames of the only stream before run collapsing.

        Raises:
            ConfigError: the positions follow words, not time, or there are several streams.
        """
        if self.words is not None:
            raise ConfigError("These tokens follow words: they have positions (num_positions) and no frames.")
        return int(self.codes.shape[1] if self.durations is None else self.durations.sum())

    def without_durations(self) -> "SpeechTokens":
        """Return the same tokens, of which nobody says how long they last."""
        return self.map_streams(lambda one: SpeechTokens(codes=one.codes, words=one.words, spans=one.spans))

    def __eq__(self, other: object) -> bool:
        """Compare codes, durations, words and spans of every stream."""
        if not isinstance(other, SpeechTokens):
            return NotImplemented
        if self._streams is not None or other._streams is not None:
            return self._streams == other._streams
        return (
            torch.equal(self.codes, other.codes)
            and _equal_or_both_none(self.durations, other.durations)
            and self.words == other.words
            and _equal_or_both_none(self.spans, other.spans)
        )

    def __repr__(self) -> str:
        """Name what is held."""
        if self._streams is not None:
            return f"SpeechTokens(streams={dict(self._streams)!r})"
        names = ("codes", "durations", "words", "spans")
        given = [f"{name}={value!r}" for name in names if (value := getattr(self, name)) is not None]
        return f"SpeechTokens({', '.join(given)})"


def _equal_or_both_none(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)
