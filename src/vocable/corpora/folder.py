"""A folder of audio, with or without text files beside it.

speech/anna/one.flac + speech/anna/one.txt  ->  {"id": "anna/one", "audio": ..., "text": ..., "speaker": "anna"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import AUDIO_SUFFIXES, read_text
from vocable.types import Utterance

FOREIGN_SUFFIXES = {".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".amr", ".3gp", ".ape", ".sph"}
"""Audio that cannot be read here; it is reported, since it must not go missing silently."""


def import_folder(
    source: Path | str,
    *,
    speaker_from_folder: bool = False,
    language: str | None = None,
    licence: str | None = None,
    strict: bool = False,
    rejections: Rejections | None = None,
) -> Iterator[Utterance]:
    """Read a folder of audio and its sub-folders, or one file: an utterance for each file, in the order of their names.

    vocable manifest import-folder my-recordings all.jsonl --language en

    The id is the path inside the folder without suffix; files that differ only in their suffix keep it. A file of the
    same name in `.txt` (UTF-8) holds the text. Hidden files and folders are passed over.

    Args:
        source: the folder, or a single file.
        speaker_from_folder: take the name of the first sub-folder as the speaker.
        language: language of all utterances, such as en.
        licence: licence of all utterances.
        strict: raise on the first unreadable file instead of leaving it out.
        rejections: where files that are left out are noted.

    Raises:
        ManifestError: there is no such folder, or no audio in it; with `strict`, an unreadable file.
    """
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
    stems = Counter(path.with_suffix("") for path in paths)
    for path in paths:
        inside = path.relative_to(source)
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
                text=_sidecar_text(path.with_suffix(".txt")),
                language=language,
                speaker=inside.parts[0] if speaker_from_folder and len(inside.parts) > 1 else None,
                licence=licence,
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(source, id, path, str(error), strict=strict, rejections=rejections)


def _sidecar_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    return " ".join(read_text(path).split())
