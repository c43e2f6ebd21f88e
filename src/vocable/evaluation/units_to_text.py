"""What do units say? The map T of PELM, from units to text.

    own     the joint model's own transcription: <U> units <U2T> text, greedily
    folder  the same by another joint model that reads the same units
    asr     units -> vocoder -> recogniser

Source: SUTLM (Chou et al., 2023, arXiv:2310.08715) maps units to text with a model trained for it, without a vocoder.
Differs: no such separate model here; a joint model that was trained on concatenated rows stands in, and is named.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vocable.audio.waveforms import resample
from vocable.errors import ConfigError
from vocable.evaluation.halves import HalfModel
from vocable.evaluation.judges import check_judge, transcribe_audible, vocoder_fingerprint
from vocable.lm.generation import GenerationConfig
from vocable.lm.model import UNITS_ONLY
from vocable.lm.spoken import Segment, SpokenLM, load_lm
from vocable.recognition.transcribe import Transcriber
from vocable.sequences.subwords import units_over
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens


class UnitsToText(ABC):
    """Anything that writes down what units say."""

    name: str
    """How results call it."""
    conventions: Mapping[str, Any]
    """Every switch that changes the text."""
    weights: Mapping[str, Any]
    """Name and hash of what it was done with."""

    def __call__(self, tokens: Sequence[SpeechTokens]) -> list[str]:
        """Return one text each; "" where nothing is said."""
        said = [index for index, one in enumerate(tokens) if one.codes.shape[1]]
        texts = [""] * len(tokens)
        for index, text in zip(said, self.write_down([tokens[index] for index in said]) if said else [], strict=True):
            texts[index] = text.strip()
        return texts

    @abstractmethod
    def write_down(self, tokens: Sequence[SpeechTokens]) -> list[str]:
        """Return one text each, of units that are not empty."""


class JointUnitsToText(UnitsToText):
    """Transcription by a model of speech and text, which must have seen `<U> units <U2T> text` in training."""

    def __init__(self, lm: SpokenLM, name: str, weights: Mapping[str, Any], max_text_tokens: int, batch_size: int):
        """Take a loaded model.

        Raises:
            ConfigError: it reads units only.
        """
        if "text" not in lm.modalities:
            raise ConfigError(UNITS_ONLY)
        self.lm, self.name, self.weights, self.max_text_tokens = lm, name, weights, max_text_tokens
        self.config = GenerationConfig(temperature=0.0, batch_size=batch_size)
        self.conventions: Mapping[str, Any] = {
            "units_to_text": name,
            "decoding": "greedy behind <U> units <U2T>",
            "max_text_tokens": max_text_tokens,
            "guards": {key: asdict(self.config)[key] for key in ("loop_period", "loop_repeats", "guard")},
        }

    def write_down(self, tokens: Sequence[SpeechTokens]) -> list[str]:
        """Let the model transcribe."""
        prompts = [[Segment(tokens=one)] for one in tokens]
        replies = self.lm.continue_(
            prompts, self.config, to="text", task="transcribe", max_text_tokens=self.max_text_tokens
        )
        return [reply.text for reply in replies]


class SpokenUnitsToText(UnitsToText):
    """A vocoder and a recogniser. Durations are the vocoder's own, of true units too: generated ones have none."""

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        transcriber: Transcriber,
        collapsed: bool,
        voice: str | Path | None = None,
        same_judge: Literal["refuse", "allow"] = "refuse",
    ) -> None:
        """Take a tokenizer with its vocoder, and a recogniser.

        Raises:
            ConfigError: the recogniser is the tokenizer's own encoder, and `same_judge` is "refuse".
        """
        self.tokenizer, self.transcriber, self.collapsed, self.voice = tokenizer, transcriber, collapsed, voice
        relation = check_judge(transcriber.name, tokenizer, same_judge)
        self.name = f"vocoder and {transcriber.name}"
        self.weights: Mapping[str, Any] = dict(transcriber.weights)
        self.conventions: Mapping[str, Any] = {
            "units_to_text": self.name,
            **transcriber.conventions,
            **vocoder_fingerprint(tokenizer),
            "voice": voice,
            "durations": "predicted by the vocoder" if collapsed else "of the units",
            "judge_and_tokenizer_encoder": relation,
        }

    def write_down(self, tokens: Sequence[SpeechTokens]) -> list[str]:
        """Speak, and transcribe what can be heard."""
        return transcribe_audible(self.transcriber, [self._speak(one) for one in tokens])

    def _speak(self, tokens: SpeechTokens) -> Tensor:
        runs = units_over(tokens, "runs")
        spoken = SpeechTokens(codes=runs.units[None], durations=runs.durations)
        if self.collapsed:
            spoken = SpeechTokens(codes=tokens.units.long()[None])
        with torch.inference_mode():
            (waveform,) = self.tokenizer.decode([spoken], voice=self.voice)
        rate = self.tokenizer.decode_rate
        return resample(waveform.cpu(), rate, self.transcriber.sample_rate)


def load_joint_units_to_text(
    how: str, model: HalfModel, max_text_tokens: int = 128, batch_size: int = 16, device: str = "cpu"
) -> JointUnitsToText:
    """Load the model that writes down units: `own`, or the folder of another one that reads the same units.

    Raises:
        ConfigError: `own`, but the model reads units only; or `how` is neither.
        FingerprintError: the other model reads units of another tokenizer.
    """
    if how == "own":
        if not isinstance(model.lm, SpokenLM) or "text" not in model.lm.modalities:
            raise ConfigError(
                "This model writes no text, so it cannot transcribe its own units. Name another way: asr, or the "
                "folder of a joint model that reads the same units."
            )
        return JointUnitsToText(
            model.lm, "own: the evaluated model", model.weights["model"], max_text_tokens, batch_size
        )
    if not Path(how).is_dir():
        raise ConfigError(f"units_to_text is {how!r}; it must be own, asr, or the folder of a joint language model.")
    units = model.lm.tokenizer if isinstance(model.lm, SpokenLM) else None
    loaded = load_lm(Path(how), tokenizer=units, device=device)
    record = {name: value for name, value in loaded.record().items() if name != "dtype"}
    return JointUnitsToText(loaded, str(loaded.folder), record, max_text_tokens, batch_size)
