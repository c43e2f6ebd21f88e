"""Results that cost much to make, kept on disk line by line, so that a run that goes on does not make them again.

    {"key": "9f3a...", "value": ...}     one JSON a line; the last line with a key counts

A line that a killed run left half written is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vocable.errors import OutputError
from vocable.tokens.fingerprint import fingerprint
from vocable.types import SpeechTokens


class KeyedStore:
    """A mapping from keys to JSON values in a file that only grows."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; the file is made with the first `put`. Without a path, values are kept in memory.

        Raises:
            OutputError: the file cannot be read.
        """
        self.path = None if path is None else Path(path)
        self._values: dict[str, Any] = {}
        try:
            content = self.path.read_bytes() if self.path is not None and self.path.exists() else b""
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error}") from error
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.splitlines():
            try:
                record = json.loads(line)
                self._values[record["key"]] = record["value"]
            except (ValueError, KeyError, TypeError):
                continue

    def __contains__(self, key: str) -> bool:
        """Whether there is a value under this key."""
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        """The value under this key; KeyError where there is none."""
        return self._values[key]

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._values)

    def put(self, key: str, value: Any) -> None:
        """Keep a value, on disk before this returns.

        Raises:
            OutputError: the file cannot be written.
        """
        self._values[key] = value
        if self.path is None:
            return
        line = json.dumps({"key": key, "value": value}, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn + line)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error}. Is the disk full?") from error
        self._torn = False


class Kept:
    """Values that are made from descriptions, and never twice."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        """Take a file as `KeyedStore` does, and whatever decides a value beside its description."""
        self.store, self.settings, self.num_made = KeyedStore(path), dict(settings), 0

    def get(
        self,
        descriptions: Sequence[Mapping[str, Any]],
        make: Callable[[list[int]], Iterable[Mapping[int, Any]]],
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> list[Any]:
        """Return the value of each description; each is on disk as soon as it is made.

        Args:
            descriptions: what each value is made from; equal ones have one value.
            make: is given the places of descriptions whose value is missing, and yields values by place.
            on_progress: called with the number of values that were there, and then with those just made.
        """
        keys = [fingerprint({**self.settings, **one}) for one in descriptions]
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self.store}
        missing = sorted(first.values())
        on_progress(len(keys) - len(missing))
        for made in make(missing):
            for place, value in made.items():
                self.store.put(keys[place], value)
            self.num_made += len(made)
            on_progress(len(made))
        return [self.store[key] for key in keys]


def open_kept(folder: Path | None, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Kept]:
    """Open what a run keeps in `<folder>/kept`: a file for each step, by name, and what decides its values."""
    paths = {name: None if folder is None else folder / "kept" / f"{name}.jsonl" for name in settings}
    return {name: Kept(paths[name], known) for name, known in settings.items()}


def in_blocks(
    places: Sequence[int], size: int, make: Callable[[Sequence[int]], Sequence[Any]]
) -> Iterator[dict[int, Any]]:
    """Make values `size` at a time; yield those of each block by place."""
    for start in range(0, len(places), size):
        block = places[start : start + size]
        yield dict(zip(block, make(block), strict=True))


def tokens_as_json(tokens: SpeechTokens) -> dict[str, Any]:
    """Turn codes and durations into what a store can hold."""
    durations = tokens.durations
    return {"codes": tokens.codes.tolist(), "durations": durations.tolist() if durations is not None else None}


def tokens_from_json(value: Mapping[str, Any]) -> SpeechTokens:
    """Undo `tokens_as_json`."""
    durations = value["durations"]
    return SpeechTokens(
        codes=torch.tensor(value["codes"], dtype=torch.long).reshape(len(value["codes"]), -1),
        durations=torch.tensor(durations, dtype=torch.long) if durations is not None else None,
    )
