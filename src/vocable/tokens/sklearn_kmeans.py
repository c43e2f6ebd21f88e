"""Read the codebook out of a scikit-learn k-means file, as fairseq and textlesslib publish them, running no code of it.

Such files are pickles, most of them written by joblib, and unpickling runs whatever the file says. Here a pickle is
walked with stand-ins: only a short list of names is allowed, and none of them is ever imported. Arrays stay plain data,
all other objects become empty boxes. A file that names anything else is refused.
"""

import bz2
import gzip
import io
import lzma
import math
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import AssetError

MAX_BYTES = 4 << 30
"""Largest content that is unpacked from a compressed file."""

_PLAIN_DTYPE = re.compile(r"[<>|=]?([fiub][1248])")
_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
}


def read_centroids(path: Path) -> Float[Tensor, "codebook_size dim"]:
    """Return the codebook of a scikit-learn k-means file, or the matrix in a .npy file.

    Raises:
        AssetError: neither can be read from the file.
    """
    path = Path(path)
    if not path.is_file() or not path.read_bytes().startswith(b"\x93NUMPY"):
        return read_sklearn_centroids(path)
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise AssetError(f"{path}: is not a readable .npy file of numbers ({error}).") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise AssetError(f"{path}: holds {array.dtype} of shape {array.shape}; expected floats, (codebook_size, dim).")
    return torch.from_numpy(array.astype(np.float32))


def read_sklearn_centroids(path: Path) -> Float[Tensor, "codebook_size dim"]:
    """Return `cluster_centers_` of a pickled or joblib-dumped KMeans or MiniBatchKMeans, as float32.

    Raises:
        AssetError: the file is no such file, is damaged, or names anything that a k-means file has no need of.
    """
    path = Path(path)
    try:
        model = _Reader(io.BytesIO(_read_content(path)), str(path)).load()
    except AssetError:
        raise
    except FileNotFoundError as error:
        raise AssetError(f"{path}: no such file.") from error
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise AssetError(f"{path}: is not a readable k-means file ({type(error).__name__}: {error}).") from error
    if isinstance(model, dict):
        model = next((value for value in model.values() if isinstance(value, _Box)), None)
    centroids = model.state.get("cluster_centers_") if isinstance(model, _Box) else None
    array = _array_of(centroids)
    if array is None or array.ndim != 2 or array.dtype.kind != "f":
        raise AssetError(f"{path}: holds no k-means codebook: there is no matrix 'cluster_centers_' in it.")
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


class _Box:
    """Stands in for an object whose content is only looked at."""

    def __init__(self, *_arguments: Any, **_names: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        self.state = state if isinstance(state, dict) else {"state": state}


class _Dtype(_Box):
    """Stands in for numpy.dtype: a plain number type, whose byte order comes with its state."""

    def __init__(self, code: str = "", *_arguments: Any) -> None:
        super().__init__()
        match = _PLAIN_DTYPE.fullmatch(code) if isinstance(code, str) else None
        self.dtype = np.dtype(code) if match else None

    def __setstate__(self, state: Any) -> None:
        if self.dtype is not None and isinstance(state, tuple) and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(_Box):
    """Stands in for numpy.ndarray; its state is (version, shape, dtype, is_fortran, bytes)."""

    array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, content = state
        self.array = _make_array(content, dtype, shape, "F" if is_fortran else "C")


def _make_array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray | None:
    """Build an array of plain numbers; None for arrays of objects, which a codebook is not."""
    if not isinstance(dtype, _Dtype) or dtype.dtype is None or not isinstance(content, (bytes, bytearray)):
        return None
    return np.frombuffer(content, dtype.dtype).reshape(tuple(int(size) for size in shape), order=order)  # type: ignore[call-overload]


def _array_of(value: Any) -> np.ndarray | None:
    return value.array if isinstance(value, _Array) else None


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any = "C", *_rest: Any) -> _Array:
    """Stands in for numpy's _frombuffer, which pickle protocol 5 uses."""
    box = _Array()
    box.array = _make_array(bytes(content), dtype, shape, str(order))
    return box


