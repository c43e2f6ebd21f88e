"""Align English with pocketsphinx: its model and dictionary come inside the package, so no network is needed.

    waveform 16 kHz + words -> hidden Markov models of their phones -> the best path -> word times, in steps of 10 ms

A word that its dictionary lacks gets a guessed pronunciation, with a note. What is not in Latin letters is left out of
the search, and its time is interpolated: noise models between words take its sound. Package: pocketsphinx 5 (BSD),
extra `align`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, missing_extra
from vocable.recognition.aligner import Found, Timed, WordNote
from vocable.recognition.normalise import SpokenWord
from vocable.types import Utterance

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 100
BEAMS = ({}, {"beam": 1e-120, "pbeam": 1e-120, "wbeam": 1e-100})
"""The published beams, and wide ones for what they lose."""
ALTERNATIVE = re.compile(r"\(\d+\)$")
"""The dictionary calls the second pronunciation of `the` `the(2)`."""
GROUPS = {
    "tch": "CH", "igh": "AY", "sch": "S K", "tio": "SH AH", "sio": "SH AH", "ch": "CH", "sh": "SH", "th": "TH",
    "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "qu": "K W", "gh": "", "kn": "N", "wr": "R", "ee": "IY", "ea": "IY",
    "oo": "UW", "ou": "AW", "ow": "OW", "oa": "OW", "oy": "OY", "oi": "OY", "ai": "EY", "ay": "EY", "au": "AO",
    "aw": "AO", "ew": "UW", "er": "ER", "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R", "ce": "S", "ci": "S IH",
    "cy": "S IY", "ge": "JH", "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH",
    "i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S",
    "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
"""Letters to ARPAbet phones without stress. Our own table."""


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


def guess_phones(word: str) -> str | None:
    """Return ARPAbet phones, separated by spaces, for an English word; None without a Latin letter.

        quenelles -> K W EH N EH L EH S

    One phone per letter or group of letters, longest group first; no claim to be right. In forced alignment a rough
    guess does far less harm than leaving the word out, which spoils the times of its neighbours
    (experiments/word-times).
    """
    letters = "".join(
        char for char in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(char)[0] == "L"
    )
    if not all(char in GROUPS for char in letters):
        return None  # another script
    undoubled = "".join(
        char for index, char in enumerate(letters) if char in "eo" or char != letters[index - 1 : index]
    )
    if len(undoubled) > 3 and word.lower()[-1] == "e" == undoubled[-1] and undoubled[-2] not in "aeiou":
        undoubled = undoubled[:-1]  # silent
    phones, position = [], 0
    while position < len(undoubled):
        length = next(n for n in (3, 2, 1) if undoubled[position : position + n] in GROUPS)
        phones.append(GROUPS[undoubled[position : position + length]])
        position += length
    return " ".join(phone for phone in phones if phone) or None
