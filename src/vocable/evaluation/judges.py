"""Who judges speech, and whether a judge is independent of what it judges.

A recogniser must not be the model that the tokenizer encodes with: it hears in its own features what nobody else does,
and its error rates are too good. Each judge carries the name and hash of its weights into the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from vocable.errors import ConfigError
from vocable.evaluation.runner import Benchmark, SampledConfig
from vocable.tokens.fingerprint import tensor_sha256

if TYPE_CHECKING:
    from vocable.evaluation.metrics.mos import MosPredictor
    from vocable.features.speaker import SpeakerEncoder
    from vocable.recognition.transcribe import Transcriber
    from vocable.tokens.tokenizer import SpeechTokenizer

JUDGE_RATE = 16_000
"""All judges listen at 16 kHz."""

JudgeRelation = Literal["different", "same family", "same", "unknown"]


class Judges(NamedTuple):
    """Who listens. Without a quality or voice judge, those scores are left out."""

    transcriber: Transcriber
    mos: MosPredictor | None = None
    speaker: SpeakerEncoder | None = None

    def weights(self) -> dict[str, Any]:
        """Name and hash of each judge's weights, for results."""
        roles = {"transcriber": self.transcriber, "mos": self.mos, "speaker": self.speaker}
        return {role: dict(judge.weights) for role, judge in roles.items() if judge is not None}


def load_judges(
    transcriber: str = "openai/whisper-base",
    language: str = "en",
    mos: str | None = "distillmos",
    speaker: str | None = "resemblyzer",
    device: str = "cpu",
) -> Judges:
    """Load judges by name; None leaves one out.

    Raises:
        AssetError: the weights of one are not at hand.
        ConfigError: the recogniser does not know the language.
        UnknownNameError: no such MOS predictor; see `load_mos`.
    """
    from vocable.evaluation.metrics.mos import load_mos
    from vocable.features.speaker import load_speaker_encoder
    from vocable.recognition.transcribe import load_transcriber

    return Judges(
        transcriber=load_transcriber(transcriber, language=language, device=device),
        mos=load_mos(mos, device) if mos is not None else None,
        speaker=load_speaker_encoder(speaker, device) if speaker is not None else None,
    )


def transcribe_audible(transcriber: Transcriber, waveforms: Sequence[Tensor]) -> list[str]:
    """Transcribe; "" where a waveform has no sample."""
    audible = [waveform for waveform in waveforms if waveform.numel()]
    texts = iter(transcriber.transcribe(audible) if audible else [])
    return [next(texts) if waveform.numel() else "" for waveform in waveforms]


def judge_relation(transcriber: str, encoder: str | None) -> JudgeRelation:
    """Say how the recogniser `transcriber` relates to the `encoder` of the tokenizer under test, by their names.

    Returns:
        "same" when both are one checkpoint (organisation and case do not count), "same family" when both are, e.g.,
        Whisper models of other sizes, "unknown" when the tokenizer names no encoder, else "different".
    """
    if not encoder:
        return "unknown"
    judge, tested = (name.rstrip("/").rsplit("/", 1)[-1].lower() for name in (transcriber, encoder))
    if judge == tested:
        return "same"
    return "same family" if judge.split("-")[0] == tested.split("-")[0] else "different"


def check_judge(transcriber: str, tokenizer: SpeechTokenizer, same_judge: Literal["refuse", "allow"]) -> JudgeRelation:
    """Refuse a recogniser that is the tokenizer's own encoder, unless allowed; return how the two relate.

    Raises:
        ConfigError: they are one model and `same_judge` is "refuse".
    """
    encoder = encoder_name(tokenizer)
    relation = judge_relation(transcriber, encoder)
    if relation == "same" and same_judge == "refuse":
        raise ConfigError(
            f"The recogniser {transcriber!r} is also the tokenizer's encoder {encoder!r}: it would judge its own "
            "features. Choose another with --transcriber; or pass --same-judge allow, which the result will say."
        )
    return relation


def encoder_name(tokenizer: SpeechTokenizer) -> str | None:
    """Published name of the model a tokenizer encodes with, or was distilled from, by its card; None without any."""
    card = tokenizer.card()
    encoder = card.get("encoder") or card.get("teacher")
    name = encoder.get("name") if isinstance(encoder, dict) else encoder
    return name if isinstance(name, str) else None


def vocoder_fingerprint(tokenizer: SpeechTokenizer) -> dict[str, str]:
    """Hash of the synthesizer's weights, where it has any."""
    synthesizer = tokenizer.synthesizer
    if not isinstance(synthesizer, torch.nn.Module):
        return {}
    return {"vocoder": tensor_sha256(synthesizer.state_dict())[:16]}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningConfig(SampledConfig):
    """The settings of a benchmark that speaks tokens and listens to them."""

    transcriber: str = "openai/whisper-base"
    """The recogniser that listens; a Whisper name or folder."""
    language: str = "en"
    """Language that is spoken. Utterances marked with another are left out, and counted."""
    voice: str | Path | None = None
    """Voice of the vocoder, or a recording of one to copy; without it, its first."""
    same_judge: Literal["refuse", "allow"] = "refuse"
    """Refuse or allow a recogniser that is the tokenizer's own encoder; error rates are then too good."""
    num_examples: int = 8
    """Utterances on the page."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        if self.num_examples < 0:
            raise ConfigError(f"num_examples is {self.num_examples}; it must not be negative.")


L = TypeVar("L", bound=ListeningConfig)


class ListeningBenchmark(Benchmark[L], Generic[L]):
    """A benchmark that speaks tokens and listens to them."""

    def open_judges(self, tokenizer: SpeechTokenizer, mos: str | None, speaker: str | None = None) -> None:
        """Load the judges, check that the recogniser is independent, and record who speaks and who listens."""
        config, run = self.config, self.run
        names = (config.transcriber, config.language, mos, speaker)
        self.judges: Judges = run.open("judges", lambda: load_judges(*names, run.device))
        self.relation = check_judge(self.judges.transcriber.name, tokenizer, config.same_judge)
        run.fingerprints |= {"tokenizer": tokenizer.fingerprint, **vocoder_fingerprint(tokenizer)}
        run.weights |= self.judges.weights()

    def judge_conventions(self, tokenizer: SpeechTokenizer) -> dict[str, Any]:
        """Say who listens to which voice."""
        return {
            **self.judges.transcriber.conventions,
            "judge_and_tokenizer_encoder": self.relation,
            "tokenizer_encoder": encoder_name(tokenizer),
            "voice": self.config.voice and str(self.config.voice),
            "mos": self.judges.mos.name if self.judges.mos else None,
        }
