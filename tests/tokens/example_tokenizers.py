"""Two small tokenizers that are unlike units, for tests: two streams and sound of its own; words instead of frames."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vocable.features.voice import voice_vector
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.tokens.runs import collapse_runs
from vocable.tokens.streams import stream_fingerprint
from vocable.tokens.tokenizer import SpeechTokenizer, register_tokenizer
from vocable.types import Clip, SpeechTokens, Stream, Word

SAMPLE_RATE = 16_000
DECODE_RATE = 8_000
FLOOR_DB, CEILING_DB, LEVELS, STEPS = -80.0, 16.0, 3, 16


@register_tokenizer("sines")
class SineCodec(SpeechTokenizer):
    """A codec: which of 64 tones is loudest every 20 ms, and how loud it is every 40 ms, refined over three levels."""

    name = "sines"
    sample_rate = SAMPLE_RATE
    batchings = ("exact", "together")

    def __init__(self, frequencies: Tensor) -> None:
        self.frequencies = frequencies
        self.synthesizer = SineSynthesizer(frequencies, self.fingerprint)

    @classmethod
    def make(cls) -> "SineCodec":
        return cls(torch.logspace(math.log10(100), math.log10(3500), 64))

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (
            Stream(name="semantic", codebook_sizes=(64,), rate=50.0),
            Stream(name="acoustic", codebook_sizes=(STEPS,) * LEVELS, rate=25.0),
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint({"type": self.tokenizer_type, "frequencies": tensor_sha256(self.frequencies)})

    def synthesizer_of(self, stream: str) -> "SineSynthesizer | None":
        if stream != "semantic":
            return None
        return SineSynthesizer(self.frequencies, stream_fingerprint(self.fingerprint, stream))

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        return [self._encode(clip.waveform) for clip in clips]

    def _encode(self, waveform: Tensor) -> SpeechTokens:
        frames = waveform[: len(waveform) // 640 * 640].view(-1, 320)
        time = torch.arange(320) / SAMPLE_RATE
        waves = torch.exp(2j * math.pi * self.frequencies[:, None] * time)
        runs = collapse_runs((frames.to(waves.dtype) @ waves.mT).abs().argmax(-1))
        level = 10 * torch.log10(frames.view(-1, 640).square().mean(1) + 1e-9)
        return SpeechTokens(
            streams={
                "semantic": SpeechTokens(codes=runs.units[None], durations=runs.durations),
                "acoustic": SpeechTokens(codes=level_codes(level)),
            }
        )

    def saved_config(self) -> dict:
        return {}

    def saved_tensors(self) -> dict[str, Tensor]:
        return {"frequencies": self.frequencies}

    @classmethod
    def from_saved(cls, config, tensors, device, source) -> "SineCodec":
        return cls(tensors["frequencies"])


class SineSynthesizer:
    """Plays the tones as loud as the codes say, at -20 dB without any. The first value of a speaker vector moves them,
    in octaves."""

    sample_rate = DECODE_RATE
    voices = ()

    def __init__(self, frequencies: Tensor, tokenizer_fingerprint: str) -> None:
        self.frequencies, self.tokenizer_fingerprint = frequencies, tokenizer_fingerprint

    def synthesize(self, tokens: Sequence[SpeechTokens], voice=None) -> list[Tensor]:
        octaves = 0.0 if voice is None else float(voice_vector(voice)[0])
        waveforms = []
        for item in tokens:
            semantic = item.stream("semantic")
            tones = semantic.units
            if semantic.durations is not None:
                tones = tones.repeat_interleave(semantic.durations)
            frequency = (self.frequencies[tones] * 2**octaves).repeat_interleave(160)
            loudness = torch.full((len(tones) // 2,), -20.0)
            if "acoustic" in (item.streams or ()):
                loudness = codes_level(item.stream("acoustic").codes)
            amplitude = (2 * 10 ** (loudness / 10)).sqrt().repeat_interleave(320)
            samples = min(len(frequency), len(amplitude))
            phase = 2 * math.pi * (frequency[:samples].double().cumsum(0) / DECODE_RATE)
            waveforms.append(amplitude[:samples] * phase.sin().float())
        return waveforms


def level_codes(level: Tensor) -> Tensor:
    """Decibels to one code a level, each a sixteenth of the step before."""
    share = ((level - FLOOR_DB) / (CEILING_DB - FLOOR_DB)).clamp(0, 1 - 1e-6)
    rows = []
    for _ in range(LEVELS):
        rows.append((share * STEPS).long())
        share = share * STEPS - rows[-1]
    return torch.stack(rows)


def codes_level(codes: Tensor) -> Tensor:
    """The middle of the decibels that codes stand for; of fewer levels, of a wider stretch."""
    sizes = torch.tensor([float(STEPS) ** -(level + 1) for level in range(len(codes))])
    share = (codes * sizes[:, None]).sum(0) + sizes[-1] / 2
    return FLOOR_DB + share * (CEILING_DB - FLOOR_DB)


@register_tokenizer("word-notes")
class WordTokenizer(SpeechTokenizer):
    """One code a word, by its letters; the recording only says how loud they are."""

    name = "word-notes"
    sample_rate = SAMPLE_RATE
    needs_words = True

    def __init__(self, salt: int = 0) -> None:
        self.salt = salt
        self.synthesizer = WordSynthesizer(self.fingerprint)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return (Stream(name="words", codebook_sizes=(32,), rate=None),)

    @property
    def fingerprint(self) -> str:
        return fingerprint({"type": self.tokenizer_type, "salt": self.salt})

    def code(self, word: Word) -> int:
        return zlib.crc32(f"{self.salt} {word.word}".encode()) % 32

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        tokens = []
        for clip in clips:
            words = clip.words or ()
            spans = torch.arange(len(words))[:, None] + torch.tensor([0, 1])
            codes = torch.tensor([[self.code(word) for word in words]], dtype=torch.int64)
            tokens.append(SpeechTokens(codes=codes, words=words, spans=spans))
        return tokens

    def saved_config(self) -> dict:
        return {"salt": self.salt}

    def saved_tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_saved(cls, config, tensors, device, source) -> "WordTokenizer":
        return cls(config["salt"])


class WordSynthesizer:
    """A note of a fifth of a second for each word."""

    sample_rate = DECODE_RATE
    voices = ()

    def __init__(self, tokenizer_fingerprint: str) -> None:
        self.tokenizer_fingerprint = tokenizer_fingerprint

    def synthesize(self, tokens: Sequence[SpeechTokens], voice=None) -> list[Tensor]:
        time = torch.arange(DECODE_RATE // 5) / DECODE_RATE
        return [
            torch.cat([0.1 * torch.sin(2 * math.pi * (200 + 20 * code) * time) for code in item.units.tolist()])
            for item in tokens
        ]


def save_example(kind: str, folder: Path) -> Path:
    """Write one of the two tokenizers."""
    return (SineCodec.make() if kind == "sines" else WordTokenizer()).save_pretrained(folder)
