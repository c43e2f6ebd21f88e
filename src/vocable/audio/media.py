"""Decode with FFmpeg, through PyAV, what libsndfile lacks: m4a, aac, webm, amr, wma, ac3 and others.

    container -> first audio stream -> frames as float32, at the rate of the file

PyAV is optional: pip install 'vocable[media]'. Lengths are counted by decoding, since many of these containers have
none or an estimate. Next: opening.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vocable.audio.sounds import FrontSound
from vocable.errors import AudioFormatError, missing_extra

CONTAINERS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,gsm,matroska,mov,mp3,mp4,mpc,mpc8,mpeg,mpegts,"
    "nistsphere,ogg,shn,tak,tta,voc,w64,wav,webm,wv,xwma"
)
"""Containers of FFmpeg that hold the sound themselves; playlists, which name other files, are not among them."""
TIMED_CONTAINERS = ("mov", "matroska")
"""Containers whose header gives the length as it is: a file that holds less is cut short."""
TOLERANCE_SECONDS = 0.5
"""How much less than its header says a file may hold: encoders round to frames."""


class MediaSound(FrontSound):
    """An audio file decoded by FFmpeg."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            AudioFormatError: FFmpeg cannot read it, or it holds no sound.
            MissingDependencyError: PyAV is not installed.
        """
        try:
            import av
        except ImportError as error:
            raise missing_extra("av", "media", f"{path}: its format is not one of libsndfile's; reading it") from error
        self.path = path
        self._file = path.open("rb")
        try:
            self._container: Any = av.open(self._file, metadata_errors="ignore", container_options=_OPTIONS)
            if not self._container.streams.audio:
                raise AudioFormatError(f"{path}: holds no sound.")
            self._stream = self._container.streams.audio[0]
            self.samplerate, self.channels = self._stream.rate, self._stream.channels
            self._blocks = self._decode(av)
        except av.FFmpegError as error:
            self._file.close()
            raise AudioFormatError(
                f"{path}: FFmpeg cannot read it ({_reason(error)}). Copy or download it again."
            ) from error
        except AudioFormatError:
            self._file.close()
            raise
        self._waiting = np.zeros((0, self.channels), np.float32)
        self.frames = 0
        """Samples per channel, once they have been counted."""

    def claimed_seconds(self) -> float | None:
        """Return the length in the header, where it can be believed."""
        stream = self._stream
        if (
            stream.duration is None
            or stream.time_base is None
            or not self._container.format.name.startswith(TIMED_CONTAINERS)
        ):
            return None
        return float(stream.duration * stream.time_base)

    def read(self, frames: int, /, dtype: Literal["float32"], always_2d: bool = True) -> np.ndarray:
        """Read up to `frames` samples per channel, (samples, channels); fewer only at the end."""
        parts, count = [self._waiting], len(self._waiting)
        while count < frames and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            count += len(block)
        joined = np.concatenate(parts)
        self._waiting = joined[frames:]
        return joined[:frames]

    def _decode(self, av) -> Iterator[np.ndarray]:
        resampler = av.AudioResampler(format="fltp", layout=self._stream.layout, rate=self._stream.rate)
        try:
            for frame in self._container.decode(self._stream):
                yield from (part.to_ndarray().T for part in resampler.resample(frame))
            yield from (part.to_ndarray().T for part in resampler.resample(None))
        except (av.FFmpegError, ValueError) as error:  # ValueError: the rate or the channels change on the way
            raise AudioFormatError(
                f"{self.path}: FFmpeg stops at damaged sound ({_reason(error)}). Copy or download it again."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()


_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}


def _reason(error: Exception) -> str:
    return str(error).rstrip(".")
