"""Fusion and heads of the text-aligned model: the text model where nothing is added; inputs and losses by hand."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vocable.errors import ConfigError
from vocable.lm.lora import LoraConfig, add_lora, lora_off
from vocable.lm.word_model import (
    CodeHeadConfig,
    CodeSpace,
    LatentHeadConfig,
    WordModel,
    WordModelConfig,
    make_head,
    normal_kl,
)
from vocable.sequences.word_layout import PackedWords
from vocable.systems.taste.config import GridConfig
from vocable.systems.taste.quantizer import build_quantizer
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig

SIZES, DIM = (5, 7), 6
LORA = LoraConfig(rank=4, alpha=8.0)


def tables(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, DIM, generator=generator) for size in SIZES]


@pytest.fixture
def make_words(make_model):
    def make(name="llama_tied", lora=LORA, **settings):
        lm = make_model(name)
        if lora is not None:
            pytest.importorskip("peft")
            add_lora(lm, lora, ())
            with torch.no_grad():  # adapters that do something
                for parameter in lm.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(0)
        return WordModel(lm, tables(), WordModelConfig(**settings)).eval()

    return make


def batch_of(lengths=(9, 4, 12), seed=0, size=96):
    """Random rows: any position may predict a token, or the codes of a word."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)

    def codes(share):
        found = torch.stack([torch.randint(0, n, (total,), generator=generator) for n in SIZES], -1)
        return found.masked_fill(torch.rand(total, 1, generator=generator) > share, -1)

    next_ids = torch.randint(0, size, (total,), generator=generator)
    return PackedWords(
        token_ids=torch.randint(0, size + 1, (total,), generator=generator),
        codes=codes(0.7),
        next_ids=next_ids.masked_fill(torch.rand(total, generator=generator) > 0.8, -100),
        next_codes=codes(0.5),
        lengths=tuple(lengths),
    )


@pytest.mark.parametrize("architecture", ["llama_tied", "opt_projections", "qwen2", "gpt_neox_untied", "bloom"])
def test_without_adapters_and_speech_it_is_the_text_model(make_words, make_model, architecture):
    model = make_words(architecture)
    with torch.no_grad():
        model.mix.copy_(torch.tensor([-200.0, 0.0]))  # p_a is 0
    base = make_model(architecture)
    batch = batch_of()
    batch = PackedWords(**{**fields(batch), "token_ids": batch.token_ids.clamp(max=95)})
    wanted = batch.next_ids >= 0
    with torch.no_grad():
        expected = torch.cat([base(one[None]).logits[0] for one in batch.token_ids.split(batch.lengths)])[wanted]
        with lora_off(model.lm):
            found = model(batch).logits
        # rows side by side are summed in another order than rows alone
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model.text_logits(batch, base), expected, atol=2e-5, rtol=1e-4)
        assert (model(batch).logits - expected).abs().max() > 0.1  # adapters are on again


def fields(batch):
    names = ("token_ids", "codes", "next_ids", "next_codes", "lengths")
    return {name: getattr(batch, name) for name in names}


def test_input_is_the_weighted_sum_by_hand(make_words):
    model = make_words(lora=None)
    assert model.weights.tolist() == pytest.approx([1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))])
    batch = batch_of()
    with torch.no_grad():
        model.pad_audio.copy_(torch.randn(DIM))
        model.pad_text.copy_(torch.randn(32))
        found = model.embed(batch.token_ids, batch.codes)
        speech, text = model.weights
        for place, token in enumerate(batch.token_ids.tolist()):
            one = batch.codes[place].tolist()
            audio = model.pad_audio if one[0] < 0 else tables()[0][one[0]] + tables()[1][one[1]]
            word = model.pad_text if token == 96 else model.lm.get_input_embeddings().weight[token]
            expected = speech * (model.project.weight @ audio + model.project.bias) + text * word
            torch.testing.assert_close(found[place], expected, atol=1e-6, rtol=1e-5)


def test_rows_side_by_side_are_rows_alone(make_words):
    model = make_words()
    batch = batch_of()
    parts = [getattr(batch, name).split(batch.lengths) for name in ("token_ids", "codes", "next_ids", "next_codes")]
    names = ("token_ids", "codes", "next_ids", "next_codes")
    with torch.no_grad():
        together = model(batch)
        alone = [model(PackedWords(**dict(zip(names, one)), lengths=(len(one[0]),))) for one in zip(*parts)]
    for place, found in enumerate(together):
        torch.testing.assert_close(found, torch.cat([one[place] for one in alone]), atol=2e-5, rtol=1e-4)


def test_closed_form_of_the_divergence():
    generator = torch.Generator().manual_seed(0)
    mean, target, log_variance = (torch.randn(20, DIM, generator=generator) for _ in range(3))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(target, 1.0))
    torch.testing.assert_close(normal_kl(mean, log_variance, target), expected, atol=1e-6, rtol=1e-5)


