"""Read, check, resample and write waveforms.

    file (any rate, any channels)  ->  crop  ->  mean of the channels  ->  resample  ->  waveform " samples"

Files are recognised by their content, not by their name (soundfile, i.e. libsndfile); rates are changed by soxr. Long
files are read in blocks. Next stage: features/.
"""

import contextlib
import functools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.waveforms import check_finite, check_length, check_rate, check_waveform, resample
from vocable.errors import AudioFormatError
from vocable.types import Clip, Utterance

MAX_OVERSHOOT_SECONDS = 0.5
"""How far a crop may reach past the end of its file; as in Kaldi's `extract-segments --max-overshoot`."""

FILE_BLOCK_FRAMES = 1 << 18
"""Frames per read where a file is streamed, at the rate of the file."""

LOSSY_SUBTYPES = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
"""Encodings that are read from the front, because seeking in them changes the samples (see `_SequentialSoundFile`)."""

REMEMBERED_SECONDS = 600.0
"""Lossy files up to this long are decoded whole when a stretch of them is wanted, and the last two are remembered."""

STREAMED_LENGTH = 0x7FFF0000
"""RIFF sizes from here on mean 'not known when the header was written': recorders and pipes leave them behind."""


class AudioInfo(NamedTuple):
    """What the header of an audio file says."""

    sample_rate: int
    num_samples: int
    """Samples per channel."""
    num_channels: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


class Audio(NamedTuple):
    """A mono waveform, and its samples per second."""

    waveform: Float[Tensor, " samples"]
    sample_rate: int


