"""Minimal pairs: two halves, of which a good model finds the first more likely.

    positive  [context] [he went home]      negative  [context] [he went purple]

A half is a row of segments, spoken or written. On disk a pair set is a folder: `manifest.jsonl` (utterances),
`pairs.jsonl` (one pair a line) and `card.json` (how it was made). Readers of published layouts (swuggy.py, sblimp.py,
storycloze.py, salmon.py) return the same `PairSet`, and testsets/ writes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.unusable import reasons
from vocable.files import read_json_lines, read_text, write_json, write_json_lines
from vocable.tokens.fingerprint import fingerprint
from vocable.types import Utterance

Modalities = Literal["S", "S->T", "T->S", "T"]
"""Modalities of context and ending: speech (S) or text (T)."""
MANIFEST, PAIRS, CARD = "manifest.jsonl", "pairs.jsonl", "card.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of one half: an utterance of the manifest, or written text."""

    speech: str | None = None
    """Id of an utterance."""
    text: str | None = None

    def __post_init__(self) -> None:
        if (self.speech is None) == (self.text is None):
            raise ManifestError(
                f"A segment holds speech={self.speech!r} and text={self.text!r}; it must hold exactly one of the two."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairItem:
    """One pair. A shared context is an equal first segment in both halves."""

    id: str
    positive: tuple[Segment, ...]
    """The half that is right."""
    negative: tuple[Segment, ...]
    voice: str | None = None
    group: Mapping[str, str] = field(default_factory=dict)
    """Properties that the pair tests, for scores by group: phenomenon, frequency band, task."""

    def __post_init__(self) -> None:
        for name, half in (("positive", self.positive), ("negative", self.negative)):
            if not half:
                raise ManifestError(f"Pair {self.id!r} has no {name} half. A pair needs both.")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of both halves."""
        return (*self.positive, *self.negative)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """The pairs of one benchmark, and the utterances they speak of."""

    benchmark: str
    items: Sequence[PairItem]
    utterances: Mapping[str, Utterance]
    card: Mapping[str, Any] = field(default_factory=dict)
    """Where the set comes from: layout, licence, synthesiser, seed."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Pairs that were left out on reading, by reason."""

    def __post_init__(self) -> None:
        if not self.items:
            why = reasons(self.excluded)
            raise ManifestError(f"The {self.benchmark} set holds no usable pair ({why}).")
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise ManifestError(f"Two pairs of the {self.benchmark} set have the id {item.id!r}; ids must differ.")
            seen.add(item.id)
            for segment in item.segments:
                if segment.speech is not None and segment.speech not in self.utterances:
                    raise ManifestError(
                        f"Pair {item.id!r} speaks of the utterance {segment.speech!r}, which is not in the manifest."
                    )

    def spoken(self) -> list[Utterance]:
        """Return the utterances that pairs speak of, each once, in the order of the pairs."""
        names = dict.fromkeys(segment.speech for item in self.items for segment in item.segments if segment.speech)
        return [self.utterances[name] for name in names]


def write_pair_set(pair_set: PairSet, folder: Path) -> None:
    """Write manifest, pairs and card into `folder`; `pairs.jsonl` last, so that a set with it is whole.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(list(pair_set.utterances.values()), folder / MANIFEST)
    card = {"benchmark": pair_set.benchmark, "num_pairs": len(pair_set.items), **pair_set.card}
    if pair_set.excluded:
        card["left_out"] = dict(pair_set.excluded)
    write_json(card, folder / CARD)
    write_json_lines(map(_to_row, pair_set.items), folder / PAIRS)


def read_pair_set(folder: Path) -> PairSet:
    """Read a folder that `write_pair_set` wrote.

    A pair without one of its halves, or whose utterance the manifest lacks, is left out and counted in `excluded`.

    Raises:
        ManifestError: a file is missing, a line is not JSON, or no pair is usable.
    """
    folder = Path(folder)
    missing = [name for name in (MANIFEST, PAIRS, CARD) if not (folder / name).is_file()]
    if missing:
        raise ManifestError(
            f"{folder} is no pair set: {', '.join(missing)} not found. Make one with 'vocable evaluate build', or "
            "name the folder of one."
        )
    card = json.loads(read_text(folder / CARD))
    utterances = {utterance.id: utterance for utterance in read_manifest(folder / MANIFEST)}
    items, excluded = [], Counter[str]()
    for number, row in read_json_lines(folder / PAIRS):
        item = _from_row(f"{folder / PAIRS}, line {number}", row)
        if item is None:
            excluded["one half is missing"] += 1
        elif any(segment.speech and segment.speech not in utterances for segment in item.segments):
            excluded["an utterance is not in the manifest"] += 1
        else:
            items.append(item)
    benchmark = card.pop("benchmark", "pairs")
    card.pop("num_pairs", None)
    return PairSet(benchmark=benchmark, items=items, utterances=utterances, card=card, excluded=excluded)


def pair_fingerprint(pair_set: PairSet) -> str:
    """Hash what is said in every pair: ids, voices, and the text or the name of each segment."""

    def said(half: Sequence[Segment]) -> list[list[str | None]]:
        spoken = pair_set.utterances
        return [[s.speech, s.text if s.speech is None else spoken[s.speech].text] for s in half]

    return fingerprint({item.id: [item.voice, said(item.positive), said(item.negative)] for item in pair_set.items})


def is_pair_set(folder: Path) -> bool:
    """Whether `folder` holds pairs in the format of this module."""
    return (Path(folder) / PAIRS).is_file()


def with_modalities(pair_set: PairSet, modalities: Modalities) -> PairSet:
    """Return the pairs with context (all but the last segment) and ending each as speech or as text.

    A pair that lacks a context, where the two differ, or a text, where one is needed, is left out and counted.

    Raises:
        ManifestError: `modalities` is unknown, or no pair is left.
    """
    if modalities not in get_args(Modalities):
        raise ManifestError(f"modalities is {modalities!r}; known: {', '.join(get_args(Modalities))}.")
    context, _, ending = modalities.partition("->")
    items, excluded = [], Counter(pair_set.excluded)
    for item in pair_set.items:
        halves = []
        for half in (item.positive, item.negative):
            kinds = [context] * (len(half) - 1) + [ending or context]
            halves.append(tuple(_as(segment, kind, pair_set) for segment, kind in zip(half, kinds)))
        lacking = any(segment is None for half in halves for segment in half)
        too_short = bool(ending) and min(len(half) for half in halves) < 2
        if lacking or too_short:
            reason = "no context apart from the ending" if too_short else "an utterance has no text"
            excluded[reason] += 1
            continue
        items.append(replace(item, positive=halves[0], negative=halves[1]))
    return replace(pair_set, items=items, excluded=excluded, card={**pair_set.card, "modalities": modalities})


def _as(segment: Segment, kind: str, pair_set: PairSet) -> Segment | None:
    """The segment as speech ("S") or text ("T"); None where that form is not there."""
    if (kind == "S") == (segment.speech is not None):
        return segment
    if kind == "S" or segment.speech is None:
        return None
    text = pair_set.utterances[segment.speech].text
    return None if text is None else Segment(text=text)


def _to_row(item: PairItem) -> dict[str, Any]:
    row = config_to_dict(item)
    for half in (row["positive"], row["negative"]):
        half[:] = [{kind: value for kind, value in segment.items() if value is not None} for segment in half]
    return row


def _from_row(where: str, row: Any) -> PairItem | None:
    """A pair; None where it lacks a half."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise ManifestError(f"{where}: a pair is an object with an id, and halves 'positive' and 'negative'.")
    if not row.get("positive") or not row.get("negative"):
        return None
    try:
        return config_from_dict(PairItem, {**row, "group": row.get("group") or {}}, source=where)
    except ConfigError as error:
        raise ManifestError(str(error)) from error
