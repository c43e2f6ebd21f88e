"""Speech from text with hibari (6 M parameters, Apache-2.0): one voice, with the time of every word, fast.

    text -> words, phonemes (synthesis/phonemes.py) -> plan_words, TextToSpeech -> 24 kHz waveform, word and phone times

For sets that need one voice only; kokoro_tts.py has many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vocable.errors import ConfigError
from vocable.registry import look_up
from vocable.synthesis.phonemes import (
    PhonemizerName,
    WordPhonemes,
    default_phonemizer,
    open_phonemizer,
    split_long,
)
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.synthesis.word_prosody import WordPlan, change_words, plan_words
from vocable.testsets.speech import Speech

VOICES = ("heart",)
MAX_SYMBOLS = 400
"""Longer texts are spoken in parts, as in the package hibari-tts."""


class Hibari:
    """hibari's voice, American English (asset "hibari").

    Raises:
        AssetError: the weights are not there.
        ConfigError: the speed is out of range.
    """

    voices = VOICES

    def __init__(self, folder: Path | None = None, speed: float = 1.0, phonemizer: PhonemizerName | None = None):
        if not 0.5 <= speed <= 2.0:
            raise ConfigError(f"speed is {speed}; hibari speaks between 0.5 (slow) and 2 (fast).")
        self.model = TextToSpeech.from_pretrained(folder or "hibari")
        self.speed = speed
        phonemizer = phonemizer or default_phonemizer()
        self.name = f"hibari 0.2.1, phonemes by {phonemizer}"
        self.phonemize = open_phonemizer(phonemizer, "en-us")
        self.autocasts = has_bfloat16()

    def check_voices(self, voices: list[str]) -> None:
        """Raise UnknownNameError for another voice than hibari's."""
        for voice in voices:
            look_up("voice", voice, dict.fromkeys(VOICES))

    def speak(self, text: str, voice: str = VOICES[0]) -> Speech:
        """Speak an English text of any length.

        Raises:
            UnknownNameError: no such voice.
            ConfigError: the text holds no word, or a symbol that the model lacks.
        """
        return self.speak_words(self.phonemize(text), voice)

    def speak_symbols(self, symbols: str, voice: str = VOICES[0]) -> Speech:
        """Speak phonemes in Kokoro's symbols, stress marks before the vowels: `kˈæt`. Needs no phonemizer.

        Raises:
            UnknownNameError: no such voice.
            ConfigError: no phoneme at all, or one that the model lacks.
        """
        return self.speak_words(open_phonemizer("given")(symbols), voice)

    def speak_words(self, words: list[WordPhonemes], voice: str = VOICES[0]) -> Speech:
        """Speak words whose phonemes are known; raises as `speak` does."""
        self.check_voices([voice])
        parts = [self._speak_part(part) for part in split_long(words, MAX_SYMBOLS)]
        if len(parts) == 1:
            return parts[0]
        spoken: list[Speech] = []
        for part in parts:
            start = sum(len(before.waveform) for before in spoken) / part.sample_rate
            spoken.append(part._replace(words=_shifted(part.words, start), phones=_shifted(part.phones, start)))
        return Speech(
            np.concatenate([part.waveform for part in spoken]),
            self.model.sample_rate,
            tuple(word for part in spoken for word in part.words),
            tuple(phone for part in spoken for phone in part.phones),
        )

    def speak_changed(self, text: str, changes: Sequence[Mapping[str, Any]]) -> Speech:
        """Speak a text with words longer, higher, louder, or with pauses after them: see `change_words`.

        Raises:
            ConfigError: as `speak` does; or a change cannot be made, or the text has more than 400 symbols.
        """
        words = self.phonemize(text)
        if len(split_long(words, MAX_SYMBOLS)) > 1:
            raise ConfigError(f"{text[:40]!r}... has more than {MAX_SYMBOLS} phonemes; change words in one sentence.")
        if not isinstance(changes, list | tuple):
            raise ConfigError(f"The changes are a {type(changes).__name__}; they must be a list of tables.")
        plan = plan_words(self.model, words, speed=self.speed)
        return self._say(plan_words(self.model, words, change_words(plan, changes), self.speed))

    def _speak_part(self, words: list[WordPhonemes]) -> Speech:
        return self._say(plan_words(self.model, words, speed=self.speed))

    @torch.inference_mode()
    def _say(self, plan: WordPlan) -> Speech:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocasts):
            waveform = plan.speak(self.model).waveform
        return Speech(waveform.float().numpy(), self.model.sample_rate, plan.times, plan.phones)


def has_bfloat16() -> bool:
    """Whether this processor multiplies matrices in bfloat16 itself; then that is twice as fast.

    What rounding to it changes in the decoder's spectra is a quarter of what the published graph's rounding to 8 bits
    does. Durations and pitch are predicted in float32 everywhere.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _shifted(marks: tuple, seconds: float) -> tuple:
    return tuple(replace(mark, start=mark.start + seconds, end=mark.end + seconds) for mark in marks)
