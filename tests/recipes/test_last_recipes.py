"""Every LAST yaml loads, and trains for two steps on synthetic audio, through tiny models of the same families."""

from pathlib import Path

import pytest

from tiny import save_tiny_encoder, save_tiny_lm, write_speech
from vocable.cli import main
from vocable.config import load_config, system_of
from vocable.lm.checkpoint import read_lm
from vocable.systems.last import LastConfig, LastTokenizer
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import load_tokenizer
from vocable.training.logs import read_metrics

FOLDER = Path(__file__).parents[2] / "recipes" / "last"
RECIPES = [path for path in sorted(FOLDER.rglob("*.yaml")) if system_of(path) == "last"]  # the others read its units
TINY = {"width": 16, "num_heads": 2, "feedforward_dim": 32}


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"cpu", "published"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe: Path, tmp_path: Path, make_speechlike, capsys):
    config = load_config(LastConfig, recipe)
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    encoder = save_tiny_encoder(config.encoder.name, tmp_path / "encoder")
    text_model = save_tiny_lm(config.lm.text_model, tmp_path / "lm")
    changes = [
        f"encoder.name={encoder}",
        "encoder.layer=2",
        f"lm.text_model={text_model}",
        "model.quantizer.codebook_size=8",
        *(f"model.{part}.{name}={value}" for part in ("encoder", "decoder") for name, value in TINY.items()),
        "model.loss.nll_start_step=1",
        "model.loss.nll_ramp_steps=0",
        "training.max_steps=2",
        "training.log_every=1",
        "training.batch_frames=500",
        "valid_share=0.3",
    ]
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0, capsys.readouterr().err
    assert f"Tokenizer: {tmp_path / 'run' / 'tokenizer'}" in capsys.readouterr().out
    lines = read_metrics(tmp_path / "run" / "training")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    assert load_config(LastConfig, tmp_path / "run" / "config.yaml").model.quantizer.codebook_size == 8
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert isinstance(tokenizer, LastTokenizer)
    assert (tokenizer.name, tokenizer.codebook_size, tokenizer.frame_rate) == (config.name, 8, 50.0)
    shards = tmp_path / "tokens"
    assert main(["tokenize", str(manifest), str(shards), "--tokenizer", str(tmp_path / "run" / "tokenizer")]) == 0
    assert len(TokenShards(shards)) == 12 and TokenShards(shards).fingerprint == tokenizer.fingerprint
    reader = ["train", str(RECIPES[0].parents[1] / "twist" / "cpu.yaml"), "--tokens", str(shards), "--out"]
    reader += [str(tmp_path / "reader"), "--tokenizer", str(tmp_path / "run" / "tokenizer"), "training.max_steps=1"]
    assert main([*reader, f"lm.text_model={text_model}", "valid_share=0.3"]) == 0, capsys.readouterr().err
    card = read_lm(tmp_path / "reader" / "lm" / "last").card
    assert (card.vocabulary.codebook_size, card.tokenizer_fingerprint) == (8, tokenizer.fingerprint)
    capsys.readouterr()
    assert main(command) == 0  # the same command again finds all of it done
    assert read_metrics(tmp_path / "run" / "training") == lines


@pytest.mark.parametrize("options", [["--tokens", "tokens"], ["--manifest", "m.jsonl", "--tokenizer", "t"]])
def test_a_tokenizer_is_trained_from_speech(options, tmp_path, capsys):
    assert main(["train", str(RECIPES[0]), "--out", str(tmp_path / "run"), *options]) == 2
    said = f"{options[-2]} is given, but last does not read it; it reads --features, --manifest, --valid-manifest."
    assert said in capsys.readouterr().err
