"""From a name to a folder: a local folder, then the asset cache, then the Hugging Face hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from vocable.assets.cache import cache_folder, cached_path
from vocable.assets.catalogue import ASSETS, Asset, find_asset
from vocable.errors import AssetError, UnknownNameError
from vocable.registry import nearest_name, unknown_name_message

logger = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx")
OTHER_FRAMEWORKS = [
    "*.msgpack",
    "*.h5",
    "*.ot",
    "*.tflite",
    "*.onnx",
    "onnx/*",
    "*.gguf",
    "*.mlmodel",
    "flax_model*",
    "tf_model*",
]


def is_available(name: str) -> bool:
    """Whether `name` is a local folder or a cached asset. Asks no network and imports nothing heavy."""
    if _local_folder(name) is not None:
        return True
    asset = find_asset(name)
    return asset is not None and cached_path(asset) is not None


def resolve(name: str) -> Path:
    """Return the folder of a model: a local folder, an asset in the cache, or a download from the Hugging Face hub.

    Args:
        name: a folder, an asset name (`whisper-tiny.en`) or a hub name (`openai/whisper-tiny.en`).

    Raises:
        UnknownNameError: `name` looks like a misspelt asset; the message names the nearest one.
        AssetError: it is nowhere to be had; the message says what was tried and what to do.
    """
    local = _local_folder(name)
    if local is not None:
        return local
    asset = find_asset(name)
    if asset is not None:
        cached = cached_path(asset)
        if cached is not None:
            _say_if_replaced(name, asset)
            return cached
    elif "/" not in name and nearest_name(name, ASSETS) is not None:
        raise UnknownNameError(unknown_name_message("asset", name, ASSETS))
    tried = [f"local folder {Path(name).absolute()}: not there"]
    if asset is not None:
        tried.append(f"asset cache {cache_folder() / asset.name}: not cached")
    return _from_hub(name, asset, tried)


def _local_folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    try:
        return path if path.is_dir() and any(path.iterdir()) else None
    except OSError:
        return None


def _say_if_replaced(name: str, asset: Asset) -> None:
    if name.casefold() in {alias.casefold() for alias in asset.stands_in_for}:
        logger.warning("%s is replaced by the asset %s: %s", name, asset.name, asset.what)


def _from_hub(name: str, asset: Asset | None, tried: list[str]) -> Path:
    repository = name if "/" in name or asset is None else next(iter(asset.hub_names), None)
    if repository is None:
        tried.append("Hugging Face hub: not published there in this form")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        tried.append("Hugging Face hub: not a name it can have")
    else:
        try:
            return _download_snapshot(repository)
        except Exception as error:  # the hub's client has many: offline, not found, gated, proxy, disk
            tried.append(f"Hugging Face hub, {repository}: {_first_line(error)}")
    raise AssetError(f"{name!r} was not found. Tried: {'; '.join(tried)}. {_remedy(name, asset)}")


def _download_snapshot(repository: str) -> Path:
    """Download a model repository, without the weights of other frameworks; offline, take what the hub's cache has."""
    from huggingface_hub import HfApi, constants, snapshot_download

    ignored = list(OTHER_FRAMEWORKS)
    if not constants.HF_HUB_OFFLINE and any(
        file.endswith(".safetensors") for file in HfApi().list_repo_files(repository)
    ):
        ignored += ["*.bin", "*.pt", "*.pth"]
    folder = Path(snapshot_download(repository, ignore_patterns=ignored))
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise AssetError("the cached copy has no weights")
    return folder


def _remedy(name: str, asset: Asset | None) -> str:
    offline = (
        " HF_HUB_OFFLINE is set: unset it to allow downloads from the hub." if os.environ.get("HF_HUB_OFFLINE") else ""
    )
    if asset is None:
        return (
            f"Download {name} by hand where there is a network, and give the folder's path instead of the name.{offline} "
            "Models that can be had without the hub: vocable assets list"
        )
    commands = "; ".join(archive.command for archive in asset.archives)
    return (
        f"Fetch it: vocable assets fetch {asset.name}. Or download by hand ({commands}) and run: "
        f"vocable assets fetch {asset.name} --archives FOLDER.{offline}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
