"""A folder of audio, with or without text files beside it.

speech/anna/one.flac + speech/anna/one.txt  ->  {"id": "anna/one", "audio": ..., "text": ..., "speaker": "anna"}
speech/7_jackson_32.wav  --speaker-pattern '_(.+)_' --text-pattern '^([^_]+)'  ->  speaker jackson, text 7
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vocable.audio.expressions import match
from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.files import AUDIO_SUFFIXES, read_text
from vocable.types import Utterance

FOREIGN_SUFFIXES = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".amr", ".3gp", ".ape", ".sph"}
"""Audio that cannot be read here; it is reported, since it must not go missing silently."""


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
    same name in `.txt` (UTF-8) holds the text. Hidden files and folders are passed over.

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
    found = [given] if given.is_file() else source.rglob("*")
    paths = sorted(
        path
        for path in found
        if path.suffix.lower() in AUDIO_SUFFIXES | FOREIGN_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not paths:
        raise ManifestError(f"{given}: no audio in it. Looked for: {' '.join(sorted(AUDIO_SUFFIXES))}.")
    ids = [path.relative_to(source).with_suffix("").as_posix() for path in paths]
    speakers, texts = _matches("speaker", speaker_pattern, ids), _matches("text", text_pattern, ids)
    stems = Counter(path.with_suffix("") for path in paths)
    for path, stem in zip(paths, ids, strict=True):
        inside = path.relative_to(source)
        if speaker_from_folder:
            speakers[stem] = inside.parts[0] if len(inside.parts) > 1 else None
        id = (inside if stems[path.with_suffix("")] > 1 else inside.with_suffix("")).as_posix()
        try:
            if path.suffix.lower() in FOREIGN_SUFFIXES:
                raise AudioFormatError(
                    f"{path}: not audio that can be read; convert it to flac first, e.g. with ffmpeg."
                )
            yield Utterance(
                id=id,
                audio=path,
                duration=audio_info(path).duration,
                text=texts.get(stem) or _text_of(source / text_files.replace("{id}", stem)),
                language=language,
                speaker=speakers.get(stem),
                licence=licence,
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(source, id, path, str(error), strict=strict, rejections=rejections)


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


def _text_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    return " ".join(read_text(path).split())
