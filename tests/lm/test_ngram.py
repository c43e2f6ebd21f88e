"""N-gram controls against a dictionary-based oracle."""

import math
from collections import Counter, defaultdict

import pytest
import torch

from vocable.errors import AssetError
from vocable.lm.ngram import COUNTS_NAME, NgramCounts, NgramLM

SIZE = 5


@pytest.fixture
def documents() -> list[torch.Tensor]:
    return [torch.tensor([1, 2, 3, 2, 3, 1]), torch.tensor([1, 3, 3, 1])]


@pytest.fixture
def counts(documents) -> NgramCounts:
    return NgramCounts.of(documents, SIZE)


def followers_of(documents, length: int) -> dict[tuple, Counter]:
    """What follows each run of `length` ids; None stands before the first."""
    followers: dict[tuple, Counter] = defaultdict(Counter)
    for document in documents:
        ids = [*[None] * (length - 1), *document.tolist()]
        for end in range(length, len(ids)):
            followers[tuple(ids[end - length : end])][ids[end]] += 1
    return followers


def witten_bell(followers: dict[tuple, Counter], context: tuple, token: int, lower: float) -> float:
    seen = followers[context]
    return (seen[token] + len(seen) * lower) / (sum(seen.values()) + len(seen)) if seen else lower


def test_unigram_is_add_one_counts_of_predicted_tokens(documents, counts):
    followers = Counter(token for document in documents for token in document[1:].tolist())
    total = sum(followers.values()) + SIZE
    nll = NgramLM(counts, order=1).nll(torch.tensor([1, 3, 4]))
    expected = [-math.log((followers[3] + 1) / total), -math.log(1 / total)]
    assert nll.tolist() == pytest.approx(expected)


def test_bigram_is_witten_bell(documents, counts):
    model, followers = NgramLM(counts, order=2), followers_of(documents, 1)
    unigram = model.unigram.tolist()
    for a in range(SIZE):
        expected = [witten_bell(followers, (a,), b, unigram[b]) for b in range(SIZE)]
        assert sum(expected) == pytest.approx(1)
        found = [math.exp(-model.nll(torch.tensor([a, b])).item()) for b in range(SIZE)]
        assert found == pytest.approx(expected)


def test_trigram_is_witten_bell_over_the_bigram(documents, counts):
    model, followers = NgramLM(counts, order=3), followers_of(documents, 2)
    for a in range(SIZE):
        for b in range(SIZE):
            expected = [witten_bell(followers, (a, b), c, float(model.bigram[b, c])) for c in range(SIZE)]
            assert sum(expected) == pytest.approx(1)
            found = [math.exp(-model.nll(torch.tensor([a, b, c]))[1].item()) for c in range(SIZE)]
            assert found == pytest.approx(expected)
    start = math.exp(-model.nll(torch.tensor([1, 3])).item())  # nothing stands before the first pair of a document
    assert start == pytest.approx(witten_bell(followers, (None, 1), 3, float(model.bigram[1, 3])))


def test_counts_survive_their_file(counts, tmp_path):
    counts.save(tmp_path)
    found = NgramCounts.load(tmp_path)
    assert torch.equal(found.keys, counts.keys) and torch.equal(found.counts, counts.counts)
    assert found.vocabulary_size == SIZE
    (tmp_path / COUNTS_NAME).write_bytes((tmp_path / COUNTS_NAME).read_bytes()[:100])
    with pytest.raises(AssetError, match="no counts of a model's training units"):
        NgramCounts.load(tmp_path)
    with pytest.raises(AssetError, match="No such file"):
        NgramCounts.load(tmp_path / "nowhere")


def test_short_documents_count_nothing():
    counts = NgramCounts.of([torch.tensor([1]), torch.tensor([1, 2])], SIZE)
    assert counts.counts.tolist() == [1]
    assert NgramLM(counts, order=3).nll(torch.tensor([4])).tolist() == []


def test_other_orders_are_refused(counts):
    with pytest.raises(ValueError, match="order is 4"):
        NgramLM(counts, order=4)
