"""What every aligner offers, and how its name on the command line becomes one.

ctc:NAME  posteriors:FOLDER  pocketsphinx  whisper:NAME  textgrid:FOLDER  ctm:FILE  whisperx:FOLDER
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from vocable.errors import ConfigError
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.words import Timed, WordNote
from vocable.registry import look_up
from vocable.types import Utterance

if TYPE_CHECKING:
    from vocable.recognition.matching import Stamp

TimesFrom = Literal["utterance", "file"]

ALIGNERS: Mapping[str, str | None] = {
    "ctc": "facebook/wav2vec2-base-960h",
    "posteriors": "FOLDER",
    "pocketsphinx": None,
    "whisper": "openai/whisper-base",
    "textgrid": "FOLDER",
    "ctm": "FILE",
    "whisperx": "FOLDER",
}
"""What follows the colon, by example; None where nothing does."""


class Found(NamedTuple):
    """What an aligner found of an utterance."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignerConfig:
    """Which aligner, and how it works."""

    aligner: str
    """ctc:NAME (a CTC recogniser of transformers), posteriors:FOLDER (log posteriors that you made), pocketsphinx,
    whisper:NAME, textgrid:FOLDER, ctm:FILE, or whisperx:FOLDER (also JSON of Whisper and transformers)."""
    strict: bool = False
    """A letter that the vocabulary of ctc or posteriors lacks is an error instead of a note."""
    max_seconds: float = 120.0
    """Longest utterance for ctc, whose attention takes memory in the square of the length; longer ones are rejected."""
    device: str = "cpu"
    """Where ctc and whisper compute, such as cuda."""
    tier: str | None = None
    """Tier of a TextGrid with the words. Without it, "words", else the only interval tier."""
    times_from: TimesFrom = "utterance"
    """What entries of textgrid, ctm and whisperx are named after and counted from: the utterance (its id), or its whole
    audio file (the file's name without suffix)."""

    def __post_init__(self) -> None:
        kind, _, argument = self.aligner.partition(":")
        example = look_up("aligner", kind, ALIGNERS)
        if (example is None) != (argument == ""):
            wanted = kind if example is None else f"{kind}:{example}"
            raise ConfigError(f"The aligner is {self.aligner!r}; write it as {wanted}")
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds is {self.max_seconds}; it must be more than 0.")


def open_aligner(config: AlignerConfig) -> Aligner:
    """Load what an aligner needs.

    Raises:
        AssetError: a model is not at hand.
        MissingDependencyError: a package of the extra `align` is missing.
        ConfigError: a file or folder is not what it should be.
    """
    kind, _, argument = config.aligner.partition(":")
    if kind == "ctc":
        from vocable.recognition.ctc_aligner import load_ctc

        return load_ctc(argument, config.device, config.max_seconds, config.strict)
    if kind == "posteriors":
        from vocable.recognition.posterior_files import PosteriorFolder

        return PosteriorFolder(Path(argument), config.strict)
    if kind == "pocketsphinx":
        from vocable.recognition.pocketsphinx_aligner import PocketsphinxAligner

        return PocketsphinxAligner()
    if kind == "whisper":
        from vocable.recognition.whisper_aligner import load_whisper_stamps

        return load_whisper_stamps(argument, config.device)
    from vocable.recognition.stamp_aligner import StampAligner

    return StampAligner(kind, Path(argument), config.times_from, config.tier)
