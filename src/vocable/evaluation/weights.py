"""Which judge weights a score was made with: read them, and name them by hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.errors import AssetError

if TYPE_CHECKING:
    from torch import Tensor


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that `path` is, or holds.

    Raises:
        AssetError: there are none.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise AssetError(f"{path}: holds no .safetensors file. Fetch the asset again, or name another folder.")
    return files


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the one safetensors file that is, or lies in, `path`.

    Raises:
        AssetError: there is no such file, or there are several.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = weight_files(path)
    if len(files) != 1:
        raise AssetError(f"{path}: expected one .safetensors file, found {len(files)}. Fetch the asset again.")
    try:
        return load_file(files[0])
    except SafetensorError as error:
        raise AssetError(f"{files[0]}: not readable: {error}. Fetch the asset again.") from error


def weights_record(name: str, path: Path) -> dict[str, str]:
    """Name and sha256 of the weight files in `path`, for a result's `weights`."""
    digest = hashlib.sha256()
    for file in weight_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {"name": name, "sha256": digest.hexdigest()}
