"""The folder of a tokenizing run: whose it is, who is writing to it now, and what a killed run left there."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vocable.audio.files import replace_file
from vocable.errors import OutputError

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")


def claim_folder(folder: Path, run: dict[str, Any]) -> None:
    """Check that the folder is free or of the same run, and write run.json.

    Raises:
        OutputError: it belongs to another run (what differs is named), or holds other files.
    """
    path = folder / RUN_FILE
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: cannot be read ({error}). Choose another folder.") from error
        changed = [f"{key} {found.get(key)!r}, now {value!r}" for key, value in run.items() if found.get(key) != value]
        if changed:
            raise OutputError(
                f"{folder} belongs to another run: {'; '.join(changed)}. Choose another folder, or delete this one."
            )
    else:
        foreign = sorted(item.name for item in folder.iterdir() if _is_foreign(item)) if folder.is_dir() else []
        if foreign:
            raise OutputError(
                f"{folder} is not empty and was not made by 'vocable tokenize': it holds {', '.join(foreign[:3])}. "
                "Choose a new folder."
            )
        with replace_file(path) as file:
            file.write(json.dumps(run, indent=1).encode() + b"\n")


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only run that writes to the folder; what a killed run left half done is removed first.

    Raises:
        OutputError: another run is writing.
    """
    import filelock

    lock = filelock.FileLock(Path(folder) / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(f"{folder}: another 'vocable tokenize' is writing here. Wait for it, or stop it.") from None
    with lock:
        for leftover in Path(folder).iterdir():
            if _LEFTOVER.fullmatch(leftover.name):
                leftover.unlink(missing_ok=True)
        yield


def _is_foreign(item: Path) -> bool:
    return item.name not in {"rejected.jsonl", LOCK_FILE} and not _LEFTOVER.fullmatch(item.name)
