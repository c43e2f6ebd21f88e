"""Every SUTLM yaml loads, and trains for two steps on synthetic audio from a tiny model of the same family."""

from pathlib import Path

import pytest

from tiny import save_tiny_encoder, save_tiny_lm, write_speech
from vocable.cli import main
from vocable.config import load_config, system_of
from vocable.lm.spoken import load_lm
from vocable.sequences.text_tokenizers import fit_text_tokenizer
from vocable.systems.sutlm import SutlmConfig
from vocable.training.logs import read_metrics

RECIPES = [
    path for path in sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml")) if system_of(path) == "sutlm"
]
TEXTS = ["Anna saw a cat", "the cat sat", "a dog ran home", "we went up", "it was late", "birds sing at noon"]


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"cpu", "scratch350m", "warm", "lora", "frozen-lm"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe: Path, tmp_path: Path, make_speechlike, capsys):
    config = load_config(SutlmConfig, recipe)
    if config.lora is not None:
        pytest.importorskip("peft")
    manifest = write_speech(tmp_path / "speech", make_speechlike, texts=TEXTS)
    text_model = "tiny"
    if config.lm.warm:
        text_model = save_tiny_lm(config.lm.text_model, tmp_path / "text")
        fit_text_tokenizer(TEXTS, 300).save_pretrained(text_model)
    changes = [
        f"tokenizer.encoder.name={save_tiny_encoder(config.tokenizer.encoder.name, tmp_path / 'encoder')}",
        "tokenizer.encoder.layer=2",
        "tokenizer.kmeans.num_clusters=8",
        "tokenizer.kmeans.init_frames=50",
        f"lm.text_model={text_model}",
        "training.max_steps=2",
        "training.log_every=1",
        "training.batches_per_step=1",
        "valid_share=0.3",
    ]
    if config.text.vocabulary_size is not None:
        changes.append("text.vocabulary_size=300")
    if config.subwords is not None:
        changes.append("subwords.vocabulary_size=60")
    command = ["train", str(recipe), "--manifest", str(manifest), "--out", str(tmp_path / "run"), *changes]
    assert main(command) == 0, capsys.readouterr().err
    lines = read_metrics(tmp_path / "run" / "lm")
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    lm = load_lm(tmp_path / "run" / "lm" / "last")
    assert lm.card.vocabulary.codebook_size == 8
    assert set(lm.card.training["sources"]) == set(config.sources)
    assert lm.modalities == ("speech", "text") and lm.text_tokenizer is not None
    assert main(command) == 0  # the same command again finds all of it done
    assert read_metrics(tmp_path / "run" / "lm") == lines
