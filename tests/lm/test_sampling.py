"""Sampling filters against slow forms of their definitions, and against transformers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from vocable.lm.sampling import draw, next_token_probabilities, penalise_repeats


def slow_probabilities(logits, banned, temperature, top_k, top_p):
    """The definition, one token at a time, for one row."""
    allowed = [i for i in range(len(logits)) if not banned[i]]
    ranked = sorted(allowed, key=lambda i: -float(logits[i]))
    ranked = ranked[:top_k] if top_k else ranked
    weights = torch.tensor([float(logits[i]) / temperature for i in ranked], dtype=torch.float64).softmax(0).tolist()
    kept, mass = [], 0.0
    for index, weight in zip(ranked, weights):
        if top_p is not None and mass >= top_p:
            break
        kept.append((index, weight))
        mass += weight
    result = torch.zeros(len(logits), dtype=torch.float64)
    for index, weight in kept:
        result[index] = weight / sum(w for _, w in kept)
    return result


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.5, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([None, 1, 3, 50]),
    top_p=st.sampled_from([None, 0.05, 0.5, 0.9, 1.0]),
)
def test_filters_equal_their_definition(seed, temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 12, generator=generator)
    banned = torch.rand(2, 12, generator=generator) < 0.3
    banned[:, 0] = False
    result = next_token_probabilities(logits, banned, temperature=temperature, top_k=top_k, top_p=top_p)
    for row in range(2):
        expected = slow_probabilities(logits[row], banned[row], temperature, top_k, top_p)
        torch.testing.assert_close(result[row], expected)


@pytest.mark.parametrize(("top_k", "top_p"), [(4, None), (None, 0.7), (6, 0.6)])
def test_filters_agree_with_transformers(top_k, top_p):
    logits = 2 * torch.randn(5, 40)
    expected = logits / 0.8
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p:
        expected = TopPLogitsWarper(top_p)(None, expected)
    banned = torch.zeros_like(logits, dtype=torch.bool)
    result = next_token_probabilities(logits, banned, temperature=0.8, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(result, expected.softmax(-1).double(), atol=1e-6, rtol=1e-5)


def test_temperature_zero_takes_the_best_that_is_allowed():
    logits = torch.tensor([[0.0, 5.0, 4.0]])
    banned = torch.tensor([[False, True, False]])
    result = next_token_probabilities(logits, banned, temperature=0.0, top_k=None, top_p=None)
    assert result.tolist() == [[0, 0, 1]]


def test_repetition_penalty_agrees_with_transformers():
    logits = torch.randn(3, 20)
    histories = torch.randint(0, 20, (3, 6))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(histories, logits.clone())
    torch.testing.assert_close(penalise_repeats(logits, histories.tolist(), 1.3), expected)
    assert penalise_repeats(logits, histories.tolist(), 1.0) is logits


def test_draws_follow_the_distribution_and_the_rows_own_seed():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    many = draw(probabilities.expand(20_000, -1), [torch.Generator().manual_seed(i) for i in range(20_000)])
    share = torch.bincount(many, minlength=6) / 20_000
    # five standard errors of a share of 0.5 over 20,000 draws
    torch.testing.assert_close(share.double(), probabilities, atol=0.018, rtol=0)
    assert share[[0, 2, 5]].sum() == 0
    alone = draw(probabilities[None], [torch.Generator().manual_seed(7)])
    assert int(alone) == int(many[7])
