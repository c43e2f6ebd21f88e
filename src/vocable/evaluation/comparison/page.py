"""One HTML page that shows a comparison: scores, differences with intervals and tests, and the items to listen to.

The items are those on which two models differ most. Their sound comes from the data the models were judged on: a pair
set (both halves of a pair), or a manifest (the recording). Figures and sound are inside the page, so it can be mailed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.audio.writing import encode_audio
from vocable.errors import AudioFormatError
from vocable.evaluation.comparison.compare import Comparison, Difference
from vocable.evaluation.comparison.measures import Measure
from vocable.evaluation.comparison.pairing import CONTENT_COLUMNS, GROUP_COLUMNS
from vocable.evaluation.figures import Estimate, Panel, forest_plot
from vocable.evaluation.pages import page_template
from vocable.evaluation.pairs import PairSet, Segment
from vocable.types import Utterance

SOUND_RATE = 16_000
"""Sample rate of the players, Hz."""


class Sound(NamedTuple):
    """One player on the page."""

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
    value = _value(measure, row)
    parts = [f"{measure.name} {value:.4g}" if value is not None else f"{measure.name} not scored"]
    if "nll_positive" in row:
        likelihoods = ", ".join(f"{half} {_per_token(row, half):.4g}" for half in ("positive", "negative"))
        parts.append(f"log-likelihood per token: {likelihoods}")
    for column, text in row.items():
        if isinstance(text, str) and column != "id" and any(other.get(column) != text for other in rows):
            parts.append(f"{column.replace('_', ' ')}: {text}")
    return "; ".join(parts)


def _value(measure: Measure, row: Mapping[str, Any]) -> float | None:
    """The score of one item; None where it has none."""
    sums = measure.of(row)
    return sums[0] / sums[1] if sums and sums[1] else None


def _gap(measure: Measure, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    first, second = _value(measure, ours), _value(measure, theirs)
    return 0.0 if first is None or second is None else first - second


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


def render_comparison_page(comparison: Comparison, find_sounds: SoundSource, num_examples: int) -> str:
    """Return the page as HTML; all text from outside is escaped.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    examples = {
        f"{first} and {second}": most_different(comparison, first, second, find_sounds, num_examples)
        for first, second in itertools.combinations(comparison.models, 2)
        if comparison.measures
    }
    return page_template("comparison.html.jinja").render(
        comparison=comparison,
        differences_figure=forest_plot(_difference_panels(comparison)) if comparison.measures else "",
        scores_figure=forest_plot(_score_panels(comparison)),
        group_figures=_group_figures(comparison),
        examples=examples,
        silent=sum(all(s.audio is None for s in example.sounds) for shown in examples.values() for example in shown),
    )


def _difference_panels(comparison: Comparison) -> list[Panel]:
    panels = []
    for measure in comparison.measures:
        of_measure = [d for d in comparison.differences if d.measure == measure.name]
        title = f"{measure.name}: difference" + (f" ({measure.better} is better)" if measure.better else "")
        panels.append(Panel(title, [_estimate(f"{d.first} - {d.second}", d) for d in of_measure], reference=0))
    return panels


def _score_panels(comparison: Comparison) -> list[Panel]:
    return [
        Panel(name, [Estimate(m, s.value, s.low, s.high) for m, s in models.items() if s.value is not None])
        for name, models in (comparison.scores or comparison.reported).items()
    ]


def _group_figures(comparison: Comparison) -> dict[str, str]:
    """One figure for each group column: a panel for each pair of models."""
    columns = dict.fromkeys(d.group[0] for d in comparison.groups if d.group is not None)
    return {column: forest_plot(_group_panels(comparison.groups, column)) for column in columns}


def _group_panels(groups: Sequence[Difference], column: str) -> list[Panel]:
    of_column = [(d.group[1], d) for d in groups if d.group is not None and d.group[0] == column]
    pairs = dict.fromkeys((d.first, d.second) for _, d in of_column)
    panels = []
    for models in pairs:
        rows = [_estimate(f"{value} (n={d.num_items})", d) for value, d in of_column if (d.first, d.second) == models]
        panels.append(Panel(f"{' - '.join(models)}, by {column}", rows, reference=0))
    return panels


def _estimate(label: str, difference: Difference) -> Estimate:
    return Estimate(label, difference.difference, difference.low, difference.high)
