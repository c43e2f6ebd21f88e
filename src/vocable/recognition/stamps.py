"""Read word times that other programs wrote.

    TextGrid (Praat, Montreal Forced Aligner; long and short, UTF-8 and UTF-16)
    CTM (NIST, Kaldi)        `name channel start duration word [confidence]`, one word a line
    JSON                     of WhisperX, openai-whisper (also faster-whisper's command lines), or transformers

Words without a time, such as numerals in WhisperX, are not returned: matching.py finds which words of the text that
concerns.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.audio.io import audio_info
from vocable.errors import AlignmentError, ConfigError, missing_extra
from vocable.files import read_text, split_lines
from vocable.recognition.aligner import Found, Stamp
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.matching import match_stamps
from vocable.recognition.normalise import SpokenWord
from vocable.types import Utterance

SILENCES = {"", "sil", "sp", "<sil>", "<eps>", "<p:>", "silence", "[silence]", "<silence>"}
"""Labels that aligners give to stretches without a word."""
WORD_TIERS = ("words", "word")
SUFFIXES = {"textgrid": (".TextGrid",), "whisperx": (".json",)}


class StampAligner:
    """Word times in files, matched with the words of the text."""

    def __init__(self, kind: str, path: Path, times_from: str = "utterance", tier: str | None = None) -> None:
        """List a folder (textgrid, whisperx), or read a file (ctm).

        Raises:
            ConfigError: there is no such folder or file, or nothing in it.
        """
        self.name = f"{kind}:{path}"
        self.kind = kind
        self.times_from = times_from
        self.tier = tier
        self.ctm = read_ctm(path) if kind == "ctm" else {}
        self.files = {} if kind == "ctm" else files_by_name(path, SUFFIXES[kind])
        self.used: set[str] = set()
        """Names that utterances asked for."""
        self._last: tuple[str, list[Stamp]] = ("", [])

    def find(self, utterance: Utterance, words: Sequence[SpokenWord], language: str) -> Found:
        """Match the words of the file with those of the text."""
        name = utterance.id if self.times_from == "utterance" else utterance.audio.stem
        if self._last[0] != name:  # utterances of one file follow each other
            self._last = (name, self._read(name))
        stamps = self._last[1]
        self.used.add(name)
        if self.times_from == "file":
            duration = utterance.duration or audio_info(utterance.audio).duration - utterance.start
            stamps = within(stamps, utterance.start, duration)
        times, unused = match_stamps(words, stamps, language)
        return Found(times, (), unused)

    def unasked(self) -> list[str]:
        """Names, or files, that no utterance asked for."""
        if self.kind == "ctm":
            return sorted(set(self.ctm) - self.used)
        used = {path for name in self.used for path in self.files[name]}
        return sorted({str(path) for paths in self.files.values() for path in paths} - set(map(str, used)))

    def _read(self, name: str) -> list[Stamp]:
        if self.kind != "ctm":
            path = find_file(self.files, name)
            return read_textgrid(path, self.tier) if self.kind == "textgrid" else read_json_stamps(path)
        if name not in self.ctm:
            raise AlignmentError(f"{self.name} has no line for {name!r}.")
        return self.ctm[name]


def read_textgrid(path: Path, tier: str | None = None) -> list[Stamp]:
    """Read the words of a TextGrid, with praatio.

    Args:
        tier: the tier to read; None takes the interval tier `words` (or `SPEAKER - words`, if there is only one), else
            the only interval tier there is.

    Raises:
        AlignmentError: the file cannot be read, or the tier is not to be found.
        MissingDependencyError: praatio is not installed.
    """
    try:
        from praatio import textgrid
        from praatio.data_classes.interval_tier import IntervalTier
    except ImportError as error:
        raise missing_extra("praatio", "align", "Reading a TextGrid") from error
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="silence")
    except Exception as error:  # the library has many, down to IndexError
        raise AlignmentError(f"{path}: not a readable TextGrid: {type(error).__name__}: {error}") from error
    tiers = {found.name: found for found in grid.tiers if isinstance(found, IntervalTier)}
    entries: Any = tiers[_word_tier(path, list(tiers), tier)].entries
    return _checked((Stamp(e.label.strip(), float(e.start), float(e.end)) for e in entries), path)


def _word_tier(path: Path, names: list[str], wanted: str | None) -> str:
    candidates = [name for name in names if name == wanted]
    if wanted is None:
        candidates = [name for name in names if name.casefold().split(" - ")[-1] in WORD_TIERS]
        candidates = candidates or names
    if len(candidates) != 1:
        sought = "one tier of words" if wanted is None else f"the tier {wanted!r}"
        raise AlignmentError(
            f"{path}: {sought} is not to be found; its interval tiers are {names}. Name one: --tier NAME"
        )
    return candidates[0]


def read_ctm(path: Path) -> dict[str, list[Stamp]]:
    """Read the words of a CTM file by the name in its first column; errors as for `ctm_stamps`."""
    return {name: _checked(words, f"{path}, {name}") for name, words in ctm_stamps(path).items()}


def ctm_stamps(path: Path) -> dict[str, list[Stamp]]:
    """Read all entries of a CTM file, sorted, by the name in its first column. Lines that begin with ;; are comments.

    Raises:
        ManifestError: the file cannot be read.
        ConfigError: a line is not as described, or there is none.
    """
    stamps: defaultdict[str, list[Stamp]] = defaultdict(list)
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            start, duration = float(fields[2]), float(fields[3])
            confidence = float(fields[5]) if len(fields) > 5 and fields[5].upper() != "NA" else None
            if not math.isfinite(start + duration):
                raise ValueError
            stamps[fields[0]].append(Stamp(fields[4], start, start + duration, confidence))
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"{path}, line {number}: {line!r}; expected: name channel start duration label [confidence]"
            ) from error
    if not stamps:
        raise ConfigError(f"{path}: holds no word or phone.")
    return {name: sorted(entries, key=_time) for name, entries in stamps.items()}


def read_json_stamps(path: Path) -> list[Stamp]:
    """Read the words of a JSON file of WhisperX, openai-whisper, faster-whisper or transformers.

    Raises:
        AlignmentError: the file cannot be read, or holds no word times.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AlignmentError(f"{path}: not a readable JSON file: {error}") from error
    if isinstance(result, Mapping) and isinstance(result.get("chunks"), list):
        return stamps_of_transformers(result, path)
    if isinstance(result, Mapping):
        return stamps_of_whisper(result, path)
    raise AlignmentError(f"{path}: holds a {type(result).__name__}; expected an object with segments or chunks.")


