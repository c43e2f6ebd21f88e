"""Intervals of statistics that are functions of counts, such as entropies: draw items again, count again.

    (item, cell, count) ...  ->  table of counts  ->  statistic;  items drawn with replacement  ->  tables  ->  interval

An entropy of few counts is too low, and a mutual information too high; a bootstrap sample holds fewer different items,
so its statistic is off by about as much again. The interval is therefore the spread of the resampled statistics, moved
so that its centre of mass lies on the value found; the mean difference is returned as `bias`, and nothing is corrected.
Source: bootstrap estimate of bias, Efron and Tibshirani, 1993, chapter 10.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import MIDDLE, Interval, resample
from vocable.evaluation.results import Score, score_between

Statistic = Callable[[np.ndarray], Mapping[str, float]]
"""From the table of counts, flat, to named numbers."""


class Spread(NamedTuple):
    """Where a statistic may lie with other items."""

    low: float
    high: float
    bias: float
    """Mean of the resampled statistic minus the statistic."""


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Counts of some cells, item by item; cells that an item does not fill are left out."""

    owners: np.ndarray
    """Which item (0, 1, ...) each entry is of."""
    cells: np.ndarray
    counts: np.ndarray
    num_cells: int
    num_items: int

    def total(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The table of all items, flat (num_cells,); `weights` says how often each item is counted."""
        counts = self.counts if weights is None else self.counts * weights[self.owners]
        return np.bincount(self.cells, weights=counts, minlength=self.num_cells)

    def grouped(self, names: Sequence[Hashable]) -> Counts:
        """The same counts, owned by groups of items, e.g. speakers; `names` has one entry per item."""
        groups = {name: index for index, name in enumerate(dict.fromkeys(names))}
        owner_of = np.array([groups[name] for name in names], dtype=np.int64)
        return Counts(owner_of[self.owners], self.cells, self.counts, self.num_cells, len(groups))


def gather_counts(tables: Sequence[np.ndarray], num_cells: int) -> Counts:
    """Count cells: one array of cell numbers per item, a cell as often as it occurs there.

    Raises:
        ConfigError: a cell number is outside 0 .. num_cells - 1.
    """
    owners, cells, counts = [], [], []
    for item, table in enumerate(tables):
        values, times = np.unique(np.asarray(table, dtype=np.int64), return_counts=True)
        if values.size and not 0 <= values[0] <= values[-1] < num_cells:
            raise ConfigError(f"Item {item} has cells {values[0]} to {values[-1]}, outside a table of {num_cells}.")
        owners.append(np.full(len(values), item))
        cells.append(values)
        counts.append(times)
    joined = [np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64) for parts in (owners, cells, counts)]
    return Counts(joined[0], joined[1], joined[2].astype(float), num_cells, len(tables))


def bootstrap_counts(
    counts: Counts, statistic: Statistic, num_resamples: int = 500, seed: int = 0
) -> dict[str, Spread]:
    """95 % interval of each number of a statistic; empty where there are fewer than two items to draw from.

    Raises:
        ConfigError: `num_resamples` is below 1.
    """
    if counts.num_items < 2:
        return {}
    found = statistic(counts.total())

    def numbers(draws: np.ndarray) -> np.ndarray:
        tables = (counts.total(times) for times in draws.astype(float))
        rows = [list(statistic(table).values()) for table in tables if table.any()]  # all drawn items may be empty
        return np.array(rows).reshape(-1, len(found))

    drawn = resample(numbers, counts.num_items, num_resamples, seed)
    biases = drawn.mean(0) - np.array(list(found.values()))
    lows, highs = np.quantile(drawn - biases, MIDDLE, axis=0)
    return {name: Spread(float(lows[i]), float(highs[i]), float(biases[i])) for i, name in enumerate(found)}


class Described(NamedTuple):
    """Meaning of a number for its reader."""

    better: Literal["higher", "lower"] | None
    meaning: str


def count_scores(
    counts: Counts,
    statistic: Statistic,
    describe: Mapping[str, Described],
    speakers: Sequence[Hashable | None] | None = None,
    num_resamples: int = 500,
    seed: int = 0,
) -> tuple[dict[str, Score], dict[str, float]]:
    """Score the numbers of a statistic that `describe` names; return the scores, and the bias of each.

    Intervals are over items, and over speakers where every item names one and there are at least two.
    """
    found = statistic(counts.total())
    over_items = bootstrap_counts(counts, statistic, num_resamples, seed=seed)
    over_speakers: dict[str, Spread] = {}
    num_speakers = None
    if speakers is not None and all(speaker is not None for speaker in speakers):
        num_speakers = len(set(speakers))
        over_speakers = bootstrap_counts(counts.grouped(speakers), statistic, num_resamples, seed=seed)
    scores = {}
    for name, about in describe.items():
        value = found[name] if np.isfinite(found[name]) else None
        intervals = _finite(over_items.get(name)), _finite(over_speakers.get(name))
        scores[name] = score_between(value, counts.num_items, *intervals, num_speakers, **about._asdict())
    return scores, {name: over_items[name].bias for name in describe if name in over_items}


def _finite(spread: Spread | None) -> Interval | None:
    """None for an interval that could not be had, e.g. because a resample made the statistic undefined."""
    return Interval(spread.low, spread.high) if spread is not None and np.isfinite(spread).all() else None
