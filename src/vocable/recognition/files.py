"""Find the file of an utterance in a folder: by its path below the folder, or by its name alone if that is unique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vocable.errors import AlignmentError, ConfigError


def files_by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """List the files below a folder under their relative path without suffix, and under their name without suffix.

    Raises:
        ConfigError: there is no such folder, or no such file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder.")
    wanted = {suffix.lower() for suffix in suffixes}
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in wanted and path.is_file():
            for name in {path.relative_to(folder).with_suffix("").as_posix(), path.stem}:
                files.setdefault(name, []).append(path)
    if not files:
        raise ConfigError(f"{folder}: holds no file in {' or '.join(suffixes)}.")
    return files


def find_file(files: Mapping[str, list[Path]], name: str) -> Path:
    """Return the file called `name`.

    Raises:
        AlignmentError: there is none, or there are several.
    """
    found = files.get(name, [])
    if len(found) == 1:
        return found[0]
    several = f"are {len(found)} files ({found[0]}, {found[1]})" if found else "is no file"
    raise AlignmentError(f"There {several} called {name!r}, without its suffix; there must be one.")