def stamps_of_whisper(result: Mapping[str, Any], where: Path | str) -> list[Stamp]:
    """Read the words of WhisperX (key `score`) and openai-whisper (key `probability`)."""
    segments = result.get("segments") or []
    try:
        rows = [row for segment in segments for row in segment.get("words") or []] or result.get("word_segments") or []
        words = [
            Stamp(row["word"].strip(), float(row["start"]), float(row["end"]), row.get("score", row.get("probability")))
            for row in rows
            if row.get("start") is not None and row.get("end") is not None
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AlignmentError(f"{where}: its words are not {{word, start, end}}: {error!r}") from error
    if segments and not words:
        raise AlignmentError(f"{where}: has no word times. Run Whisper with word timestamps, or align with WhisperX.")
    return _checked(sorted(words, key=_time), where)


def stamps_of_transformers(result: Mapping[str, Any], where: Path | str, duration: float | None = None) -> list[Stamp]:
    """Read what the speech recognition pipeline of transformers returns with return_timestamps="word".

    A last word without an end ends at `duration`, or is left out where that is not known.

    Raises:
        AlignmentError: the chunks are no words with times.
    """
    words = []
    try:
        for chunk in result["chunks"]:
            text = chunk["text"].strip()
            if len(text.split()) > 1:
                raise AlignmentError(f"{where}: {text[:60]!r} is more than a word. Use return_timestamps='word'.")
            start, end = chunk["timestamp"]
            end = duration if end is None else end
            if start is not None and end is not None:
                words.append(Stamp(text, float(start), max(float(end), float(start))))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, AlignmentError):
            raise
        raise AlignmentError(f"{where}: its chunks are not {{text, timestamp: [start, end]}}: {error!r}") from error
    return _checked(sorted(words, key=_time), where)


def within(stamps: Iterable[Stamp], start: float, duration: float) -> list[Stamp]:
    """Of words timed from the start of a file, those whose middle lies in a stretch of it, timed from its start."""
    return [
        stamp._replace(start=stamp.start - start, end=stamp.end - start)
        for stamp in stamps
        if start <= (stamp.start + stamp.end) / 2 < start + duration
    ]


def _time(stamp: Stamp) -> float:
    return stamp.start


def _checked(stamps: Iterable[Stamp], where: Path | str) -> list[Stamp]:
    """Drop silences; refuse times that are none."""
    words = [stamp for stamp in stamps if stamp.word.casefold() not in SILENCES]
    for stamp in words:
        if not (math.isfinite(stamp.start) and math.isfinite(stamp.end) and stamp.start <= stamp.end):
            raise AlignmentError(f"{where}: {stamp.word!r} lasts from {stamp.start} s to {stamp.end} s.")
    return words
