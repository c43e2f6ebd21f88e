"""Sum up credits of pairs (1, 0.5, 0) the way benchmarks do: over voices first, then over items, then over groups.

    cat x anna 1, cat x ben 0, dog x anna 1   ->   cat 0.5, dog 1   ->   0.75

Beside the interval over the things said stands one over voices, where every item names its voice and there are
`MIN_VOICES` of them: how far the score would move with other voices, on the same things.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from vocable.evaluation.bootstrap import bootstrap, bootstrap_ratio, bootstrap_strata
from vocable.evaluation.results import Score, mean_score, score_between

MIN_VOICES = 4
"""With fewer voices, draws of them are so few that the ends of an interval say nothing."""
NUM_RESAMPLES = 2000


class Said(NamedTuple):
    """One thing that is said, by one voice or several: its credits, and by whom each."""

    credits: tuple[float, ...]
    voices: tuple[Hashable | None, ...]

    @property
    def value(self) -> float:
        """Mean over voices."""
        return sum(self.credits) / len(self.credits)


def mean_over_voices(
    items: Sequence[Mapping[str, Any]], column: str, keys: Sequence[str]
) -> dict[tuple[Hashable, ...], Said]:
    """Put together the credits of the items that say the same (`thing_said`): one value, however many voices say it."""
    found: dict[tuple[Hashable, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        found.setdefault(thing_said(item, keys), []).append(item)
    return {
        key: Said(tuple(float(item[column]) for item in members), tuple(item.get("voice") for item in members))
        for key, members in found.items()
    }


def thing_said(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[Hashable, ...]:
    """What the item says, whatever the voice: its values of `keys`, of which the last names it.

    An item without that name, or without keys, is a thing of its own, called by its id.
    """
    *groups, name = (item.get(key) for key in keys or ("id",))
    return (*groups, item["id"] if name is None else name)


def accuracy(things: Iterable[Said], meaning: str) -> Score:
    """Mean credit with its intervals over the things said and over voices; chance is 0.5."""
    things = list(things)
    score = mean_score([said.value for said in things], better="higher", meaning=f"{meaning}; chance 0.5")
    return with_voices(score, [things])


def accuracy_in_clusters(items: Sequence[Mapping[str, Any]], column: str, cluster: str, meaning: str) -> Score:
    """Mean credit over items; the interval draws whole clusters, such as all pairs cut from one story."""
    values = [float(item[column]) for item in items]
    voices = [item.get("voice") for item in items]
    clusters = [item["id"] if item.get(cluster) is None else item[cluster] for item in items]
    score = mean_score(values, better="higher", meaning=f"{meaning}; chance 0.5")
    low, high = bootstrap_ratio(values, [1.0] * len(values), clusters) or (None, None)
    things = [Said((value,), (voice,)) for value, voice in zip(values, voices)]
    return with_voices(replace(score, low=low, high=high), [things])


def accuracy_by(
    things: Mapping[tuple[Hashable, ...], Said], groups: Mapping[tuple[Hashable, ...], str | None], meaning: str
) -> dict[str, Score]:
    """Mean credit of every group, in the order in which groups appear."""
    members: dict[str, list[Said]] = {}
    for key, said in things.items():
        name = groups[key]
        if name is not None:
            members.setdefault(name, []).append(said)
    return {name: accuracy(found, f"{meaning}: {name}") for name, found in members.items()}


def macro_accuracy(things: Mapping[str, Sequence[Said]], meaning: str) -> Score:
    """Mean over groups of the mean credit of each; the interval draws items within groups, which stay as they are.

    With one item in a group its spread is unknown, and there is no interval.
    """
    values = [[said.value for said in found] for found in things.values()]
    means = [sum(found) / len(found) for found in values]
    value, interval = sum(means) / len(means), bootstrap_strata(values, NUM_RESAMPLES)
    meaning = f"{meaning}; chance 0.5"
    score = score_between(value, sum(map(len, values)), interval, better="higher", meaning=meaning)
    return with_voices(score, list(things.values()))


def grouped(things: Mapping[tuple[Hashable, ...], Said], place: int) -> dict[str, list[Said]]:
    """Collect things by one part of their key."""
    found: dict[str, list[Said]] = {}
    for key, said in things.items():
        found.setdefault(str(key[place]), []).append(said)
    return found


def with_voices(score: Score, groups: Sequence[Sequence[Said]]) -> Score:
    """The score with its 95 % interval over voices, in the fields for speakers, where there are `MIN_VOICES` or more.

    Each resample draws voices with replacement, with all that they say, and sums up again: credits over things, each
    with the share 1 / n for every one of its n items, then groups. With each thing in all voices, this resamples the
    mean over voices; with each thing in one voice alone, whole voices. A group that no drawn voice says anything of is
    left out of that resample. Percentiles of few voices are too narrow: with four or five, take the interval for a
    rough one.

    Source: cluster bootstrap; Field and Welsh, 2007, "Bootstrapping clustered data".
    """
    voices = list(dict.fromkeys(voice for things in groups for said in things for voice in said.voices))
    if None in voices or len(voices) < MIN_VOICES:
        return score
    credits, shares = _by_voice(groups, voices)

    def means(draws: np.ndarray) -> np.ndarray:
        above, below = draws @ credits, draws @ shares  # (draws, groups)
        said = below > 0  # of some group in every draw, since every voice says something
        return np.where(said, above / np.where(said, below, 1), 0).sum(axis=1) / said.sum(axis=1)

    interval = bootstrap(means, len(voices), NUM_RESAMPLES)
    assert interval is not None
    return replace(score, num_speakers=len(voices), speaker_low=interval.low, speaker_high=interval.high)


def _by_voice(groups: Sequence[Sequence[Said]], voices: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """What each voice adds to the credits of each group, and its share of the group's things, (voices, groups) each."""
    places = {voice: place for place, voice in enumerate(voices)}
    credits, shares = np.zeros((2, len(voices), len(groups)))
    for group, things in enumerate(groups):
        for said in things:
            for credit, voice in zip(said.credits, said.voices):
                credits[places[voice], group] += credit / len(said.credits)
                shares[places[voice], group] += 1 / len(said.credits)
    return credits, shares
