"""Weights laid out as the release, made at random: names and shapes at full size, sound and codes at a small one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.systems.lm_spt.config import CodecConfig
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.release import load_release, release_layout
from vocable.systems.lm_spt.tokenizer import LmSptTokenizer
from vocable.tokens import load_tokenizer

Shapes = dict[str, tuple[int, ...]]
LEVEL = {"code_dim": 8, "distance": "cosine", "update": "gradient", "init": "random", "dead_share": None}
RELEASE: dict[str, Any] = {
    "width": 32,
    "strides": (4, 5, 6, 8, 2),
    "dim": 1024,
    "decoder": (1536, (2, 8, 6, 5, 4)),
    "auxiliary": (128, (8, 8, 5, 4)),
    "semantic": 16_384,
    "acoustic": 4096,
}
SMALL: dict[str, Any] = {
    "width": 4,
    "strides": (2, 3),
    "dim": 16,
    "decoder": (8, (3, 2)),
    "auxiliary": (8, (2, 2)),
    "semantic": 40,
    "acoustic": 12,
}


def codec_config(sizes: dict[str, Any], frame_rate: float = 12.5) -> CodecConfig:
    def decoder(width: int, strides: tuple[int, ...]) -> dict[str, Any]:
        rate = round(frame_rate * math.prod(strides))
        return {"kind": "dac", "width": width, "strides": strides, "sample_rate": rate}

    level = {**LEVEL, "dim": sizes["dim"]}
    values = {
        "sample_rate": round(frame_rate * math.prod(sizes["strides"])),
        "frame_rate": frame_rate,
        "dim": sizes["dim"],
        "encoder": {"kind": "dac", "width": sizes["width"], "strides": sizes["strides"]},
        "quantizer": {
            "subtract": True,
            "semantic": {**level, "codebook_size": sizes["semantic"]},
            "acoustic": {"num_levels": 7, "level": {**level, "codebook_size": sizes["acoustic"]}},
        },
        "decoder": decoder(*sizes["decoder"]),
        "auxiliary": decoder(*sizes["auxiliary"]),
    }
    return config_from_dict(CodecConfig, values)


def conv(name: str, inputs: int, outputs: int, kernel: int) -> Shapes:
    return {
        f"{name}.weight_g": (outputs, 1, 1),
        f"{name}.weight_v": (outputs, inputs, kernel),
        f"{name}.bias": (outputs,),
    }


def snake(name: str, channels: int) -> Shapes:
    return {f"{name}.alpha": (1, channels, 1)}


def unit(name: str, channels: int) -> Shapes:
    return {
        **snake(f"{name}.block.0", channels),
        **conv(f"{name}.block.1", channels, channels, 7),
        **snake(f"{name}.block.2", channels),
        **conv(f"{name}.block.3", channels, channels, 1),
    }


def shapes_of_encoder(part: str, sizes: dict[str, Any]) -> Shapes:
    channels = sizes["width"]
    shapes = conv(f"{part}.block.0", 1, channels, 7)
    for index, stride in enumerate(sizes["strides"], start=1):
        block = f"{part}.block.{index}.block"
        for number in range(3):
            shapes |= unit(f"{block}.{number}", channels)
        shapes |= snake(f"{block}.3", channels) | conv(f"{block}.4", channels, 2 * channels, 2 * stride)
        channels *= 2
    index = len(sizes["strides"]) + 1
    return (
        shapes | snake(f"{part}.block.{index}", channels) | conv(f"{part}.block.{index + 1}", channels, sizes["dim"], 3)
    )


def shapes_of_decoder(part: str, dim: int, channels: int, strides: tuple[int, ...]) -> Shapes:
    shapes = conv(f"{part}.model.0", dim, channels, 7)
    for index, stride in enumerate(strides, start=1):
        block, half = f"{part}.model.{index}.block", channels // 2
        shapes |= snake(f"{block}.0", channels)
        shapes |= {
            f"{block}.1.weight_g": (channels, 1, 1),
            f"{block}.1.weight_v": (channels, half, 2 * stride),
            f"{block}.1.bias": (half,),
        }
        for number in range(2, 5):
            shapes |= unit(f"{block}.{number}", half)
        channels = half
    index = len(strides) + 1
    return shapes | snake(f"{part}.model.{index}", channels) | conv(f"{part}.model.{index + 1}", channels, 1, 7)


def shapes_of_quantizer(part: str, dim: int, entries: int, levels: int) -> Shapes:
    shapes: Shapes = {}
    for level in range(levels):
        name = f"{part}.quantizers.{level}"
        shapes |= conv(f"{name}.in_proj", dim, 8, 1) | conv(f"{name}.out_proj", 8, dim, 1)
        shapes |= {f"{name}.codebook.weight": (entries, 8)}
    return shapes


def all_shapes(sizes: dict[str, Any]) -> Shapes:
    return {
        **shapes_of_encoder("semantic_encoder", sizes),
        **shapes_of_encoder("acoustic_encoder", sizes),
        **shapes_of_quantizer("semantic_quantizer", sizes["dim"], sizes["semantic"], 1),
        **shapes_of_quantizer("acoustic_quantizer", sizes["dim"], sizes["acoustic"], 7),
        **shapes_of_decoder("decoder", sizes["dim"], *sizes["decoder"]),
        **shapes_of_decoder("aux_decoder", sizes["dim"], *sizes["auxiliary"]),
    }


def random_weights(sizes: dict[str, Any]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in all_shapes(sizes).items()}
    for name, tensor in weights.items():
        if name.endswith((".alpha", ".weight_g")):  # about what training leaves; the sound must not drown in the tanh
            tensor.abs_().add_(0.2).mul_(0.5)
        elif name.endswith(".bias"):
            tensor.mul_(0.1)
    return weights


class Reference:
    """The release's networks, written from the layout, without any code of ours."""

    def __init__(self, weights: dict[str, Tensor], sizes: dict[str, Any]) -> None:
        self.weights, self.sizes = weights, sizes

    def normed(self, name: str) -> tuple[Tensor, Tensor]:
        direction = self.weights[f"{name}.weight_v"]
        length = direction.square().sum((1, 2), keepdim=True).sqrt()
        return direction * self.weights[f"{name}.weight_g"] / length, self.weights[f"{name}.bias"]

    def conv(self, name: str, signal: Tensor, **settings: int) -> Tensor:
        return functional.conv1d(signal, *self.normed(name), **settings)

    def snake(self, name: str, signal: Tensor) -> Tensor:
        alpha = self.weights[f"{name}.alpha"]
        return signal + torch.sin(alpha * signal) ** 2 / alpha

    def unit(self, name: str, signal: Tensor, dilation: int) -> Tensor:
        inner = self.conv(
            f"{name}.block.1", self.snake(f"{name}.block.0", signal), dilation=dilation, padding=3 * dilation
        )
        return signal + self.conv(f"{name}.block.3", self.snake(f"{name}.block.2", inner))

    def encode(self, part: str, waveform: Tensor) -> Tensor:
        signal = self.conv(f"{part}.block.0", waveform[None, None], padding=3)
        for index, stride in enumerate(self.sizes["strides"], start=1):
            block = f"{part}.block.{index}.block"
            for number, dilation in enumerate((1, 3, 9)):
                signal = self.unit(f"{block}.{number}", signal, dilation)
            signal = self.snake(f"{block}.3", signal)
            signal = self.conv(f"{block}.4", signal, stride=stride, padding=-(-stride // 2))
        last = len(self.sizes["strides"]) + 1
        return self.conv(f"{part}.block.{last + 1}", self.snake(f"{part}.block.{last}", signal), padding=1)

    def decode(self, part: str, strides: tuple[int, ...], signal: Tensor) -> Tensor:
        samples = signal.shape[-1] * math.prod(strides)
        signal = self.conv(f"{part}.model.0", signal, padding=3)
        for index, stride in enumerate(strides, start=1):
            block = f"{part}.model.{index}.block"
            weight, bias = self.normed(f"{block}.1")
            signal = functional.conv_transpose1d(
                self.snake(f"{block}.0", signal), weight, bias, stride=stride, padding=-(-stride // 2)
            )
            for number, dilation in enumerate((1, 3, 9), start=2):
                signal = self.unit(f"{block}.{number}", signal, dilation)
        last = len(strides) + 1
        signal = self.conv(f"{part}.model.{last + 1}", self.snake(f"{part}.model.{last}", signal), padding=3)
        return functional.pad(signal.tanh()[0, 0], (0, samples - signal.shape[-1]))

    def quantize(self, name: str, signal: Tensor) -> tuple[Tensor, Tensor]:
        entries = self.weights[f"{name}.codebook.weight"]
        small = self.conv(f"{name}.in_proj", signal)
        codes = (functional.normalize(small[0].T) @ functional.normalize(entries).T).argmax(-1)
        return codes, self.conv(f"{name}.out_proj", entries[codes].T[None])

    def run(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Semantic codes, acoustic codes, sound of both, sound of the semantic codes."""
        semantic, vectors = self.quantize("semantic_quantizer.quantizers.0", self.encode("semantic_encoder", waveform))
        rest, total, acoustic = self.encode("acoustic_encoder", waveform) - vectors, vectors, []
        for level in range(7):
            codes, found = self.quantize(f"acoustic_quantizer.quantizers.{level}", rest)
            rest, total = rest - found, total + found
            acoustic.append(codes)
        full = self.decode("decoder", self.sizes["decoder"][1], total)
        alone = self.decode("aux_decoder", self.sizes["auxiliary"][1], vectors)
        return semantic[None], torch.stack(acoustic), full, alone


def write(weights: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    else:
        torch.save({"state_dict": weights, "metadata": {"step": 3}} if path.stem == "nested" else weights, path)
    return path


def test_the_layout_at_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        codec = LmSptCodec(codec_config(RELEASE))
    layout = release_layout(codec)
    assert layout == all_shapes(RELEASE)
    counts = {
        part: sum(math.prod(shape) for name, shape in layout.items() if name.startswith(part))
        for part in ("semantic_encoder", "acoustic_encoder", "semantic_quantizer", "acoustic_quantizer", "decoder")
    }
    quantizer = counts["semantic_quantizer"] + counts["acoustic_quantizer"]
    map_in, map_out = 1024 * 8 + 2 * 8, 8 * 1024 + 2 * 1024
    assert quantizer == 8 * (map_in + map_out) + (16_384 + 7 * 4096) * 8 and round(quantizer / 1e6, 2) == 0.51
    total = sum(math.prod(shape) for shape in layout.values())
    assert counts["acoustic_encoder"] == counts["semantic_encoder"]
    assert [round(counts[part] / 1e6, 2) for part in ("acoustic_encoder", "decoder")] == [16.24, 40.45]
    assert round(total / 1e6, 1) == 74.7
    # our maps into and out of the codes are not normed: one number less for each of their outputs
    assert sum(parameter.numel() for parameter in codec.parameters()) == total - 8 * (8 + 1024)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "nested.pth"])
def test_loaded_weights_give_the_codes_and_the_sound_of_the_release(name: str, tmp_path: Path):
    weights = random_weights(SMALL)
    codec = load_release(write(weights, tmp_path / name), codec_config(SMALL))
    assert not codec.training
    waveform = torch.randn(40 * 6)
    semantic, acoustic, full, alone = Reference(weights, SMALL).run(waveform)
    assert semantic.unique().numel() > 5 and all(codes.unique().numel() > 3 for codes in acoustic)
    assert full.std() > 0.02 and alone.std() > 0.02
    found = codec.encode(waveform)
    assert torch.equal(found[0], semantic) and torch.equal(found[1], acoustic)
    torch.testing.assert_close(codec.decode(*found), full, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(codec.decode(found[0], None), alone, atol=1e-4, rtol=1e-4)


def test_a_loaded_codec_becomes_a_tokenizer(tmp_path: Path):
    path = write(random_weights(SMALL), tmp_path / "weights.pt")
    tokenizer = LmSptTokenizer.of_codec(load_release(path, codec_config(SMALL)), "released")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.name == "released"
    waveform = torch.randn(40 * 6)
    (tokens,) = loaded.encode([waveform])
    semantic, acoustic, full, _ = Reference(random_weights(SMALL), SMALL).run(waveform)
    found = tokens.streams
    assert found is not None
    assert torch.equal(found["semantic"].codes, semantic) and torch.equal(found["acoustic"].codes, acoustic)
    torch.testing.assert_close(loaded.decode([tokens])[0], full, atol=1e-4, rtol=1e-4)


def test_other_names_are_led_to_the_layout(tmp_path: Path):
    weights = random_weights(SMALL)
    moved = {}
    for name, tensor in weights.items():
        name = name.replace("semantic_encoder.", "model.enc_s.").replace("acoustic_encoder.", "model.enc_a.")
        name = name.replace("weight_g", "parametrizations.weight.original0")
        moved[name.replace("weight_v", "parametrizations.weight.original1")] = tensor
    moved |= {"model.teacher.conv.weight": torch.zeros(3), "model.teachers": torch.ones(3)}
    path = write(moved, tmp_path / "weights.safetensors")
    rename: dict[str, str | None] = {"model.enc_s": "semantic_encoder", "model.enc_a": "acoustic_encoder"}
    codec = load_release(path, codec_config(SMALL), rename={**rename, "model": None})
    plain = load_release(write(weights, tmp_path / "plain.pt"), codec_config(SMALL))
    expected = plain.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in codec.state_dict().items())
    with pytest.raises(AssetError, match=r"1 unknown: model\.teachers\. Lead names"):
        load_release(path, codec_config(SMALL), rename={**rename, "model.teacher": None})
    with pytest.raises(AssetError, match=r"two tensors become 'semantic_encoder\.block\.0\..*Change `rename`"):
        load_release(path, codec_config(SMALL), rename={**rename, "model.enc_a": "semantic_encoder"})


def test_tensors_that_do_not_fit_are_named(tmp_path: Path):
    weights = random_weights(SMALL)
    del weights["semantic_quantizer.quantizers.0.in_proj.weight_g"]
    weights["decoder.model.9.bias"] = torch.zeros(1)
    weights["aux_decoder.model.0.bias"] = torch.zeros(5)
    with pytest.raises(AssetError) as caught:
        load_release(write(weights, tmp_path / "weights.pt"), codec_config(SMALL))
    message = str(caught.value)
    assert "1 missing: semantic_quantizer.quantizers.0.in_proj.weight_g." in message
    assert "1 unknown: decoder.model.9.bias." in message
    assert "1 of another shape: aux_decoder.model.0.bias (5,) (expected (8,))." in message
    many = {f"discriminator.{number}": torch.zeros(1) for number in range(9)}
    with pytest.raises(AssetError, match=r"9 unknown: discriminator.0, .*discriminator.3, \.\.\."):
        load_release(write(random_weights(SMALL) | many, tmp_path / "weights.pt"), codec_config(SMALL))


def test_files_that_are_no_tables_of_tensors_are_refused(tmp_path: Path):
    config = codec_config(SMALL)
    with pytest.raises(AssetError, match="no such file"):
        load_release(tmp_path / "none.pt", config)
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "other.pt")
    with pytest.raises(AssetError, match="holds epoch, weights; expected a table of tensors"):
        load_release(tmp_path / "other.pt", config)
    torch.save(Path("code"), tmp_path / "code.pt")  # a class that only unpickling could make
    (tmp_path / "text.pt").write_text("none")
    (tmp_path / "text.safetensors").write_text("none")
    for name in ("code.pt", "text.pt", "text.safetensors"):
        with pytest.raises(AssetError, match="not plain tensors, so it is not loaded"):
            load_release(tmp_path / name, config)


@pytest.mark.parametrize(
    "change",
    [
        {"shared": "encoder"},
        {"encoder": {"kind": "mel", "stride": 2, "max_frequency": 30.0, "num_mels": 2}},
        {"auxiliary": {"kind": "vocos", "sample_rate": 100, "dim": 8, "hidden_dim": 8}},
        {"quantizer": {"semantic": {"dim": 16}, "acoustic": {"level": {"dim": 16}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_codecs_of_other_networks_are_refused(change: dict[str, Any]):
    config = config_from_dict(CodecConfig, config_to_dict(codec_config(SMALL)) | change)
    with pytest.raises(ConfigError, match="release has two encoders and two decoders of kind 'dac'"):
        release_layout(LmSptCodec(config))