def test_losses_of_the_latent_head(make_words):
    """The exact divergence, the slipped one as the research code has it, and the draw with its mean."""
    space, codes = CodeSpace(tables()), torch.tensor([[0, 3], [4, 6], [2, 2]])
    outputs = torch.randn(3, DIM, generator=torch.Generator().manual_seed(2))
    target = torch.stack([tables()[0][a] + tables()[1][b] for a, b in codes.tolist()])
    beta = torch.linspace(-1, 1, DIM)

    def loss(**settings):
        head = make_head(LatentHeadConfig(**settings), space, 8)
        with torch.no_grad():
            head.log_variance.copy_(beta)
        torch.manual_seed(0)
        return head.loss(outputs, codes).total.detach()

    slipped = 0.5 * (outputs.exp() + (outputs - target) ** 2 - 1 - outputs)
    exact = 0.5 * (beta.exp() + (outputs - target) ** 2 - 1 - beta)
    only = {"distance_weight": 0.0, "kl_weight": 1.0}
    torch.testing.assert_close(loss(kl="slipped", **only), slipped.mean(-1).sum())
    torch.testing.assert_close(loss(**only), exact.mean(-1).sum())
    torch.manual_seed(0)
    drawn = outputs + (0.5 * beta).exp() * torch.randn_like(outputs)
    torch.testing.assert_close(loss(kl_weight=0.0), (drawn - target).square().mean(-1).sum())
    torch.testing.assert_close(loss(), loss(kl_weight=0.0) + 2 * loss(**only))
    head = make_head(LatentHeadConfig(), space, 8)
    with torch.no_grad():
        head.log_variance.copy_(beta)
    expected = -Normal(outputs, (0.5 * beta).exp()).log_prob(target).sum(-1)
    torch.testing.assert_close(head.nll(outputs, codes), expected)


def test_losses_of_the_code_head():
    space, codes = CodeSpace(tables()), torch.tensor([[0, 3], [4, 6], [2, 2]])
    outputs = torch.randn(3, 12, generator=torch.Generator().manual_seed(2))
    levels = outputs.split(SIZES, -1)
    nll = [-levels[k].log_softmax(-1)[range(3), codes[:, k]] for k in range(2)]
    for decay in (1.0, 0.52):
        found = make_head(CodeHeadConfig(level_decay=decay), space, 8).loss(outputs, codes)
        torch.testing.assert_close(found.total, (nll[0] + decay * nll[1]).sum())
    best = [level.argmax(-1) for level in levels]
    assert found.correct.tolist() == [int((best[k] == codes[:, k]).sum()) for k in range(2)]
    torch.testing.assert_close(make_head(CodeHeadConfig(), space, 8).nll(outputs, codes), nll[0] + nll[1])


def test_codes_are_read_from_the_heads():
    space = CodeSpace(tables())
    outputs = torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    codes = make_head(CodeHeadConfig(), space, 8)
    expected = torch.stack([outputs[:, :5].argmax(-1), outputs[:, 5:].argmax(-1)], -1)
    assert torch.equal(codes.read(outputs, 0.0, generators), expected)
    many = torch.cat([codes.read(outputs[:1].expand(500, -1), 1.0, [generators[0]] * 500)])
    shares = torch.bincount(many[:, 0], minlength=5) / 500
    assert (shares - outputs[0, :5].softmax(-1)).abs().max() < 0.1  # 500 draws: a standard deviation is 0.022 at most
    means = torch.randn(4, DIM, generator=generators[1])
    for reading, shift in (("mean", 0.0), ("shifted", 1.0)):
        latent = make_head(LatentHeadConfig(reading=reading), space, 8)
        assert torch.equal(latent.read(means, 0.0, generators), space.nearest(means + shift))
    again = [torch.Generator().manual_seed(9) for _ in range(4)]
    noise = torch.randn(DIM, generator=torch.Generator().manual_seed(9))
    assert torch.equal(latent.read(means, 0.5, again), space.nearest(means + 0.5 * noise))


@pytest.mark.parametrize("kind", ["residual", "grid"])
def test_vectors_are_those_of_the_quantizer(kind):
    """Codes of the tokenizer's quantizer and of the model's own tables, both ways."""
    level = VectorQuantizerConfig(dim=8, codebook_size=16, init="random")
    config = (
        GridConfig(levels=(5, 4, 3), num_groups=3)
        if kind == "grid"
        else ResidualQuantizerConfig(level=level, num_levels=3)
    )
    torch.manual_seed(0)
    quantizer = build_quantizer(config, 32).eval()
    space = CodeSpace(quantizer.tables())
    words = torch.randn(1, 200, 32) * 3
    codes = quantizer.encode(words)
    found = space(codes[0].T)
    if kind == "grid":
        maps = [group.project_out for group in quantizer.groups]
        mapped = sum(maps[n](found[:, 3 * n : 3 * n + 3]) for n in range(3))
        assert torch.equal(space.nearest(found), codes[0].T)  # groups do not disturb each other
    else:
        mapped = quantizer.project_out(found)
        assert torch.equal(space.nearest(quantizer.project_in(words[0])), codes[0].T)
        assert 0.3 < (space.nearest(found) == codes[0].T).float().mean() < 1  # the sum need not lead back
    torch.testing.assert_close(mapped, quantizer.decode(codes)[0], atol=1e-5, rtol=1e-5)


def test_published_number_of_adapter_weights():
    """45.09 million on Llama-3.2-1B, the head left out (section 3.5 of the notes; the paper says 45 M)."""
    pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        lm = LlamaForCausalLM(config)
        add_lora(lm, LoraConfig(rank=64, alpha=128.0), ())
        model = WordModel(lm, [torch.zeros(512, 256)] * 4, WordModelConfig())
    adapters = sum(one.numel() for one in lm.parameters() if one.requires_grad)
    assert adapters == 45_088_768
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained - adapters == (256 * 2048 + 2048) + 2 + 256 + 2048 + (2048 * 2048 + 2048)  # map, shares, pads, head


def test_a_model_that_changes_its_head_is_refused(make_model):
    lm = make_model("llama_tied")
    forward = lm.forward

    def scaled(*args, **named):
        found = forward(*args, **named)
        found.logits = found.logits * 0.5
        return found

    lm.forward = scaled
    with pytest.raises(ConfigError, match="changes the output of its head"):
        WordModel(lm, tables(), WordModelConfig())
