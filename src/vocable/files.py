"""Write a file or a folder whole or not at all, claim an output folder for one run, and read a file of text.

    temporary name -> write -> fsync -> rename -> fsync of the parent folder

A run that is killed, a disk that fills up or a power cut leaves the old file as it was and no half of the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import yaml

from vocable.errors import ConfigError, ManifestError, OutputError

AUDIO_SUFFIXES = {
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".aiff", ".aif", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64", ".sph"),
}
"""Suffixes of what libsndfile reads."""
MEDIA_SUFFIXES = {
    *(".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".mka", ".mkv", ".amr", ".awb", ".3gp", ".ape", ".ac3"),
    *(".wv", ".tta", ".mov"),
}
"""Suffixes of what is read with PyAV, where it is installed; see audio/media.py."""
MAX_NAME = 200
"""Longest name of a file that is made from an id, without suffix; file systems allow 255 bytes."""
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""Temporary names of `replace_file`."""


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
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except OSError as error:
        raise OutputError(_explain(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text whole or not at all; raises as `replace_file` does."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(values: Any, path: Path, indent: int | None = 2) -> None:
    """Write JSON whole or not at all, letters as they are; raises as `replace_file` does."""
    write_text(json.dumps(values, indent=indent, ensure_ascii=False) + "\n", path)


def write_json_lines(rows: Iterable[Any], path: Path) -> None:
    """Write each row as one line of JSON, the file whole or not at all; raises as `replace_file` does."""
    write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), path)


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a file of JSON lines, each after the number of its line; empty lines are passed over.

    Raises:
        ManifestError: the file cannot be read, or a line is not JSON.
    """
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                where = f"{path}, line {number}"
                raise ManifestError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed run left in a folder where nobody else writes."""
    for path in Path(folder).iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def put_file(new: Path, path: Path) -> None:
    """Put `new`, a finished file on the same disk, in the place of `path`, once its bytes are safe on the disk."""
    _sync_file(new)
    _rename(new, path)


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Make an empty temporary folder; when the block ends well, it takes the place of `folder`.

    Whatever the block raises, the temporary folder is removed and `folder` stays.

    Raises:
        OutputError: the folder cannot be made or written (disk full, no permission).
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        put_folder(temporary, folder)
    except OSError as error:
        raise OutputError(_explain(folder, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_folder(new: Path, folder: Path) -> None:
    """Put `new`, a finished folder on the same disk, in the place of `folder`, once its files are safe on the disk.

    A crash between the two renames leaves the old folder for `restore_folder`.
    """
    for path in new.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(new)
    old = _old_name(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    _rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Undo a `put_folder` that was cut off before the new folder had its name."""
    if not folder.exists() and _old_name(folder).exists():
        _old_name(folder).replace(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut; systems without folder handles do that by themselves."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def claim_folder(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    record: str,
    may_change: Sequence[str] = (),
    is_foreign: Callable[[Path], bool] | None = None,
) -> None:
    """Take an output folder for one run: write what the run is, or check that it is the same run.

    Args:
        folder: the output folder; made where it is missing.
        identity: what makes the run this run, as JSON values.
        record: name of the file in `folder` that keeps `identity`, ending in .json or .yaml.
        may_change: dotted names in `identity` that a run which goes on may have changed; the record keeps the newest.
        is_foreign: whether a file in a folder without a record forbids its use. None: any file does.

    Raises:
        OutputError: the folder holds another run (what differs is named), or files of none.
    """
    folder = Path(folder)
    path = folder / record
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        changed = differences(_read_record(path), identity, ignored=may_change)
        if changed:
            raise OutputError(
                f"{folder} holds another run ({changed}). Choose another folder, or give the settings of that run."
            )
    elif folder.is_dir():
        others = [item for item in folder.iterdir() if not _LEFTOVER.fullmatch(item.name)]
        foreign = sorted(item.name for item in others if is_foreign is None or is_foreign(item))
        if foreign:
            raise OutputError(
                f"{folder} has no {record}, so it was not made by such a run, and holds {', '.join(foreign[:3])}. "
                "Choose a new folder."
            )
    as_yaml = path.suffix == ".yaml"
    text = yaml.safe_dump(identity, sort_keys=False) if as_yaml else json.dumps(identity, indent=1) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(text, path)


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Refuse to write where something is already, unless it may be replaced.

    Raises:
        OutputError: there is a file, or a folder with something in it.
    """
    path = Path(path)
    others = [item for item in path.iterdir() if not _LEFTOVER.fullmatch(item.name)] if path.is_dir() else [path]
    if not overwrite and any(os.path.lexists(item) for item in others):
        raise OutputError(f"{path}: is there already. Choose another name, or replace it: --overwrite")


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], ignored: Sequence[str] = ()) -> str:
    """Say which entries of two records differ, e.g. "layer: 2 -> 3"; nested ones with dotted names.

    Args:
        expected: the older record.
        found: the newer one.
        ignored: dotted names that may differ.
    """
    old, new = flatten(expected), flatten(found)
    absent = "(absent)"
    return "; ".join(
        f"{key}: {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent) and key not in ignored
    )


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark.

    Raises:
        ManifestError: the file is not UTF-8, or cannot be read at all.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}, line {line}: not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def split_lines(text: str) -> list[str]:
    """Split a text where files have line ends: \\n, \\r\\n or \\r.

    `str.splitlines` also splits at characters that texts may hold, such as U+2028, U+2029 and U+0085.
    """
    return io.StringIO(text, newline=None).read().removesuffix("\n").split("\n") if text else []


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text that are not blank, without the space around them.

    Raises:
        ConfigError: the file cannot be read as text, or has none.
    """
    try:
        lines = [line.strip() for line in split_lines(read_text(path)) if line.strip()]
    except (OSError, ManifestError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    if not lines:
        raise ConfigError(f"{path}: holds no text.")
    return lines


def name_of(id: str, suffix: str) -> str:
    """Return a file name for an id: percent-encoded, and where that is long, cut and told apart by a hash."""
    name = quote(id, safe=" ")
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 17]}-{hashlib.sha256(id.encode()).hexdigest()[:16]}"
    return name + suffix


def open_temporary(path: Path) -> BinaryIO:
    """Open `path` for writing, and for reading back what an encoder must correct in its header."""
    return path.open("w+b")


def _rename(new: Path, path: Path) -> None:
    new.replace(path)
    sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_record(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is yaml
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OutputError(f"{path}: cannot be read ({error}). Choose another folder.") from error
    if not isinstance(values, dict):
        raise OutputError(f"{path}: is not the record of a run. Choose another folder.")
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested entries dotted names: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + str(key)] = value
    return flat


def _old_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _explain(path: Path, error: OSError) -> str:
    before = "What was there is unchanged" if os.path.lexists(path) else "Nothing was written"
    return (
        f"{path}: cannot be written: {error.strerror or error}. {before}. "
        "Free some space, or check the permissions of the folder, and run again."
    )
