"""Read, check, resample and write waveforms.

    file (any rate, any channels)  ->  crop  ->  mean of the channels  ->  resample  ->  waveform " samples"

Files are recognised by their content, not by their name (opening.py: libsndfile, else FFmpeg); rates are changed by
soxr. Long files are read in blocks. Next stage: features/.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.opening import FILE_BLOCK_FRAMES, file_identity, open_sound, why_cut_short, why_unreadable
from vocable.audio.sounds import Sound
from vocable.audio.waveforms import check_finite, check_length, check_rate, check_waveform, resample
from vocable.errors import AudioFormatError
from vocable.types import Clip, Utterance

MAX_OVERSHOOT_SECONDS = 0.5
"""How far a crop may reach past the end of its file; as in Kaldi's `extract-segments --max-overshoot`."""

REMEMBERED_SECONDS = 600.0
"""Lossy files up to this long are decoded whole when a stretch of them is wanted, and the last two are remembered."""


class AudioInfo(NamedTuple):
    """Facts about an audio file."""

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
    """Read the header of an audio file; decode it all to count its samples where the header does not say how many.

    Raises:
        AudioFormatError: the path is missing or a folder; the file is empty, cut short, or not audio.
    """
    with open_sound(Path(path)) as sound:
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
    with open_sound(path) as sound:
        first, count = _crop(path, sound, start, duration)
        file_rate = sound.samplerate
        if count < sound.frames <= REMEMBERED_SECONDS * file_rate and not sound.seekable():
            blocks = [_whole_lossy_file(path, *file_identity(path))[first : first + count].copy()]
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
    with open_sound(path) as sound:
        return next(_mono_blocks(path, sound, 0, sound.frames, sound.frames))


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
    with open_sound(path) as sound:
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


def _crop(path: Path, sound: Sound, start: float, duration: float | None) -> tuple[int, int]:
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


def _mono_blocks(path: Path, sound: Sound, first: int, count: int, block_frames: int) -> Iterator[np.ndarray]:
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
                    why_cut_short(
                        path, f"the header says {sound.frames} samples, {first + count - left} could be decoded"
                    )
                )
            left -= len(frames)
            yield frames[:, 0] if sound.channels == 1 else frames.mean(axis=1, dtype=np.float32)
    except soundfile.LibsndfileError as error:
        raise AudioFormatError(why_unreadable(path, error)) from error


def _skip(sound: Sound, frames: int) -> None:
    while frames:
        read = len(sound.read(min(FILE_BLOCK_FRAMES, frames), dtype="float32", always_2d=True))
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
