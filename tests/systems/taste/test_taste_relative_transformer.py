"""Attention by distance against transformers, and written out; causality; with a cache as without."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerRelPositionalEmbedding,
    Wav2Vec2ConformerSelfAttention,
)

from vocable.errors import ConfigError
from vocable.systems.taste.relative_transformer import (
    BlockConfig,
    RelativeAttention,
    RelativeTransformer,
    distance_codes,
    shift_to_keys,
)

CONFIG = BlockConfig(num_blocks=2, width=16, num_heads=2, feedforward_dim=24, dropout=0.0)


def drawn(module, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module.eval()


def test_attention_is_that_of_transformers_under_a_causal_mask():
    config = Wav2Vec2ConformerConfig(
        hidden_size=16, num_attention_heads=2, position_embeddings_type="relative", attn_implementation="eager",
        max_source_positions=40,
    )  # fmt: skip
    reference, ours = drawn(Wav2Vec2ConformerSelfAttention(config)), RelativeAttention(16, 2)
    ours.load_state_dict(reference.state_dict())
    hidden = torch.randn(3, 11, 16)
    unseen = torch.full((11, 11), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        codes = Wav2Vec2ConformerRelPositionalEmbedding(config)(hidden)
        expected, _ = reference(hidden, unseen, codes)
        found = ours(hidden, distance_codes(11, 16, hidden))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)  # float32 sums in another order; 2e-7 seen


def test_attention_written_out():
    """One query, key and distance at a time, in double precision."""
    layer = drawn(RelativeAttention(8, 2)).double()
    hidden = torch.randn(1, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        found = layer(hidden, distance_codes(5, 8, hidden).double())[0]
        q, k, v = (to(hidden[0]) for to in (layer.linear_q, layer.linear_k, layer.linear_v))
        for i in range(5):
            mixed = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                scores = []
                for j in range(i + 1):
                    code = [f((i - j) / 10_000 ** (2 * d / 8)) for d in range(4) for f in (math.sin, math.cos)]
                    place = (layer.linear_pos.weight @ torch.tensor(code, dtype=torch.float64))[part]
                    by_content = (q[i, part] + layer.pos_bias_u[head]) @ k[j, part]
                    scores.append((by_content + (q[i, part] + layer.pos_bias_v[head]) @ place) / 2)
                mixed.append(torch.stack(scores).softmax(0) @ v[: i + 1, part])
            torch.testing.assert_close(found[i], layer.linear_out(torch.cat(mixed)), atol=1e-6, rtol=0)


@given(new=st.integers(1, 6), before=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_shifting_is_looking_up_the_distance(new, before):
    positions = before + new
    by_distance = torch.randn(2, 3, new, positions)
    found = shift_to_keys(by_distance)
    for i in range(new):
        for j in range(before + i + 1):
            assert torch.equal(found[..., i, j], by_distance[..., i, positions - 1 - (before + i - j)])


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_later_inputs_change_nothing_and_earlier_ones_do(activation):
    model = drawn(RelativeTransformer(CONFIG, 6, activation))
    inputs = torch.randn(2, 9, 6)
    with torch.no_grad():
        before = model(inputs)
        inputs[:, 5:] += 3
        after = model(inputs)
        torch.testing.assert_close(after[:, :5], before[:, :5], atol=1e-6, rtol=1e-6)
        shorter = model(inputs[:, :5])  # also how many follow
    torch.testing.assert_close(shorter, before[:, :5], atol=1e-5, rtol=1e-5)
    assert ((after - before)[:, 5:].abs().amax(-1) > 1e-3).all()
    inputs[:, 0] += 3
    assert ((model(inputs) - after).abs().amax(-1) > 1e-4).all()


@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_piece_by_piece_with_a_cache_is_the_whole(cuts, seed):
    model = drawn(RelativeTransformer(CONFIG, 6, "relu"), seed)
    inputs = torch.randn(2, sum(cuts), 6)
    cache = model.new_cache(sum(cuts) + 3, batch=2)
    with torch.no_grad():
        pieces = [model(piece, cache) for piece in inputs.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(inputs), atol=1e-5, rtol=1e-5)  # float32, other shapes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 10, "num_heads": 4}, "multiple of 4"),
        ({"num_blocks": 0}, "at least 1"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_impossible_blocks_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        BlockConfig(**{"num_blocks": 1, **values})