def audio_info(path: Path) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        AudioFormatError: the path is missing or a folder; the file is empty, cut short, or not audio.
    """
    with _open_sound(Path(path)) as sound:
        return AudioInfo(sound.samplerate, sound.frames, sound.channels)


def read_audio(
    path: Path | str, sample_rate: int | None = None, start: float = 0.0, duration: float | None = None
) -> Audio:
    """Read a file, or a stretch of it, as one mono waveform.

    Args:
        path: an audio file; its content decides the format.
        sample_rate: the rate to resample to, Hz; None keeps the file's.
        start: where to begin, in seconds. What lies before is skipped; in MP3, Vorbis and Opus it has to be decoded, so
            where many stretches are read from files of over ten minutes, convert these to FLAC first.
        duration: how much to read, in seconds; None reads to the end. May reach `MAX_OVERSHOOT_SECONDS` past the end.

    Raises:
        AudioFormatError: the file cannot be read, is cut short, or holds NaN or infinite values; the stretch lies
            outside the file or holds fewer than two samples.
    """
    path = Path(path)
    with _open_sound(path) as sound:
        first, count = _crop(path, sound, start, duration)
        file_rate = sound.samplerate
        if count < sound.frames <= REMEMBERED_SECONDS * file_rate and not sound.seekable():
            blocks = [_whole_lossy_file(path, *_identity(path))[first : first + count].copy()]
        else:
            blocks = list(_mono_blocks(path, sound, first, count, block_frames=count))
    waveform = torch.from_numpy(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
    if sample_rate is not None:
        waveform = resample(waveform, file_rate, sample_rate)
    check_waveform(waveform, str(path))
    return Audio(waveform, sample_rate or file_rate)


@functools.lru_cache(maxsize=2)
def _whole_lossy_file(path: Path, modified: int, size: int) -> np.ndarray:
    """Decode a file that cannot be seeked in, and remember it: the next utterance is often of the same file."""
    with _open_sound(path) as sound:
        return next(_mono_blocks(path, sound, 0, sound.frames, sound.frames))


def _identity(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def read_utterance(utterance: Utterance, sample_rate: int) -> Float[Tensor, " samples"]:
    """Read the stretch of audio of one manifest line; errors are those of `read_audio`."""
    return read_audio(utterance.audio, sample_rate, utterance.start, utterance.duration).waveform


def read_clip(utterance: Utterance, sample_rate: int) -> Clip:
    """Read the audio of one manifest line, with its text and words; errors are those of `read_audio`."""
    return Clip(read_utterance(utterance, sample_rate), utterance.text, utterance.words)


def read_part(utterance: Utterance, sample_rate: int, first: int, count: int) -> Float[Tensor, " samples"] | None:
    """Read `count` samples of an utterance from sample `first` on, equal to that part of `read_utterance`.

    Returns None where the file has another rate: resampling a part gives other samples than resampling the whole.

    Raises:
        AudioFormatError: as for `read_audio`.
    """
    if audio_info(utterance.audio).sample_rate != sample_rate:
        return None
    start = round(utterance.start * sample_rate) + first
    return read_audio(utterance.audio, None, start / sample_rate, count / sample_rate).waveform


def iterate_audio(
    path: Path,
    sample_rate: int | None = None,
    block_seconds: float = 60.0,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[Float[Tensor, " samples"]]:
    """Read a file of any length in blocks; joined, the blocks are what `read_audio` returns.

    Every block but the last has `round(block_seconds * sample_rate)` samples; memory holds one or two blocks.

    Raises:
        AudioFormatError: as for `read_audio`; NaN and cut-short files show only when their block is reached.
    """
    path = Path(path)
    with _open_sound(path) as sound:
        first, count = _crop(path, sound, start, duration)
        rate = sample_rate or sound.samplerate
        check_rate(rate)
        block_samples = round(block_seconds * rate)
        if block_samples < 1:
            raise AudioFormatError(f"block_seconds is {block_seconds}; at {rate} Hz a block would hold no sample.")
        blocks = _mono_blocks(path, sound, first, count, min(FILE_BLOCK_FRAMES, count))
        if rate != sound.samplerate:
            blocks = _resampled_blocks(blocks, sound.samplerate, rate)
        total = 0
        for block in _equal_blocks(blocks, block_samples):
            total += len(block)
            waveform = torch.from_numpy(block)
            check_finite(waveform, f"{path}, {(total - len(block)) / rate:.2f} s from the start")
            yield waveform
    check_length(total, str(path))


class _SequentialSoundFile(soundfile.SoundFile):
    """A file that is read from the front only.

    Decoders of lossy formats carry a state over from frame to frame, and libsndfile does not restore it when it seeks;
    soundfile itself seeks after every block it reads. Seen after a seek: errors up to 0.007 in 2 of 40 MP3 recordings,
    up to 0.3 in tones as MP3 and Vorbis, small ones in Opus. Without seeking, crops and blocks equal the whole file.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    try:
        sound = soundfile.SoundFile(path)
        if sound.subtype in LOSSY_SUBTYPES:
            sound.close()
            sound = _SequentialSoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw, which soundfile will not guess
        raise AudioFormatError(_why_unreadable(path, error)) from error
    with sound:
        _check_complete(path, sound)
        yield sound


def _why_unreadable(path: Path, error: Exception) -> str:
    if not path.exists():
        return f"{path}: no such file. Check the path; manifests give it relative to themselves."
    if path.is_dir():
        return (
            f"{path}: is a folder, not an audio file. For a folder of audio: vocable manifest import-folder {path} OUT"
        )
    if not os.access(path, os.R_OK):
        return f"{path}: no permission to read it."
    if path.stat().st_size == 0:
        return f"{path}: the file is empty (0 bytes). Copy or download it again."
    reason = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    return (
        f"{path}: not audio that can be read ({reason}). Readable are wav, flac, ogg, opus, mp3, aiff and au; "
        f"convert others first, e.g. ffmpeg -i {path.name} {path.stem}.flac; copy or download a damaged file again."
    )


