"""Read CTranslate2's `model.bin`: a flat list of named arrays.

Layout (little-endian), as CTranslate2's converters write binary version 6: version (uint32); name of the model
specification (string), its revision (uint32); number of variables (uint32), then for each its name (string), rank
(uint8), dimensions (uint32 each), type (uint8), number of bytes (uint32) and the values; number of aliases (uint32),
then pairs (alias, variable name). A string is its length with the closing zero (uint16), the bytes, and the zero.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vocable.errors import AssetError

BINARY_VERSION = 6
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


class CTranslate2Model(NamedTuple):
    """Contents of a `model.bin`."""

    specification: str
    revision: int
    variables: dict[str, np.ndarray]
    aliases: dict[str, str]


def read_ctranslate2(path: Path) -> CTranslate2Model:
    """Read a `model.bin`; arrays keep the type they are stored in.

    Raises:
        AssetError: another version, a type we do not know, a size that does not fit the shape, a cut-off file, or bytes
            left over.
    """
    reader = _Reader(path)
    version = reader.number("I")
    if version != BINARY_VERSION:
        raise AssetError(f"{path}: CTranslate2 binary version {version}; only version {BINARY_VERSION} can be read.")
    specification, revision = reader.string(), reader.number("I")
    variables = dict(reader.variable() for _ in range(reader.number("I")))
    aliases = {reader.string(): reader.string() for _ in range(reader.number("I"))}
    if reader.position != len(reader.data):
        raise AssetError(f"{path}: {len(reader.data) - reader.position} bytes are left after the last alias.")
    return CTranslate2Model(specification, revision, variables, aliases)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = memoryview(path.read_bytes())
        self.position = 0

    def take(self, num_bytes: int) -> memoryview:
        end = self.position + num_bytes
        if end > len(self.data):
            raise AssetError(
                f"{self.path}: ends at byte {len(self.data)}, but byte {end} is needed: the file is cut off."
            )
        self.position, start = end, self.position
        return self.data[start:end]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def string(self) -> str:
        return bytes(self.take(self.number("H"))).rstrip(b"\0").decode("utf-8")

    def variable(self) -> tuple[str, np.ndarray]:
        name = self.string()
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype, num_bytes = self.number("B"), self.number("I")
        if dtype not in DTYPES:
            raise AssetError(f"{self.path}: {name} has the type number {dtype}; known are {sorted(DTYPES)}.")
        values = np.frombuffer(self.take(num_bytes), dtype=DTYPES[dtype]) if num_bytes else np.empty(0, DTYPES[dtype])
        if values.size != int(np.prod(shape)):
            raise AssetError(f"{self.path}: {name} has {values.size} values, but its shape is {shape}.")
        return name, values.reshape(shape)
