"""Say what a manifest holds: how many utterances and hours, which of them have text, who speaks, how they are divided.

all.jsonl: 96 utterances, 0.250 h, 1.2 to 20.1 s
  text      90 of 96
  speaker   96 of 96, 4 speakers: anna (30), ben (22), carl (22), dora (22)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vocable.audio.manifest import KNOWN_KEYS
from vocable.types import SPLITS, Utterance

MAX_NAMED = 6
"""Most values of a field that are named, the commonest first."""
MAX_VALUES = 100_000
"""A field with more values than this is one of texts or numbers; they are not counted one by one."""
MAX_LETTERS = 24
"""A value longer than this is no name, and is not counted either."""
PLACE = ("id", "audio", "start", "duration")
"""Fields that every line has, or that the first line of an overview speaks of."""


class Overview:
    """Counts of utterances that are added one by one."""

    def __init__(self, by: str | None = None) -> None:
        """Begin with nothing; `by` names a field whose values are counted apart, too."""
        self.by = by
        self.num_utterances = 0
        self.seconds = 0.0
        self.shortest: float | None = None
        self.longest: float | None = None
        self.num_without_duration = 0
        self.present: Counter[str] = Counter()
        """Lines that have each field."""
        self.values: dict[str, Counter[str] | None] = {}
        """Lines with each value of a field; None for a field whose values are no names."""
        self.groups: dict[str, Overview] = {}
        """What there is of each value of the field `by`; "-" stands for lines without it."""

    def add(self, utterance: Utterance) -> None:
        """Count one utterance."""
        if self.by is not None:
            value = field_of(utterance, self.by)
            self.groups.setdefault("-" if value is None else str(value), Overview()).add(utterance)
        self.num_utterances += 1
        duration = utterance.duration
        if duration is None:
            self.num_without_duration += 1
        else:
            self.seconds += duration
            self.shortest = duration if self.shortest is None else min(self.shortest, duration)
            self.longest = duration if self.longest is None else max(self.longest, duration)
        for name, value in given_fields(utterance).items():
            self.present[name] += 1
            counts = self.values.setdefault(name, Counter())
            if counts is None:
                continue
            shown = str(value)
            if isinstance(value, list | dict | tuple) or len(shown) > MAX_LETTERS or len(counts) > MAX_VALUES:
                self.values[name] = None
            else:
                counts[shown] += 1

    @property
    def size(self) -> str:
        """Utterances, hours, and the shortest and longest."""
        text = f"{count(self.num_utterances, 'utterance')}, {self.seconds / 3600:.3f} h"
        if self.shortest is not None:
            text += f", {self.shortest:.1f} to {self.longest:.1f} s"
        if self.num_without_duration:
            text += f" ({self.num_without_duration} of unknown length)"
        return text

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield each field that a line may have, how many have it, and its values; those of Vocable first."""
        usual = ("text", "speaker")
        known = [*usual, *(key for key in KNOWN_KEYS if key not in (*PLACE, *usual))]
        for name in [*known, *sorted(self.present.keys() - set(known))]:
            if name in usual or self.present[name]:
                share = f"{self.present[name]} of {self.num_utterances}"
                if name == "speaker" and self.num_speakers:
                    share += f", {count(self.num_speakers, 'speaker')}"
                yield name, share, self._named(name)

    @property
    def num_speakers(self) -> int:
        """Different speakers, as far as they are known and not too many to count."""
        return len(self.values.get("speaker") or ())

    def _named(self, name: str) -> str:
        counts = self.values.get(name)
        if not counts:
            return ""
        if name == "split":
            return ", ".join(f"{split} ({counts[split]})" for split in SPLITS if counts[split])
        if len(counts) > 1 and len(counts) == self.present[name]:
            return "" if name == "text" else f"{len(counts)} different ones"
        shown = [f"{value} ({number})" for value, number in counts.most_common(MAX_NAMED)]
        rest = len(counts) - len(shown)
        return ", ".join(shown) + (f", and {rest} more" if rest else "")


def field_names(utterances: Sequence[Utterance]) -> set[str]:
    """Return the fields that lines may have, and those that these have besides."""
    return {*KNOWN_KEYS, *(key for utterance in utterances for key in utterance.extra)}


def field_of(utterance: Utterance, name: str) -> Any:
    """Return the value of a field; None where the line lacks it. The path of the audio is absolute."""
    value = getattr(utterance, name) if name in KNOWN_KEYS else utterance.extra.get(name)
    return str(value) if name == "audio" else value


def given_fields(utterance: Utterance) -> Mapping[str, Any]:
    """Return the fields that a line has besides those that say where its audio is."""
    known = {key: getattr(utterance, key) for key in KNOWN_KEYS if key not in PLACE}
    return {key: value for key, value in {**known, **utterance.extra}.items() if value is not None}


def count(number: int, thing: str) -> str:
    """Write a number of things: 1 utterance, 2 utterances."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