def _check_complete(path: Path, sound: soundfile.SoundFile) -> None:
    """Refuse a file whose container shows that its end is missing."""
    if sound.format in ("WAV", "WAVEX", "AIFF"):
        match = re.search(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", sound.extra_info, flags=re.MULTILINE)
        if match and int(match[2]) < int(match[1]) < STREAMED_LENGTH:
            raise AudioFormatError(_cut_short(path, f"the header says {match[1]} bytes of audio, there are {match[2]}"))
    if sound.format == "OGG" and not _ends_with_last_ogg_page(path):
        raise AudioFormatError(_cut_short(path, "its last Ogg page is not the end of the stream, or not whole"))
    if sound.frames < 1:
        raise AudioFormatError(f"{path}: holds no samples. Leave it out, or record it again.")


def _ends_with_last_ogg_page(path: Path) -> bool:
    """Whether the last page has the end-of-stream flag and all its bytes (RFC 3533, section 6).

    Bit 4 of byte 5 is the flag; byte 26 counts the segments, whose lengths in bytes follow.
    """
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 1 << 17), os.SEEK_END)  # a page has at most 65,307 bytes
        tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27:
        return False
    segments = page[27 : 27 + page[26]]
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(segments)


def _cut_short(path: Path, evidence: str) -> str:
    return f"{path}: the file is cut short: {evidence}. Copy or download it again."


def _crop(path: Path, sound: soundfile.SoundFile, start: float, duration: float | None) -> tuple[int, int]:
    """First frame and number of frames, at the rate of the file."""
    rate, total = sound.samplerate, sound.frames
    if not (math.isfinite(start) and start >= 0):
        raise AudioFormatError(f"{path}: start is {start} s; it must be 0 or more.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise AudioFormatError(f"{path}: duration is {duration} s; it must be more than 0, or None for up to the end.")
    first = round(start * rate)
    count = total - first if duration is None else round(duration * rate)
    if first >= total or first + count > total + MAX_OVERSHOOT_SECONDS * rate:
        wanted = f"{start:g} s on" if duration is None else f"{start:g} s to {start + duration:g} s"
        raise AudioFormatError(
            f"{path}: asked for {wanted}, but the file is {total / rate:g} s long. Correct start and duration."
        )
    count = min(count, total - first)
    check_length(count, str(path))
    return first, count


def _mono_blocks(
    path: Path, sound: soundfile.SoundFile, first: int, count: int, block_frames: int
) -> Iterator[np.ndarray]:
    """Yield `count` frames from `first` on as float32 blocks, the mean over the channels."""
    try:
        if sound.seekable():
            sound.seek(first)
        else:
            _skip(sound, first)
        left = count
        while left:
            frames = sound.read(min(block_frames, left), dtype="float32", always_2d=True)
            if not len(frames):
                raise AudioFormatError(
                    _cut_short(path, f"the header says {sound.frames} samples, {first + count - left} could be decoded")
                )
            left -= len(frames)
            yield frames[:, 0] if sound.channels == 1 else frames.mean(axis=1, dtype=np.float32)
    except soundfile.LibsndfileError as error:
        raise AudioFormatError(_why_unreadable(path, error)) from error


def _skip(sound: soundfile.SoundFile, frames: int) -> None:
    while frames:
        read = len(sound.read(min(FILE_BLOCK_FRAMES, frames), dtype="float32"))
        frames = frames - read if read else 0


def _resampled_blocks(blocks: Iterator[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    stream = soxr.ResampleStream(from_rate, to_rate, num_channels=1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _equal_blocks(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cut and join: every block but the last gets `size` samples."""
    waiting: list[np.ndarray] = []
    num_waiting = 0
    for block in blocks:
        waiting.append(block)
        num_waiting += len(block)
        if num_waiting >= size:
            joined = np.concatenate(waiting)
            whole = len(joined) - len(joined) % size
            for offset in range(0, whole, size):
                yield joined[offset : offset + size].copy()
            waiting, num_waiting = [joined[whole:]], len(joined) - whole
    if num_waiting:
        yield np.concatenate(waiting)
