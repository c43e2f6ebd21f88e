"""Read, write and check manifests: JSONL, one utterance a line.

    {"id": "a1", "audio": "wavs/a1.flac", "start": 0.0, "duration": 2.5, "text": "...", "speaker": "s1"}

Known keys: `id`, `audio` (relative to the manifest), `start` and `duration` in seconds, `text`, `language`, `speaker`,
`corpus`, `licence`, `words` (a list of {word, start, end}), `split` (train, valid or test). Others are kept in
`Utterance.extra`. Importers are in corpora/.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from vocable.audio.io import MAX_OVERSHOOT_SECONDS, audio_info
from vocable.errors import AudioFormatError, ManifestError, OutputError
from vocable.files import replace_file
from vocable.registry import nearest_name
from vocable.splits import split_named
from vocable.types import Utterance, Word

logger = logging.getLogger(__name__)

TEXT_KEYS = ("text", "language", "speaker", "corpus", "licence")
KNOWN_KEYS = ("id", "audio", "start", "duration", *TEXT_KEYS, "words", "split")

FOREIGN_KEYS = {
    **dict.fromkeys(("offset", "onset", "begin", "start_time"), "start"),
    **dict.fromkeys(("end", "stop", "end_time"), "duration (the end minus the start)"),
    "dur": "duration",
}
"""Keys that other formats have for a stretch of a file, and ours: passed over, they would give the whole file."""

MAX_SECONDS = 1e9
"""Times from here on are no times but mistakes; thirty years."""

WORD_TOLERANCE_SECONDS = 0.1
"""How far a word may reach out of its utterance: aligners round, and count in frames."""


class Rejections:
    """The list of what was left out, and why: `<folder>/rejected.jsonl`, one {id, audio, line, reason} a line.

    A folder that several commands write into has one list for each of their files: `Rejections.beside`.

    A run that is killed and started again rejects the same things again; they are not written twice.
    """

    def __init__(self, folder: Path, name: str = "rejected.jsonl") -> None:
        self.path = Path(folder) / name
        self.count = 0
        """Rejections of this run."""
        self._seen: set[str] | None = None
        self._counted: set[str] = set()

    @classmethod
    def beside(cls, path: Path) -> Self:
        """Open the list of one file: `corpus.rejected.jsonl` beside `corpus.jsonl`."""
        return cls(path.parent, f"{path.stem}.rejected.jsonl")

    def add(self, id: str | None, audio: Path | str | None, reason: str, line: int | None = None) -> None:
        """Note one rejected utterance; `line` is its line in the manifest it came from.

        Raises:
            OutputError: the file cannot be written.
        """
        row = {"id": id, "audio": None if audio is None else str(audio), "line": line, "reason": reason}
        text = json.dumps(row)  # in ASCII: names of files need not be UTF-8
        try:
            if self._seen is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._seen = self._recover()
            if text not in self._seen:
                with self.path.open("ab", buffering=0) as file:  # one write: lines of several processes do not mix
                    file.write(text.encode() + b"\n")
                self._seen.add(text)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}. Free some space.") from error
        if text not in self._counted:
            self._counted.add(text)
            self.count += 1

    def _recover(self) -> set[str]:
        """Read what an earlier run wrote; cut off the half line that a kill may have left."""
        if not self.path.exists():
            return set()
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return set(whole.decode().splitlines())


class HeldRejections(Rejections):
    """Rejections that wait until their folder is known to be ours."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.count = 0

    def add(self, id: str | None, audio: Path | str | None, reason: str, line: int | None = None) -> None:
        """Keep one in memory."""
        self.rows.append({"id": id, "audio": audio, "reason": reason, "line": line})
        self.count += 1

    def release(self, into: Rejections) -> None:
        """Pass all on, in order."""
        for row in self.rows:
            into.add(**row)


def note_rejection(
    source: Path | str,
    id: str | None,
    audio: Path | str | None,
    reason: str,
    line: int | None = None,
    *,
    strict: bool,
    rejections: Rejections | None,
) -> None:
    """Leave an utterance of `source` out: note it in `rejections`, or log it when there is none.

    Raises:
        ManifestError: with `strict`.
    """
    where = str(source) if line is None else f"{source}, line {line}"
    if strict:
        raise ManifestError(f"{where}: {reason} Without strict, it is skipped and noted.")
    if rejections is None:
        logger.warning("%s: skipped: %s", where, reason)
    else:
        rejections.add(id, audio, reason, line)


class LineProblem(NamedTuple):
    """Problem of one line of a manifest."""

    line: int
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReport:
    """Result of `validate_manifest`."""

    num_utterances: int
    """Usable utterances."""
    hours: float
    """Their summed length, as far as it is known."""
    num_without_duration: int
    """Usable utterances whose length is not known (no duration, and the audio was not looked at)."""
    num_speakers: int
    problems: tuple[LineProblem, ...]


