"""What an encoder says of itself, what it leaves out, and what it refuses."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from features.tiny_encoders import HUBERT_FAMILY, NUM_LAYERS, WHISPER, reference_hidden_states, save_tiny
from vocable.config import config_from_dict
from vocable.errors import AssetError, AudioFormatError, ConfigError, UnknownNameError
from vocable.features import EncoderConfig, load_encoder


def change_weight(folder, fragment: str) -> None:
    """Move one value of the first weight whose name holds `fragment`."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if fragment in name)
    weights[name].view(-1)[0] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", HUBERT_FAMILY)
def test_frame_counts_are_those_of_the_convolutions(tiny_checkpoint, name):
    from transformers import AutoModel

    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint(name)), layer=0))
    model = AutoModel.from_pretrained(tiny_checkpoint(name))
    assert encoder.hop_length == (640 if "25hz" in name else 320)
    assert encoder.frame_rate == (25.0 if "25hz" in name else 50.0)
    shortest = encoder.receptive_field
    assert shortest == (720 if "25hz" in name else 400)
    for num_samples in [*range(shortest, shortest + 1500, 7), 16_000, 160_001, 172_799_999]:
        counted = encoder.num_frames(num_samples)
        assert counted == int(model._get_feat_extract_output_lengths(num_samples))
        assert encoder.num_frames(encoder.num_samples(counted)) == counted
        assert encoder.num_frames(encoder.num_samples(counted) - 1) == max(counted - 1, 1)


@pytest.mark.parametrize("name", [*HUBERT_FAMILY, WHISPER])
@pytest.mark.parametrize("num_samples", [2, 100, 319, 399])
def test_the_shortest_clips_give_one_frame_or_what_silence_after_them_gives(
    tiny_checkpoint, make_speechlike, name, num_samples
):
    encoder = load_encoder(
        EncoderConfig(name=str(tiny_checkpoint(name)), layer=1, normalise=None if name == WHISPER else False)
    )
    clip = make_speechlike(num_samples)
    (features,) = encoder.encode([clip])
    assert len(features) == encoder.num_frames(num_samples) == (2 if name == WHISPER and num_samples > 320 else 1)
    lengthened = torch.cat([clip, torch.zeros(encoder.num_samples(len(features)) - num_samples)])
    assert torch.equal(encoder.encode([lengthened])[0], features)
    assert features.isfinite().all()


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-large", WHISPER])
def test_later_layers_are_not_built(tiny_checkpoint, name):
    sizes = [
        sum(
            parameter.numel()
            for parameter in load_encoder(EncoderConfig(name=str(tiny_checkpoint(name)), layer=layer)).parameters()
        )
        for layer in range(NUM_LAYERS)
    ]
    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint(name)), layer=2))
    assert len(encoder.layers) == 2
    assert not any("decoder" in parameter for parameter, _ in encoder.named_parameters())
    layer_sizes = [sum(p.numel() for p in layer.parameters()) for layer in encoder.layers]
    assert [upper - lower for lower, upper in itertools.pairwise(sizes)] == layer_sizes
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(
    "name, attention", [("hubert-base", "attention"), ("wavlm-base", "attention"), (WHISPER, "self_attn")]
)
def test_the_weights_hash_covers_the_layers_in_use_and_no_others(tmp_path, name, attention):
    folder = save_tiny(name, tmp_path / "model")
    prefix = "encoder.layers" if name != WHISPER else "model.encoder.layers"

    def description(layer: int) -> dict:
        return load_encoder(EncoderConfig(name=str(folder), layer=layer)).description()

    before = {layer: description(layer)["weights_sha256"] for layer in range(NUM_LAYERS + 1)}
    assert len(set(before.values())) == NUM_LAYERS + 1
    assert description(1)["weights_sha256"] == before[1]
    change_weight(folder, f"{prefix}.1.{attention}")
    after = {layer: description(layer)["weights_sha256"] for layer in range(NUM_LAYERS + 1)}
    assert [before[layer] == after[layer] for layer in range(NUM_LAYERS + 1)] == [True, True, False, False]


