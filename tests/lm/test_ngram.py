"""N-gram controls against a dictionary-based oracle."""

import math
from collections import Counter, defaultdict

import pytest
import torch

from vocable.lm.ngram import NgramLM


@pytest.fixture
def documents() -> list[torch.Tensor]:
    return [torch.tensor([1, 2, 3, 2, 3, 1]), torch.tensor([1, 3, 3, 1])]


def test_unigram_is_add_one_counts_of_predicted_tokens(documents):
    followers = Counter(token for document in documents for token in document[1:].tolist())
    total = sum(followers.values()) + 5
    nll = NgramLM(documents, vocabulary_size=5, order=1).nll(torch.tensor([1, 3, 4]))
    expected = [-math.log((followers[3] + 1) / total), -math.log(1 / total)]
    assert nll.tolist() == pytest.approx(expected)


def test_bigram_is_witten_bell(documents):
    followers: dict[int, Counter] = defaultdict(Counter)
    for document in documents:
        for a, b in zip(document[:-1].tolist(), document[1:].tolist(), strict=True):
            followers[a][b] += 1
    model = NgramLM(documents, vocabulary_size=5, order=2)
    unigram = model.unigram.tolist()

    def probability(a: int, b: int) -> float:
        kinds = max(len(followers[a]), 1)
        return (followers[a][b] + kinds * unigram[b]) / (sum(followers[a].values()) + kinds)

    for a in range(5):
        assert sum(probability(a, b) for b in range(5)) == pytest.approx(1)
        for b in range(5):
            assert model.nll(torch.tensor([a, b])).item() == pytest.approx(-math.log(probability(a, b)))


def test_other_orders_are_refused(documents):
    with pytest.raises(ValueError, match="order is 3"):
        NgramLM(documents, vocabulary_size=5, order=3)
