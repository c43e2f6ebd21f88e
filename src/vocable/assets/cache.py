"""The folder where fetched assets stay: one folder an asset, with its card, complete or not there at all.

An asset is made in a temporary folder beside its place and renamed; the card `vocable_asset.json` is written last. What
a killed run leaves behind is never taken for an asset, and a fetch a day later removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vocable.assets.catalogue import ASSETS, Asset
from vocable.errors import AssetError
from vocable.files import put_folder

CARD = "vocable_asset.json"
UNFINISHED = ".unfinished-"
ABANDONED_SECONDS = 24 * 3600
"""An unfinished folder that nobody has touched for so long belongs to a run that is dead."""


def cache_folder() -> Path:
    """Return $VOCABLE_CACHE, or ~/.cache/vocable."""
    chosen = os.environ.get("VOCABLE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "vocable"


def read_card(asset: Asset) -> dict[str, Any] | None:
    """Return the card of the cached asset; None when it is not cached, not complete, or made by another recipe."""
    try:
        card = json.loads((cache_folder() / asset.name / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    current = {"name": asset.name, "recipe": asset.recipe, "packages": [archive.key for archive in asset.archives]}
    return card if {key: card.get(key) for key in current} == current else None


def cached_path(asset: Asset) -> Path | None:
    """Return the folder of the asset, or None when it is not cached."""
    return cache_folder() / asset.name if read_card(asset) is not None else None


def cached_asset(path: Path) -> Asset | None:
    """Return the cached asset whose folder `path` is; None for any other path."""
    place = Path(path).resolve()
    here = (asset for asset in ASSETS.values() if (cache_folder() / asset.name).resolve() == place)
    return next((asset for asset in here if cached_path(asset) is not None), None)


@contextmanager
def unfinished_folder(asset: Asset) -> Iterator[Path]:
    """Yield an empty folder in the cache that is removed at the end, whatever happens.

    Raises:
        AssetError: the cache folder cannot be written, or its disk has no room.
    """
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        folder = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{asset.name}-", dir=root))
    except OSError as error:
        raise AssetError(f"{root}: cannot be written ({error}). Set VOCABLE_CACHE to another folder.") from error
    try:
        _check_room(root, asset)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(made: Path, asset: Asset) -> Path:
    """Move a finished folder to its place in the cache; an older one there is replaced."""
    place = cache_folder() / asset.name
    for path in made.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # some writers leave files that other users of a shared cache could not read
    try:
        put_folder(made, place)
    except OSError:
        if cached_path(asset) is None:  # else another process was faster: its folder is as good
            raise
    return place


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{UNFINISHED}*"):
        if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _check_room(root: Path, asset: Asset) -> None:
    needed = 2 * asset.download_megabytes + asset.megabytes  # archives, what is unpacked, and the result
    free = shutil.disk_usage(root).free / 1e6
    if free < needed:
        raise AssetError(
            f"{root}: {free:.0f} MB are free, but fetching {asset.name} needs about {needed:.0f} MB. "
            "Make room, or set VOCABLE_CACHE to a folder on another disk."
        )
