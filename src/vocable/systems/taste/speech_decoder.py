"""The contract of speech decoders: words and their vectors become speech, and learn to from recordings.

    words + word vectors + speaker -> SpeechDecoder -> waveform, times of the words

Two follow it: units written one after another, as published (unit_decoder.py), and durations, pitch and energy of
phonemes (prosody_decoder.py). What one learns from a recording it says itself (`targets`): data and task know neither.

A recipe's section `decoder` is a `DecoderConfig`, whose `build` makes a new decoder. A saved one is made again by
`restore_decoder`, from its `saved_config` and its `saved_tensors`.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.features.voice import Speaker
from vocable.registry import look_up
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.types import Utterance, Word


class WordBatch(NamedTuple):
    """Texts and what the tokenizer made of them, as a decoder reads them."""

    texts: tuple[tuple[str, ...], ...]
    """Words of each text."""
    ids: Int[Tensor, "batch tokens"]
    """Tokens of the texts in Whisper's vocabulary; -1 after the end."""
    word_ids: Int[Tensor, "batch tokens"]
    """Word of each token, from 0; -1 after the end."""
    vectors: Float[Tensor, "batch words dim"] | None
    """Vectors of the words, quantized or not; 0 after the end. None: from text alone (the published first stage)."""
    mask: Bool[Tensor, "batch words"]
    """True for words."""
    speaker: Float[Tensor, "batch speaker_dim"]
    """Speaker vectors of length 1."""


class DecoderLoss(NamedTuple):
    """What a decoder says of a batch."""

    total: Tensor
    """Loss, summed over `count` targets."""
    count: int
    """Number of targets: units, or phonemes."""
    parts: Mapping[str, tuple[float, int]]
    """Sums and numbers of what goes to the log, by name: parts of the loss, accuracies, errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordChange:
    """A change to how a word is spoken, on top of what its vector says."""

    stretch: float = 1.0
    """Times as long."""
    semitones: float = 0.0
    """So much higher."""
    decibels: float = 0.0
    """So much louder."""

    def __post_init__(self) -> None:
        for name in ("stretch", "semitones", "decibels"):
            if not math.isfinite(value := getattr(self, name)):
                raise ConfigError(f"The word's {name} is {value}; it must be a finite number.")
        if self.stretch <= 0:
            raise ConfigError(f"The word's stretch is {self.stretch}; it must be above 0.")

    def then(self, other: "WordChange") -> "WordChange":
        """Return both changes as one."""
        return WordChange(
            stretch=self.stretch * other.stretch,
            semitones=self.semitones + other.semitones,
            decibels=self.decibels + other.decibels,
        )


class SpokenWords(NamedTuple):
    """Speech, with the times of its words."""

    waveform: Float[Tensor, " samples"]
    words: tuple[Word, ...]
    """Times in seconds of `waveform`; empty where a decoder does not know them."""


class SpeechDecoder(nn.Module, ABC):
    """Words and their vectors to speech."""

    kind: str
    """Name in configs."""
    part_names: tuple[str, ...]
    """Names of all parts that `loss` reports."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Samples per second of what `speak` returns."""

    @abstractmethod
    def targets(
        self, utterance: Utterance, waveform: Float[Tensor, " samples"], words: Sequence[str]
    ) -> dict[str, Tensor]:
        """Measure what the decoder learns from a recording; done once for each, and kept.

        Args:
            utterance: Its line in the manifest, with times of words and phones where the manifest has them.
            waveform: The recording at the tokenizer's sample rate.
            words: Its text, split at blanks.

        Raises:
            AlignmentError: the text cannot be found in the recording. It is then left out.
        """

    @abstractmethod
    def loss(self, batch: WordBatch, targets: Sequence[Mapping[str, Tensor]]) -> DecoderLoss:
        """Return the teacher-forced loss of a batch, on its device, and its measures."""

    @abstractmethod
    def speak(
        self,
        words: Sequence[str],
        vectors: Float[Tensor, "words dim"] | None,
        speaker: Speaker,
        changes: Mapping[int, WordChange] | None = None,
        seed: int = 0,
    ) -> SpokenWords:
        """Speak words.

        Args:
            words: The words, with their punctuation.
            vectors: One for each; None speaks from text alone.
            speaker: Who speaks.
            changes: Changes by the number of the word.
            seed: For whatever is drawn.

        Raises:
            ConfigError: a decoder that cannot change words is asked to; or other numbers of words and vectors.
        """

    @abstractmethod
    def saved_config(self) -> dict[str, Any]:
        """Return what is needed to build the module anew, as JSON values."""

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the weights; those of networks that it borrows, and finds again by their names, may be left out."""
        return self.state_dict()

    @classmethod
    @abstractmethod
    def from_saved(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "SpeechDecoder":
        """Build the module anew from its `saved_config` and `saved_tensors`.

        Raises:
            AssetError: a network that it borrows cannot be found, or is another one; or the weights do not fit.
        """

    def targets_key(self) -> dict[str, Any]:
        """Return what the targets depend on, as JSON values: with an equal key, kept ones are used again."""
        return self.saved_config()


class DecoderConfig(Protocol):
    """Settings of a speech decoder: a frozen dataclass whose field `kind` names it."""

    @property
    def kind(self) -> str:
        """Name of the decoder."""
        ...

    def build(self, word_dim: int, reader: WordTextTokenizer) -> SpeechDecoder:
        """Draw a new decoder, by torch's random state.

        Args:
            word_dim: Width of the words' vectors.
            reader: Whisper's text tokenizer, for decoders that read the text in its tokens. Its name finds it again.
        """
        ...


BUILT_IN = {"prosody": "prosody_decoder", "units": "unit_decoder"}
"""Modules of this package that hold our own decoders."""
_KINDS: dict[str, type[SpeechDecoder]] = {}
D = TypeVar("D", bound=type[SpeechDecoder])


def register_decoder(decoder: D) -> D:
    """Enter a class under its `kind`, so that saved decoders of it can be made again."""
    _KINDS[decoder.kind] = decoder
    return decoder


def restore_decoder(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SpeechDecoder:
    """Build a saved decoder; it computes in float32 whatever the stored type.

    Raises:
        AssetError: a network that it borrows cannot be found, or the weights do not fit.
        UnknownNameError: there is no such kind.
    """
    if kind in BUILT_IN and kind not in _KINDS:
        importlib.import_module(f"vocable.systems.taste.{BUILT_IN[kind]}")
    exact = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return look_up("speech decoder", kind, _KINDS).from_saved(config, exact)