def test_descriptions_are_json_and_name_what_decides_the_features(tiny_checkpoint):
    base = load_encoder(EncoderConfig(name=str(tiny_checkpoint("hubert-base")), layer=2)).description()
    assert json.loads(json.dumps(base)) == base
    assert (base["family"], base["layer"], base["normalise"], base["hop_length"]) == ("hubert", 2, True, 320)
    whisper = [
        load_encoder(EncoderConfig(name=str(tiny_checkpoint(WHISPER)), layer=2, padding=padding)).description()
        for padding in ("none", "30s")
    ]
    assert whisper[0]["weights_sha256"] == whisper[1]["weights_sha256"]
    assert whisper[0] != whisper[1]
    how = EncoderConfig(
        name=str(tiny_checkpoint(WHISPER)), layer=2, window_seconds=20.0, dtype="bfloat16", batch_seconds=9.0
    )
    assert load_encoder(how).description() == whisper[0]
    mel = load_encoder(EncoderConfig(name="log-mel", layer=0)).description()
    assert json.loads(json.dumps(mel)) == mel
    assert mel["log_mel"]["num_mels"] == 80


def test_normalisation_follows_the_preprocessor_config(tmp_path, make_speechlike):
    folder, clip = save_tiny("hubert-base", tmp_path / "model"), make_speechlike(16_000)

    def encode(scale: float, **settings) -> torch.Tensor:
        return load_encoder(EncoderConfig(name=str(folder), layer=0, **settings)).encode([scale * clip])[0]

    encoder = load_encoder(EncoderConfig(name=str(folder), layer=0))
    assert encoder.normalise
    conditioned = encoder.condition(3.0 * clip + 0.5)
    assert abs(float(conditioned.mean())) < 1e-5 and abs(float(conditioned.std(correction=0)) - 1) < 1e-4
    assert not load_encoder(EncoderConfig(name=str(folder), layer=0, normalise=False)).normalise
    (folder / "preprocessor_config.json").unlink()
    assert not load_encoder(EncoderConfig(name=str(folder), layer=0)).normalise
    assert torch.equal(encode(1.0), encode(1.0, normalise=False))
    assert not torch.equal(encode(1.0), encode(1.0, normalise=True))


def test_bfloat16_is_close_and_comes_back_as_float32(tiny_checkpoint, make_speechlike):
    for name in ("hubert-base", "wavlm-base", WHISPER):
        settings = {"name": str(tiny_checkpoint(name)), "layer": 2}
        (full,) = load_encoder(EncoderConfig(**settings)).encode([make_speechlike(32_000)])
        (short,) = load_encoder(EncoderConfig(**settings, dtype="bfloat16")).encode([make_speechlike(32_000)])
        assert short.dtype == torch.float32
        # bfloat16 keeps 8 bits; the wild weights of the tiny models amplify its steps of 0.4 %, to 17 % at worst
        assert 1e-4 < float((short - full).norm() / full.norm()) < 0.3


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-large", WHISPER])
def test_gradients_reach_the_waveform(tiny_checkpoint, make_speechlike, name):
    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint(name)), layer=2))
    waveforms = torch.stack([make_speechlike(6_400, seed=seed) for seed in range(2)]).requires_grad_()
    features = encoder(waveforms)
    for row, clip in zip(features, waveforms.detach(), strict=True):
        torch.testing.assert_close(row.detach(), encoder.encode([clip])[0], atol=1e-4, rtol=1e-4)
    features.square().mean().backward()
    assert waveforms.grad.abs().sum(1).min() > 0


def test_features_can_be_trained_on(tiny_checkpoint, make_speechlike):
    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint("hubert-base")), layer=1))
    adapter = torch.nn.Linear(32, 4)
    adapter(encoder.encode([make_speechlike(6_400)])[0]).sum().backward()  # inference tensors would refuse
    assert adapter.weight.grad is not None


def test_bad_waveforms_are_named(tiny_checkpoint):
    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint("hubert-base")), layer=1))
    good = torch.zeros(1_000)
    with pytest.raises(AudioFormatError, match=r"waveforms\[1\]"):
        encoder.encode([good, torch.full((1_000,), float("nan"))])
    with pytest.raises(AudioFormatError, match=r"waveforms\[0\]"):
        encoder.encode([torch.zeros(0)])
    with pytest.raises(AudioFormatError, match=r"blocks\[1\]"):
        list(encoder.encode_stream([good, torch.full((1_000,), float("inf"))]))
    with pytest.raises(AudioFormatError, match="the recording"):
        list(encoder.encode_stream([]))


