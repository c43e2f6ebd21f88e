"""Write a file whole or not at all: to a temporary name beside it, then renamed; and read a file of text.

A run that is killed, or a disk that fills up, leaves the old file as it was and no half of the new one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vocable.errors import ManifestError, OutputError


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing bytes; when the block ends well, it takes the place of `path`.

    Missing parent folders are made. Whatever the block raises, the temporary file is removed and `path` stays.

    Raises:
        OutputError: the folder cannot be made, or the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # short: the name itself may be as long as names can be
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file in it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_temporary(temporary) as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        raise OutputError(_explain(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        ManifestError: the file is not UTF-8.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}, line {line}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def open_temporary(path: Path) -> BinaryIO:
    """Open `path` for writing, and for reading back what an encoder must correct in its header."""
    return path.open("w+b")


def _explain(path: Path, error: OSError) -> str:
    before = "The file that was there is unchanged" if path.exists() else "Nothing was written"
    return (
        f"{path}: cannot be written: {error.strerror or error}. {before}. "
        "Free some space, or check the permissions of the folder, and run again."
    )
