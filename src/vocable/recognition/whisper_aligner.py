"""Word times from Whisper's cross-attention, through transformers.

    waveform 16 kHz -> Whisper writes what it hears, with word times -> matched with the words of the text

Not a forced alignment: words that Whisper did not hear have no time. Times come from dynamic time warping over the
attention of some heads, in steps of 20 ms; the implementation is that of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vocable.audio.io import read_utterance
from vocable.errors import AssetError
from vocable.recognition.aligner import Found
from vocable.recognition.checkpoints import load_recogniser
from vocable.recognition.matching import match_stamps
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.stamps import stamps_of_transformers
from vocable.types import Utterance

WINDOW_SECONDS = 30.0


class WhisperStamps:
    """A Whisper checkpoint with alignment heads. It gives no confidence."""

    def __init__(self, model: Any, feature_extractor: Any, tokenizer: Any, name: str) -> None:
        """Wrap loaded parts; `load_whisper_stamps` does it by name."""
        from transformers import AutomaticSpeechRecognitionPipeline

        self.name = name
        self.sample_rate: int = feature_extractor.sampling_rate
        self.multilingual = bool(getattr(model.generation_config, "is_multilingual", False))
        self.pipeline: Any = AutomaticSpeechRecognitionPipeline(
            model=model.eval(), feature_extractor=feature_extractor, tokenizer=tokenizer, device=model.device
        )

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Transcribe with word times, and match with the text."""
        from vocable.assets.quiet import silenced_transformers

        waveform = read_utterance(utterance, self.sample_rate)
        seconds = waveform.numel() / self.sample_rate
        options: dict[str, Any] = {"chunk_length_s": WINDOW_SECONDS} if seconds > WINDOW_SECONDS else {}
        if self.multilingual:
            options["generate_kwargs"] = {"language": language, "task": "transcribe"}
        with silenced_transformers():
            result = self.pipeline(waveform.numpy(), return_timestamps="word", **options)
        stamps = stamps_of_transformers(result, f"{self.name} on {utterance.id}", seconds)
        times, unused = match_stamps(words, stamps, language)
        return Found(times, (), unused)


def load_whisper_stamps(name: str, device: str = "cpu") -> WhisperStamps:
    """Load a Whisper checkpoint.

    Raises:
        AssetError: it is not at hand, is no Whisper model, or does not say which heads align.
    """
    folder, model, feature_extractor, tokenizer = load_recogniser(name, "Whisper", "float32")
    if not getattr(model.generation_config, "alignment_heads", None):
        raise AssetError(f"{folder}: generation_config.json names no alignment_heads, which word times come from.")
    return WhisperStamps(model.to(device), feature_extractor, tokenizer, f"whisper:{name}")