def test_settings_that_do_not_fit_are_refused(tiny_checkpoint, tmp_path):
    hubert, whisper = str(tiny_checkpoint("hubert-base")), str(tiny_checkpoint(WHISPER))
    with pytest.raises(ConfigError, match=r"encoder.layer is 4, but .* has 3 layers. Choose 0 to 3"):
        load_encoder(EncoderConfig(name=hubert, layer=4))
    with pytest.raises(ConfigError, match=r"encoder.padding is '30s'"):
        load_encoder(EncoderConfig(name=hubert, layer=1, padding="30s"))
    with pytest.raises(ConfigError, match=r"encoder.normalise is True"):
        load_encoder(EncoderConfig(name=whisper, layer=1, normalise=True))
    with pytest.raises(ConfigError, match=r"encoder.window_seconds is 31.0, but .* has positions for 30 s"):
        load_encoder(EncoderConfig(name=whisper, layer=1, window_seconds=31.0))
    with pytest.raises(ConfigError, match=r"encoder.layer is 2, but 'log-mel' has no layers"):
        load_encoder(EncoderConfig(name="log-mel"))
    with pytest.raises(ConfigError, match=r"encoder.layer is -1"):
        EncoderConfig(layer=-1)
    with pytest.raises(ConfigError, match=r"encoder.window_seconds is 4.0, but the context on both sides takes 4.0 s"):
        EncoderConfig(window_seconds=4.0)
    with pytest.raises(ConfigError, match="padding"):
        config_from_dict(EncoderConfig, {"padding": "30 s"})
    with pytest.raises(UnknownNameError, match=r"Unknown batching 'mask'. Did you mean 'masked'"):
        load_encoder(EncoderConfig(name=hubert, layer=1)).encode([torch.zeros(1_000)], batching="mask")


def test_checkpoints_that_cannot_be_read_are_named(tmp_path):
    folder = save_tiny("hubert-base", tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "hubret"}))
    with pytest.raises(UnknownNameError, match=r"Unknown model_type 'hubret'. Did you mean 'hubert'"):
        load_encoder(EncoderConfig(name=str(folder), layer=1))
    (folder / "config.json").write_text(json.dumps(settings))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layers.0.attention.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"lacks 1 weights .* 'encoder.layers.0.attention.k_proj.weight'"):
        load_encoder(EncoderConfig(name=str(folder), layer=1))
    assert load_encoder(EncoderConfig(name=str(folder), layer=0))  # that layer is not needed here
    (folder / "config.json").write_text("{")
    with pytest.raises(AssetError, match="not readable as JSON"):
        load_encoder(EncoderConfig(name=str(folder), layer=1))


def test_several_layers_of_whisper_in_one_pass(tiny_checkpoint, make_speechlike):
    folder = tiny_checkpoint(WHISPER)
    clip = make_speechlike(20_001)
    padded = load_encoder(EncoderConfig(name=str(folder), layer=NUM_LAYERS, padding="30s"))
    order = (NUM_LAYERS, 0, 2)
    found = padded.encode_layers(clip, order, keep_padding=True)
    for layer, states in zip(order, found, strict=True):
        expected = reference_hidden_states(folder, clip)[layer]
        torch.testing.assert_close(states, expected, atol=7e-5, rtol=7e-5)  # as in parity/test_encoders.py
    for cut, states in zip(padded.encode_layers(clip, order), found, strict=True):
        assert torch.equal(cut, states[: padded.num_frames(len(clip))])
    assert torch.equal(padded.encode_layers(clip, (NUM_LAYERS,))[0], padded.encode([clip])[0])
    free = load_encoder(EncoderConfig(name=str(folder), layer=2))
    for layer in (0, 1, 2):
        alone = load_encoder(EncoderConfig(name=str(folder), layer=layer)).encode([clip])[0]
        assert torch.equal(free.encode_layers(clip, (layer,))[0], alone)
    with pytest.raises(ConfigError, match=r"no layer 3 .* it has 0 to 2"):
        free.encode_layers(clip, (1, 3))
    with pytest.raises(ConfigError, match=r"31 s does not fit into the window .* 30 s"):
        free.encode_layers(torch.zeros(31 * 16_000), (1,))
    removed = load_encoder(EncoderConfig(name=str(folder), layer=2, positions="remove"))
    with pytest.raises(ConfigError, match="known for one layer alone"):
        removed.encode_layers(clip, (1, 2))


@pytest.mark.asset("whisper-tiny.en")
def test_the_offline_unit_encoder_loads_by_its_published_name(make_speechlike):
    encoder = load_encoder(EncoderConfig(name="openai/whisper-tiny.en", layer=2))
    (features,) = encoder.encode([make_speechlike(32_000)])
    assert features.shape == (100, 384)
    assert features.isfinite().all()
