"""Every TASTE yaml loads, trains two steps of each part from a tiny Whisper, and its tokens speak."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from systems.taste.plain_decoder import PlainDecoderConfig
from tiny import save_tiny_whisper, write_speech
from vocable.cli import main
from vocable.config import load_config
from vocable.errors import ConfigError
from vocable.features.speaker import SpeakerEncoder
from vocable.systems.taste import stages
from vocable.systems.taste.config import GridConfig
from vocable.systems.taste.recipe import TasteRecipe
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.training.logs import read_metrics

FOLDER = Path(__file__).parents[2] / "recipes" / "taste"
RECIPES = [path for path in sorted(FOLDER.rglob("*.yaml")) if not path.stem.startswith("taslm")]
TEXTS = ["the cat sat on mats", "rivers and hills far away", "by the cat", "mats and hills, and rivers."]


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"cpu"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(recipe):
    assert load_config(TasteRecipe, recipe).system == "taste"


def test_codebooks_with_a_setting_missing_are_no_grid():
    with pytest.raises(ConfigError, match=r"level.dim"):
        load_config(TasteRecipe, FOLDER / "cpu.yaml", ["tokenizer.quantizer.level.codebook_size=16"])
    grid = load_config(TasteRecipe, FOLDER / "cpu.yaml", ["tokenizer.quantizer.kind=finite_scalar"])
    assert isinstance(grid.tokenizer.quantizer, GridConfig)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_two_steps(recipe, tmp_path, make_speechlike, monkeypatch, capsys):
    """The decoder alone is another one: ours are pretrained, and have tests of their own."""
    encoder = SpeakerEncoder(16, 12).eval()
    monkeypatch.setattr(stages, "load_speaker_encoder", lambda name: encoder)
    build = stages.build_trainee
    plain = PlainDecoderConfig()
    monkeypatch.setattr(stages, "build_trainee", lambda config, reader: build(replace(config, decoder=plain), reader))
    manifest = write_speech(tmp_path / "speech", make_speechlike, texts=TEXTS)
    parts = ("text_only", "continuous", "quantized")
    small = (
        "max_steps=2",
        "max_minutes=null",
        "log_every=1",
        "batch_seconds=8",
        "batches_per_step=1",
        "warmup_steps=1",
    )
    changes = [
        f"tokenizer.encoder.name={save_tiny_whisper(tmp_path / 'whisper')}",
        "tokenizer.encoder.layer=3",
        "tokenizer.shallow_layer=1",
        "tokenizer.quantizer.level.codebook_size=6",
        "tokenizer.quantizer.level.dim=8",
        "tokenizer.quantizer.num_levels=2",
        *(f"training.{part}.{setting}" for part in parts for setting in small),
        "valid_share=0.3",
    ]
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0, capsys.readouterr().err
    assert f"Tokenizer: {tmp_path / 'run' / 'tokenizer'}" in capsys.readouterr().out
    for part in parts:
        lines = read_metrics(tmp_path / "run" / "training" / part.replace("_", "-"))
        assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    shards = TokenShards(tmp_path / "run" / "tokens")
    assert len(shards) == 12 and shards.fingerprint == tokenizer.fingerprint
    (sound,) = tokenizer.decode([shards[0][1]])
    assert len(sound) and bool(torch.isfinite(sound).all())
    assert main(command) == 0  # the same command again finds all of it done
    assert "tokenizer: done" in capsys.readouterr().out
