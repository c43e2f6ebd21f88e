"""The folder of a tokenizing run: whose it is, who is writing to it now, and what a killed run left there."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vocable.errors import OutputError
from vocable.files import remove_leftovers

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
LOG_FILE = "tokenize-log.jsonl"


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
        remove_leftovers(folder)
        yield


def append_line(text: str, path: Path) -> None:
    """Add a line in one write, so that lines of several processes do not mix.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("ab", buffering=0) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Free some space.") from error


def is_foreign(item: Path) -> bool:
    """Say whether a file of a folder without a run's record forbids its use."""
    return item.name not in {"rejected.jsonl", LOCK_FILE, LOG_FILE}
