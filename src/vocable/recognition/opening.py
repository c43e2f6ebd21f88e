"""How the name of an aligner on the command line becomes one.

ctc:NAME  posteriors:FOLDER  pocketsphinx  whisper:NAME  textgrid:FOLDER  ctm:FILE  whisperx:FOLDER
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vocable.errors import ConfigError
from vocable.recognition.aligner import Aligner
from vocable.registry import look_up

ALIGNERS: Mapping[str, str | None] = {
    "ctc": "facebook/wav2vec2-base-960h",
    "posteriors": "FOLDER",
    "pocketsphinx": None,
    "whisper": "openai/whisper-base",
    "textgrid": "FOLDER",
    "ctm": "FILE",
    "whisperx": "FOLDER",
}
"""Example of the part after the colon; None where there is none."""


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
    channel: str | None = None
    """Channel of a CTM with the words, such as A, where its recordings have several."""
    times_from: Literal["utterance", "file"] = "utterance"
    """Name and zero of time of the entries of textgrid, ctm and whisperx: the utterance (its id), or its whole
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
        from vocable.recognition.ctc_aligner import PosteriorFolder

        return PosteriorFolder(Path(argument), config.strict)
    if kind == "pocketsphinx":
        from vocable.recognition.pocketsphinx_aligner import PocketsphinxAligner

        return PocketsphinxAligner()
    if kind == "whisper":
        from vocable.recognition.whisper_aligner import load_whisper_stamps

        return load_whisper_stamps(argument, config.device)
    from vocable.recognition.stamps import StampAligner

    return StampAligner(kind, Path(argument), config.times_from, config.tier, config.channel)
