"""Scores equal those of a slow loop over single documents, under each boundary convention."""

import pytest
import torch

from vocable.errors import ConfigError
from vocable.lm.scoring import document_nll, token_nll

BOS, EOS = 1, 1


def slow_token_nll(model, document, boundary):
    """One forward pass per predicted token."""
    model.requires_grad_(False)
    row = document.tolist()
    row = ([BOS] if boundary != "none" else []) + row + ([EOS] if boundary == "bos_eos" else [])
    losses = []
    for end in range(1, len(row)):
        logits = model(torch.tensor([row[:end]])).logits[0, -1]
        losses.append(-float(logits.log_softmax(-1)[row[end]]))
    return losses


@pytest.mark.parametrize("boundary", ["none", "bos", "bos_eos"])
@pytest.mark.parametrize("name", ["opt", "bloom"])
def test_scores_equal_the_slow_loop(make_model, name, boundary):
    model = make_model(name, bos_token_id=BOS, eos_token_id=EOS)
    documents = [torch.randint(2, 96, (length,)) for length in (3, 7, 2, 7, 12)]
    scores = document_nll(model, documents, boundary, max_tokens=16)
    added = {"none": -1, "bos": 0, "bos_eos": 1}[boundary]
    assert scores.num_tokens.tolist() == [len(document) + added for document in documents]
    parts = token_nll(model, documents, boundary, max_tokens=10_000)
    for document, total, part in zip(documents, scores.nll, parts):
        slow = slow_token_nll(model, document, boundary)
        # float32 products of other sizes; ten times the worst difference seen, 4e-6 a token
        torch.testing.assert_close(part, torch.tensor(slow), atol=4e-5, rtol=0)
        assert abs(float(total) - sum(slow)) < 4e-5 * len(slow)
    torch.testing.assert_close(scores.mean, scores.nll / scores.num_tokens)


def test_symbols_can_be_given(make_model):
    model = make_model("opt", bos_token_id=1, eos_token_id=1)
    document = [torch.randint(4, 96, (6,))]
    other = document_nll(model, document, "bos_eos", bos_id=2, eos_id=3)
    by_hand = document_nll(model, [torch.cat([torch.tensor([2]), document[0], torch.tensor([3])])], "none")
    torch.testing.assert_close(other.nll, by_hand.nll)
    assert other.num_tokens.tolist() == by_hand.num_tokens.tolist() == [7]


def test_scoring_leaves_training_mode_alone_and_ignores_dropout(make_model):
    model = make_model("opt", dropout=0.5).train()
    documents = [torch.randint(2, 96, (9,))]
    assert torch.equal(document_nll(model, documents, "none").nll, document_nll(model, documents, "none").nll)
    assert model.training


def test_no_documents(make_model):
    scores = document_nll(make_model("opt"), [], "none")
    assert (len(scores.nll), len(scores.num_tokens)) == (0, 0)


@pytest.mark.parametrize(
    ("document", "boundary", "message"),
    [
        (torch.tensor([5]), "none", "Document 0 has 1 tokens: with boundary 'none' nothing in it can be scored"),
        (torch.full((64,), 5), "bos", "Document 0 has 65 tokens with its boundary symbols, the model 64 positions"),
    ],
)
def test_what_cannot_be_scored_is_said(make_model, document, boundary, message):
    with pytest.raises(ConfigError, match=message):
        document_nll(make_model("opt", bos_token_id=1), [document], boundary)


def test_a_model_without_a_start_symbol(make_model):
    model = make_model("llama_tied")
    model.config.bos_token_id = None
    with pytest.raises(ConfigError, match="names no bos_token_id; pass bos_id"):
        document_nll(model, [torch.tensor([5, 6])], "bos")
