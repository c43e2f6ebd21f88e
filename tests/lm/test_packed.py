"""Packed rows: each document's logits are those it has alone, whatever stands beside it."""

import logging

import pytest
import torch
import torch.nn.functional as F

from vocable.lm.packed import (
    IMPLEMENTATION,
    attend_by_length,
    attend_padded,
    enable_packing,
    packed_inputs,
    packed_logits,
    token_losses,
)
from vocable.sequences import concatenate

# float32 products over another number of rows sum in another order; ten times the worst difference seen, 4e-6
TOLERANCE = {"atol": 4e-5, "rtol": 1e-4}
LENGTHS = (5, 1, 9, 9, 2, 14)


def documents(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, 96, (length,), generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("positions_restart", [True])
def test_packed_equals_alone(make_model, architecture, positions_restart):
    model = make_model(architecture)
    alone = [model(document[None]).logits[0] for document in documents()]
    packed = packed_logits(model, concatenate(documents()))
    torch.testing.assert_close(packed, torch.cat(alone), **TOLERANCE)


def test_neighbours_do_not_matter_at_all(make_model, architecture):
    model = make_model(architecture)
    changed = documents()
    changed[2] = (changed[2] + 7) % 94 + 2
    before = packed_logits(model, concatenate(documents())).split(LENGTHS)
    after = packed_logits(model, concatenate(changed)).split(LENGTHS)
    for index in range(len(LENGTHS)):
        # the shapes of all products are equal, so not even rounding may differ
        assert torch.equal(before[index], after[index]) == (index != 2)


def test_order_of_documents_does_not_matter(make_model):
    model = make_model("opt")
    order = [3, 0, 5, 1, 4, 2]
    plain = packed_logits(model, concatenate(documents())).split(LENGTHS)
    moved = packed_logits(model, concatenate([documents()[i] for i in order])).split([LENGTHS[i] for i in order])
    for place, index in enumerate(order):
        torch.testing.assert_close(moved[place], plain[index], **TOLERANCE)


def test_which_models_pack(make_model, architecture, caplog):
    model = make_model(architecture)
    with caplog.at_level(logging.WARNING):
        assert enable_packing(model) == (architecture != "bloom")
    if architecture == "bloom":
        assert "read as padded batches" in caplog.text
    else:
        assert model.config._attn_implementation == IMPLEMENTATION


def test_position_ids_are_honoured(make_model):
    """OPT's learned positions would differ if they ran on through the row."""
    model = make_model("opt")
    enable_packing(model)
    batch = concatenate(documents())
    inputs = packed_inputs(batch)
    running_on = {**inputs, "position_ids": torch.arange(batch.num_positions)[None]}
    assert not torch.allclose(model(**inputs).logits, model(**running_on).logits, atol=1e-2)


def test_gradients_equal_those_of_documents_alone(make_model, architecture):
    model = make_model(architecture)
    token_losses(model, concatenate(documents())).sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for document in documents():
        if len(document) > 1:
            logits = model(document[None]).logits[0]
            F.cross_entropy(logits[:-1], document[1:], reduction="sum").backward()
    for name, parameter in model.named_parameters():
        # sums of some forty terms of size one; ten times the worst relative difference seen, 2e-5
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-3, rtol=2e-4, msg=name)


def test_token_losses_by_hand(make_model):
    model = make_model("llama_tied")
    batch = concatenate(documents())
    losses = token_losses(model, batch)
    expected = []
    for document in documents():
        log_probabilities = model(document[None]).logits[0].log_softmax(-1)
        expected += [-log_probabilities[i, document[i + 1]] for i in range(len(document) - 1)]
    torch.testing.assert_close(losses, torch.stack(expected), **TOLERANCE)
    assert len(losses) == batch.num_targets


def test_padded_and_split_attention_agree_and_so_do_their_gradients():
    lengths = (4, 7, 7, 1, 12)
    parts = [torch.randn(1, 3, sum(lengths), 8, requires_grad=True) for _ in range(3)]
    for window in (None, 5):
        results = []
        for attend in (attend_by_length, attend_padded):
            output = attend(*parts, lengths, scale=0.3, window=window)
            results.append((output, *torch.autograd.grad(output.square().sum(), parts)))
        torch.testing.assert_close(results[0], results[1])


def test_sliding_windows_follow_the_mask():
    query, key, value = torch.randn(3, 1, 2, 10, 8).unbind(0)
    output = attend_by_length(query, key, value, (10,), window=3)
    scores = (query @ key.mT) / 8**0.5
    for i in range(10):
        for j in range(10):
            if not 0 <= i - j < 3:
                scores[..., i, j] = -torch.inf
    torch.testing.assert_close(output, (scores.softmax(-1) @ value).transpose(1, 2))


def test_ordinary_use_is_unchanged(make_model):
    """With the packed attention switched on, padded batches and generate() work as before."""
    plain, packed = make_model("llama_tied"), make_model("llama_tied")
    enable_packing(packed)
    ids = torch.randint(2, 96, (2, 8))
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for attention_mask in (None, mask):
        assert torch.equal(
            plain(ids, attention_mask=attention_mask).logits, packed(ids, attention_mask=attention_mask).logits
        )
        expected = plain.generate(ids, attention_mask=attention_mask, **settings)
        assert torch.equal(packed.generate(ids, attention_mask=attention_mask, **settings), expected)


def test_probing_leaves_training_mode_alone(make_model):
    model = make_model("opt").train()
    enable_packing(model)
    assert model.training
