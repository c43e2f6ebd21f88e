"""Speech from text with the Kokoro synthesiser (82 M parameters, Apache-2.0), with the time of every word.

    text -> words, phonemes (synthesis/phonemes.py) -> Kokoro (ONNX) -> 24 kHz waveform, frames per phoneme -> word and
    phone times

Made for corpora whose word times are known rather than estimated: the times are the durations that the model itself
used. Model family: StyleTTS 2 (Li et al., 2023, arXiv:2306.07691).
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from vocable.errors import AssetError, ConfigError, missing_extra
from vocable.registry import look_up
from vocable.synthesis.phonemes import (
    LEAD_FRAMES,
    Accent,
    PhonemizerName,
    default_phonemizer,
    join_words,
    open_phonemizer,
    phone_times,
    word_times,
)
from vocable.testsets.speech import Speech

SAMPLE_RATE = 24_000
MAX_PHONEMES = 510
STYLE_DIM = 256
DURATIONS_OUTPUT = "/encoder/Clip_output_0"
"""The tensor inside the ONNX graph that holds frames per phoneme."""


class Kokoro:
    """The Kokoro model of a folder that holds model.onnx, vocab.json and voices/*.bin (asset "kokoro").

    Raises:
        AssetError: a file is missing.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        speed: float = 1.0,
        num_threads: int = 1,
        phonemizer: PhonemizerName | None = None,
    ):
        if not 0.5 <= speed <= 2.0:
            raise ConfigError(f"speed is {speed}; Kokoro speaks between 0.5 (slow) and 2 (fast).")
        self.folder = Path(folder) if folder is not None else _asset_folder()
        self.speed = speed
        self.phonemizer: PhonemizerName = phonemizer or default_phonemizer()
        self.name = f"Kokoro-82M v1.0, int8 ONNX, phonemes by {self.phonemizer}"
        for part in ("model.onnx", "vocab.json", "voices"):
            if not (self.folder / part).exists():
                raise AssetError(f"{self.folder / part} is missing. Fetch it again: vocable assets fetch kokoro")
        vocabulary = json.loads((self.folder / "vocab.json").read_text(encoding="utf-8"))
        self.symbol_ids: dict[str, int] = vocabulary.get("vocab", vocabulary)
        self.voice_files = {path.stem: path for path in sorted((self.folder / "voices").glob("*.bin"))}
        self._session = _open_session(self.folder / "model.onnx", num_threads)
        self._styles = functools.lru_cache(maxsize=64)(self._read_styles)

    @property
    def voices(self) -> list[str]:
        """Names of the voices: language and sex (af: American female, bm: British male), then the speaker."""
        return list(self.voice_files)

    def check_voices(self, voices: list[str]) -> None:
        """Raise UnknownNameError when a voice is not in the folder."""
        for voice in voices:
            look_up("voice", voice, self.voice_files)

    def speak(self, text: str, voice: str) -> Speech:
        """Speak one or two English sentences.

        Raises:
            UnknownNameError: no such voice.
            ConfigError: the text holds no word, a phoneme that the model lacks, or more than 510 phonemes.
        """
        look_up("voice", voice, self.voice_files)
        words = open_phonemizer(self.phonemizer, voice_accent(voice))(text)
        symbols, spans = join_words(words)
        waveform, frames = self._run(symbols, voice, text)
        first_frame = max(0, int(frames[0]) - LEAD_FRAMES)
        times = word_times([word.word for word in words], spans, frames[1:-1], first_frame)
        phones = phone_times(symbols, frames[1:-1], first_frame)
        return Speech(waveform, SAMPLE_RATE, times, phones)

    def speak_symbols(self, symbols: str, voice: str) -> Speech:
        """Speak phonemes in Kokoro's own symbols, stress marks before the vowels: `kˈæt`. Needs no phonemizer.

        Raises:
            UnknownNameError: no such voice.
            ConfigError: no phoneme at all, one that the model lacks, or more than 510.
        """
        look_up("voice", voice, self.voice_files)
        if not symbols.strip():
            raise ConfigError(f"{symbols!r} holds no phoneme to speak.")
        waveform, _ = self._run(symbols, voice, symbols)
        return Speech(waveform, SAMPLE_RATE, ())

    def _run(self, symbols: str, voice: str, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The waveform, and the frames of every symbol with the two marks around them."""
        if len(symbols) > MAX_PHONEMES:
            raise ConfigError(f"{text[:60]!r}... has {len(symbols)} phonemes; Kokoro speaks {MAX_PHONEMES} at once.")
        token_ids = [0, *(self._symbol_id(symbol, text) for symbol in symbols), 0]
        results = self._session.run(
            None,
            {
                "tokens": np.array([token_ids], dtype=np.int64),
                "style": self._styles(voice)[len(symbols) - 1][None],
                "speed": np.array([self.speed], dtype=np.float32),
            },
        )
        waveform, durations = (np.asarray(result).reshape(-1) for result in results)
        return waveform.astype(np.float32), np.round(durations).astype(int)

    def _symbol_id(self, symbol: str, text: str) -> int:
        if symbol not in self.symbol_ids:
            raise ConfigError(f"{text!r} needs the phoneme {symbol!r}, which Kokoro lacks. Spell it another way.")
        return self.symbol_ids[symbol]

    def _read_styles(self, voice: str) -> np.ndarray:
        styles = np.fromfile(self.voice_files[voice], dtype=np.float32)
        if styles.size != MAX_PHONEMES * STYLE_DIM:
            raise AssetError(
                f"{self.voice_files[voice]} holds {styles.size} numbers, not {MAX_PHONEMES} x {STYLE_DIM}. "
                "Fetch it again: vocable assets fetch kokoro"
            )
        return styles.reshape(MAX_PHONEMES, STYLE_DIM)


def voice_accent(voice: str) -> Accent:
    """British for voices that begin with b, American for all others."""
    return "en-gb" if voice.startswith("b") else "en-us"


def with_output(model: bytes, tensor: str) -> bytes:
    """Return a serialised ONNX model that also outputs an inner tensor.

    Protocol buffers merge a message that occurs twice, so a second graph (field 7) that holds only an output (field
    12) with a name (field 1) is added to the first.
    """
    name = tensor.encode()
    if len(name) > 120:  # lengths below 128 are one byte
        raise ValueError(f"The tensor name {tensor!r} is longer than 120 bytes.")
    output = b"\x0a" + bytes([len(name)]) + name
    graph = b"\x62" + bytes([len(output)]) + output
    return model + b"\x3a" + bytes([len(graph)]) + graph


def _asset_folder() -> Path:
    from vocable.assets import resolve

    return resolve("kokoro")


def _open_session(path: Path, num_threads: int):
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "eval", "Speaking with Kokoro") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the core to others
    model = with_output(path.read_bytes(), DURATIONS_OUTPUT)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
