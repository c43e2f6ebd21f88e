"""What the teacher hears in the recordings, kept in a file: of each crop once, however often the crop is drawn.

    crops at fixed places (data.py) -> in the file? -> target
                                       else teacher -> file -> target

Exact up to rounding: a target is a function of its crop alone, and crops at fixed places are the same each time.
Features of whole recordings, cut to crops at random places, would be an approximation: the teacher would have heard
beyond the crop.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import OutputError
from vocable.systems.lm_spt.distillation import Teacher, TeacherTarget

CHECK_BYTES = 4


class TargetFile:
    """Features of crops by number, each in a place that follows from its number; a file with holes, read row by row.

    A row that a kill left half written, or that another process writes at this moment, counts as missing.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], frames: int, dim: int, dtype: str) -> None:
        """Name the file after `identity`, which decides the targets; `dtype` is float32 or float16."""
        self.shape, self.dtype = (frames, dim), np.dtype(dtype)
        text = json.dumps([identity, self.shape, dtype], sort_keys=True)
        self.path = Path(folder) / f"targets-{hashlib.sha256(text.encode()).hexdigest()[:16]}.bin"
        self._num_bytes = CHECK_BYTES + frames * dim * self.dtype.itemsize

    def get(self, number: int) -> Float[Tensor, "frames dim"] | None:
        """Return the features of a crop in float32, if they are there whole."""
        try:
            with self.path.open("rb") as file:
                file.seek(number * self._num_bytes)
                content = file.read(self._num_bytes)
        except OSError:
            return None
        check, values = content[:CHECK_BYTES], content[CHECK_BYTES:]
        if len(content) < self._num_bytes or zlib.crc32(values).to_bytes(CHECK_BYTES, "little") != check:
            return None
        return torch.from_numpy(np.frombuffer(values, self.dtype).reshape(self.shape).astype(np.float32))

    def put(self, number: int, features: Float[Tensor, "frames dim"]) -> None:
        """Write the features of a crop.

        Raises:
            OutputError: the file cannot be written.
        """
        values = features.cpu().numpy().astype(self.dtype).tobytes()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            with self.path.open("r+b") as file:
                file.seek(number * self._num_bytes)
                file.write(zlib.crc32(values).to_bytes(CHECK_BYTES, "little") + values)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}. Free some space.") from error


class TargetCache:
    """A teacher that hears each crop once."""

    def __init__(
        self, teacher: Teacher, folder: Path, identity: Mapping[str, Any], dtype: str, samples: int, sample_rate: int
    ) -> None:
        """Keep targets of crops of `samples` at `sample_rate` in `folder`; `identity` describes the crops."""
        self.teacher, self.sample_rate = teacher, sample_rate
        device = next(teacher.parameters()).device
        _, frames, dim = teacher.target(torch.zeros(1, samples, device=device), sample_rate).features.shape
        known = {"crops": identity, "teacher": teacher.description(), "samples": samples, "sample_rate": sample_rate}
        self.file = TargetFile(folder, known, frames, dim, dtype)

    def target(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], places: Int[Tensor, " batch"]
    ) -> TeacherTarget:
        """Return the targets of crops at numbered places; only those that are not kept yet are heard."""
        numbers: list[int] = places.tolist()
        rows = {number: self.file.get(number) for number in numbers}
        missing = [number for number, row in rows.items() if row is None]
        if missing:
            indices = [numbers.index(number) for number in missing]
            heard = self.teacher.target(waveforms[indices], self.sample_rate, lengths[indices])
            for number, features in zip(missing, heard.features, strict=True):
                self.file.put(number, features)
                rows[number] = features.cpu().to(getattr(torch, self.file.dtype.name)).float()  # as it is read later
        found = torch.stack([row for row in map(rows.get, numbers) if row is not None]).to(waveforms.device)
        return TeacherTarget(found, self.teacher.own_lengths(lengths, self.sample_rate))
