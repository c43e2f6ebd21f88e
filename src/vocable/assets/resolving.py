"""From a name to a folder: a local folder, a model that comes with Vocable, the asset cache, the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from vocable.assets.cache import cache_folder, cached_path
from vocable.assets.catalogue import ASSETS, Asset, find_asset
from vocable.errors import AssetError, UnknownNameError
from vocable.registry import nearest_name, unknown_name_message

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "shipped"
"""Folders of the models that come with Vocable; their names are vocable/FOLDER."""
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx")
HUB_SECONDS = 10
"""How long the hub may take to answer the first question."""
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
    """Return the folder of a model: local, in this package, in the asset cache, or downloaded from the hub.

    Args:
        name: a folder, a model of this package (`vocable/units-500`), an asset name (`whisper-tiny.en`) or a hub name
            (`openai/whisper-tiny.en`).

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
    elif name.startswith("vocable/"):
        raise UnknownNameError(unknown_name_message("model", name, [f"vocable/{model}" for model in shipped_models()]))
    tried = [f"local folder {Path(name).absolute()}: not there"]
    if asset is not None:
        tried.append(f"asset cache {cache_folder() / asset.name}: not cached")
    return _from_hub(name, asset, tried)


def _local_folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    try:
        if path.is_dir() and any(path.iterdir()):
            return path
    except OSError:
        return None
    owner, _, model = name.partition("/")
    return SHIPPED / model if owner == "vocable" and model in shipped_models() else None


def shipped_models() -> list[str]:
    """Return the names of the models that come with Vocable, without `vocable/`."""
    return sorted(path.name for path in SHIPPED.iterdir() if (path / "config.json").is_file())


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


def _from_hub_cache(repository: str) -> Path | None:
    """The copy in the hub's own cache, if it has weights and all their shards."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        return None  # somebody has fetched the tokenizer alone, say
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not all((folder / shard).exists() for shard in shards):
            return None
    return folder


def _download_snapshot(repository: str) -> Path:
    """Download a model repository, without the weights of other frameworks."""
    from huggingface_hub import HfApi, constants, snapshot_download

    cached = _from_hub_cache(repository)
    if cached is not None:
        return cached
    if constants.HF_HUB_OFFLINE:
        raise AssetError("not in the hub's cache, and HF_HUB_OFFLINE forbids to download it")
    files = [file.rfilename for file in HfApi().model_info(repository, timeout=HUB_SECONDS).siblings or []]
    has_safetensors = any(file.endswith(".safetensors") for file in files)
    ignored = OTHER_FRAMEWORKS + (["*.bin", "*.pt", "*.pth"] if has_safetensors else [])
    return Path(snapshot_download(repository, ignore_patterns=ignored))


def _remedy(name: str, asset: Asset | None) -> str:
    offline = (
        " HF_HUB_OFFLINE is set: unset it to allow downloads from the hub." if os.environ.get("HF_HUB_OFFLINE") else ""
    )
    if asset is None:
        return (
            f"Download {name} by hand where there is a network, and give the folder's path instead of the "
            f"name.{offline} Models that can be had without the hub: vocable assets list"
        )
    commands = "; ".join(archive.command for archive in asset.archives)
    return (
        f"Fetch it: vocable assets fetch {asset.name}. Or download by hand ({commands}) and run: "
        f"vocable assets fetch {asset.name} --archives FOLDER.{offline}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, AssetError) else f"{type(error).__name__}: "
    return kind + lines[0].rstrip(".") if lines else type(error).__name__
