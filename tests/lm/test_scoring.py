"""Scores equal those of a slow loop over single documents, under each boundary convention."""

import pytest
import torch

from vocable.errors import ConfigError
from vocable.lm.scoring import token_nll

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
    for max_tokens in (16, 10_000):
        for document, part in zip(documents, token_nll(model, documents, boundary, max_tokens=max_tokens), strict=True):
            slow = slow_token_nll(model, document, boundary)
            # float32 products of other sizes; ten times the worst difference seen, 4e-6 a token
            torch.testing.assert_close(part, torch.tensor(slow), atol=4e-5, rtol=0)


def test_the_start_symbol_can_be_given(make_model):
    model = make_model("opt", bos_token_id=1, eos_token_id=1)
    document = [torch.randint(4, 96, (6,))]
    (other,) = token_nll(model, document, "bos_eos", bos_id=2)
    (by_hand,) = token_nll(model, [torch.cat([torch.tensor([2]), document[0], torch.tensor([1])])], "none")
    assert torch.equal(other, by_hand)
    assert len(other) == 7


def test_scoring_leaves_training_mode_alone_and_ignores_dropout(make_model):
    model = make_model("opt", dropout=0.5).train()
    documents = [torch.randint(2, 96, (9,))]
    assert torch.equal(*(token_nll(model, documents, "none")[0] for _ in range(2)))
    assert model.training


def test_no_documents(make_model):
    assert token_nll(make_model("opt"), [], "none") == []


@pytest.mark.parametrize(
    ("document", "boundary", "message"),
    [
        (torch.tensor([5]), "none", "Document 0 has 1 tokens: with boundary 'none' nothing in it can be scored"),
        (torch.full((64,), 5), "bos", "Row 0 has 65 tokens, the model 64 positions"),
    ],
)
def test_what_cannot_be_scored_is_said(make_model, document, boundary, message):
    with pytest.raises(ConfigError, match=message):
        token_nll(make_model("opt", bos_token_id=1), [document], boundary)


def test_a_model_without_a_start_symbol(make_model):
    model = make_model("llama_tied")
    model.config.bos_token_id = None
    with pytest.raises(ConfigError, match="names no bos_token_id; score with boundary 'none'"):
        token_nll(model, [torch.tensor([5, 6])], "bos")
