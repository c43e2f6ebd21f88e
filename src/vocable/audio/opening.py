"""Open an audio file so that every sample in it can be read, whatever its header says about the length.

    path -> what the container claims (containers.py) -> libsndfile, else FFmpeg (media.py) -> Sound

What can be trusted is read as it is; what cannot is counted by decoding the file once; what shows that its end is
missing is refused. Where a file had to be read against its header, a warning says so, once a file.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import soundfile

from vocable.audio.containers import (
    STREAMED_LENGTH,
    EndlessFile,
    OggLink,
    PartFile,
    ended_page,
    mpeg_tag,
    ogg_links,
    wav_sizes,
)
from vocable.audio.media import TOLERANCE_SECONDS, MediaSound
from vocable.audio.sounds import ChainedSound, OwningSoundFile, SequentialSoundFile, Sound
from vocable.errors import AudioFormatError, MissingDependencyError
from vocable.files import MEDIA_SUFFIXES

logger = logging.getLogger(__name__)

FILE_BLOCK_FRAMES = 1 << 18
"""Frames per read where a file is streamed, at the rate of the file."""

MPEG_SUBTYPES = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
LOSSY_SUBTYPES = ("VORBIS", "OPUS", *MPEG_SUBTYPES)
"""Encodings that are read from the front, because seeking in them changes the samples (see `SequentialSoundFile`)."""
UNKNOWN_FORMATS = (1, 4)
"""Codes of libsndfile (SF_ERR_UNRECOGNISED_FORMAT, SF_ERR_UNSUPPORTED_ENCODING) after which FFmpeg is asked."""
MAX_WAV_BYTES = (1 << 32) - 1
UNKNOWN_FRAMES = 1 << 62
"""Lengths from here on are libsndfile's "not known", as in FLAC that was written to a pipe."""


@contextlib.contextmanager
def open_sound(path: Path) -> Iterator[Sound]:
    """Open a file at its first sample.

    Raises:
        AudioFormatError: the path is missing or a folder; the file is empty, cut short, holds no sample, or is not
            audio that can be read here.
    """
    with _open(path) as sound:
        if sound.frames < 1:
            raise AudioFormatError(f"{path}: holds no samples. Leave it out, or record it again.")
        yield sound


