"""What the prosody decoder learns from a recording: its symbols, how long each lasts, pitch and energy.

    utterance with `symbols`, or its text and sound -> symbols with frames (symbol_aligner.py) \\
    sound                                           -> pitch, voicing, energy (pitch.py)        -> tensors

Symbols that a manifest has (`vocable vocoder align`) are believed only while the phonemizer still reads the text that
way; else, and where there are none, the text is aligned here. `phones` alone are not read: they lack stress and blanks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import AlignmentError, ConfigError
from vocable.features.pitch import REFERENCE_HZ, bridge_voicing, measure_energy, measure_pitch
from vocable.synthesis.phonemes import LENGTH_MARKS, PAUSES, STRESS_MARKS, SYMBOL_RATE, Phonemizer
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.synthesis.vocoder import UnitVocoder
from vocable.synthesis.word_prosody import FRAME_RATE
from vocable.systems.taste.word_symbols import WordSymbols, read_words
from vocable.tokens import load_tokenizer
from vocable.tokens.tokenizer import resolve_folder
from vocable.training.phone_targets import SYMBOLS_KEY
from vocable.training.symbol_aligner import SymbolAligner
from vocable.types import Utterance

TARGETS_VERSION = 1
"""Goes up when the same recording gives other targets than before."""
SAMPLE_RATE = 16_000
"""Samples per second of the recordings, as Whisper reads them."""
ALIGNER, ALIGNER_UNITS = "vocable/voices", "vocable/units-500"
"""The vocoder whose front end aligns, and the tokenizer that it reads."""
LEAST_SCORE = -1.7
"""Mean log probability of a frame below which a text does not belong to its recording. Measured: -1.2 to -0.5 in 40
recordings with their texts, -3.9 to -2.2 with other texts."""
EDGE_FRAMES = 14
"""Longest silence at either end that is learned, in frames: what the pretrained voice has at its start."""
SILENT_MARKS = PAUSES + " " + STRESS_MARKS + LENGTH_MARKS
"""Symbols without a sound of their own."""


class ProsodyTargets:
    """Measures recordings; see `measure`."""

    def __init__(self, model: TextToSpeech, phonemizer: Phonemizer, aligner: SymbolAligner | None = None) -> None:
        """Take the voice whose symbols are meant, what reads texts, and what aligns; None: the shipped vocoder."""
        self.model, self.phonemizer, self._aligner = model, phonemizer, aligner

    def measure(
        self, utterance: Utterance, waveform: Float[Tensor, " samples"], words: Sequence[str]
    ) -> dict[str, Tensor]:
        """Measure a recording.

        Returns:
            Of each symbol, the end marks included: `ids`, `owners` (words of the text), `frames` (40 a second). Of each
            spoken word: `spans` (first symbol, one past the last) and `pauses`: 1 where a pause is heard that the text
            has no mark for, 0 where none is, -1 where there is nothing to ask. Of each of 80 frames a second:
            `semitones` against the recording's median, `known` (the pitch was measured), `voiced`, `energy`.

        Raises:
            AlignmentError: the text cannot be read, or does not belong to the recording.
        """
        try:
            read = read_words(words, self.phonemizer)
            self.model.ids(read.text)
        except ConfigError as error:
            raise AlignmentError(f"{utterance.id}: {error}") from error
        num_frames = 2 * (len(waveform) * SYMBOL_RATE // SAMPLE_RATE)
        spoken, frames = self._stored(utterance, read, num_frames) or self._aligned(utterance, waveform, words, read)
        marked = [bool(word.pause) for word in read.spoken[:-1]] + [True]
        pauses = [-1 if mark else int(bool(word.pause)) for mark, word in zip(marked, spoken.spoken, strict=True)]
        return {
            "ids": self.model.ids(spoken.text).cpu(),
            "owners": torch.tensor(spoken.symbol_owners()),
            "frames": frames,
            "spans": torch.tensor(spoken.spans) + 1,
            "pauses": torch.tensor(pauses),
            **_measure_sound(waveform, 2 * int(frames.sum())),
        }

    def _stored(self, utterance: Utterance, read: WordSymbols, num_frames: int) -> tuple[WordSymbols, Tensor] | None:
        """Symbols of the manifest, unless they are of other phonemes or another length than there are now."""
        stored = utterance.extra.get(SYMBOLS_KEY)
        if not isinstance(stored, Mapping):
            return None
        spoken, frames = read.pauses_of(stored["text"]), torch.tensor(stored["frames"])
        if spoken is None or len(frames) != len(stored["text"]) + 2:
            return None
        fits = abs(2 * int(frames.sum()) - num_frames) <= 0.05 * num_frames + 4
        return (spoken, frames) if fits else None

    def _aligned(
        self, utterance: Utterance, waveform: Tensor, words: Sequence[str], read: WordSymbols
    ) -> tuple[WordSymbols, Tensor]:
        text = " ".join(words)
        self._aligner = self._aligner or _open_aligner(self.model, self.phonemizer)
        found, score = self._aligner.align(replace(utterance, text=text), waveform)
        if score < LEAST_SCORE:
            raise AlignmentError(
                f"{utterance.id}: the text {text[:60]!r} does not fit the recording ({score:.2f} nats a frame)."
            )
        symbols = found.extra[SYMBOLS_KEY]
        spoken = read.pauses_of(symbols["text"])
        assert spoken is not None  # both read the same text
        return spoken, torch.tensor(symbols["frames"])


def _open_aligner(model: TextToSpeech, phonemizer: Phonemizer) -> SymbolAligner:
    vocoder = UnitVocoder.from_pretrained(resolve_folder(ALIGNER))
    return SymbolAligner(vocoder, load_tokenizer(ALIGNER_UNITS), model, phonemizer)


def _measure_sound(waveform: Float[Tensor, " samples"], num_frames: int) -> dict[str, Tensor]:
    hop = SAMPLE_RATE // FRAME_RATE
    missing = num_frames * hop - len(waveform)
    waveform = torch.nn.functional.pad(waveform, (0, max(missing, 0)))[: num_frames * hop]
    pitch = measure_pitch(waveform[None], SAMPLE_RATE, hop)
    energy = measure_energy(waveform, SAMPLE_RATE, hop)
    log_f0, known = pitch.log_f0[0] + math.log(REFERENCE_HZ), pitch.voiced[0]
    median = log_f0[known].median() if known.any() else log_f0.median()
    return {
        "semitones": 12 / math.log(2) * (log_f0 - median),
        "known": known,
        "voiced": bridge_voicing(known, energy, float(FRAME_RATE)),
        "energy": energy,
    }
