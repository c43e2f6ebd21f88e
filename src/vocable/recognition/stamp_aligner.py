"""Take word times from files that other programs wrote: TextGrid, CTM, WhisperX and Whisper JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vocable.audio.io import audio_info
from vocable.errors import AlignmentError
from vocable.recognition.aligner import Found, TimesFrom
from vocable.recognition.files import files_by_name, find_file
from vocable.recognition.matching import Stamp, match_stamps
from vocable.recognition.normalise import SpokenWord
from vocable.recognition.stamps import read_ctm, read_json_stamps, read_textgrid, within
from vocable.types import Utterance

SUFFIXES = {"textgrid": (".TextGrid",), "whisperx": (".json",)}


class StampAligner:
    """Word times in files; see `stamps.py`."""

    def __init__(self, kind: str, path: Path, times_from: TimesFrom = "utterance", tier: str | None = None) -> None:
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
