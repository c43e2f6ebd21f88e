"""Edits as people write them: a list in a file, or options of a command.

- replace: seven                        --replace seven=eight
  by: eight
- take: good morning                    --take "good morning" --from other.wav
  recording: other.wav
- change: miles                         --slower miles=1.5 --higher miles=2
  stretch: 1.5
  semitones: 2
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vocable.config import config_from_dict
from vocable.errors import ConfigError
from vocable.files import read_text
from vocable.registry import nearest_name
from vocable.systems.taste.editing import KINDS, Change, Delete, Delivery, Edit, Insert, Replace, Take


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOptions:
    """What is to be edited. A word that is there several times gets a number: the#2 is the second."""

    edits: Path | None = None
    """File with a list of edits (yaml or JSON); the options below add to it."""
    take: tuple[str, ...] = ()
    """Words to speak as the recording --from does: miles, or "seven miles" for words in a row."""
    other: str | None = None
    """Audio file to take deliveries from, or a folder that an earlier edit wrote."""
    other_text: str | None = None
    """Its text. Without it, as the recogniser hears it."""
    replace: tuple[str, ...] = ()
    """Other words: seven=eight, or "seven miles=eight long miles"."""
    insert_before: tuple[str, ...] = ()
    """More words, written after the word that follows them: morning=good makes "good morning"."""
    insert_after: tuple[str, ...] = ()
    """More words, written after the word that they follow: good=morning makes "good morning"."""
    delivery: Delivery = "neighbour"
    """Whose delivery new words get: that of the word that they replace or stand beside; that of the same word
    elsewhere, in the recording --from where one is named; or none."""
    delete: tuple[str, ...] = ()
    """Words to leave out."""
    slower: tuple[str, ...] = ()
    """Words to be so many times as long: miles=1.5; below 1, faster."""
    higher: tuple[str, ...] = ()
    """Words to be so many semitones higher: miles=3; below 0, lower."""
    louder: tuple[str, ...] = ()
    """Words to be so many decibels louder: miles=6; below 0, softer."""

    def read(self) -> list[Edit]:
        """Return all edits, those of the file first.

        Raises:
            ConfigError: one is not written as it should be, or there are none.
        """
        read = [*(read_edits(self.edits) if self.edits is not None else []), *self._own()]
        if not read:
            raise ConfigError("There is nothing to edit. Say what: --slower miles=1.5, --replace seven=eight, ...")
        return read

    def _own(self) -> Iterator[Edit]:
        outside: dict[str, Any] = {"recording": self.other, "text": self.other_text}
        if self.take and self.other is None:
            raise ConfigError("--take needs a recording to take the delivery from: --from OTHER.wav")
        if self.other is not None and not self.take and self.delivery != "same":
            raise ConfigError(
                f"--from {self.other} is there, but nothing is taken from it. Add --take WORDS, or --delivery same."
            )
        for words in self.take:
            yield Take(take=words, **outside)
        giving: dict[str, Any] = {"delivery": self.delivery, **(outside if self.delivery == "same" else {})}
        for old, new in _pairs("replace", self.replace, "seven=eight"):
            yield Replace(replace=old, by=new, **giving)
        for place, new in _pairs("insert_before", self.insert_before, "morning=good"):
            yield Insert(insert=new, before=place, **giving)
        for place, new in _pairs("insert_after", self.insert_after, "good=morning"):
            yield Insert(insert=new, after=place, **giving)
        for words in self.delete:
            yield Delete(delete=words)
        for name, kind in (("slower", "stretch"), ("higher", "semitones"), ("louder", "decibels")):
            for words, amount in _pairs(name, getattr(self, name), "miles=1.5"):
                yield Change(change=words, **{kind: _number(name, amount)})


def read_edits(path: Path) -> list[Edit]:
    """Read a file with a list of edits.

    Raises:
        ConfigError: it is not such a list; the message says which edit is wrong, and in what.
    """
    try:
        entries = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid yaml: {error}") from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: an edits file is a list of edits, each a table such as {{delete: very}}.")
    return [_read_edit(entry, f"{path}, edit {number}") for number, entry in enumerate(entries, start=1)]


def other_recordings(edits: Sequence[Edit]) -> dict[str, str | None]:
    """Return the other recordings that edits name, each with its text where an edit gives it.

    Raises:
        ConfigError: two edits give different texts for one recording.
    """
    found: dict[str, str | None] = {}
    for recording, text in (pair for edit in edits for pair in edit.outside.items()):
        before = found.get(recording)
        if None not in (before, text) and before != text:
            raise ConfigError(f"Two edits give {recording} different texts: {before!r} and {text!r}.")
        found[recording] = before if text is None else text
    return found


def _read_edit(entry: Any, source: str) -> Edit:
    kinds = [kind for key, kind in KINDS.items() if isinstance(entry, dict) and key in entry]
    if len(kinds) != 1:
        keys = [str(key) for key in entry] if isinstance(entry, dict) else []
        guess = next((near for key in keys if (near := nearest_name(key, KINDS))), None)
        hint = f" Did you mean {guess!r}?" if guess and not kinds else ""
        raise ConfigError(f"{source}: an edit is a table with one of {', '.join(KINDS)}; this is {entry!r}.{hint}")
    return config_from_dict(kinds[0], entry, source)


def _pairs(option: str, texts: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        first, equals, second = text.partition("=")
        if not equals or not first.strip() or not second.strip():
            shown = "--" + option.replace("_", "-")
            raise ConfigError(
                f"{shown} {text!r} is not written as {example}. Commas separate edits: for words with commas, write an "
                "edits file."
            )
        yield first, second


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--{option} ...={text}: {text!r} is no number.") from error
