"""Code usage counted the slow way."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError, FingerprintError
from vocable.evaluation.units import UnitCounter
from vocable.types import SpeechTokens


def unit_statistics(tokens, codebook_sizes, **settings):
    counter = UnitCounter(codebook_sizes)
    for item in tokens:
        counter.add(item)
    return counter.statistics(**settings)


def units(*ids: int, durations: list[int] | None = None) -> SpeechTokens:
    return SpeechTokens(codes=torch.tensor([ids]), durations=None if durations is None else torch.tensor(durations))


def slow_entropy(values: list[int]) -> float:
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


@given(runs=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=30))
def test_statistics_match_slow_counting(runs: list[tuple[int, int]]):
    ids, durations = [run[0] for run in runs], [run[1] for run in runs]
    found = unit_statistics([units(*ids, durations=durations)], codebook_sizes=(10,), frame_rate=50)
    frames = [unit for unit, duration in runs for _ in range(duration)]
    seconds = len(frames) / 50
    assert (found.num_frames, found.num_positions) == (len(frames), len(ids))
    assert found.seconds == pytest.approx(seconds)
    assert found.used == pytest.approx(len(set(ids)) / 10)
    assert found.perplexity == pytest.approx(math.exp(slow_entropy(ids)))
    assert found.frame_perplexity == pytest.approx(math.exp(slow_entropy(frames)))
    assert found.normalised_entropy == pytest.approx(slow_entropy(ids) / math.log(10))
    assert found.nominal_bits_per_second == pytest.approx(50 * math.log2(10))
    assert found.empirical_bits_per_second == pytest.approx(len(ids) / seconds * slow_entropy(ids) / math.log(2))
    assert found.duration_bits_per_second == pytest.approx(len(ids) / seconds * slow_entropy(durations) / math.log(2))


def test_a_uniform_codebook_costs_what_its_size_says():
    found = unit_statistics([units(*range(8))] * 3, codebook_sizes=(8,), frame_rate=25)
    assert (found.used, found.perplexity, found.normalised_entropy) == pytest.approx((1, 8, 1))
    assert found.nominal_bits_per_second == found.empirical_bits_per_second == pytest.approx(75)
    assert found.duration_bits_per_second == 0


def test_codebooks_add_up():
    codes = torch.tensor([[0, 1, 0, 1], [2, 2, 2, 2]])
    found = unit_statistics([SpeechTokens(codes=codes)], codebook_sizes=(4, 4), frame_rate=10)
    assert found.used == pytest.approx((2 + 1) / 8)
    assert found.nominal_bits_per_second == pytest.approx(10 * 2 * 2)
    assert found.empirical_bits_per_second == pytest.approx(10 * 1)


def test_tokens_that_follow_words_have_no_rate():
    found = unit_statistics([units(0, 1)], codebook_sizes=(2,))
    assert found.nominal_bits_per_second is None and found.seconds is None


def test_bad_tokens_are_refused():
    with pytest.raises(FingerprintError, match="Ids run from 0 to 9, outside a codebook of 8"):
        unit_statistics([units(0, 9)], codebook_sizes=(8,))
    with pytest.raises(FingerprintError, match="1 codebooks; expected 2"):
        unit_statistics([units(0)], codebook_sizes=(8, 8))
    with pytest.raises(ConfigError, match="no tokens to count"):
        unit_statistics([], codebook_sizes=(8,))
