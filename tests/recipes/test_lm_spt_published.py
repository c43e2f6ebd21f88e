"""Published LM-SPT yamls have networks of the sizes that are published or counted by hand, and train for two steps."""

from pathlib import Path

import pytest
import torch
from torch import nn

from systems.lm_spt import sizes
from systems.lm_spt.tiny_codec import write_recordings
from tiny import save_tiny_encoder
from vocable.config import load_config
from vocable.synthesis.discriminators import DAC_DISCRIMINATORS
from vocable.systems.lm_spt.config import LmSptConfig
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.stages import train_codec
from vocable.tokens import load_tokenizer
from vocable.training.logs import read_metrics

FOLDER = Path(__file__).parents[2] / "recipes" / "lm-spt"
V1 = {
    "v1-25hz": ((4, 4, 5, 8), 25, 1024),
    "v1-12.5hz": ((4, 5, 8, 8), 12.5, 2048),
    "v1-6.25hz": ((5, 8, 8, 8), 6.25, 4096),
}

TINY = [
    "codec.dim=16",
    "codec.encoder.width=1",
    "codec.quantizer.semantic.dim=16",
    "codec.quantizer.semantic.codebook_size=8",
    "codec.quantizer.acoustic.level.dim=16",
    "codec.quantizer.acoustic.level.codebook_size=4",
    "codec.quantizer.acoustic.num_levels=2",
    "training.max_steps=2",
    "training.batch_size=2",
    "training.batches_per_step=1",
    "distillation.teacher.padding=crop",
    "training.crop_seconds=0.64",
    "training.discriminators.periods=[3]",
    "training.discriminators.period_channels=[4]",
    "training.discriminators.n_ffts=[512]",
    "training.discriminators.spectrogram_channels=4",
    "training.validation_seconds=1.0",
    "training.log_every=1",
]
TINY_NETWORKS = {
    "release": ["codec.decoder.width=32", "codec.auxiliary.width=16"],
    "v1": [
        *(f"codec.encoder.transformer.{name}={value}" for name, value in [("num_layers", 2), ("width", 16)]),
        *(f"codec.quantizer.{level}.init_batches=1" for level in ("semantic", "acoustic.level")),
        *(f"codec.{decoder}.{name}=8" for decoder in ("decoder", "auxiliary") for name in ("dim", "hidden_dim")),
    ],
}


def count(*networks: nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def build(recipe: str) -> tuple[LmSptConfig, LmSptCodec]:
    config = load_config(LmSptConfig, FOLDER / f"{recipe}.yaml")
    with torch.device("meta"):
        return config, LmSptCodec(config.codec)


def test_the_released_codec_has_the_published_sizes():
    config, codec = build("release-12.5hz")
    assert codec.acoustic_encoder is not None
    encoder = sizes.dac_encoder(32, (4, 5, 6, 8, 2), 1024)
    assert (count(codec.semantic_encoder), count(codec.acoustic_encoder)) == (encoder, encoder)
    assert count(codec.decoder) == sizes.dac_decoder(1536, (2, 8, 6, 5, 4), 1024)
    assert count(codec.auxiliary) == sizes.dac_decoder(128, (8, 8, 5, 4), 1024)
    # published: 0.51 M, with a norm for each output of the maps into and out of the codes, which ours do not have
    norms = 8 * (8 + 1024)
    assert count(codec.quantizer) + norms == 508_032
    assert round((count(codec) + norms) / 1e6, 1) == 74.7
    parts = [codec.semantic_encoder, codec.acoustic_encoder, codec.decoder, codec.auxiliary]
    assert [round(count(part) / 1e6, 2) for part in parts] == [16.24, 16.24, 40.45, 1.22]
    assert (codec.decoder.hop_length, codec.auxiliary.hop_length) == (1920, 1280)
    quantizer = config.codec.quantizer
    assert quantizer.subtract and (quantizer.semantic.codebook_size, quantizer.acoustic.level.codebook_size) == (
        16_384,
        4096,
    )
    assert (quantizer.acoustic.num_levels, quantizer.acoustic.dropout) == (7, 0.5)
    assert config.distillation.weight == 500 and config.distillation.teacher.padding == "30s"
    assert config.training.loss_scale == "dac" and config.training.discriminators == DAC_DISCRIMINATORS


@pytest.mark.parametrize("recipe", V1)
def test_codecs_of_the_first_version_have_the_sizes_of_their_parts(recipe: str):
    strides, frame_rate, codebook_size = V1[recipe]
    config, codec = build(recipe)
    assert codec.acoustic_encoder is not None
    n_fft = 4 * round(16_000 / frame_rate)
    encoder = sizes.conv_transformer(32, strides, 512)
    expected = [encoder, encoder, sizes.vocos(512, 768, 2304, 12, n_fft), sizes.vocos(512, 256, 1536, 1, n_fft)]
    parts = [codec.semantic_encoder, codec.acoustic_encoder, codec.decoder, codec.auxiliary]
    assert [count(part) for part in parts] == expected
    levels = (codec.quantizer.semantic, *codec.quantizer.acoustic.levels)
    entries = sum(level.get_buffer("codebook").numel() for level in levels)
    assert entries == 8 * codebook_size * 512 and count(codec.quantizer) == 0  # moving averages, no gradients
    assert config.codec.hop_length == n_fft // 4 and not config.codec.quantizer.subtract
    assert config.training.batch_size * config.training.batches_per_step == 128
    # the first codebook is fitted on enough frames
    frames = config.training.batch_size * config.crop_tokens
    assert config.codec.quantizer.acoustic.level.init_batches * frames >= 10 * codebook_size
    if recipe == "v1-25hz":
        assert [round(size / 1e6, 2) for size in expected[1:]] == [22.74, 47.33, 2.37]  # 22, 47 and 2.4 in the paper
        assert 0.99 < (sum(expected) + entries) / 99.7e6 < 1


def test_all_published_recipes_are_tested():
    names = {path.stem for path in FOLDER.rglob("*.yaml") if not path.stem.startswith("cpu-")}
    assert names == {"release-12.5hz", *V1}


@pytest.mark.parametrize("recipe", ["release-12.5hz", *V1])
def test_published_recipes_train_two_steps(recipe: str, tmp_path: Path, make_speechlike):
    teacher = save_tiny_encoder("whisper", tmp_path / "teacher")
    overrides = [*TINY, *TINY_NETWORKS[recipe.split("-")[0]], f"distillation.teacher.encoder.name={teacher}"]
    path = FOLDER / f"{recipe}.yaml"
    config = load_config(LmSptConfig, path, [*overrides, "distillation.teacher.encoder.layer=2"])
    recordings = write_recordings(tmp_path, make_speechlike)
    train_codec(config, recordings, tmp_path / "run", recordings[:1], show=False)
    lines = [line for line in read_metrics(tmp_path / "run" / "training") if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line[loss] > 0 for line in lines for loss in ("mel", "distillation", "discriminator", "feature"))
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert (tokenizer.sample_rate, tokenizer.streams[0].rate) == (config.codec.sample_rate, config.codec.frame_rate)
    assert [stream.codebook_sizes for stream in tokenizer.streams] == [(8,), (4, 4)]
