"""Level, pitch, energy and speaker of recordings, kept in a file; and what was used last, kept in memory up to a limit.

Both spare work without being needed: a file that is deleted, or an entry that a kill left half written, is made again.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vocable.errors import OutputError

T = TypeVar("T")
_HEAD = struct.Struct("<Iifd")  # checksum of the rest, frames, scale, divisor


class Measures(NamedTuple):
    """Measurements of a whole recording."""

    scale: float
    """Factor that brings it to the wanted level."""
    divisor: float
    """Divides it afterwards, so that it does not clip."""
    frames: Tensor
    """(3, frames): log F0 against REFERENCE_HZ, a line through unvoiced frames; 2 where it was measured, 1 where speech
    is voiced all the same, else 0; energy."""
    speaker: Tensor
    """(dim,): speaker vector; empty where none is read."""

    @property
    def log_f0(self) -> Tensor:
        """Pitch of every frame."""
        return self.frames[0]

    @property
    def voiced(self) -> Tensor:
        """Whether each frame has a pitch."""
        return self.frames[1] > 0

    @property
    def is_measured(self) -> Tensor:
        """Whether the pitch of each frame was measured."""
        return self.frames[1] > 1

    @property
    def energy(self) -> Tensor:
        """Energy of every frame."""
        return self.frames[2]


class MeasuresFile:
    """Measures by number of the utterance: 12 bytes a frame, in a place that follows from the lengths of all.

    Processes may share it: whoever measures an utterance first writes it, and all would write the same.
    """

    def __init__(
        self, folder: Path, settings: Sequence[object], ids: Iterable[str], num_frames: np.ndarray, dim: int
    ) -> None:
        """Name the file after what is measured, and how: `num_frames` of each utterance, and a vector of `dim`."""
        digest = hashlib.sha256(repr((*settings, dim)).encode() + num_frames.tobytes())
        for id in ids:
            digest.update(id.encode() + b"\n")
        self.path = folder / f"measures-{digest.hexdigest()[:16]}.bin"
        self._starts = np.cumsum([0, *(_HEAD.size + 4 * (3 * num_frames + dim))])
        self._dim = dim

    def get(self, index: int) -> Measures | None:
        """Return the measures of an utterance, if they are there whole."""
        try:
            with self.path.open("rb") as file:
                file.seek(int(self._starts[index]))
                content = file.read(int(self._starts[index + 1] - self._starts[index]))
        except OSError:
            return None
        if len(content) < _HEAD.size:
            return None
        check, num_frames, scale, divisor = _HEAD.unpack_from(content)
        content = content[: _HEAD.size + 4 * (3 * num_frames + self._dim)]
        if not num_frames or zlib.crc32(content[4:]) != check:
            return None
        values = torch.from_numpy(np.frombuffer(content, np.float32, offset=_HEAD.size).copy())
        frames, speaker = values.split([3 * num_frames, self._dim])
        return Measures(scale, divisor, frames.view(3, num_frames), speaker)

    def put(self, index: int, measures: Measures) -> None:
        """Write the measures of an utterance.

        Raises:
            OutputError: the file cannot be written.
        """
        num_frames = measures.frames.shape[1]
        content = _HEAD.pack(0, num_frames, measures.scale, measures.divisor)[4:]
        content += measures.frames.numpy().tobytes() + measures.speaker.numpy().tobytes()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            with self.path.open("r+b") as file:
                file.seek(int(self._starts[index]))
                file.write(zlib.crc32(content).to_bytes(4, "little") + content)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}. Free some space.") from error


class Kept(Generic[T]):
    """Values used last, as long as they take no more than `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.num_bytes = limit, 0
        self._items: OrderedDict[int, tuple[T, int]] = OrderedDict()

    def get(self, key: int) -> T | None:
        """Return what is kept under a number."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: int, item: T, num_bytes: int) -> None:
        """Keep something; what was not used for longest is dropped for it."""
        self.num_bytes += num_bytes - self._items.pop(key, (None, 0))[1]
        self._items[key] = item, num_bytes
        while self.num_bytes > self.limit and self._items:
            self.num_bytes -= self._items.popitem(last=False)[1][1]
