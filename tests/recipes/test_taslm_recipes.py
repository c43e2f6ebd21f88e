"""Every recipe of a text-aligned language model loads, and trains two steps on the tokens of a tiny tokenizer."""

from pathlib import Path

import pytest

from systems.taste.tiny_taste import SENTENCES, make_taste, save_text_model
from tiny import save_tiny_whisper, write_speech
from vocable.cli import main
from vocable.config import load_config
from vocable.lm.spoken import Segment, load_lm
from vocable.systems.taste.recipe import TasteRecipe
from vocable.tokens.shards import TokenShards
from vocable.training.logs import read_metrics

pytest.importorskip("peft")
FOLDER = Path(__file__).parents[2] / "recipes" / "taste"
RECIPES = sorted(FOLDER.glob("taslm-*.yaml"))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"taslm-smollm2-135m", "taslm-llama-3.2-1b", "taslm-qwen2.5-0.5b"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains_two_steps(recipe, tmp_path, make_speechlike, capsys):
    config = load_config(TasteRecipe, recipe)
    assert config.training is None and config.taslm is not None and config.taslm.lora is not None
    tokenizer = make_taste(save_tiny_whisper(tmp_path / "whisper")).save_pretrained(tmp_path / "tokenizer")
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=8, texts=SENTENCES)
    changes = [
        f"taslm.text_model={save_text_model(tmp_path / 'text-model')}",
        "taslm.lora.rank=2",
        "taslm.training.max_steps=2",
        "taslm.training.max_minutes=null",
        "taslm.training.batches_per_step=1",
        "taslm.training.log_every=1",
        "taslm.training.precision=fp32",
        "valid_share=0.3",
    ]
    run = tmp_path / "run"
    command = ["train", str(recipe), "--out", str(run), *changes]
    assert main(command) == 2
    assert "Give it: --manifest" in capsys.readouterr().err
    command += ["--manifest", str(manifest), "--tokenizer", str(tokenizer)]
    assert main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "weights learn" in printed and "nats per word of speech" in printed
    assert [line["step"] for line in read_metrics(run / "lm") if line["split"] == "train"] == [1, 2]
    lm = load_lm(run, tokenizer=tokenizer)
    _, tokens = TokenShards(run / "tokens")[0]
    (score,) = lm.score(lm.rows([[Segment(tokens=tokens)]]))
    assert set(score.by_modality) == {"text", "speech"} and score.by_modality["speech"][1] == tokens.num_positions
    assert main(command) == 0 and "lm: done" in capsys.readouterr().out
    assert load_config(TasteRecipe, run / "config.yaml").taslm.lora.rank == 2
