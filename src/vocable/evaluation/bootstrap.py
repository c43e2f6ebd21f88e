"""Confidence intervals by resampling, for means and for ratios of sums such as the word error rate.

    errors 1 0 2, words 5 4 6   ->   3 / 15, and how far that would move with other utterances

Utterances are drawn with replacement; or whole speakers are, since two utterances of one speaker are not independent
and intervals over utterances are then too narrow. Source: percentile bootstrap (Efron and Tibshirani, 1993, chapter
13); for error rates of speech recognisers Bisani and Ney, 2004, "Bootstrap estimates for confidence intervals in ASR
performance evaluation".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vocable.errors import ConfigError

BLOCK_RESAMPLES = 256
"""Resamples held in memory at once, times the number of utterances."""


MIDDLE = ((1 - 0.95) / 2, (1 + 0.95) / 2)
"""Quantiles between which 95 % lie."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From how often each thing was drawn, (draws, things), to one value, or one row of values, a draw."""


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


def resample(
    statistic: Statistic, num_things: int, num_resamples: int = 2000, seed: int = 0, block: int = BLOCK_RESAMPLES
) -> np.ndarray:
    """Draw things with replacement, as many as there are, and compute a statistic of each draw.

    Args:
        block: draws held in memory at once; the draws do not depend on it.

    Returns:
        The values of all draws, in order.

    Raises:
        ConfigError: `num_resamples` is below 1.
    """
    if num_resamples < 1:
        raise ConfigError(f"num_resamples is {num_resamples}; it must be at least 1.")
    generator = np.random.default_rng(seed)
    shares = np.full(num_things, 1 / num_things)
    sizes = [min(block, num_resamples - start) for start in range(0, num_resamples, block)]
    return np.concatenate([statistic(generator.multinomial(num_things, shares, size=size)) for size in sizes])


def bootstrap(
    statistic: Statistic,
    num_things: int,
    num_resamples: int = 2000,
    seed: int = 0,
    block: int = BLOCK_RESAMPLES,
) -> Interval | None:
    """95 % percentile interval of a statistic, over the things it is computed from.

    A draw for which the statistic is undefined (NaN or infinite) is left out. Arguments as in `resample`.

    Returns:
        None where there are fewer than two things to draw from, or no draw has a value: the spread is unknown, not 0.

    Raises:
        ConfigError: `num_resamples` is below 1.
    """
    return None if num_things < 2 else percentiles(resample(statistic, num_things, num_resamples, seed, block))


def percentiles(values: np.ndarray) -> Interval | None:
    """The interval that holds the middle 95 % of the finite values; None where none is finite."""
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, MIDDLE)
    return Interval(float(low), float(high))


def bootstrap_strata(strata: Sequence[Sequence[float]], num_resamples: int = 2000) -> Interval | None:
    """95 % interval of the mean over strata of the mean of each; values are drawn within strata, which all stay.

    Returns:
        None where a stratum holds a single value, whose spread is unknown.

    Source: stratified bootstrap (Efron and Tibshirani, 1993, chapter 8).
    """
    if any(len(values) < 2 for values in strata):
        return None
    generator, drawn = np.random.default_rng(0), np.zeros(num_resamples)
    for values in strata:
        picks = generator.integers(0, len(values), (num_resamples, len(values)))
        drawn += np.asarray(values)[picks].mean(axis=1) / len(strata)
    return percentiles(drawn)


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """95 % interval of sum(numerators) / sum(denominators), from the percentiles of its bootstrap distribution.

    Args:
        numerators: one per utterance, e.g. word errors (or a difference of errors, for a paired comparison).
        denominators: one per utterance, e.g. reference words; not negative.
        clusters: one label per utterance; whole clusters are then drawn, e.g. speakers.

    Returns:
        None where there are fewer than two things to draw from: their spread is unknown, not zero.

    Raises:
        ConfigError: the lengths differ, a number is not finite, or `num_resamples` is below 1.
    """
    sums = cluster_sums([numerators, denominators], clusters)  # (things drawn, 2)
    return bootstrap(lambda draws: ratio(*(draws @ sums).T), len(sums), num_resamples, seed)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by, as in a draw without a single reference word."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def cluster_sums(columns: Sequence[Sequence[float]], clusters: Sequence[Hashable] | None = None) -> np.ndarray:
    """Add numbers up by what is drawn, an utterance or a whole cluster, (things, columns).

    Args:
        columns: numerators, denominators, and so on in turns; one number per utterance each.
        clusters: one label per utterance; None keeps every utterance by itself.

    Raises:
        ConfigError: the lengths differ, a number is not finite, or a denominator is negative.
    """
    lengths = {len(column) for column in columns} | ({len(clusters)} if clusters is not None else set())
    if len(lengths) > 1:
        raise ConfigError(f"numerators, denominators and clusters must be equally many; they are {sorted(lengths)}.")
    table = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)
    if not np.isfinite(table).all() or (table[:, 1::2] < 0).any():
        raise ConfigError("A numerator or denominator is not finite, or a denominator is negative: drop that item.")
    if clusters is None:
        return table
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), len(columns)))
    np.add.at(sums, [names[name] for name in clusters], table)
    return sums
