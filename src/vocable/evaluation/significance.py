"""Is one model better than another on the same items? Tests and intervals of a paired difference.

    model A  1 0 1 1 0 ...      difference A - B, its interval (bootstrap), and how often chance alone
    model B  1 0 0 1 1 ...      would give one as large (permutation of A and B within items; McNemar)

Items that belong together (one sentence in four voices, say) are no independent evidence: give them one cluster, and
whole clusters are swapped and drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import Interval, bootstrap, cluster_sums

EXACT_UNITS = 16
"""Up to so many items or clusters that differ, all 2 ** n arrangements are gone through."""
BLOCK_NUMBERS = 4_000_000
"""Random numbers held in memory at once."""


class ItemScores(NamedTuple):
    """One score of one model, item by item; the score is sum(numerators) / sum(denominators).

    For a mean all denominators are 1; for a word error rate they are the reference words.
    """

    numerators: Sequence[float]
    denominators: Sequence[float]

    @property
    def value(self) -> float | None:
        """The score; None without any denominator."""
        total = float(sum(self.denominators))
        return float(sum(self.numerators)) / total if total > 0 else None


class PermutationTest(NamedTuple):
    """Outcome of `paired_permutation_test`."""

    p_value: float
    """Two-sided."""
    num_units: int
    """Items or clusters on which the models differ; the others cannot matter."""
    num_arrangements: int
    exact: bool
    """All arrangements were gone through; otherwise they were drawn at random."""


class McNemarTest(NamedTuple):
    """Outcome of `mcnemar_test`."""

    p_value: float
    """Two-sided, exact."""
    first_better: int
    second_better: int
    equal: int
    half: int
    """Among the items that differ: those where one model was at a tie (0.5)."""


def paired_permutation_test(
    first: ItemScores,
    second: ItemScores,
    clusters: Sequence[Hashable] | None = None,
    num_permutations: int = 10_000,
    seed: int = 0,
) -> PermutationTest:
    """Test whether two models score alike: their results are swapped within items, and the difference computed anew.

    With at most EXACT_UNITS items that differ, every arrangement counts once. With more, `num_permutations` are drawn
    and p = (1 + as extreme) / (1 + drawn), so that it is never zero.

    Source: the paired (Fisher-Pitman) permutation test, as in Noreen, 1989, "Computer-intensive methods for testing
    hypotheses", chapter 2; the added one: Phipson and Smyth, 2010, "Permutation p-values should never be zero",
    arXiv:1603.05766.

    Args:
        second: scores of the other, for the same items in the same order.
        clusters: one label per item; items of one cluster are swapped together.

    Raises:
        ConfigError: the lengths differ, a number is not finite, or there is nothing to divide by.
    """
    if num_permutations < 1:
        raise ConfigError(f"num_permutations is {num_permutations}; draw at least 1.")
    sums = _cluster_sums(first, second, clusters)
    observed = abs(_difference(sums.sum(0)))
    swapped = sums[:, [2, 3, 0, 1]] - sums
    differs = swapped.any(1)
    units = int(differs.sum())
    exact = units <= EXACT_UNITS
    total = 1 << units if exact else num_permutations
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_NUMBERS // max(units, 1))
    threshold = observed - 1e-12 * max(1.0, observed)  # sums in another order differ by rounding
    extreme = 0
    for start in range(0, total, block):
        size = min(block, total - start)
        if exact:
            choices = (np.arange(start, start + size)[:, None] >> np.arange(units)) & 1
        else:
            choices = generator.integers(0, 2, size=(size, units), dtype=np.int8)
        arranged = sums.sum(0) + choices.astype(float) @ swapped[differs]
        extreme += int((~(np.abs(_difference(arranged)) < threshold)).sum())  # 0 / 0 counts as extreme
    p_value = extreme / total if exact else (1 + extreme) / (1 + total)
    return PermutationTest(p_value, units, total, exact)


def mcnemar_test(first: Sequence[float], second: Sequence[float]) -> McNemarTest:
    """Test whether two models are right equally often, by the items that only one of them gets right.

    p = min(1, 2 P(X <= min(b, c))), X binomial with b + c trials and chance 1/2; the items have to be independent.

    Source: McNemar, 1947, in its exact form. Differs: values may be 0.5 (a tie between the halves of a pair). The
    item then goes to the model that scored higher, as in the sign test, and is counted in `half`.

    Raises:
        ConfigError: the lengths differ, or a value is not 0, 0.5 or 1.
    """
    if len(first) != len(second):
        raise ConfigError(f"Paired values must be equally many; they are {len(first)} and {len(second)}.")
    strange = sorted({float(value) for value in (*first, *second)} - {0.0, 0.5, 1.0})
    if strange:
        raise ConfigError(f"McNemar's test needs items that are right (1), wrong (0) or tied (0.5), not {strange[0]}.")
    better = sum(a > b for a, b in zip(first, second))
    worse = sum(a < b for a, b in zip(first, second))
    half = sum(abs(a - b) == 0.5 for a, b in zip(first, second))
    return McNemarTest(_binomial_two_sided(better, worse), better, worse, len(first) - better - worse, half)


def bootstrap_difference(
    first: ItemScores,
    second: ItemScores,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """95 % percentile interval of score(first) - score(second), drawing whole items (or clusters) for both models.

    Source: Efron and Tibshirani, 1993, chapter 13; paired as in Bisani and Ney, 2004, section 4.

    Returns:
        None where there are fewer than two items or clusters to draw from.

    Raises:
        ConfigError: as `paired_permutation_test`; `num_resamples` is below 1.
    """
    sums = _cluster_sums(first, second, clusters)
    block = max(1, BLOCK_NUMBERS // len(sums))
    return bootstrap(lambda draws: _difference(draws @ sums), len(sums), num_resamples, seed, block)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests, so that the chance of any false finding stays at the level.

    The k-th smallest of m is multiplied by m - k + 1, and none becomes smaller than one before it.
    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _binomial_two_sided(first: int, second: int) -> float:
    """Exact, in whole numbers: no underflow with thousands of items."""
    trials, smaller = first + second, min(first, second)
    ways = total = 1
    for chosen in range(smaller):
        ways = ways * (trials - chosen) // (chosen + 1)
        total += ways
    return min(1.0, 2 * total / 2**trials)


def _difference(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def _cluster_sums(first: ItemScores, second: ItemScores, clusters: Sequence[Hashable] | None) -> np.ndarray:
    """Numerator and denominator of both models for each item or cluster, shape (units, 4)."""
    table = cluster_sums([*first, *second], clusters)
    if (table[:, [1, 3]].sum(0) <= 0).any():
        raise ConfigError("Nothing to compare: there are no items, or their denominators (words, say) are all 0.")
    return table
