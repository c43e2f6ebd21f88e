"""Tensors of pieces of recordings, computed once and kept in a file that only grows.

    folder/NAME-0123456789abcdef.bin      tensors of one piece after another
    folder/NAME-0123456789abcdef.index    a row of numbers for each: whose it is, where it lies, how long it is

A file is named after what decides its content. Work that was cut off goes on after the last recording that is in it
whole. In memory are the rows only, 64 bytes a piece; tensors are read when they are asked for.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from vocable.errors import OutputError

ROW = np.dtype([(name, "<i8") for name in ("owner", "piece", "start", "size", "rest", "is_kept", "frames", "words")])
"""`owner` is the number of the recording, `rest` how many more rows it has."""


class Record(NamedTuple):
    """What is kept of a piece, or why nothing is."""

    tensors: Mapping[str, Tensor]
    frames: int = 0
    words: int = 0
    reason: str | None = None
    """Reason for which the piece, or the whole recording, is left out."""


class RecordFile:
    """Records of recordings, in the order of their numbers."""

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        """Name the file after `identity`, and read which records it has."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{name}-{digest}.bin"
        self._index = self.path.with_suffix(".index")
        self.rows = np.zeros(0, ROW)
        if self._index.is_file() and self.path.is_file():
            content = self._index.read_bytes()
            rows = np.frombuffer(content[: len(content) // ROW.itemsize * ROW.itemsize], ROW).copy()
            whole = np.flatnonzero((rows["rest"] == 0) & (rows["start"] + rows["size"] <= self.path.stat().st_size))
            self.rows = rows[: whole[-1] + 1] if len(whole) else rows[:0]

    @property
    def num_owners(self) -> int:
        """Number of recordings whose records are in it."""
        return int(self.rows["owner"][-1]) + 1 if len(self.rows) else 0

    def extend(self, owner: int, records: Sequence[Record]) -> None:
        """Write the records of the next recording, one or more.

        Raises:
            OutputError: the disk is full, or cannot be written to.
        """
        start = int(self.rows["start"][-1] + self.rows["size"][-1]) if len(self.rows) else 0
        blobs, rows = [], []
        for place, record in enumerate(records):
            is_kept = record.reason is None
            blob = _pack(record.tensors) if is_kept else str(record.reason).encode()
            row = (owner, place, start, len(blob), len(records) - 1 - place, is_kept, record.frames, record.words)
            blobs.append(blob)
            rows.append(row)
            start += len(blob)
        added = np.array(rows, ROW)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write_at(self.path, int(added["start"][0]), b"".join(blobs))
            _write_at(self._index, len(self.rows) * ROW.itemsize, added.tobytes())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}. Free some space.") from error
        self.rows = np.concatenate([self.rows, added])

    def read(self, row: int) -> dict[str, Tensor]:
        """Return the tensors of a row that is kept."""
        return safetensors.torch.load(self._bytes(row))

    def left_out(self) -> list[tuple[int, str]]:
        """Return numbers of recordings that are left out, in part or as a whole, and why."""
        rows = np.flatnonzero(self.rows["is_kept"] == 0)
        return [(int(self.rows["owner"][row]), self._bytes(int(row)).decode()) for row in rows]

    def _bytes(self, row: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(int(self.rows["start"][row]))
            return file.read(int(self.rows["size"][row]))


def text_tensor(text: str) -> Tensor:
    """Return a text as bytes in a tensor."""
    return torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)


def text_of(tensor: Tensor) -> str:
    """Return the text of such a tensor."""
    return tensor.numpy().tobytes().decode()


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _write_at(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(start)
        file.seek(start)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
