"""The published unit HiFi-GAN layout, at its true shapes, against a slow forward pass written from the raw tensors."""

import json

import pytest
import torch
from torch.nn import functional

from vocable.errors import AssetError, FingerprintError
from vocable.synthesis import UnitHiFiGAN
from vocable.types import SpeechTokens

PUBLISHED = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4],
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_embeddings": 500,
    "embedding_dim": 128,
    "model_in_dim": 128,
    "code_hop_size": 320,
    "f0": False,
    "dur_prediction_weight": 1.0,
    "dur_predictor_params": {
        "encoder_embed_dim": 128,
        "var_pred_hidden_dim": 128,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
    "sampling_rate": 16000,
}
"""The keys of the published configs that matter; for 25 Hz units the product of the rates is 640."""
AT_25_HZ = PUBLISHED | {"upsample_rates": [5, 4, 4, 4, 2], "upsample_kernel_sizes": [11, 8, 8, 8, 4]}
WITH_SPEAKERS = PUBLISHED | {"model_in_dim": 256, "multispkr": "from_input_file", "num_speakers": 4}
SMALL = {"upsample_initial_channel": 64}


def make_weights(config: dict) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of published files."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    weights = {"dict.weight": rand(config["num_embeddings"], config["embedding_dim"], scale=1.0)}
    if config.get("multispkr"):
        weights["spkr.weight"] = rand(config["num_speakers"], config["embedding_dim"], scale=1.0)

    def convolution(name: str, first: int, second: int, kernel: int, bias: int) -> None:
        weights[f"{name}.weight_g"] = 1 + rand(first, 1, 1)
        weights[f"{name}.weight_v"] = rand(first, second, kernel)
        weights[f"{name}.bias"] = rand(bias)

    width = config["upsample_initial_channel"]
    convolution("conv_pre", width, config["model_in_dim"], 7, width)
    block = 0
    for stage, kernel in enumerate(config["upsample_kernel_sizes"]):
        convolution(f"ups.{stage}", width, width // 2, kernel, width // 2)
        width //= 2
        for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"]):
            for number in range(len(dilations)):
                convolution(f"resblocks.{block}.convs1.{number}", width, width, size, width)
                convolution(f"resblocks.{block}.convs2.{number}", width, width, size, width)
            block += 1
    convolution("conv_post", 1, width, 7, 1)
    hidden = config["dur_predictor_params"]["var_pred_hidden_dim"]
    for name, in_dim in (("conv1", config["embedding_dim"]), ("conv2", hidden)):
        weights[f"dur_predictor.{name}.0.weight"] = rand(hidden, in_dim, 3)
        weights[f"dur_predictor.{name}.0.bias"] = rand(hidden)
    for name in ("ln1", "ln2"):
        weights[f"dur_predictor.{name}.weight"] = 1 + rand(hidden)
        weights[f"dur_predictor.{name}.bias"] = rand(hidden)
    weights["dur_predictor.proj.weight"] = rand(1, hidden)
    weights["dur_predictor.proj.bias"] = torch.tensor([1.5])
    return weights


def weight_of(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    v = weights[f"{name}.weight_v"]
    norm = torch.stack([row.square().sum().sqrt() for row in v])[:, None, None]
    return weights[f"{name}.weight_g"] * v / norm


def slow_durations(weights: dict[str, torch.Tensor], units: torch.Tensor) -> torch.Tensor:
    hidden = weights["dict.weight"][units].T[None]
    for conv, norm in (("conv1", "ln1"), ("conv2", "ln2")):
        names = f"dur_predictor.{conv}.0", f"dur_predictor.{norm}"
        hidden = functional.conv1d(hidden, weights[f"{names[0]}.weight"], weights[f"{names[0]}.bias"], padding=1)
        rows = hidden.clamp(min=0)[0].T
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        hidden = (rows * weights[f"{names[1]}.weight"] + weights[f"{names[1]}.bias"]).T[None]
    log_durations = hidden[0].T @ weights["dur_predictor.proj.weight"][0] + weights["dur_predictor.proj.bias"]
    return torch.tensor([max(1, round(float(value.exp() - 1))) for value in log_durations])


def slow_forward(config: dict, weights: dict[str, torch.Tensor], frames: torch.Tensor, speaker: int | None = None):
    x = weights["dict.weight"][frames].T[None]
    if speaker is not None:
        x = torch.cat([x, weights["spkr.weight"][speaker][None, :, None].repeat(1, 1, x.shape[2])], 1)
    x = functional.conv1d(x, weight_of(weights, "conv_pre"), weights["conv_pre.bias"], padding=3)
    num_kernels, block = len(config["resblock_kernel_sizes"]), 0
    for stage, (rate, kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"])):
        x, name = functional.leaky_relu(x, 0.1), f"ups.{stage}"
        x = functional.conv_transpose1d(
            x, weight_of(weights, name), weights[f"{name}.bias"], stride=rate, padding=(kernel - rate) // 2
        )
        total = torch.zeros_like(x)
        for size, dilations in zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"]):
            y = x
            for number, dilation in enumerate(dilations):
                z = y
                for part, spacing in (("convs1", dilation), ("convs2", 1)):
                    name = f"resblocks.{block}.{part}.{number}"
                    z = functional.conv1d(
                        functional.leaky_relu(z, 0.1),
                        weight_of(weights, name),
                        weights[f"{name}.bias"],
                        padding=(size - 1) * spacing // 2,
                        dilation=spacing,
                    )
                y = y + z
            total, block = total + y, block + 1
        x = total / num_kernels
    x = functional.leaky_relu(x, 0.01)
    return torch.tanh(functional.conv1d(x, weight_of(weights, "conv_post"), weights["conv_post.bias"], padding=3))[0, 0]


def publish(folder, config: dict, weights: dict[str, torch.Tensor]):
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"generator": weights}, folder / "g_00500000")
    return folder / "g_00500000"


@pytest.mark.parametrize(("config", "hop"), [(PUBLISHED, 320), (AT_25_HZ | SMALL, 640), (WITH_SPEAKERS | SMALL, 320)])
@torch.no_grad()
def test_published_layout_loads_and_sounds_as_written_down(tmp_path, config, hop):
    weights = make_weights(config)
    vocoder = UnitHiFiGAN.from_published(publish(tmp_path, config, weights))
    units = torch.tensor([3, 499, 17, 0, 250, 31, 77])
    durations = slow_durations(weights, units)
    (waveform,) = vocoder.synthesize([SpeechTokens(codes=units[None])])
    assert len(set(durations.tolist())) > 1  # the case is not trivial
    assert waveform.shape == (int(durations.sum()) * hop,)
    speaker = 0 if config.get("multispkr") else None
    expected = slow_forward(config, weights, units.repeat_interleave(durations), speaker)
    # float32 sums run in another order, and weight normalisation is folded in beforehand; ten times the worst seen
    torch.testing.assert_close(waveform, expected, atol=2e-5, rtol=1e-4)


def test_full_size_has_every_published_weight_and_no_other(tmp_path):
    weights = make_weights(PUBLISHED)
    checkpoint = publish(tmp_path, PUBLISHED, weights | {"f0_embedding.weight": torch.zeros(1)})
    with pytest.raises(AssetError, match=r"weights and config do not fit.*[\s\S]*f0_embedding"):
        UnitHiFiGAN.from_published(checkpoint)
    del weights["conv_post.bias"]
    with pytest.raises(AssetError, match=r"conv_post\.bias"):
        UnitHiFiGAN.from_published(publish(tmp_path, PUBLISHED, weights))


def test_given_durations_are_used_and_negative_ids_dropped(tmp_path):
    config = PUBLISHED | SMALL
    vocoder = UnitHiFiGAN.from_published(publish(tmp_path, config, make_weights(config)))
    plain = SpeechTokens(codes=torch.tensor([[5, 6]]), durations=torch.tensor([2, 3]))
    holes = SpeechTokens(codes=torch.tensor([[5, -1, 6]]), durations=torch.tensor([2, 4, 3]))
    a, b = vocoder.synthesize([plain, holes])
    assert len(a) == 5 * 320
    assert torch.equal(a, b)
    with pytest.raises(FingerprintError, match="codebook of 500"):
        vocoder.synthesize([SpeechTokens(codes=torch.tensor([[500]]))])


def test_what_cannot_be_used_is_refused(tmp_path):
    config = PUBLISHED | SMALL
    checkpoint = publish(tmp_path, config | {"f0": True}, make_weights(config))
    with pytest.raises(AssetError, match="also needs the input 'f0'"):
        UnitHiFiGAN.from_published(checkpoint)
    torch.save({"model": {}}, checkpoint)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssetError, match="holds model; expected 'generator'"):
        UnitHiFiGAN.from_published(checkpoint)
    torch.save({"generator": Opener()}, checkpoint)
    with pytest.raises(AssetError, match="not plain tensors"):
        UnitHiFiGAN.from_published(checkpoint)
    with pytest.raises(AssetError, match="no such file"):
        UnitHiFiGAN.from_published(tmp_path / "missing")


class Opener:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("executed",)
