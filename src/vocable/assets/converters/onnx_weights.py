"""Weights out of an ONNX file, with the standard library and NumPy alone.

An ONNX file is a message of Protocol Buffers: field 7 of the model is its graph, field 5 of the graph its constant
tensors. onnxruntime's dynamic quantisation keeps a matrix as three of them: `<name>_quantized` (int8), `<name>_scale`
and `<name>_zero_point`, in the layout (in, out), the transpose of torch's Linear.weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vocable.errors import AssetError

DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}
"""Types of ONNX's TensorProto that weights have, by number."""
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}


class Field(NamedTuple):
    """A field of a Protocol Buffers message."""

    number: int
    wire_type: int
    value: Any
    """An int where the wire type is VARINT, else its bytes."""


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read the constant tensors of an ONNX file by name, quantised matrices as float32 under their plain name.

    Raises:
        AssetError: it is no ONNX file, or has a tensor of a type that weights do not have.
    """
    try:
        graphs = [field.value for field in _fields(memoryview(path.read_bytes())) if field.number == 7]
        tensors = [field.value for graph in graphs for field in _fields(graph) if field.number == 5]
        stored = dict(_tensor(tensor) for tensor in tensors)
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise AssetError(f"{path}: its weights cannot be read as ONNX ({error!r}).") from error
    if not stored:
        raise AssetError(f"{path}: holds no weights.")
    weights = {}
    for name, array in stored.items():
        stem = name.removesuffix("_quantized")
        if stem != name:
            centred = array.astype(np.float32) - np.float32(stored[f"{stem}_zero_point"])
            weights[stem] = centred * np.float32(stored[f"{stem}_scale"])
        elif not name.endswith(("_scale", "_zero_point")):
            weights[name] = array
    return weights


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    """Name and values of a TensorProto, which stores them raw (field 9), as floats (4) or as integers (5, 7)."""
    shape: list[int] = []
    dtype, name, raw, floats, integers = np.float32, "", b"", b"", []
    for number, wire_type, value in _fields(message):
        if number == 1:
            shape += _varints(value) if wire_type == LENGTH_DELIMITED else [value]
        elif number == 2:
            dtype = DTYPES[value]
        elif number == 4:
            floats += bytes(value)
        elif number in (5, 7):
            integers += _varints(value) if wire_type == LENGTH_DELIMITED else [value]
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = bytes(value)
    if raw:
        array = np.frombuffer(raw, dtype)
    elif floats:
        array = np.frombuffer(floats, np.float32)
    else:  # two's complement of 64 bits; zeros may be left out
        array = np.array([n - (1 << 64) if n >> 63 else n for n in integers] or [0], dtype=np.int64).astype(dtype)
    return name, array.reshape(shape)


def _fields(data: memoryview) -> Iterator[Field]:
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == VARINT:
            value, position = _varint(data, position)
        else:
            if wire_type == LENGTH_DELIMITED:
                size, position = _varint(data, position)
            else:
                size = FIXED_BYTES[wire_type]
            if position + size > len(data):
                raise ValueError("the file ends within a field")
            value, position = data[position : position + size], position + size
        yield Field(key >> 3, wire_type, value)


def _varints(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