def _encode_text(text: str, encoding: str = "latin1") -> bytes:
    """Stands in for _codecs.encode, by which pickle protocol 2 holds bytes."""
    if encoding != "latin1":
        raise AssetError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Walks a pickle with stand-ins, made anew for each file, so that no file can change those of the next."""

    def __init__(self, file: io.BytesIO, source: str) -> None:
        self._file, self._source = _ExactFile(file), source
        super().__init__(self._file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        where = f"{module}.{name}"
        if re.fullmatch(r"(sklearn\.externals\.)?joblib\.numpy_pickle\.NumpyArrayWrapper", where):
            return self._make_wrapper()
        if re.fullmatch(r"numpy\.(core|_core)\.multiarray\._reconstruct", where):
            return lambda *_arguments: _Array()
        mentioned = type("Mentioned", (), {})  # for a class that is only named
        known: dict[str, Any] = {
            "numpy.ndarray": mentioned,
            "numpy.dtype": _Dtype,
            "numpy.core.multiarray.scalar": _Box,
            "numpy._core.multiarray.scalar": _Box,
            "numpy.core.numeric._frombuffer": lambda *arguments: _from_buffer(*arguments),
            "numpy._core.numeric._frombuffer": lambda *arguments: _from_buffer(*arguments),
            "_codecs.encode": lambda *arguments: _encode_text(*arguments),
            "copyreg._reconstructor": lambda kind, *_arguments: kind() if kind is _Box else _Box(),
            "copy_reg._reconstructor": lambda kind, *_arguments: kind() if kind is _Box else _Box(),
            "builtins.object": mentioned,
            "__builtin__.object": mentioned,
        }
        if where in known:
            return known[where]
        if re.fullmatch(r"(sklearn\.cluster|numpy\.random)(\.\w+)+", where):
            return _Box
        raise AssetError(
            f"{self._source}: wants {where!r}, which a k-means file has no need of. It was refused, and nothing of it "
            "was run. Get the file from a source you trust, or export cluster_centers_ as .npy yourself."
        )

    def _make_wrapper(self) -> type[_Array]:
        """The stand-in for joblib's array wrapper: right after its state, the file holds the array's bytes."""
        file = self._file

        class Wrapper(_Array):
            def __setstate__(self, state: Any) -> None:
                dtype = state["dtype"]
                if not isinstance(dtype, _Dtype) or dtype.dtype is None:
                    raise AssetError("an array of objects, which a k-means file has no need of")
                if state.get("numpy_array_alignment_bytes") is not None:
                    file.read(file.read(1)[0])  # padding, and before it one byte that says how much
                shape = tuple(int(size) for size in state["shape"])
                content = file.read(math.prod(shape) * dtype.dtype.itemsize)
                self.array = _make_array(content, dtype, shape, str(state["order"]))

        return Wrapper


class _ExactFile:
    """A file without `peek`: the unpickler then reads exactly the bytes of each opcode; joblib's arrays follow them."""

    def __init__(self, file: io.BytesIO) -> None:
        self.read, self.readline = file.read, file.readline


def _read_content(path: Path) -> bytes:
    """Return the pickle, unpacked if it is compressed."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        for magic, decompressor in _DECOMPRESSORS.items():
            if start.startswith(magic):
                return _limited(path, decompressor(file).read(MAX_BYTES + 1))
        if start[:1] == b"\x78":  # zlib has no file object; no pickle starts with this letter
            return _limited(path, zlib.decompressobj().decompress(file.read(), MAX_BYTES + 1))
        if start.startswith(b"ZF"):
            raise AssetError(f"{path}: was written by joblib before 0.10. Load and dump it again with a newer one.")
        return _limited(path, file.read(MAX_BYTES + 1))


def _limited(path: Path, content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise AssetError(f"{path}: holds more than {MAX_BYTES >> 30} GiB; no codebook is that large.")
    return content
