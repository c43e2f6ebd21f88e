"""A folder of audio, with or without text files beside it.

speech/anna/one.flac + speech/anna/one.txt  ->  {"id": "anna/one", "audio": ..., "text": ..., "speaker": "anna"}
speech/7_jackson_32.wav  --speaker-pattern '_(.+)_' --text-pattern '^([^_]+)'  ->  speaker jackson, text 7
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vocable.audio.expressions import match
from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, check_characters, note_rejection
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.files import AUDIO_SUFFIXES, MEDIA_SUFFIXES, read_text
from vocable.types import Utterance

logger = logging.getLogger(__name__)


def import_folder(
    source: Path | str,
    *,
    speaker_from_folder: bool = False,
    speaker_pattern: str | None = None,
    text_pattern: str | None = None,
    text_files: str = "{id}.txt",
    language: str | None = None,
    licence: str | None = None,
    strict: bool = False,
    rejections: Rejections | None = None,
) -> Iterator[Utterance]:
    """Read a folder of audio and its sub-folders, or one file: an utterance for each file, in the order of their names.

    vocable manifest import-folder my-recordings all.jsonl --language en
    vocable manifest import-folder wavs all.jsonl --speaker-pattern '^([^-]+)-' --text-files '../labels/{id}.lab'

    The id is the path inside the folder without suffix; files that differ only in their suffix keep it. A file of the
    same name in `.txt` (UTF-8) holds the text, whether or not its letters are composed alike or its case is the same.
    Linked folders are followed, each folder once. Hidden files and folders are passed over.

    Patterns are regular expressions that are looked for in the id, such as anna/2024-05-01_take3; the first group in
    parentheses counts, or all that matched where there is none. Names without a match have no speaker, or no text.

    Args:
        source: the folder, or a single file.
        speaker_from_folder: take the name of the first sub-folder as the speaker.
        speaker_pattern: where in the id the speaker stands: '^([^-]+)-' for 19-198-0001.
        text_pattern: where in the id the text stands: '^([^_]+)_' for seven_jackson_32.
        text_files: where the file with the text of an utterance is, from the folder on; {id} stands for its path
            without the suffix.
        language: language of all utterances, such as en.
        licence: licence of all utterances.
        strict: raise on the first unreadable file instead of leaving it out.
        rejections: where files that are left out are noted.

    Raises:
        ManifestError: there is no such folder, or no audio in it; with `strict`, an unreadable file.
        ConfigError: a pattern is not one, matches no name at all, or `text_files` has no {id}.
    """
    if speaker_pattern is not None and speaker_from_folder:
        raise ConfigError("Speakers are taken from the folder or from a pattern, not from both.")
    if "{id}" not in text_files:
        raise ConfigError(f"text_files is {text_files!r}; it needs {{id}}, such as {{id}}.lab or ../text/{{id}}.txt")
    given = absolute(Path(source))
    source = given.parent if given.is_file() else given
    if not source.is_dir():
        raise ManifestError(f"{source}: no such folder. Name the folder that holds the audio files.")
    found = [given] if given.is_file() else list(_walk(source, strict, rejections))
    paths = sorted(path for path in found if path.suffix.lower() in AUDIO_SUFFIXES | MEDIA_SUFFIXES)
    if not paths:
        known = " ".join(sorted(AUDIO_SUFFIXES | MEDIA_SUFFIXES))
        raise ManifestError(f"{given}: no audio in it. Looked for: {known}.")
    ids = [path.relative_to(source).with_suffix("").as_posix() for path in paths]
    speakers, texts = _matches("speaker", speaker_pattern, ids), _matches("text", text_pattern, ids)
    files = _TextFiles()
    stems = Counter(path.with_suffix("") for path in paths)
    for path, stem in zip(paths, ids, strict=True):
        inside = path.relative_to(source)
        if speaker_from_folder:
            speakers[stem] = inside.parts[0] if len(inside.parts) > 1 else None
        id = (inside if stems[path.with_suffix("")] > 1 else inside.with_suffix("")).as_posix()
        try:
            check_characters("The name of the file", id)
            yield Utterance(
                id=id,
                audio=path,
                duration=audio_info(path).duration,
                text=texts.get(stem) or files.text(source / text_files.replace("{id}", stem)),
                language=language,
                speaker=speakers.get(stem),
                licence=licence,
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(source, id, path, str(error), strict=strict, rejections=rejections)
    unused = [] if given.is_file() else files.unused()
    if unused:
        logger.warning("%s: %d .txt files have the name of no recording, such as %s.", given, len(unused), unused[0])


def _matches(field: str, pattern: str | None, ids: Sequence[str]) -> dict[str, str | None]:
    """Look for a pattern in ids; what it matched by id, None where it did not.

    Raises:
        ConfigError: it is no regular expression, or is found in none of them.
    """
    if pattern is None:
        return {}
    try:
        found = {id: match(id, pattern) or None for id in ids}
    except re.error as error:
        raise ConfigError(f"{field}_pattern is {pattern!r}, which is no regular expression: {error}.") from error
    if not any(found.values()):
        raise ConfigError(f"{field}_pattern is {pattern!r}, which no name matches. The first name: {ids[0]!r}")
    return found


def _walk(source: Path, strict: bool, rejections: Rejections | None) -> Iterator[Path]:
    """Yield the files below a folder, and links to nowhere; folders that are links come last, each folder once."""
    waiting, seen = [source], dict[tuple[int, int], Path]()
    for start in waiting:
        for folder, names, files in os.walk(start):
            here = Path(folder)
            status = here.stat()
            known = seen.setdefault((status.st_dev, status.st_ino), here)
            if known != here:
                reason = f"{here}: is a link to {known}, which is read already."
                note_rejection(source, None, here, reason, strict=strict, rejections=rejections)
                names.clear()
                continue
            names[:] = [name for name in sorted(names) if not name.startswith(".")]
            waiting += [here / name for name in names if (here / name).is_symlink()]
            yield from (here / name for name in files if not name.startswith("."))


class _TextFiles:
    """Text files by their names, however these are written."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Path]]] = {}
        self._used: set[Path] = set()

    def text(self, path: Path) -> str | None:
        """Read the file of this name, else the only one whose name is alike; None: there is none.

        Names are alike that differ in their case, or in how letters with marks are composed (Unicode NFC and NFD).

        Raises:
            ManifestError: several have a name that is alike, or the file is not UTF-8.
        """
        path = absolute(path)
        if path.parent not in self._folders:
            self._folders[path.parent] = _files_by_name(path.parent)
        files = self._folders[path.parent].get(_alike(path.name), [])
        named = [file for file in files if file.name == path.name]
        named = named or [file for file in files if file.stem == path.stem] or files
        if len(named) > 1:
            names = " and ".join(file.name for file in named)
            raise ManifestError(f"{path}: there is no such text, but {names}. Give one of them its name.")
        if not named:
            return None
        self._used.add(named[0])
        return " ".join(read_text(named[0]).split())

    def unused(self) -> list[Path]:
        """Return the files in .txt, in the folders looked at, that were not asked for."""
        seen = [file for names in self._folders.values() for files in names.values() for file in files]
        return [file for file in seen if file.suffix.lower() == ".txt" and file not in self._used]


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file():
            names.setdefault(_alike(path.name), []).append(path)
    return names


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
