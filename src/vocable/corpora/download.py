"""Fetch an archive that may be large: go on where the last try stopped, check the checksum, unpack safely.

url  ->  <name>.part (grows, survives a kill)  ->  checksum  ->  <name>  ->  folder
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from vocable.errors import AssetError, OutputError
from vocable.files import put_file

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all (None: not known)."""

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60.0


def download_file(
    url: str,
    path: Path,
    checksum: str,
    *,
    on_progress: Progress | None = None,
    num_tries: int = 5,
    wait_seconds: float = 2.0,
) -> Path:
    """Download `url` to `path` unless it is there already; return `path`.

    What has arrived is kept in `<path>.part`; the next try, or the next run, asks the server for the rest.

    Args:
        url: what to fetch.
        path: where to put it.
        checksum: `md5:...` or `sha256:...`, in hexadecimal digits.
        on_progress: called after every chunk.
        num_tries: how often to connect when the connection breaks.
        wait_seconds: the pause before the second try; it doubles with every further one.

    Raises:
        AssetError: the server cannot be reached or refuses, the connection keeps breaking, the checksum differs.
        OutputError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    if path.is_file():
        _check(path, checksum, url)
        return path
    part = path.with_name(path.name + ".part")
    with _writing(part):
        path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, num_tries + 1):
        try:
            _fetch_rest(url, part, on_progress)
            break
        except (OSError, http.client.HTTPException) as error:  # the network's; the disk's are OutputError by now
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429)
            if refused or attempt == num_tries:
                raise AssetError(_explain_broken(url, part, error)) from error
            time.sleep(wait_seconds * 2 ** (attempt - 1))
    _check(part, checksum, url)
    with _writing(path):
        put_file(part, path)
    return path


def extract_archive(archive: Path, folder: Path) -> None:
    """Unpack a tar archive; running it again after a kill overwrites what is there.

    Raises:
        AssetError: the archive is damaged, or a member would land outside `folder` (it is not written).
        OutputError: the disk is full.
    """
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")  # refuses absolute paths, `..`, links to the outside, devices
    except tarfile.FilterError as error:
        raise AssetError(f"{archive}: refused to unpack: {error}. The archive is not the published one.") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise AssetError(f"{archive}: damaged: {error}. Remove it and download it again.") from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report damaged data so
            raise AssetError(f"{archive}: damaged: {error}. Remove it and download it again.") from error
        raise OutputError(f"{folder}: cannot be written: {error.strerror}. Free some space and run again.") from error


def file_checksum(path: Path, algorithm: str) -> str:
    """Return the digest of a file in hexadecimal digits, `algorithm` as hashlib names it."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _fetch_rest(url: str, part: Path, on_progress: Progress | None) -> None:
    """Append what `part` lacks; start over when the server cannot send a range."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send; the checksum decides
            return
        raise
    with response:
        if done and response.status != 206:
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with _writing(part):
            file = part.open("ab" if done else "wb")
        with file:
            done = _copy(response, file, part, done, total, on_progress)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _copy(
    response: http.client.HTTPResponse,
    file: BinaryIO,
    part: Path,
    done: int,
    total: int | None,
    on_progress: Progress | None,
) -> int:
    while chunk := response.read(CHUNK_BYTES):
        with _writing(part):
            file.write(chunk)
            file.flush()
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, total)
    return done


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into ours, so that it is not taken for one of the network."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}. What has arrived is kept; free some space and run "
            "again to go on."
        ) from error


def _check(path: Path, checksum: str, url: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    found = file_checksum(path, algorithm)
    if found != expected:
        path.unlink()
        raise AssetError(
            f"{path}: {algorithm} is {found}, but {url} was published with {expected}. The file was damaged on the way "
            "or is another version; it has been removed. Run again to fetch it anew."
        )


def _explain_broken(url: str, part: Path, error: Exception) -> str:
    arrived = part.stat().st_size if part.exists() else 0
    return (
        f"{url}: download failed: {error}. {arrived} bytes are kept in {part}; run again to go on, "
        f"or put the whole file at {part.with_suffix('')} yourself."
    )