def file_identity(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def why_cut_short(path: Path, evidence: str) -> str:
    """Say that the end of a file is missing."""
    return f"{path}: the file is cut short: {evidence}. Copy or download it again."


def why_unreadable(path: Path, error: Exception, hint: str = "") -> str:
    """Say why libsndfile cannot read a file, or not go on."""
    reason = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    return (
        f"{path}: not audio that can be read ({reason}). Readable are wav, flac, ogg, opus, mp3, aiff and au{hint}; "
        f"convert others first, e.g. ffmpeg -i {path.name} {path.stem}.flac; copy or download a damaged file again."
    )


def _open(path: Path) -> Sound:
    """Open a file with the reader that its content needs."""
    _check_path(path)
    try:
        sound = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw, which soundfile will not guess
        return _open_media(path, error)
    if sound.format in ("WAV", "WAVEX", "AIFF"):
        return _checked_riff(path, sound)
    if sound.format == "OGG":
        return _checked_ogg(path, sound)
    tag = mpeg_tag(path) if sound.subtype in MPEG_SUBTYPES else None
    if tag is not None and tag.is_followed:
        sound.close()
        raise AudioFormatError(
            f"{path}: holds several MP3 files one after another, and its header counts the first alone. Make them one: "
            f"ffmpeg -i {path.name} {path.stem}.flac"
        )
    is_estimate = tag is not None and not tag.has_length
    if is_estimate or sound.frames >= UNKNOWN_FRAMES:
        sound.close()
        num_frames = _count_frames(path, is_estimate, *file_identity(path))
        sound = SequentialSoundFile(EndlessFile(path) if is_estimate else path)
        sound.counted = num_frames
    elif sound.subtype in LOSSY_SUBTYPES:
        sound.close()
        sound = SequentialSoundFile(path)
    return sound


def _check_path(path: Path) -> None:
    if not path.exists():
        if path.is_symlink():
            raise AudioFormatError(f"{path}: is a link to {path.readlink()}, which is not there. Restore it there.")
        raise AudioFormatError(f"{path}: no such file. Check the path; manifests give it relative to themselves.")
    if path.is_dir():
        raise AudioFormatError(
            f"{path}: is a folder, not an audio file. For a folder of audio: vocable manifest import-folder {path} OUT"
        )
    if not os.access(path, os.R_OK):
        raise AudioFormatError(f"{path}: no permission to read it.")
    if path.stat().st_size == 0:
        raise AudioFormatError(f"{path}: the file is empty (0 bytes). Copy or download it again.")


def _open_media(path: Path, refusal: Exception) -> MediaSound:
    """Open what libsndfile does not know, but FFmpeg may.

    What libsndfile knows and finds damaged is not given to FFmpeg, which makes do with what is left.
    """
    if getattr(refusal, "code", None) not in UNKNOWN_FORMATS and path.suffix.lower() not in MEDIA_SUFFIXES:
        raise AudioFormatError(why_unreadable(path, refusal)) from refusal
    try:
        sound = MediaSound(path)
    except MissingDependencyError as error:
        hint = " (m4a, aac, webm, amr and others of FFmpeg: pip install 'vocable[media]')"
        raise AudioFormatError(why_unreadable(path, refusal, hint)) from error
    except AudioFormatError as error:
        if path.suffix.lower() in MEDIA_SUFFIXES:
            raise
        raise AudioFormatError(why_unreadable(path, refusal, " and what FFmpeg reads")) from error
    try:
        sound.frames = _count_media(path, *file_identity(path))
    except AudioFormatError:
        sound.close()
        raise
    return sound


def _checked_riff(path: Path, sound: soundfile.SoundFile) -> soundfile.SoundFile:
    """Refuse a WAV or AIFF file whose end is missing; read one to its end whose header is wrong."""
    sizes = wav_sizes(path)
    if sizes is None:
        match = re.search(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info, flags=re.MULTILINE)
        if match and int(match[2]) < int(match[1]) < STREAMED_LENGTH:
            sound.close()
            raise AudioFormatError(
                why_cut_short(path, f"the header says {match[1]} bytes of audio, there are {match[2]}")
            )
        return sound
    if sizes.missing and not sizes.counts_its_header:
        sound.close()
        raise AudioFormatError(
            why_cut_short(path, f"the header says {sizes.data} bytes of audio, there are {sizes.there}")
        )
    if sizes.there > MAX_WAV_BYTES:
        sound.close()
        raise AudioFormatError(
            f"{path}: holds more than the 4 GiB that a WAV file can count. Convert it: ffmpeg -ignore_length 1 -i "
            f"{path.name} {path.stem}.flac"
        )
    if sizes.is_unfinished:
        sound.close()
        size = sizes.there.to_bytes(4, "little")
        sound = OwningSoundFile(PartFile(path, {4: size, sizes.data_start - 4: size}))
    if sizes.is_unfinished or sizes.missing:
        _warn(path, f"its header says {sizes.data} bytes of audio, but it holds {sizes.there}; read to the end")
    return sound


def _checked_ogg(path: Path, sound: soundfile.SoundFile) -> Sound:
    """Refuse an Ogg file whose last page is not whole; read all streams of one that holds several."""
    links = _links(path, *file_identity(path))
    if not links or not links[-1].is_whole:
        sound.close()
        raise AudioFormatError(why_cut_short(path, "its last Ogg page is not whole"))
    if not links[-1].is_ended:
        _warn(path, "its last Ogg page does not say that it is the last; if the recording is complete, all is well")
    if len(links) > 1 or not links[-1].is_ended or sound.subtype in LOSSY_SUBTYPES:
        sound.close()
        # of a stream without its end mark, libsndfile does not give the last samples
        patches = [{} if link.is_ended else ended_page(path, link.last_page) for link in links]
        parts = [PartFile(path, patch, link.first, link.end) for patch, link in zip(patches, links)]
        if len(links) > 1:
            return ChainedSound(path, parts)
        return SequentialSoundFile(parts[0] if patches[0] else path)
    return sound


@functools.lru_cache(maxsize=4096)
def _links(path: Path, modified: int, size: int) -> list[OggLink]:
    return ogg_links(path)


@functools.lru_cache(maxsize=4096)
def _count_frames(path: Path, is_estimate: bool, modified: int, size: int) -> int:
    """Decode a whole file to count its samples."""
    with SequentialSoundFile(EndlessFile(path) if is_estimate else path) as sound:
        try:
            return _count(sound)
        except soundfile.LibsndfileError as error:
            raise AudioFormatError(why_unreadable(path, error)) from error


@functools.lru_cache(maxsize=4096)
def _count_media(path: Path, modified: int, size: int) -> int:
    """Decode a whole file to count its samples, and compare them with the header."""
    with MediaSound(path) as sound:
        count, claimed = _count(sound), sound.claimed_seconds()
        if claimed is not None and count < (claimed - TOLERANCE_SECONDS) * sound.samplerate:
            found = count / sound.samplerate
            raise AudioFormatError(why_cut_short(path, f"the header says {claimed:.2f} s, there are {found:.2f} s"))
        return count


def _count(sound: Sound) -> int:
    count = 0
    while read := len(sound.read(FILE_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        count += read
    return count


@functools.lru_cache(maxsize=4096)
def _warn(path: Path, what: str) -> None:
    """Warn once about each file."""
    logger.warning("%s: %s.", path, what)
