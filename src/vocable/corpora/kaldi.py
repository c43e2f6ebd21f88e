"""A Kaldi data folder: wav.scp, and if there are any segments, text, utt2spk, utt2lang.

wav.scp   rec1 /data/rec1.flac          segments  utt1 rec1 2.50 4.75
text      utt1 HELLO WORLD              utt2spk   utt1 anna
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, check_stretch, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_text
from vocable.types import Utterance


class _Row(NamedTuple):
    line: int
    value: str


class _Stretch(NamedTuple):
    line: int
    recording: str
    start: float
    duration: float | None
    problem: str | None = None
    """Why its times cannot be used."""


def import_kaldi(
    source: Path, *, audio_root: Path | None = None, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Read a Kaldi data folder (wav.scp, segments, text, utt2spk); commands in wav.scp are refused.

    vocable manifest import-kaldi data/train train.jsonl

    Args:
        source: the folder with wav.scp.
        audio_root: what relative paths in wav.scp start from. Without it, the data folder.
        strict: raise on the first broken utterance instead of leaving it out.
        rejections: where utterances that are left out are noted.

    Raises:
        ManifestError: there is no wav.scp; a line of a table is broken; wav.scp holds commands (a line that ends in
            `|`), which are never run. With `strict`, also an utterance without audio.
    """
    source = absolute(Path(source))
    if not (source / "wav.scp").is_file():
        raise ManifestError(f"{source}: there is no wav.scp in it, so it is no Kaldi data folder.")
    root = source if audio_root is None else absolute(Path(audio_root))
    table = _read(source / "wav.scp")
    recordings = {name: absolute(root / _audio_path(source / "wav.scp", row)) for name, row in table.items()}
    texts, speakers, languages = (_read(source / name) for name in ("text", "utt2spk", "utt2lang"))
    stretches = _read_stretches(source, table)
    for id, stretch in stretches.items():
        audio = recordings.get(stretch.recording)
        try:
            if stretch.problem is not None:
                raise ManifestError(stretch.problem)
            if audio is None:
                raise ManifestError(f"Recording {stretch.recording!r} is not in wav.scp.")
            duration = stretch.duration
            if duration is None:
                duration = audio_info(audio).duration - stretch.start
            utterance = Utterance(
                id=id,
                audio=audio,
                start=stretch.start,
                duration=duration,
                text=texts[id].value if id in texts else None,
                speaker=speakers[id].value if id in speakers else None,
                language=languages[id].value if id in languages else None,
            )
            check_stretch(utterance)
            yield utterance
        except (AudioFormatError, ManifestError) as error:
            note_rejection(source, id, audio, str(error), stretch.line, strict=strict, rejections=rejections)
    for id, row in texts.items():
        if id not in stretches:
            reason = f"Utterance {id!r} has a text, but is in neither segments nor wav.scp."
            note_rejection(source / "text", id, None, reason, row.line, strict=strict, rejections=rejections)


def _read(path: Path) -> dict[str, _Row]:
    """Read a table of `key value`; the value may be empty. A missing file is an empty table."""
    table: dict[str, _Row] = {}
    if not path.is_file():
        return table
    for line, content in enumerate(read_text(path).split("\n"), start=1):
        key, _, value = content.strip().replace("\t", " ", 1).partition(" ")
        if not key:
            continue
        if key in table:
            raise ManifestError(f"{path}, line {line}: {key!r} is there already, in line {table[key].line}.")
        table[key] = _Row(line, value.strip())
    return table


def _audio_path(path: Path, row: _Row) -> str:
    if row.value.endswith("|") or row.value.startswith("|"):
        raise ManifestError(
            f"{path}, line {row.line}: {row.value!r} is a command, and Vocable does not run commands from data. "
            "Write the audio to files first (Kaldi: wav-copy), and name the files."
        )
    if ".ark:" in row.value:
        raise ManifestError(
            f"{path}, line {row.line}: {row.value!r} is a place in an archive. Write the audio to files first "
            "(Kaldi: wav-copy), and name the files."
        )
    if not row.value:
        raise ManifestError(f"{path}, line {row.line}: there is no path after the name of the recording.")
    return row.value


def _read_stretches(source: Path, recordings: dict[str, _Row]) -> dict[str, _Stretch]:
    """Utterances: the rows of segments, or without segments one per recording."""
    path = source / "segments"
    if not path.is_file():
        return {name: _Stretch(row.line, name, 0.0, None) for name, row in recordings.items()}
    stretches = {}
    for id, row in _read(path).items():
        parts = row.value.split()
        try:
            recording, start, end = parts[0], float(parts[1]), float(parts[2])
        except (ValueError, IndexError) as error:
            raise ManifestError(
                f"{path}, line {row.line}: {row.value!r}; expected: utterance recording start end, times in seconds."
            ) from error
        problem = None
        if not (math.isfinite(start) and math.isfinite(end) and start >= 0):
            problem = f"{path}, line {row.line}: {start:g} s to {end:g} s is no stretch of time."
        elif end != -1 and end <= start:
            problem = f"{path}, line {row.line}: the end, {end:g} s, is not after the start, {start:g} s."
        stretches[id] = _Stretch(row.line, recording, start, None if end == -1 else end - start, problem)
    return stretches
