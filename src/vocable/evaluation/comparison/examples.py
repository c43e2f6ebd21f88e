"""The items on which two models differ most, with what can be heard of them.

Sound comes from the data the models were judged on: a pair set (both halves of a pair), or a manifest (the recording).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vocable.audio.io import encode_audio, read_utterance
from vocable.audio.manifest import read_manifest
from vocable.errors import AudioFormatError
from vocable.evaluation.comparison.compare import Comparison
from vocable.evaluation.comparison.measures import Measure
from vocable.evaluation.comparison.pairing import CONTENT_COLUMNS, GROUP_COLUMNS
from vocable.evaluation.pairs import PairSet, Segment
from vocable.types import Utterance

SOUND_RATE = 16_000
"""Of the players, in Hz."""


class Sound(NamedTuple):
    """What a player shows."""

    title: str
    text: str
    audio: bytes | None
    """Ogg Opus; None where there is no sound, and `problem` says why."""
    problem: str = ""


class Example(NamedTuple):
    """One item on which two models differ."""

    id: str
    description: str
    """Voice and groups."""
    verdicts: Mapping[str, str]
    """Model -> its score on the item, and what it heard or wrote where the models differ in that."""
    sounds: Sequence[Sound]


SoundSource = Callable[[str], list[Sound]]
"""From the id of an item to what can be heard of it."""


def no_sounds(_: str) -> list[Sound]:
    """Without data to listen to."""
    return []


def sounds_of_pairs(pair_set: PairSet) -> SoundSource:
    """Both halves of each pair of a set; the segments of a half are joined, written ones are shown."""
    items = {item.id: item for item in pair_set.items}

    def find(name: str) -> list[Sound]:
        if name not in items:
            return [Sound("pair", "", None, "not in this pair set")]
        halves = (("positive half", items[name].positive), ("negative half", items[name].negative))
        return [_half(title, segments, pair_set) for title, segments in halves]

    return find


def sounds_of_manifest(manifest: Path) -> SoundSource:
    """The recording of each utterance of a manifest.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    utterances = {utterance.id: utterance for utterance in read_manifest(manifest)}

    def find(name: str) -> list[Sound]:
        if name not in utterances:
            return [Sound("recording", "", None, f"not in {manifest}")]
        return [_sound("recording", utterances[name].text or "", [utterances[name]])]

    return find


def most_different(
    comparison: Comparison, first: str, second: str, find_sounds: SoundSource = no_sounds, num_examples: int = 12
) -> list[Example]:
    """Items of the first measure on which the two models differ most: by turns one where each is ahead.

    Items with equal differences, as most right-or-wrong ones are, go by how far apart the models' margins are: the mean
    log-likelihood of the positive half minus that of the negative one.
    """
    measure = comparison.measures[0]
    rows = list(zip(comparison.items[first], comparison.items[second]))
    ranked: list[tuple[float, float, int]] = []
    for place, (ours, theirs) in enumerate(rows):
        gap = _gap(measure, ours, theirs)
        if gap:
            ranked.append((gap, _margin(ours) - _margin(theirs), place))
    ranked.sort(key=lambda found: (-abs(found[0]), -abs(found[1]), found[2]))
    sides = [[place for gap, _, place in ranked if gap * sign > 0] for sign in (1, -1)]
    alternating = [place for pair in itertools.zip_longest(*sides) for place in pair if place is not None]
    return [_example(measure, {first: rows[p][0], second: rows[p][1]}, find_sounds) for p in alternating[:num_examples]]


def _example(measure: Measure, rows: Mapping[str, Mapping[str, Any]], find_sounds: SoundSource) -> Example:
    item = next(iter(rows.values()))
    named = [c for c in (*GROUP_COLUMNS, *CONTENT_COLUMNS) if item.get(c) is not None]
    return Example(
        id=str(item["id"]),
        description=", ".join(f"{column} {item[column]}" for column in named),
        verdicts={name: _verdict(measure, row, list(rows.values())) for name, row in rows.items()},
        sounds=find_sounds(str(item["id"])),
    )


def _verdict(measure: Measure, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    sums = measure.of(row)
    value = sums[0] / sums[1] if sums and sums[1] else None
    parts = [f"{measure.name} {value:.4g}" if value is not None else f"{measure.name} not scored"]
    if "nll_positive" in row:
        likelihoods = ", ".join(f"{half} {_per_token(row, half):.4g}" for half in ("positive", "negative"))
        parts.append(f"log-likelihood per token: {likelihoods}")
    for column, text in row.items():
        if isinstance(text, str) and column != "id" and any(other.get(column) != text for other in rows):
            parts.append(f"{column.replace('_', ' ')}: {text}")
    return "; ".join(parts)


def _gap(measure: Measure, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    values = [measure.of(row) for row in (ours, theirs)]
    if any(value is None or value[1] == 0 for value in values):
        return 0.0
    first, second = (value[0] / value[1] for value in values if value)
    return first - second


def _margin(row: Mapping[str, Any]) -> float:
    if row.get("nll_positive") is None or row.get("nll_negative") is None:
        return 0.0
    return _per_token(row, "positive") - _per_token(row, "negative")


def _per_token(row: Mapping[str, Any], half: str) -> float:
    return -row[f"nll_{half}"] / max(row.get(f"tokens_{half}") or 1, 1)


def _half(title: str, segments: Sequence[Segment], pair_set: PairSet) -> Sound:
    spoken = [pair_set.utterances[s.speech] for s in segments if s.speech is not None]
    texts = [s.text if s.text is not None else pair_set.utterances[s.speech or ""].text or "" for s in segments]
    return _sound(title, " | ".join(text for text in texts if text), spoken)


def _sound(title: str, text: str, utterances: Sequence[Utterance]) -> Sound:
    if not utterances:
        return Sound(title, text, None, "written, not spoken")
    try:
        waveform = torch.cat([read_utterance(utterance, SOUND_RATE) for utterance in utterances])
        return Sound(title, text, encode_audio(waveform, SOUND_RATE, format="opus"))
    except AudioFormatError as error:
        return Sound(title, text, None, f"no sound: {error}")
