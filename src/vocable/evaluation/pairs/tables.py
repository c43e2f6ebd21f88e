"""Sum up credits of pairs (1, 0.5, 0) the way benchmarks do: over voices first, then over items, then over groups."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vocable.evaluation.bootstrap import bootstrap_mean
from vocable.evaluation.results import Score, mean_score


def mean_over_voices(
    items: Sequence[Mapping[str, Any]], column: str, keys: Sequence[str]
) -> dict[tuple[Hashable, ...], float]:
    """Average credits of the items that say the same (`thing_said`): one value, however many voices say it."""
    found: dict[tuple[Hashable, ...], list[float]] = {}
    for item in items:
        found.setdefault(thing_said(item, keys), []).append(float(item[column]))
    return {key: sum(values) / len(values) for key, values in found.items()}


def thing_said(item: Mapping[str, Any], keys: Sequence[str]) -> tuple[Hashable, ...]:
    """What the item says, whatever the voice: its values of `keys`, of which the last names it.

    An item without that name, or without keys, is a thing of its own, called by its id.
    """
    *groups, name = (item.get(key) for key in keys or ("id",))
    return (*groups, item["id"] if name is None else name)


def accuracy(values: Sequence[float], meaning: str) -> Score:
    """Mean credit with its interval over the things said; chance is 0.5."""
    return mean_score(values, better="higher", meaning=f"{meaning}; chance 0.5")


def accuracy_in_clusters(items: Sequence[Mapping[str, Any]], column: str, cluster: str, meaning: str) -> Score:
    """Mean credit over items; the interval draws whole clusters, such as all pairs cut from one story."""
    values = [float(item[column]) for item in items]
    clusters = [item["id"] if item.get(cluster) is None else item[cluster] for item in items]
    interval = bootstrap_mean(values, clusters)
    return replace(
        accuracy(values, meaning),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
    )


def accuracy_by(
    values: Mapping[tuple[Hashable, ...], float], groups: Mapping[tuple[Hashable, ...], str | None], meaning: str
) -> dict[str, Score]:
    """Mean credit of every group, in the order in which groups appear."""
    members: dict[str, list[float]] = {}
    for key, value in values.items():
        name = groups[key]
        if name is not None:
            members.setdefault(name, []).append(value)
    return {name: accuracy(found, f"{meaning}: {name}") for name, found in members.items()}


def macro_accuracy(values: Mapping[str, Sequence[float]], meaning: str, num_resamples: int = 2000) -> Score:
    """Mean over groups of the mean credit of each; the interval draws items within groups, which stay as they are.

    With one item in a group its spread is unknown, and there is no interval.

    Source: stratified bootstrap (Efron and Tibshirani, 1993, chapter 8).
    """
    means = [sum(found) / len(found) for found in values.values()]
    rng = np.random.default_rng(0)
    drawn = np.zeros(num_resamples)
    for found in values.values():
        picks = rng.integers(0, len(found), (num_resamples, len(found)))
        drawn += np.asarray(found)[picks].mean(axis=1) / len(values)
    alone = any(len(found) < 2 for found in values.values())
    low, high = (None, None) if alone else np.quantile(drawn, [0.025, 0.975]).tolist()
    return Score(
        value=sum(means) / len(means),
        num_items=sum(len(found) for found in values.values()),
        low=low,
        high=high,
        better="higher",
        meaning=f"{meaning}; chance 0.5",
    )


def grouped(values: Mapping[tuple[Hashable, ...], float], place: int) -> dict[str, list[float]]:
    """Collect values by one part of their key."""
    found: dict[str, list[float]] = {}
    for key, value in values.items():
        found.setdefault(str(key[place]), []).append(value)
    return found
