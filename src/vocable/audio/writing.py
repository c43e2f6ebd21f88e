"""Write waveforms: the suffix of the name chooses the format, and a file appears whole or not at all.

Users import these functions from vocable.audio.io.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.waveforms import check_waveform, resample
from vocable.errors import AudioFormatError
from vocable.files import replace_file
from vocable.registry import look_up

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Suffix -> libsndfile's format and subtype."""

RATES = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
"""The only sample rates of these formats, Hz."""

WRITE_FRAMES = 1 << 16
"""Samples per call: libsndfile's Vorbis encoder keeps a whole call on the stack, and overflows it on long ones."""

MAX_WAV_SAMPLES = (0xFFFFFFFF - 4096) // 2
"""A wav file counts its bytes in 32 bits; two bytes a sample."""


def write_audio(path: Path | str, waveform: Float[Tensor, " samples"], sample_rate: int) -> None:
    """Write a waveform as wav, flac, ogg, opus or mp3, by the suffix of `path`; values beyond [-1, 1] are clipped.

    Raises:
        AudioFormatError: the suffix is unknown, the format has no such sample rate, or the waveform is unusable.
        OutputError: the file cannot be written, e.g. the disk is full; what was at `path` before stays.
    """
    check_waveform(waveform, str(path))
    write_audio_blocks(Path(path), [waveform], sample_rate)


def write_audio_blocks(path: Path, blocks: Iterable[Float[Tensor, " samples"]], sample_rate: int) -> int:
    """Write a waveform that comes in blocks, as from `iterate_audio`; return the number of samples.

    Raises: as `write_audio`.
    """
    path = Path(path)
    name = path.suffix.lower().removeprefix(".")
    if name not in FORMATS:
        raise AudioFormatError(f"{path}: the suffix {path.suffix!r} cannot be written. Known: {_list(FORMATS)}.")
    _check_rate(name, sample_rate, str(path))
    with replace_file(path) as file:
        return _encode(file, blocks, sample_rate, name, str(path))


def encode_audio(
    waveform: Float[Tensor, " samples"], sample_rate: int, format: str = "opus", compression: float | None = None
) -> bytes:
    """Encode a waveform in memory, e.g. to put it in a page.

    Opus and MP3 know few sample rates; for others the waveform is resampled to the next higher one they know.
    `compression` goes from 0 to 1, the fewest bits that libsndfile can ask for; None takes its default.

    Raises:
        AudioFormatError: the waveform is unusable.
        UnknownNameError: no such format.
    """
    look_up("audio format", format, FORMATS)
    check_waveform(waveform, "waveform")
    if format in RATES and sample_rate not in RATES[format]:
        rate = min((rate for rate in RATES[format] if rate > sample_rate), default=RATES[format][-1])
        waveform, sample_rate = resample(waveform, sample_rate, rate), rate
    buffer = io.BytesIO()
    _encode(buffer, [waveform], sample_rate, format, "waveform", compression)
    return buffer.getvalue()


class _Sink:
    """A file for libsndfile that remembers the first error; raised inside its callbacks, errors would get lost."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._try(lambda: self.file.write(data))

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self.file.seek(offset, whence))

    def tell(self) -> int:
        return self._try(self.file.tell)

    def _try(self, action) -> int:
        if self.error is None:
            try:
                return action()
            except OSError as error:
                self.error = error
        return 0


def _encode(
    file: BinaryIO,
    blocks: Iterable[Tensor],
    sample_rate: int,
    name: str,
    label: str,
    compression: float | None = None,
) -> int:
    kind, subtype = FORMATS[name]
    sink = _Sink(file)
    total = 0
    settings = {"format": kind, "subtype": subtype, "compression_level": compression}
    try:
        with soundfile.SoundFile(cast(BinaryIO, sink), "w", sample_rate, 1, **settings) as sound:
            for block in blocks:
                samples = block.detach().to("cpu", torch.float32).numpy()
                total += len(samples)
                if name == "wav" and total > MAX_WAV_SAMPLES:
                    raise AudioFormatError(f"{label}: a wav file cannot hold more than 4 GiB. Write .flac instead.")
                _write(sound, samples, sink)
    except (soundfile.LibsndfileError, AssertionError) as error:  # soundfile asserts that all samples were taken
        if sink.error is None:
            raise AudioFormatError(f"{label}: cannot be written as {name} at {sample_rate} Hz: {error}") from error
    if sink.error is not None:
        raise sink.error
    return total


def _write(sound: soundfile.SoundFile, samples: np.ndarray, sink: _Sink) -> None:
    for offset in range(0, len(samples), WRITE_FRAMES):
        if sink.error is None:
            sound.write(samples[offset : offset + WRITE_FRAMES])


def _check_rate(name: str, sample_rate: int, label: str) -> None:
    if name in RATES and sample_rate not in RATES[name]:
        raise AudioFormatError(
            f"{label}: sample_rate is {sample_rate} Hz, but {name} knows only {_list(RATES[name])} Hz. "
            "Resample first, or write .flac, which takes any rate."
        )


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
