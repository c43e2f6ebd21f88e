"""Align English with pocketsphinx: its model and dictionary come inside the package, so no network is needed.

    waveform 16 kHz + words -> hidden Markov models of their phones -> the best path -> word times, in steps of 10 ms

A word that its dictionary lacks gets a guessed pronunciation, with a note. What is not in Latin letters is left out of
the search, and its time is interpolated: noise models between words take its sound. Package: pocketsphinx 5 (BSD),
extra `align`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, missing_extra
from vocable.recognition.aligner import Found
from vocable.recognition.guessed_phones import guess_phones
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.words import Timed, WordNote
from vocable.types import Utterance

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 100
BEAMS = ({}, {"beam": 1e-120, "pbeam": 1e-120, "wbeam": 1e-100})
"""The published beams, and wide ones for what they lose."""
ALTERNATIVE = re.compile(r"\(\d+\)$")
"""The dictionary calls the second pronunciation of `the` `the(2)`."""


class PocketsphinxAligner:
    """The US English model that comes with pocketsphinx. It gives no confidence."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        """Load the model.

        Raises:
            MissingDependencyError: pocketsphinx is not installed.
        """
        self._decoders: dict[int, Any] = {}
        self._added: dict[str, tuple[str | None, bool]] = {}
        self._decoder(0)

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Time the words."""
        if not language.lower().startswith("en"):
            raise AlignmentError(f"{utterance.id} is in {language!r}; this aligner knows English only.")
        waveform = read_utterance(utterance, SAMPLE_RATE).numpy()
        samples = (np.clip(waveform, -1, 1) * 32767).astype(np.int16).tobytes()
        parts, notes = [], []
        for index, word in enumerate(words):
            for part in word.spoken:
                phones, is_guess = self._pronounce(part)
                if phones is not None:
                    parts.append((part, index))
                if is_guess:
                    remedy = "it is left out of the search" if phones is None else f"read as {phones}"
                    notes.append(WordNote(index, word.word, f"the dictionary lacks {part!r}: {remedy}"))
        if not parts:
            raise AlignmentError(f"{utterance.id}: none of its words can be pronounced.")
        text = [part for part, _ in parts]
        spans = next((spans for level in range(len(BEAMS)) if (spans := self._search(level, text, samples))), None)
        if spans is None:
            raise AlignmentError(f"{utterance.id}: no path through the words was found. Is this its text?")
        times: list[Timed | None] = [None] * len(words)
        for (_, index), (start, end) in zip(parts, spans, strict=True):
            known = times[index]
            times[index] = Timed(start if known is None else known.start, end)
        return Found(times, notes)

    def _search(self, level: int, text: list[str], samples: bytes) -> list[tuple[float, float]] | None:
        """Times of the words in seconds; None where the search lost its way."""
        decoder = self._decoder(level)
        decoder.reinit_feat()  # else the mean of the last utterance is carried over
        decoder.set_align_text(" ".join(text))
        decoder.start_utt()
        decoder.process_raw(samples, no_search=False, full_utt=True)
        decoder.end_utt()
        segments = [] if decoder.hyp() is None else list(decoder.seg())
        found = [(s.start_frame, s.end_frame + 1) for s in segments if not s.word.startswith(("<", "+", "("))]
        names = [ALTERNATIVE.sub("", s.word) for s in segments if not s.word.startswith(("<", "+", "("))]
        if names != text:
            return None
        return [(first / FRAMES_PER_SECOND, end / FRAMES_PER_SECOND) for first, end in found]

    def _pronounce(self, word: str) -> tuple[str | None, bool]:
        """The phones of a word, and whether they are guessed; a plural or possessive is its owner with an s."""
        if word in self._added:
            return self._added[word]
        phones = self._decoder(0).lookup_word(word)
        if phones is not None:
            return phones, False
        owner = re.sub("'?s$", "", word)
        of_owner = self._decoder(0).lookup_word(owner) if len(owner) > 2 and owner != word else None
        phones = guess_phones(word) if of_owner is None else f"{of_owner} {_ending(of_owner.split()[-1])}"
        if phones is not None:
            for level in range(len(BEAMS)):
                self._decoder(level).add_word(word, phones, update=True)
        self._added[word] = phones, of_owner is None
        return self._added[word]

    def _decoder(self, level: int) -> Any:
        if level not in self._decoders:
            try:
                from pocketsphinx import Config, Decoder
            except ImportError as error:
                raise missing_extra("pocketsphinx", "align", "Aligning with pocketsphinx") from error
            config = Config(lm=None, cmn="batch", dither=False, loglevel="FATAL", **BEAMS[level])
            self._decoders[level] = Decoder(config)
        return self._decoders[level]


def _ending(last_phone: str) -> str:
    """How the s of a plural or possessive sounds."""
    if last_phone in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return "IH Z"
    return "S" if last_phone in {"P", "T", "K", "F", "TH"} else "Z"
