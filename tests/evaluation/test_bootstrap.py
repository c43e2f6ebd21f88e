"""Intervals against exact ones: small enough to be worked out, or enumerated."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import bootstrap_ratio


def bootstrap_mean(values, clusters=None, **settings):
    return bootstrap_ratio(values, [1.0] * len(values), clusters, **settings)


def test_the_mean_of_coins_has_binomial_quantiles():
    # The bootstrap distribution of k ones among n is Binomial(n, k / n) / n. For n = 40, k = 10: P(X <= 4) = 0.0160,
    # P(X <= 5) = 0.0433, so the 2.5 % quantile is 5; P(X <= 15) = 0.9738, P(X <= 16) = 0.9884: the 97.5 % one is 16.
    def at_most(count: int) -> float:
        return sum(math.comb(40, k) * 0.25**k * 0.75 ** (40 - k) for k in range(count + 1))

    assert at_most(4) < 0.025 < at_most(5)
    assert at_most(15) < 0.975 < at_most(16)
    interval = bootstrap_mean([1.0] * 10 + [0.0] * 30, num_resamples=20_000)
    assert interval == pytest.approx((5 / 40, 16 / 40))


def test_a_ratio_matches_every_possible_draw():
    errors, words = np.array([3, 0, 1, 5]), np.array([4, 9, 2, 6])
    rates = [errors[list(draw)].sum() / words[list(draw)].sum() for draw in itertools.product(range(4), repeat=4)]
    exact = np.quantile(rates, [0.025, 0.975])
    found = bootstrap_ratio(errors.tolist(), words.tolist(), num_resamples=40_000)
    assert found is not None
    # 256 draws are possible, so the quantiles jump; 0.02 is the largest gap between neighbouring rates near them
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_whole_clusters_are_drawn():
    # Two speakers, each with equal utterances: a draw holds 0, 1 or 2 of the bad one; 0 and 2 in a quarter each.
    values, speakers = [1.0] * 50 + [0.0] * 50, ["bad"] * 50 + ["good"] * 50
    assert bootstrap_mean(values, speakers) == (0.0, 1.0)
    alone = bootstrap_mean(values)
    assert alone is not None
    assert 0.35 < alone.low < 0.45 < 0.55 < alone.high < 0.65


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=30).tolist()
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@given(value=st.floats(-1e3, 1e3), count=st.integers(2, 20))
def test_equal_values_have_no_spread(value: float, count: int):
    interval = bootstrap_mean([value] * count, num_resamples=50)
    assert interval == pytest.approx((value, value))


def test_one_thing_to_draw_from_has_no_interval():
    assert bootstrap_mean([0.3]) is None
    assert bootstrap_mean([0.3, 0.4, 0.5], ["a", "a", "a"]) is None


def test_items_without_words_do_not_divide_by_zero():
    interval = bootstrap_ratio([0.0, 1.0], [0.0, 4.0], num_resamples=100)
    assert interval == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0]), r"equally many; they are \[1, 2\]"),
        (([float("nan"), 1.0], [1.0, 1.0]), "not finite"),
        (([1.0, 1.0], [1.0, -1.0]), "negative"),
    ],
)
def test_bad_numbers_are_refused(arguments, message: str):
    with pytest.raises(ConfigError, match=message):
        bootstrap_ratio(*arguments)


def test_no_draws_are_refused():
    with pytest.raises(ConfigError, match="num_resamples is 0"):
        bootstrap_mean([1.0, 2.0], num_resamples=0)
