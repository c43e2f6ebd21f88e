"""LAST around a tiny language model: the loss against a slow oracle, and where gradients go and do not go."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from vocable.errors import ConfigError
from vocable.features.frame_transformer import FrameTransformerConfig
from vocable.systems.last import LastModel
from vocable.systems.last.adapter import LastAdapterConfig
from vocable.systems.last.model import (
    LastDecoderConfig,
    LastLossConfig,
    LastModelConfig,
    LastQuantizerConfig,
    gradient_norms,
    loss_weights,
)

SIZES = {"width": 16, "num_heads": 2, "feedforward_dim": 32, "dropout": 0.0}


def tiny_llama() -> PreTrainedModel:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=128, **shape))


def tiny_opt() -> PreTrainedModel:
    """Embeddings narrower than the network, and dropout, as in OPT-350M."""
    shape = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    narrow = {"word_embed_proj_dim": 16, "do_layer_norm_before": False}
    return OPTForCausalLM(OPTConfig(vocab_size=50, max_position_embeddings=128, dropout=0.5, **shape, **narrow))


def plain_loss(**settings) -> LastLossConfig:
    """Both terms from the first step on, and features as they are."""
    return LastLossConfig(
        **{
            "nll_start_step": 0,
            "nll_ramp_steps": 0,
            "normalise_features": False,
            "reconstruction_weight": 1.0,
            **settings,
        }
    )


def make_model(lm: PreTrainedModel | None = None, **settings) -> LastModel:
    settings = {
        "feature_dim": 6,
        "encoder": FrameTransformerConfig(num_layers=1, **SIZES),
        "decoder": LastDecoderConfig(num_layers=1, **SIZES),
        "loss": plain_loss(),
        "quantizer": LastQuantizerConfig(dim=8, codebook_size=10, init_iterations=3, decay=0.99),
        **settings,
    }
    return LastModel(LastModelConfig(**settings), lm or tiny_llama())


def make_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(24) < torch.tensor([24, 9, 17])[:, None]
    return torch.where(mask[..., None], torch.randn(3, 24, 6, generator=generator), math.nan), mask


def slow_nlls(model: LastModel, entries: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """One clip, (frames, dim): one frame after the other, each from a prefix of its own."""
    nlls = []
    for position, code in enumerate(codes.tolist()):
        inputs = [model.adapter.start] + [model.adapter.inward(entry) for entry in entries[:position]]
        states = model.lm(inputs_embeds=torch.stack(inputs)[None], output_hidden_states=True).hidden_states[-1]
        nlls.append(-model.adapter.outward(states[0, -1]).log_softmax(-1)[code])
    return torch.stack(nlls)


@pytest.mark.parametrize("adapter", [{}, {"hidden_dim": 12, "head_hidden_dim": 20, "match_scale": False}])
def test_loss_against_a_slow_oracle(adapter):
    loss = plain_loss(reconstruction_weight=3.0)
    model = make_model(adapter=LastAdapterConfig(**adapter), loss=loss)
    features, mask = make_batch()
    model(features, mask)  # the first batch fits the codebook
    model.eval()
    with torch.no_grad():
        output = model(features, mask)
        nlls, changed, errors = [], [], []
        for clip, real in zip(features, mask):
            clip = clip[real]
            entries = model.quantizer(model.encoder(clip[None]))
            codes = entries.codes[0]
            nlls.append(slow_nlls(model, entries.quantized[0], codes))
            changed.append(torch.tensor([i > 0 and bool(codes[i] != codes[i - 1]) for i in range(len(codes))]))
            errors.append((model.decoder(entries.quantized)[0] - clip).square().sum(-1))
    nlls, changed, errors = torch.cat(nlls), torch.cat(changed), torch.cat(errors)
    assert output.num_frames == 50 == len(nlls)
    # the LM's sums over prefixes and over whole rows round differently
    torch.testing.assert_close(output.nll, nlls.mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.change_nll, nlls[changed].mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.reconstruction, errors.mean(), atol=1e-5, rtol=1e-5)
    missed = (output.encoded - output.quantized.quantized)[mask].square().sum(-1).mean()
    torch.testing.assert_close(output.commitment, missed)
    expected = output.nll + 3 * (output.reconstruction + missed)
    torch.testing.assert_close(output.loss, expected)


def test_a_unit_is_predicted_from_those_before_it():
    model = make_model()
    entries = torch.randn(1, 10, 8, requires_grad=True)
    logits = model.unit_logits(entries)
    for position in range(10):
        (gradient,) = torch.autograd.grad(logits[0, position].sum(), entries, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, torch.arange(10) < position)


@pytest.mark.parametrize("make_lm", [tiny_llama, tiny_opt])
def test_training_moves_the_tokenizer_and_nothing_in_the_language_model(make_lm):
    lm = make_lm()
    text = torch.randint(50, (2, 12))
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    logits = lm.eval()(text).logits
    model = make_model(lm).train()
    assert not lm.training and model.encoder.training
    features, mask = make_batch()
    model(features, mask)
    learnable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("lm.") for name in learnable)
    start = {name: parameter.detach().clone() for name, parameter in learnable.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(features, mask).loss.backward()
        assert all(parameter.grad is None for parameter in lm.parameters())
        for name, parameter in learnable.items():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        optimizer.step()
    assert all(not torch.equal(parameter, start[name]) for name, parameter in learnable.items())
    assert all(torch.equal(value, before[name]) for name, value in lm.state_dict().items())
    assert torch.equal(lm(text).logits, logits)


def test_the_language_model_alone_teaches_the_encoder():
    model = make_model(loss=plain_loss(reconstruction_weight=0.0))
    features, mask = make_batch()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):  # layers begin with nothing to add, and their first weights learn once the last ones have
        optimizer.zero_grad()
        model(features, mask).nll.backward()
        optimizer.step()
    assert all(parameter.grad.any() for name, parameter in model.encoder.named_parameters() if "weight" in name)
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_the_start_looks_at_no_other_frame():
    model = make_model().eval()
    for network in (model.encoder, model.decoder):
        frames = torch.randn(1, 9, network.in_dim, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(frames)[0, 5].square().sum(), frames)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, torch.arange(9) == 5)


@pytest.mark.parametrize(("beta", "left"), [(1.0, 0.0), (0.25, 0.75)])
def test_the_start_is_k_means_and_at_rest(beta, left):
    """The decoder undoes the encoder: reconstruction pulls by 2 (entry - vector), and commitment by the opposite."""
    model = make_model(
        feature_dim=64,
        encoder=FrameTransformerConfig(num_layers=2, width=128, num_heads=2),
        decoder=LastDecoderConfig(num_layers=1, width=64, num_heads=2),
        quantizer=LastQuantizerConfig(dim=64, codebook_size=10, commitment_weight=beta),
        loss=plain_loss(normalise_features=True, nll_start_step=1),
    )
    output = model(torch.randn(2, 300, 64))
    entries = output.quantized.quantized.detach()
    missed = (output.encoded - entries).square().sum(-1).mean()
    # the inner norm takes the mean of 128 dimensions away, so what comes back is not quite what went in
    assert output.reconstruction.item() == pytest.approx(missed.item(), rel=0.05)
    (pull,) = torch.autograd.grad(output.reconstruction, output.encoded, retain_graph=True)
    (both,) = torch.autograd.grad(output.loss, output.encoded)
    assert float(both.norm() / pull.norm()) == pytest.approx(left, abs=0.15)


def test_losses_fall():
    model = make_model(loss=plain_loss(reconstruction_weight=2.0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    outputs = []
    for _ in range(50):
        outputs.append(model(*make_batch()))
        optimizer.zero_grad()
        outputs[-1].loss.backward()
        optimizer.step()
    assert outputs[-1].nll.item() < 0.85 * outputs[0].nll.item()
    assert outputs[-1].reconstruction.item() < 0.9 * outputs[0].reconstruction.item()


def test_gradient_norms_of_each_path():
    features, mask = make_batch()
    loss = plain_loss(reconstruction_weight=2.0, nll_start_step=5)
    model = make_model(loss=loss)
    model(features, mask)
    output = model(features, mask, step=5)
    norms = gradient_norms(output)
    assert norms["nll"] > 0 and norms["reconstruction"] > 0 and norms["quantizer"] > 0
    (expected,) = torch.autograd.grad(output.reconstruction, output.encoded, retain_graph=True)
    assert norms["reconstruction"] == pytest.approx(2 * float(expected.norm()))
    # a mean of squares, 2 * difference / number of values, times 8 dimensions, times lambda
    commitment = output.quantized.commitment_loss.item()
    assert norms["quantizer"] == pytest.approx(2 * 8 * 2 * math.sqrt(commitment / (50 * 8)), rel=1e-4)
    output.loss.backward()  # the graph is still there
    early = gradient_norms(model(features, mask, step=4))
    assert early["nll"] == 0 and early["reconstruction"] > 0


@pytest.mark.parametrize("decoder_input", ["quantized", "encoded"])
def test_what_the_decoder_reads(decoder_input):
    model = make_model(decoder_input=decoder_input)
    features, mask = make_batch()
    model(features, mask)
    output = model.eval()(features, mask)
    read = output.quantized.quantized if decoder_input == "quantized" else output.encoded
    error = (model.decoder(read, mask)[mask] - features[mask]).square().sum(-1).mean()
    torch.testing.assert_close(output.reconstruction, error)


def test_features_can_be_normalised_before_they_are_compared():
    model = make_model(loss=plain_loss(normalise_features=True))
    features, mask = make_batch()
    model(features, mask)
    output = model.eval()(features, mask)
    targets = features[mask] - features[mask].mean(-1, keepdim=True)
    targets = targets / targets.square().mean(-1, keepdim=True).sqrt()
    error = (model.decoder(output.quantized.quantized, mask)[mask] - targets).square().sum(-1).mean()
    # the norm's epsilon, 1e-5, beside variances of about 1
    torch.testing.assert_close(output.reconstruction, error, atol=1e-4, rtol=1e-4)


def test_units_do_not_depend_on_the_batch_and_not_on_the_mode():
    model = make_model(encoder=FrameTransformerConfig(num_layers=1, **{**SIZES, "dropout": 0.5}))
    features, mask = make_batch()
    model(features, mask)
    units = model.encode(features, mask)
    assert model.training and model.encoder.training
    assert torch.equal(units >= 0, mask)
    for row, (clip, real) in enumerate(zip(features, mask)):
        assert torch.equal(model.encode(clip[real][None])[0], units[row][real])
    assert torch.equal(model.eval()(features, mask).quantized.codes, units)


def test_weights_over_steps():
    assert loss_weights(plain_loss(reconstruction_weight=0.5), 1000) == (1.0, 0.5)
    schedule = plain_loss(
        reconstruction_weight=4.0,
        final_reconstruction_weight=1.0,
        reconstruction_steps=30,
        nll_start_step=10,
        nll_ramp_steps=20,
    )
    found = [loss_weights(schedule, step) for step in (0, 10, 20, 30, 99)]
    assert [weights.nll for weights in found] == pytest.approx([0, 0, 0.5, 1, 1])
    assert [weights.reconstruction for weights in found] == pytest.approx([4, 3, 2, 1, 1])
    assert [loss_weights(plain_loss(nll_start_step=3), step).nll for step in (2, 3)] == [0, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reconstruction_weight": -1.0}, "loss.reconstruction_weight is -1.0; it must not be negative"),
        ({"reconstruction_steps": 5}, "reconstruction_steps is 5: a schedule needs both"),
        ({"final_reconstruction_weight": 1.0}, "final_reconstruction_weight is 1.0 and reconstruction_steps is 0"),
    ],
)
def test_bad_loss_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        LastLossConfig(**settings)


def test_bad_adapter_settings():
    with pytest.raises(ConfigError, match=r"adapter.hidden_dim is 0; it must be at least 1, or null"):
        LastAdapterConfig(hidden_dim=0)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="LlamaModel has no output head"):
        make_model(tiny_llama().model)


def test_inputs_start_at_the_size_of_the_text_embeddings():
    lm = tiny_llama()
    model = make_model(lm)
    size = lm.get_input_embeddings().weight.square().mean().sqrt()
    embedded = model.adapter.embed(torch.randn(4, 30, 8))
    torch.testing.assert_close(embedded[:, 1:].square().mean(-1).sqrt(), size.expand(4, 29), atol=1e-3, rtol=1e-2)
    assert embedded[:, 0].square().mean().sqrt().item() == pytest.approx(size.item(), rel=0.5)


def test_the_language_model_is_not_run_before_its_loss_counts():
    model = make_model(loss=plain_loss(nll_start_step=2))
    features, mask = make_batch()
    calls = []
    model.lm.register_forward_hook(lambda *_: calls.append(1))
    model.lm.base_model.register_forward_hook(lambda *_: calls.append(1))
    early = model(features, mask, step=1)
    assert not calls and not early.lm_was_run and early.nll == 0 and torch.isnan(early.change_nll)
    early.loss.backward()
    # a gradient of 0, not none: several processes exchange the gradients of all parameters
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.adapter.parameters())
    assert any(parameter.grad.any() for parameter in model.encoder.parameters())
    assert model(features, mask, step=2).lm_was_run and calls
    calls.clear()
    assert model.eval()(features, mask, step=0).nll > 0 and calls  # held-out speech is always scored


def test_the_language_model_is_no_submodule():
    import copy

    lm = tiny_llama()
    model = make_model(lm)
    assert model.lm is lm and "lm" not in dict(model.named_children())
    assert not any(name.startswith("lm.") for name in model.state_dict())
    assert copy.deepcopy(model).lm is not lm
    model.train()
    assert not lm.training
    with pytest.raises(ConfigError, match=r"model.feature_dim is null"):
        make_model(feature_dim=None)
