"""Confidence intervals by resampling, for means and for ratios of sums such as the word error rate.

    errors 1 0 2, words 5 4 6   ->   3 / 15, and how far that would move with other utterances

Utterances are drawn with replacement; or whole speakers are, since two utterances of one speaker are not independent
and intervals over utterances are then too narrow. Source: percentile bootstrap (Efron and Tibshirani, 1993, chapter
13); for error rates of speech recognisers Bisani and Ney, 2004, "Bootstrap estimates for confidence intervals in ASR
performance evaluation".
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vocable.errors import ConfigError

BLOCK_RESAMPLES = 256  # resamples held in memory at once, times the number of utterances


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of sum(numerators) / sum(denominators), from the percentiles of its bootstrap distribution.

    Args:
        numerators: one per utterance, e.g. word errors (or a difference of errors, for a paired comparison).
        denominators: one per utterance, e.g. reference words; not negative.
        clusters: one label per utterance; whole clusters are then drawn, e.g. speakers.
        num_resamples: how often to draw.
        level: share of the distribution inside the interval.
        seed: of the draws.

    Returns:
        None where there are fewer than two things to draw from: their spread is unknown, not zero.

    Raises:
        ConfigError: the lengths differ, a number is not finite, or `level` or `num_resamples` is out of range.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ConfigError(f"level is {level} (between 0 and 1), num_resamples {num_resamples} (at least 1).")
    sums = _sums_to_draw_from(numerators, denominators, clusters)  # (units drawn, 2)
    if len(sums) < 2:
        return None
    generator = np.random.default_rng(seed)
    ratios = []
    for start in range(0, num_resamples, BLOCK_RESAMPLES):
        size = min(BLOCK_RESAMPLES, num_resamples - start)
        draws = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=size)  # (resamples, units)
        above, below = (draws @ sums).T
        ratios.append(above[below > 0] / below[below > 0])  # a draw without a single reference word has no rate
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Interval of the mean of `values`; arguments and result as in `bootstrap_ratio`."""
    return bootstrap_ratio(values, [1.0] * len(values), clusters, num_resamples, level, seed)


def _sums_to_draw_from(
    numerators: Sequence[float], denominators: Sequence[float], clusters: Sequence[Hashable] | None
) -> np.ndarray:
    """Numerator and denominator of each thing that is drawn: an utterance, or all utterances of a cluster."""
    lengths = {len(numerators), len(denominators)} | ({len(clusters)} if clusters is not None else set())
    if len(lengths) > 1:
        raise ConfigError(f"numerators, denominators and clusters must be equally many; they are {sorted(lengths)}.")
    pairs = np.stack([np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)], axis=1)
    if not np.isfinite(pairs).all() or (pairs[:, 1] < 0).any():
        raise ConfigError("A numerator or denominator is not finite, or a denominator is negative: drop that item.")
    if clusters is None:
        return pairs
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), 2))
    np.add.at(sums, [names[name] for name in clusters], pairs)
    return sums