def read_manifest(
    path: Path | str, strict: bool = False, rejections: Rejections | None = None, check_audio: bool = False
) -> list[Utterance]:
    """Read a manifest; broken lines are skipped and noted.

    Args:
        path: the JSONL file.
        strict: raise on the first broken line instead of skipping it.
        rejections: where skipped lines are noted; without it they are logged as warnings.
        check_audio: also open every audio file (its header only) and check that the utterance lies inside.

    Raises:
        ManifestError: there is no such file, or no usable line in it; with `strict`, a broken line.
    """
    path = Path(path)
    utterances = []
    for line, item in _parse_lines(path, check_audio):
        if isinstance(item, Utterance):
            utterances.append(item)
            continue
        note_rejection(path, item.id, item.audio, item.reason, line, strict=strict, rejections=rejections)
    if not utterances:
        raise ManifestError(f"{path}: holds no usable utterance. See what is wrong: vocable manifest validate {path}")
    return utterances


def write_manifest(utterances: Iterable[Utterance], path: Path | str) -> int:
    """Write utterances as a manifest, whole or not at all; return how many there are.

    Raises:
        ManifestError: two utterances share an id, a value has no place in JSON, or there is no utterance at all.
        OutputError: the file cannot be written; what was at `path` before stays.
    """
    path = Path(path)
    folder = absolute(path.parent)
    seen: set[str] = set()
    with replace_file(path) as file:
        for utterance in utterances:
            if utterance.id in seen:
                raise ManifestError(f"{path}: two utterances have the id {utterance.id!r}; ids must differ.")
            seen.add(utterance.id)
            file.write(_to_line(utterance, folder))
        if not seen:
            raise ManifestError(f"{path}: there is no utterance to write.")
    return len(seen)


def validate_manifest(path: Path, check_audio: bool = True) -> ManifestReport:
    """Look at every line of a manifest, and at every audio file (header only), and list all problems.

    Raises:
        ManifestError: there is no such file.
    """
    seconds, num_utterances, num_without_duration = 0.0, 0, 0
    speakers: set[str] = set()
    problems = []
    for line, item in _parse_lines(Path(path), check_audio):
        if isinstance(item, _BrokenLine):
            problems.append(LineProblem(line, item.id, item.reason))
            continue
        num_utterances += 1
        duration = item.duration
        if duration is None and check_audio:
            duration = audio_info(item.audio).duration - item.start
        seconds += duration or 0.0
        num_without_duration += duration is None
        if item.speaker is not None:
            speakers.add(item.speaker)
    return ManifestReport(
        num_utterances=num_utterances,
        hours=seconds / 3600,
        num_without_duration=num_without_duration,
        num_speakers=len(speakers),
        problems=tuple(problems),
    )


