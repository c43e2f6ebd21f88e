"""Every LM-SPT yaml for CPUs loads, makes the tokens that it promises, and trains for two steps on synthetic audio."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tiny import save_tiny_encoder, write_speech
from vocable.cli import main
from vocable.config import load_config
from vocable.features.speaker import SpeakerEncoder
from vocable.systems.lm_spt import LmSptConfig, LmSptTokenizer, stages
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.training.logs import read_metrics

FOLDER = Path(__file__).parents[2] / "recipes" / "lm-spt"
RECIPES = sorted(FOLDER.rglob("cpu-*.yaml"))  # the published ones: test_lm_spt_published.py
PARTS = ("encoder", "decoder", "auxiliary")
WIDTHS = {"dim": 12, "hidden_dim": 16}
SHAPES = {"cpu-25hz": (25.0, 1024, 2000.0), "cpu-12.5hz": (12.5, 2048, 1100.0), "cpu-6.25hz": (6.25, 4096, 600.0)}
"""Tokens a second, codes of a level, bits a second."""


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= set(SHAPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe: Path, tmp_path: Path, make_speechlike, capsys, monkeypatch):
    monkeypatch.setattr(stages, "load_speaker_encoder", lambda name: SpeakerEncoder(4, 3).eval())
    config = load_config(LmSptConfig, recipe)
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    listener = save_tiny_encoder("openai/whisper-tiny.en", tmp_path / "listener")
    changes = [
        *(f"codec.{part}.{name}={value}" for part in PARTS for name, value in WIDTHS.items()),
        f"codec.encoder.kind={config.codec.encoder.kind}",
        f"codec.decoder.kind={config.codec.decoder.kind}",
        f"codec.auxiliary.kind={config.codec.auxiliary.kind}",
        f"codec.auxiliary.upsample={list(config.codec.auxiliary.upsample)}",
        f"codec.encoder.stride={config.codec.encoder.stride}",
        f"codec.decoder.stride={config.codec.decoder.stride}",
        "codec.decoder.weights=null",
        "codec.decoder.source={speaker_dim: 3, content_dim: 4, dim: 12, hidden_dim: 16, num_layers: 1}",
        "codec.quantizer.semantic.codebook_size=8",
        "codec.quantizer.semantic.init=random",  # two steps are too few for k-means
        "codec.quantizer.acoustic.level.init=random",
        "start=null",  # its decoder has other widths
        "codec.dim=32",
        "codec.quantizer.semantic.dim=32",
        "codec.quantizer.acoustic.level.dim=32",
        "codec.quantizer.acoustic.level.codebook_size=8",
        f"distillation.teacher.encoder.name={listener}",
        "distillation.teacher.encoder.layer=2",
        f"training.listener.name={listener}",
        "training.listener.layer=2",
        "training.max_steps=2",
        "training.batch_size=2",
        "training.log_every=1",
        "training.quantize_from=0",
        "training.precision=fp32",
        "valid_share=0.3",
    ]  # fmt: skip
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0, capsys.readouterr().err
    assert f"Tokenizer: {tmp_path / 'run' / 'tokenizer'}" in capsys.readouterr().out
    lines = read_metrics(tmp_path / "run" / "training")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert isinstance(tokenizer, LmSptTokenizer) and tokenizer.name == config.name
    shards = TokenShards(tmp_path / "run" / "tokens")
    assert len(shards) == 12 and shards.fingerprint == tokenizer.fingerprint
    assert set(shards.values("split")) == {"train", "valid"}
    assert main(command) == 0  # the same command again finds all of it done
    assert read_metrics(tmp_path / "run" / "training") == lines


@pytest.mark.parametrize("name", SHAPES)
def test_bits_and_tokens_are_those_of_the_comments(name):
    rate, size, bits = SHAPES[name]
    codec = load_config(LmSptConfig, next(path for path in RECIPES if path.stem == name)).codec
    levels = [codec.quantizer.semantic.codebook_size] + [q.codebook_size for q in codec.quantizer.acoustic.levels()]
    assert codec.frame_rate == rate and levels == [size] * 8
    assert rate * 8 * (size.bit_length() - 1) == bits
    opening = next(path for path in RECIPES if path.stem == name).read_text(encoding="utf-8").splitlines()[0]
    assert f"{rate:g} tokens a second, {bits:,.0f} bits" in opening


def test_other_processes_find_the_kind():
    """`vocable tokenize` loads tokenizers without having imported any system."""
    (entry,) = entry_points(group="vocable.tokenizers", name="lm-spt")
    assert entry.load() is LmSptTokenizer
