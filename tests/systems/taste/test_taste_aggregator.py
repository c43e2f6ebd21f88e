"""The aggregator against transformers' WhisperDecoder, by hand, and in the published sizes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import WhisperConfig, WhisperModel

from vocable.errors import ConfigError
from vocable.systems.taste.aggregator import Aggregator, DecoderShape, average_words, spread_words
from vocable.systems.taste.config import AggregatorConfig, TasteConfig
from vocable.systems.taste.model import WordEncoder

SHAPE = DecoderShape(dim=16, num_heads=2, ffn_dim=24, num_layers=3, vocabulary_size=40, num_positions=32)
LARGE = DecoderShape(
    dim=1280, num_heads=20, ffn_dim=5120, num_layers=2, vocabulary_size=51_866, num_positions=448
)  # distil-large-v3
PROMPT = (30, 31, 32, 33)


def whisper_config(shape):
    return WhisperConfig(
        d_model=shape.dim, decoder_attention_heads=shape.num_heads, decoder_ffn_dim=shape.ffn_dim,
        decoder_layers=shape.num_layers, vocab_size=shape.vocabulary_size, max_target_positions=shape.num_positions,
        encoder_layers=1, encoder_attention_heads=shape.num_heads, encoder_ffn_dim=shape.ffn_dim, init_std=0.3,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    model = WhisperModel(whisper_config(SHAPE)).eval().decoder
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def started(decoder, **settings):
    aggregator = Aggregator(DecoderShape.of(decoder.config), AggregatorConfig(**settings), PROMPT).eval()
    aggregator.start_from(decoder)
    return aggregator


def example(batch=2, tokens=5, frames=7, seed=1):
    torch.manual_seed(seed)
    return torch.randint(0, 30, (batch, tokens)), torch.randn(batch, frames, 16), torch.randn(batch, frames, 16)


def test_same_states_for_keys_and_values_give_the_decoder_of_transformers(decoder):
    ids, states, _ = example()
    prompted = torch.cat([torch.tensor(PROMPT).expand(2, -1), ids], dim=1)
    with torch.no_grad():
        expected = decoder(input_ids=prompted, encoder_hidden_states=states).last_hidden_state[:, len(PROMPT) :]
        found = started(decoder, value_start="whisper")(ids, states, states)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)  # float32 sums in another order; 3e-6 seen


def test_values_come_from_the_shallow_states(decoder):
    """The decoder of transformers, whose cross-attention is replaced by one written out with two sources."""
    ids, last, shallow = example()
    aggregator = started(decoder)
    reference = copy.deepcopy(decoder)

    class TwoSources(nn.Module):
        def __init__(self, attention):
            super().__init__()
            self.attention = attention

        def forward(self, hidden_states, key_value_states, **_):
            q, k = self.attention.q_proj(hidden_states), self.attention.k_proj(key_value_states)
            mixed = []
            for head in range(2):  # identity projection: the shallow states themselves are mixed
                part = slice(8 * head, 8 * head + 8)
                weights = (q[..., part] @ k[..., part].mT / 8**0.5).softmax(-1)
                mixed.append(weights @ shallow[..., part])
            return self.attention.out_proj(torch.cat(mixed, -1)), None

    for layer in reference.layers:
        layer.encoder_attn = TwoSources(layer.encoder_attn)
    prompted = torch.cat([torch.tensor(PROMPT).expand(2, -1), ids], dim=1)
    with torch.no_grad():
        expected = reference(input_ids=prompted, encoder_hidden_states=last).last_hidden_state[:, len(PROMPT) :]
        torch.testing.assert_close(aggregator(ids, last, shallow), expected, atol=2e-5, rtol=1e-5)  # as above


def test_identity_start_and_kept_layers(decoder):
    aggregator = started(decoder, layers=(0, 2))
    for new, old in enumerate((0, 2)):
        layer, source = aggregator.layers[new], decoder.layers[old]
        assert torch.equal(layer.encoder_attn.v_proj.weight, torch.eye(16))
        assert not layer.encoder_attn.v_proj.bias.any()
        assert torch.equal(layer.encoder_attn.k_proj.weight, source.encoder_attn.k_proj.weight)
        assert torch.equal(layer.fc2.bias, source.fc2.bias)
        assert torch.equal(layer.self_attn.v_proj.weight, source.self_attn.v_proj.weight)  # only in cross-attention
    with pytest.raises(ConfigError, match=r"aggregator.layers is \[1, 3\], but .* layers 0 to 2"):
        started(decoder, layers=(1, 3))
    with pytest.raises(ConfigError, match="rising order"):
        AggregatorConfig(layers=(2, 0))


@pytest.mark.parametrize("trained", ["last_layer", "all", "nothing"])
def test_only_what_is_trained_moves(decoder, trained):
    aggregator = started(decoder, trained=trained)
    before = {name: value.clone() for name, value in aggregator.state_dict().items()}
    ids, last, shallow = example()
    optimizer = torch.optim.SGD(aggregator.parameters(), lr=1.0)
    if trained != "nothing":
        aggregator(ids, last, shallow).square().sum().backward()
        optimizer.step()
    moved = {name for name, value in aggregator.state_dict().items() if not torch.equal(value, before[name])}
    last_layer = {name for name in before if name.startswith(("layers.2.", "layer_norm."))}
    expected = {"last_layer": last_layer, "all": set(before), "nothing": set()}[trained]
    assert moved == expected == aggregator.trained_names()


def test_padding_changes_nothing(decoder):
    """What stands behind the text, and in frames that are masked, reaches no real token."""
    aggregator = started(decoder)
    ids, last, shallow = example(batch=1)
    with torch.no_grad():
        alone = aggregator(ids, last, shallow)
        mask = torch.tensor([[True] * 7 + [False] * 3])
        junk = torch.full((1, 3, 16), 1e3)
        wide = torch.cat([last, junk], 1), torch.cat([shallow, junk], 1)
        padded = aggregator(torch.cat([ids, torch.full((1, 4), -1)], 1), *wide, mask)[:, :5]
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)  # float32, other shapes
        assert not torch.allclose(aggregator(ids, *wide)[:, :5], alone, atol=1e-2)  # unmasked, it does


def test_published_sizes():
    """Numbers of the notes: 26.2 M a layer, 66.4 M embeddings; quantizer 0.66 M in and out, 0.52 M entries."""
    with torch.device("meta"):
        aggregator = Aggregator(LARGE, AggregatorConfig(), PROMPT)
        whole = WhisperModel(whisper_config(LARGE)).decoder
    size = sum(parameter.numel() for parameter in aggregator.parameters())
    assert size == sum(parameter.numel() for parameter in whole.parameters())
    layer = sum(parameter.numel() for parameter in aggregator.layers[0].parameters())
    assert layer == 26_236_160 and aggregator.embed_tokens.weight.numel() == 66_388_480
    trained = sum(p.numel() for p in aggregator.parameters() if p.requires_grad)
    assert trained == layer + 2 * 1280
    words = WordEncoder(aggregator, TasteConfig())
    quantizer = words.quantizer
    maps = sum(p.numel() for part in (quantizer.project_in, quantizer.project_out) for p in part.parameters())
    assert maps == 2 * 1280 * 256 + 256 + 1280
    assert sum(level.codebook.numel() for level in quantizer.residual.levels) == 4 * 512 * 256


@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=1, max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_words_are_the_means_of_their_tokens(seed, sizes):
    torch.manual_seed(seed)
    longest, most = max(map(sum, sizes)), max(map(len, sizes))
    vectors = torch.randn(len(sizes), longest, 3)
    word_ids = torch.full((len(sizes), longest), -1)
    for row, counts in enumerate(sizes):
        word_ids[row, : sum(counts)] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    found = average_words(vectors, word_ids, most)
    spread = spread_words(found, word_ids)
    for row, counts in enumerate(sizes):
        alone = average_words(
            vectors[row : row + 1, : sum(counts)], word_ids[row : row + 1, : sum(counts)], len(counts)
        )
        assert torch.equal(found[row, : len(counts)], alone[0])  # whatever shares the batch
        assert not found[row, len(counts) :].any() and not spread[row, sum(counts) :].any()
        for word, part in enumerate(vectors[row, : sum(counts)].split(counts)):
            torch.testing.assert_close(found[row, word], part.double().mean(0).float())
            for token in range(sum(counts[:word]), sum(counts[: word + 1])):
                assert torch.equal(spread[row, token], found[row, word])