def absolute(path: Path) -> Path:
    """Make a path absolute and drop its `..`, without following links."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps `..`, Path.resolve follows links


class _BrokenLine(NamedTuple):
    id: str | None
    audio: str | None
    reason: str


def _parse_lines(path: Path, check_audio: bool) -> Iterator[tuple[int, Utterance | _BrokenLine]]:
    """Yield line numbers from 1, with the utterance or with what is wrong; empty lines are passed over."""
    if not path.is_file():
        raise ManifestError(
            f"{path}: no such manifest. Make one from audio: vocable manifest import-folder SOURCE {path}"
        )
    folder = absolute(path.parent)
    first_line: dict[str, int] = {}
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            row: Any = None
            try:
                row = _parse_json(content.removeprefix(b"\xef\xbb\xbf"))
                utterance = to_utterance(row, folder)
                if utterance.id in first_line:
                    raise ManifestError(f"The id {utterance.id!r} is taken by line {first_line[utterance.id]}.")
                if check_audio:
                    check_stretch(utterance)
                first_line[utterance.id] = line
                yield line, utterance
            except (ManifestError, AudioFormatError) as error:
                keys = row if isinstance(row, dict) else {}
                id, audio = (value if isinstance(value := keys.get(key), str) else None for key in ("id", "audio"))
                yield line, _BrokenLine(id, audio, str(error))


def check_stretch(utterance: Utterance) -> None:
    """Open the audio of an utterance (header only) and check that its stretch lies inside.

    Raises:
        AudioFormatError: the audio cannot be read, or ends before the utterance does.
    """
    length = audio_info(utterance.audio).duration
    end = utterance.start + (utterance.duration or 0.0)
    if utterance.start >= length or end > length + MAX_OVERSHOOT_SECONDS:
        raise AudioFormatError(
            f"{utterance.audio}: the utterance spans {utterance.start:g} s to {end:g} s, but the file is "
            f"{length:g} s long. Correct start and duration."
        )


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        row = json.loads(content, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ManifestError(f"Not UTF-8 text: {error.reason} at byte {error.start}. Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"Not JSON: {error}. A line is one object: {{...}}.") from error
    if not isinstance(row, dict):
        raise ManifestError(f"The line holds a {type(row).__name__}; expected an object with 'id' and 'audio'.")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def to_utterance(row: Mapping[str, Any], folder: Path) -> Utterance:
    """Check the values of a line, and make an utterance of them.

    Args:
        row: what the line says.
        folder: folder of the manifest, from which relative paths start.

    Raises:
        ManifestError: a value is missing or of the wrong type.
    """
    for given, key in FOREIGN_KEYS.items():
        if given in row and key.split()[0] not in row:
            raise ManifestError(f"{given!r} is no key of a manifest; write {key}, in seconds.")
    for key in ("id", "audio"):
        if key not in row:
            guess = nearest_name(key, row)
            hint = f"; is it {guess!r}?" if guess else "."
            raise ManifestError(f"There is no {key!r}{hint} Every line needs 'id' and 'audio'.")
        if not isinstance(row[key], str) or not row[key] or "\0" in row[key]:
            raise ManifestError(f"{key} is {row[key]!r}; expected text.")
    check_characters("id", row["id"])
    for key in TEXT_KEYS:
        if not isinstance(row.get(key), str | None):
            raise ManifestError(f"{key} is {row[key]!r}; expected text.")
        check_characters(key, row.get(key) or "")
    start = 0.0 if row.get("start") is None else _number(row, "start")
    duration = None if row.get("duration") is None else _number(row, "duration")
    if start < 0:
        raise ManifestError(f"start is {start}; it must be 0 or more seconds.")
    if duration is not None and duration <= 0:
        raise ManifestError(f"duration is {duration}; it must be more than 0 seconds, or absent for up to the end.")
    extra = {key: value for key, value in row.items() if key not in KNOWN_KEYS}
    split = row.get("split")
    if isinstance(split, str) and split.startswith(("train-", "dev-", "test-")):  # part of a corpus, not a split
        extra, split = {"part": split, **extra}, None
    return Utterance(
        id=row["id"],
        audio=absolute(folder / row["audio"]),
        start=start,
        duration=duration,
        words=_to_words(row.get("words"), duration),
        split=None if split is None else split_named(split),
        extra=extra,
        **{key: row.get(key) for key in TEXT_KEYS},
    )


def check_characters(name: str, text: str) -> None:
    """Check that a text can be written: JSON's escapes can hold half a character, as of an emoji that was cut in two.

    Raises:
        ManifestError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("ascii", "backslashreplace").decode()
        raise ManifestError(
            f"{name} holds {half} at character {error.start}, half of a character (a lone surrogate). Correct the text."
        ) from error


def _to_words(rows: Any, duration: float | None) -> tuple[Word, ...] | None:
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise ManifestError(f"words is a {type(rows).__name__}; expected a list of {{word, start, end}}.")
    words: list[Word] = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("word"), str):
            raise ManifestError(f"words[{index}] is {row!r}; expected {{word, start, end}}.")
        check_characters(f"words[{index}]", row["word"])
        word = Word(word=row["word"], start=_number(row, "start"), end=_number(row, "end"))
        where = f"words[{index}], {word.word!r} from {word.start:g} s to {word.end:g} s,"
        if word.end < word.start:
            raise ManifestError(f"{where} ends before it starts.")
        if words and word.start < words[-1].start:
            raise ManifestError(f"{where} starts before the word in front of it. Sort the words by time.")
        limit = math.inf if duration is None else duration
        if word.start < -WORD_TOLERANCE_SECONDS or word.end > limit + WORD_TOLERANCE_SECONDS:
            raise ManifestError(
                f"{where} lies outside the utterance of {limit:g} s. Word times count from the start of the utterance."
            )
        words.append(word)
    return tuple(words)


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_SECONDS:
        return float(value)
    raise ManifestError(f"{key} is {value!r}; expected a number of seconds.")


def to_row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    """Return what a manifest in `folder` says of an utterance; the opposite of `to_utterance`.

    Raises:
        ManifestError: `extra` holds a key that is a field of its own.
    """
    row: dict[str, Any] = {"id": utterance.id, "audio": _relative(utterance.audio, folder), "start": utterance.start}
    if utterance.duration is not None:
        row["duration"] = utterance.duration
    row |= {key: getattr(utterance, key) for key in TEXT_KEYS if getattr(utterance, key) is not None}
    if utterance.words is not None:
        row["words"] = [{"word": word.word, "start": word.start, "end": word.end} for word in utterance.words]
    if utterance.split is not None:
        row["split"] = split_named(utterance.split)
    clashes = set(utterance.extra) & set(KNOWN_KEYS)
    if clashes:
        raise ManifestError(f"Utterance {utterance.id!r}: extra has {sorted(clashes)}, which are fields of their own.")
    return row | dict(utterance.extra)


def _to_line(utterance: Utterance, folder: Path) -> bytes:
    row = to_row(utterance, folder)
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name that is not UTF-8; JSON's escapes can hold it
        return json.dumps(row, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ManifestError(f"Utterance {utterance.id!r} cannot be written as JSON: {error}.") from error


def _relative(audio: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(absolute(audio), folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return absolute(audio).as_posix()
