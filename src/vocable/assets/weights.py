"""Which weights a score was made with: read them, and name them by hash.

    asked for  HuggingFaceTB/SmolLM2-135M   used  smollm2-135m, "...weights rounded to 4 bits..."   sha256  51b4...

A name of the Hugging Face hub may lead to an asset that stands in for it, so a record holds both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.assets import cached_asset
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
    """Name and sha256 of the weight files in `path`, for a result's `weights`.

    Where `path` is an asset of the cache, the record says which (`asset`) and what that is (`asset_is`).

    Args:
        name: as it was asked for.
        path: what `vocable.assets.resolve` found for it: a folder, or one file.

    Raises:
        AssetError: there are no safetensors files.
    """
    digest = hashlib.sha256()
    for file in weight_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    record = {"name": name, "sha256": digest.hexdigest()}
    asset = cached_asset(path)
    return record if asset is None else {**record, "asset": asset.name, "asset_is": asset.what}


def weights_key(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record what was made with the weights depends on: all but how the asset is called and described."""
    return {key: value for key, value in record.items() if key not in ("asset", "asset_is")}
