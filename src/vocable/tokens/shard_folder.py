"""The folder of a tokenizing run: whose it is, who is writing to it now, and what a killed run left there."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from vocable.errors import OutputError

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
_LEFTOVER = re.compile(r"\.[0-9a-f]{16}\.tmp")


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


def is_foreign(item: Path) -> bool:
    return item.name not in {"rejected.jsonl", LOCK_FILE} and not _LEFTOVER.fullmatch(item.name)
