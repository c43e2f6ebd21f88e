"""Every TWIST yaml loads, and trains for two steps on synthetic audio from a tiny model of the same families."""

from pathlib import Path

import pytest

from tiny import save_tiny_encoder, save_tiny_lm, write_speech
from vocable.cli import main
from vocable.config import load_config
from vocable.lm.checkpoint import read_lm
from vocable.systems.twist import TwistConfig
from vocable.training.logs import read_metrics

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "twist").rglob("*.yaml"))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {
        "cpu",
        "opt125m",
        "opt350m",
        "opt1.3b",
        "opt350m-50hz",
        "slam",
        "portable",
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe: Path, tmp_path: Path, make_speechlike, capsys):
    config = load_config(TwistConfig, recipe)
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    encoder = save_tiny_encoder(config.tokenizer.encoder.name, tmp_path / "encoder")
    text_model = save_tiny_lm(config.lm.text_model, tmp_path / "lm") if config.lm.warm else "tiny"
    changes = [
        f"tokenizer.encoder.name={encoder}",
        "tokenizer.encoder.layer=2",
        "tokenizer.kmeans.num_clusters=8",
        "tokenizer.kmeans.init_frames=50",
        f"lm.text_model={text_model}",
        "training.max_steps=2",
        "training.log_every=1",
        "training.batches_per_step=1",
        "valid_share=0.3",
    ]
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0, capsys.readouterr().err
    lines = read_metrics(tmp_path / "run" / "lm")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    model, card, *_ = read_lm(tmp_path / "run" / "lm" / "last")
    assert card.vocabulary.codebook_size == 8
    assert model.get_input_embeddings().weight.shape[0] == 10
    assert main(command) == 0  # the same command again finds all of it done
    assert read_metrics(tmp_path / "run" / "lm") == lines
