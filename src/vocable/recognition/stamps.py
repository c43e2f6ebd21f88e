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
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.audio.io import audio_info
from vocable.errors import AlignmentError, ConfigError
from vocable.files import read_text, split_lines
from vocable.recognition.aligner import Found, Stamp
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.matching import match_stamps
from vocable.recognition.normalise import SpokenWord
from vocable.types import Utterance

SILENCES = {"", "sil", "sp", "<sil>", "<eps>", "<p:>", "silence", "[silence]", "<silence>"}
"""Labels that aligners give to stretches without a word."""
PRAAT_VALUE = re.compile(
    r'"(?P<text>(?:[^"]|"")*)"|(?P<flag><[^>]*>)|![^\n]*|(?<!\S)(?P<number>[-+]?[\d.]+(?:e[-+]?\d+)?)(?!\S)|\S+', re.I
)
"""A value in a file of Praat's, or a comment or word to pass over; numbers stand free, unlike those in brackets."""
WORD_TIERS = ("words", "word")
SUFFIXES = {"textgrid": (".TextGrid",), "whisperx": (".json",)}


class StampAligner:
    """Word times in files, matched with the words of the text."""

    def __init__(
        self,
        kind: str,
        path: Path,
        times_from: str = "utterance",
        tier: str | None = None,
        channel: str | None = None,
    ) -> None:
        """List a folder (textgrid, whisperx), or read a file (ctm).

        Raises:
            ConfigError: there is no such folder or file, or nothing in it.
        """
        self.name = f"{kind}:{path}"
        self.kind = kind
        self.times_from = times_from
        self.tier = tier
        self.ctm = ctm_stamps(path, channel) if kind == "ctm" else {}
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
        return _checked(self.ctm[name], f"{self.name}, {name}")


def read_textgrid(path: Path, tier: str | None = None) -> list[Stamp]:
    """Read the words of a TextGrid, long or short, in UTF-8 or UTF-16.

    Both forms are the same numbers, texts in quotes and flags <...>, in the same order; what else stands in the long
    one ("xmin =", "intervals [1]:") is passed over, as are comments (Praat's manual, "TextGrid file formats"). Times
    before 0 are taken for 0.

    Args:
        tier: the tier to read; None takes the interval tier `words` (or `SPEAKER - words`, if there is only one), else
            the only interval tier there is.

    Raises:
        AlignmentError: the file cannot be read, or the tier is not to be found.
    """
    values = _praat_values(path)
    tiers: dict[str, list[Stamp]] = {}
    try:
        if [next(values), next(values)] != ["ooTextFile", "TextGrid"]:
            raise ValueError("its first lines are not those of a TextGrid")
        _, _, exists = next(values), next(values), next(values)
        for _ in range(int(next(values)) if exists == "<exists>" else 0):
            kind, name = next(values), str(next(values))
            _, _, size = next(values), next(values), int(next(values))
            rows = [[next(values) for _ in range(3 if kind == "IntervalTier" else 2)] for _ in range(size)]
            if kind == "IntervalTier":
                tiers[name] = [Stamp(str(text).strip(), *(max(float(t), 0.0) for t in times)) for *times, text in rows]
    except (StopIteration, RuntimeError, ValueError, TypeError) as error:
        reason = str(error) or "it ends too early"
        raise AlignmentError(f"{path}: not a readable TextGrid: {reason}.") from error
    return _checked(tiers[_word_tier(path, list(tiers), tier)], path)


def _praat_values(path: Path) -> Iterator[str | float]:
    """Yield the numbers, the texts and the flags of a file of Praat's."""
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignmentError(f"{path}: not a readable TextGrid: {error}") from error
    for match in PRAAT_VALUE.finditer(text):
        if (quoted := match["text"]) is not None:
            yield quoted.replace('""', '"')
        elif match["flag"] is not None:
            yield match["flag"]
        elif match["number"] is not None:
            yield float(match["number"])


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


def ctm_stamps(path: Path, channel: str | None = None) -> dict[str, list[Stamp]]:
    """Read all entries of a CTM file, sorted, by the name in its first column. Lines that begin with ;; are comments.

    Args:
        channel: take the entries of this channel, the second column. None: all, of one channel for each name.

    Raises:
        ManifestError: the file cannot be read.
        ConfigError: a line is not as described, or there is none; a name has several channels, and none is chosen.
    """
    stamps: defaultdict[str, list[Stamp]] = defaultdict(list)
    channels: defaultdict[str, set[str]] = defaultdict(set)
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            start, duration = float(fields[2]), float(fields[3])
            confidence = float(fields[5]) if len(fields) > 5 and fields[5].upper() != "NA" else None
            channels[fields[0]].add(fields[1])
            if channel in (None, fields[1]):
                stamps[fields[0]].append(Stamp(fields[4], start, start + duration, confidence))
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"{path}, line {number}: {line!r}; expected: name channel start duration label [confidence]"
            ) from error
    if not stamps:
        found = sorted(set().union(*channels.values()))
        of = f" of channel {channel!r}; its channels are {', '.join(found)}" if found else ""
        raise ConfigError(f"{path}: holds no word or phone{of}.")
    several = next((name for name in channels if channel is None and len(channels[name]) > 1), None)
    if several is not None:
        found = sorted(channels[several])
        raise ConfigError(
            f"{path}: {several} has entries of the channels {', '.join(found)}, whose words would mix. Take one: "
            f"--channel {found[0]}"
        )
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
            Stamp(row["word"].strip(), float(row["start"]), float(row["end"]), _confidence(row))
            for row in rows
            if row.get("start") is not None and row.get("end") is not None
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AlignmentError(f"{where}: its words are not {{word, start, end}}: {error!r}") from error
    if segments and not words:
        raise AlignmentError(f"{where}: has no word times. Run Whisper with word timestamps, or align with WhisperX.")
    return _checked(sorted(words, key=_time), where)


def _confidence(row: Mapping[str, Any]) -> float | None:
    value = row.get("score", row.get("probability"))
    return None if value is None else float(value)


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
    """Return the words whose middle lies in a stretch of the file, timed from the start of that stretch."""
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
