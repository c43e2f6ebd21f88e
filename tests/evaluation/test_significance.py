"""Tests of differences agree with scipy, with full enumeration, and with tables made by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import bootstrap_ratio
from vocable.evaluation.significance import (
    ItemScores,
    bootstrap_difference,
    holm,
    mcnemar_test,
    paired_permutation_test,
)


def means(values) -> ItemScores:
    return ItemScores(values, [1.0] * len(values))


values = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=7)


def enumerate_all(first: ItemScores, second: ItemScores, clusters) -> float:
    """The slow way: swap every subset of clusters, and count."""
    names = sorted(set(clusters))
    extreme = 0
    rows = list(zip(*first, *second, clusters))
    observed = abs(first.value - second.value)
    for chosen in itertools.product([False, True], repeat=len(names)):
        swap = dict(zip(names, chosen))
        arranged = [(c, d, a, b) if swap[k] else (a, b, c, d) for a, b, c, d, k in rows]
        a, b, c, d = (sum(column) for column in zip(*arranged))
        extreme += abs(a / b - c / d) >= observed - 1e-9
    return extreme / 2 ** len(names)


@settings(max_examples=30, deadline=None)
@given(rows=values)
def test_an_exact_permutation_test_goes_through_all_arrangements(rows):
    a, b, words = zip(*rows)
    first, second = ItemScores(a, words), ItemScores(b, [w + 1 for w in words])  # lengths may differ too
    clusters = [index // 2 for index in range(len(rows))]
    test = paired_permutation_test(first, second, clusters)
    assert test.exact and test.p_value == pytest.approx(enumerate_all(first, second, clusters))


def test_the_exact_test_agrees_with_scipy():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.6, 1, 11), generator.normal(0, 1, 11)
    reference = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    test = paired_permutation_test(means(a), means(b))
    assert test.num_arrangements == 2**11 and test.p_value == pytest.approx(reference.pvalue)


def test_drawn_arrangements_come_close_to_all_of_them():
    a = [1.0] * 12 + [0.0] * 5
    b = [0.0] * 12 + [1.0] * 5
    test = paired_permutation_test(means(a), means(b), num_permutations=20_000)
    assert not test.exact and test.num_units == 17
    # 17 items that all differ by one: the sign test. Four standard errors of 20,000 draws at 0.14 are 0.01.
    assert test.p_value == pytest.approx(stats.binomtest(5, 17).pvalue, abs=0.01)


def test_a_drawn_p_value_is_never_zero():
    test = paired_permutation_test(means([1.0] * 40), means([0.0] * 40), num_permutations=99)
    assert test.p_value == 1 / 100
    assert test == paired_permutation_test(means([1.0] * 40), means([0.0] * 40), num_permutations=99)


def test_copies_of_one_item_are_one_piece_of_evidence():
    a, b = [1.0] * 30, [0.0] * 30
    assert paired_permutation_test(means(a), means(b), clusters=["same sentence"] * 30).p_value == 1
    assert paired_permutation_test(means(a), means(b)).p_value < 0.001


def test_equal_models_are_not_told_apart():
    test = paired_permutation_test(means([1.0, 0.5, 0.0]), means([1.0, 0.5, 0.0]))
    assert test == (1.0, 0, 1, True)
    assert bootstrap_difference(means([1.0, 0.5, 0.0]), means([1.0, 0.5, 0.0])) == (0, 0)


@settings(max_examples=50, deadline=None)
@given(better=st.integers(0, 60), worse=st.integers(0, 60), equal=st.integers(0, 5))
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(better, worse, equal):
    first = [1.0] * better + [0.0] * worse + [0.5] * equal
    second = [0.0] * better + [1.0] * worse + [0.5] * equal
    test = mcnemar_test(first, second)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert test.p_value == pytest.approx(expected)
    assert test[1:] == (better, worse, equal, 0)


def test_mcnemar_with_ties_and_with_thousands_of_items():
    # by hand: 3 for the first (one by half a point), 1 for the second, 1 equal: 2 * (1 + 4) / 16
    test = mcnemar_test([1, 1, 0.5, 0, 0.5], [0, 0, 0, 1, 0.5])
    assert test == (10 / 16, 3, 1, 1, 1)
    test = mcnemar_test([1] * 9000 + [0] * 8600, [0] * 9000 + [1] * 8600)
    assert test.p_value == pytest.approx(stats.binomtest(9000, 17_600).pvalue, rel=1e-9)
    with pytest.raises(ConfigError, match=r"right \(1\), wrong \(0\) or tied \(0\.5\), not 0\.25"):
        mcnemar_test([0.25], [1])
    with pytest.raises(ConfigError, match="equally many; they are 1 and 2"):
        mcnemar_test([1], [1, 0])


def test_with_equal_denominators_the_interval_is_that_of_the_ratio_of_differences():
    generator = np.random.default_rng(0)
    words, speakers = generator.integers(1, 20, 50).tolist(), [f"s{index % 7}" for index in range(50)]
    a, b = (generator.integers(0, 6, 50).tolist() for _ in range(2))
    differences = [x - y for x, y in zip(a, b)]
    for clusters in (None, speakers):
        ours = bootstrap_difference(ItemScores(a, words), ItemScores(b, words), clusters, seed=3)
        reference = bootstrap_ratio(differences, words, clusters, seed=3)
        assert ours == pytest.approx(reference, rel=1e-9)


def test_the_interval_agrees_with_scipy_and_covers():
    generator = np.random.default_rng(4)
    a, b = generator.normal(1, 1, 80), generator.normal(0.2, 1, 80)
    ours = bootstrap_difference(means(a), means(b), num_resamples=4000)
    reference = stats.bootstrap(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), paired=True, vectorized=False, method="percentile", rng=0,
        n_resamples=2000,
    ).confidence_interval  # fmt: skip
    assert ours.low == pytest.approx(reference.low, abs=0.03) and ours.high == pytest.approx(reference.high, abs=0.03)
    assert bootstrap_difference(means([1.0]), means([0.0])) is None
    assert bootstrap_difference(means([1.0, 1.0]), means([0.0, 1.0]), clusters=["a", "a"]) is None


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 -> times 4 3 2 1 = 0.04 0.06 0.06 0.04 -> never falling
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_unusable_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"equally many; they are \[1, 2\]"):
        paired_permutation_test(means([1.0]), means([1.0, 0.0]))
    with pytest.raises(ConfigError, match="not finite"):
        bootstrap_difference(means([float("nan"), 1.0]), means([1.0, 0.0]))
    with pytest.raises(ConfigError, match="there are no items"):
        paired_permutation_test(means([]), means([]))
    with pytest.raises(ConfigError, match="num_permutations is 0"):
        paired_permutation_test(means([1.0]), means([0.0]), num_permutations=0)
    with pytest.raises(ConfigError, match="num_resamples is 0"):
        bootstrap_difference(means([1.0, 1.0]), means([0.0, 1.0]), num_resamples=0)
