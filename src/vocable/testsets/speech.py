"""What a synthesiser of test sets is: text and a voice in, a waveform with the times of words and phones out.

Kokoro (kokoro_tts.py: many voices), hibari (hibari_tts.py: one voice, fast), any program (command_tts.py).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from vocable.types import Phone, Word


class Speech(NamedTuple):
    """A spoken text: float32 samples, and the words with their times in seconds (empty when nobody knows them)."""

    waveform: np.ndarray
    sample_rate: int
    words: tuple[Word, ...]
    phones: tuple[Phone, ...] = ()
    """With their times in seconds; empty when nobody knows them."""


class Synthesizer(Protocol):
    """Anything that speaks a text in a named voice."""

    name: str

    def check_voices(self, voices: list[str]) -> None:
        """Raise when a voice is unknown."""
        ...

    def speak(self, text: str, voice: str) -> Speech:
        """Speak one short text."""
        ...
