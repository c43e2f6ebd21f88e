"""The commands on models of speech and text, from recordings with word times to result files."""

import json

import pytest
from transformers import AutoTokenizer

from evaluation.tiny_text_lm import save_tiny_text_lm
from tiny import save_tiny_joint_run, save_tiny_recogniser, save_tiny_unit_run
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.evaluation.halves import CELLS
from vocable.evaluation.results import load_result
from vocable.tokens.unit_tokenizer import UnitTokenizer
from vocable.types import Utterance, Word

TEXTS = ["The cat sat on mats.", "And then it was gone", "Hills are far away, far", "words and cats", "no times here"]


@pytest.fixture
def manifest(tmp_path, make_speechlike):
    """Five recordings of a second; four with word times, of which one has too few words."""
    found = []
    for index, text in enumerate(TEXTS):
        path = tmp_path / f"{index}.wav"
        write_audio(path, make_speechlike(16_000, seed=index), 16_000)
        parts = text.replace(",", "").replace(".", "").split()
        step = 1 / len(parts)
        words = tuple(Word(word=w, start=k * step, end=(k + 1) * step) for k, w in enumerate(parts))
        found.append(Utterance(id=f"u{index}", audio=path, text=text, words=words if index < 4 else None))
    write_manifest(found, tmp_path / "manifest.jsonl")
    return tmp_path / "manifest.jsonl"


def cra(manifest, out, *words):
    options = ["--out", str(out), "--cache", str(manifest.parent / "cache"), "--pool-size", "3", "--device", "cpu"]
    return main(["evaluate", "cra", str(manifest), *options, *words])


def pelm(manifest, out, text_lm, *words):
    options = ["--out", str(out), "--cache", str(manifest.parent / "cache"), "--text-model", str(text_lm)]
    return main(["evaluate", "pelm", str(manifest), *options, "--device", "cpu", *words])


def test_cra_of_a_joint_model_and_its_controls(manifest, tmp_path, tiny_tokenizer, monkeypatch, capsys):
    run = save_tiny_joint_run(tmp_path / "run", tiny_tokenizer)
    assert cra(manifest, tmp_path / "a", "--model", str(run)) == 0, capsys.readouterr().err
    result = load_result(tmp_path / "a" / "cra.json")
    assert [name for name in result.scores if name.startswith("cra")] == [f"cra_{cell}" for cell in CELLS]
    assert result.excluded == {"no word times": 1, "fewer than 4 words": 1}
    assert result.fingerprints["tokenizer"] == tiny_tokenizer.fingerprint
    assert "sha256" in result.weights["model"] and result.conventions["logits"] == "kept"
    assert (tmp_path / "a" / "cra.svg").is_file()
    printed = capsys.readouterr().out
    assert "Chance is 0.3333 (1 in 3)" in printed and "Left out: 1 (no word times)" in printed
    monkeypatch.setattr(UnitTokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    assert cra(manifest, tmp_path / "b", "--model", str(run), "--logits", "masked", "--share", "0.4") == 0
    masked = load_result(tmp_path / "b" / "cra.json")
    assert masked.conventions["logits"] == "masked" and masked.conventions["cut"]["share"] == 0.4
    assert cra(manifest, tmp_path / "chance", "--model", "random") == 0
    assert load_result(tmp_path / "chance" / "cra.json").weights["model"] == {"control": "random"}
    text = save_tiny_text_lm(tmp_path / "text")
    assert cra(manifest, tmp_path / "text-cra", "--model", "text", "--text-model", str(text)) == 0
    written = load_result(tmp_path / "text-cra" / "cra.json")
    assert [name for name in written.scores if name.startswith("cra")] == ["cra_t2t"]
    expected = AutoTokenizer.from_pretrained(text)(" sat on mats.", add_special_tokens=False)["input_ids"]
    assert next(item for item in written.items if item["id"] == "u0")["scored_tokens_t2t"] == len(expected)


def test_a_model_of_units_gives_only_units_after_units(manifest, tmp_path, tiny_tokenizer, capsys):
    run = save_tiny_unit_run(tmp_path / "run", tiny_tokenizer)
    assert cra(manifest, tmp_path / "a", "--model", str(run)) == 0, capsys.readouterr().err
    names = load_result(tmp_path / "a" / "cra.json").scores
    assert {name.rsplit("_", 1)[1] for name in names} == {"u2u"}
    text, judge = save_tiny_text_lm(tmp_path / "text"), save_tiny_recogniser(tmp_path / "judge")
    assert pelm(manifest, tmp_path / "b", text, "--model", str(run)) == 2
    assert "writes no text" in capsys.readouterr().err
    heard = ("--units-to-text", "asr", "--transcriber", str(judge), "--vocoder", str(run / "vocoder"))
    assert pelm(manifest, tmp_path / "b", text, "--model", str(run), *heard, "max_seconds=0.5") == 0
    result = load_result(tmp_path / "b" / "pelm.json")
    assert result.conventions["directions"] == ["u2u"] and str(judge) in result.conventions["units_to_text"]


def test_pelm_of_a_joint_model(manifest, tmp_path, tiny_tokenizer, capsys):
    run, text = save_tiny_joint_run(tmp_path / "run", tiny_tokenizer), save_tiny_text_lm(tmp_path / "text")
    words = ("--model", str(run), "--max-text-tokens", "8", "max_seconds=0.5", "temperature=0.9")
    assert pelm(manifest, tmp_path / "a", text, *words) == 0, capsys.readouterr().err
    result = load_result(tmp_path / "a" / "pelm.json")
    assert result.conventions["directions"] == list(CELLS)
    assert result.conventions["sampling"]["temperature"] == 0.9
    assert result.weights["text_lm"]["name"] == str(text) and result.weights["units_to_text"]["sha256"]
    assert "pelm_t2u" in capsys.readouterr().out
    other = ("--units-to-text", str(run), "--directions", '["t2u"]')
    assert pelm(manifest, tmp_path / "b", text, *words, *other) == 0
    again = load_result(tmp_path / "b" / "pelm.json")
    assert again.scores["pelm_t2u"] == result.scores["pelm_t2u"]  # the same model, named by its folder
    assert again.conventions["units_to_text"].endswith("best")


def test_errors_are_one_line(manifest, tmp_path, tiny_tokenizer, capsys):
    run = save_tiny_joint_run(tmp_path / "run", tiny_tokenizer)
    cases = [
        (("--model", "randon"), "Did you mean 'random'"),
        (
            ("--model", "nofolder"),
            "nofolder: no such folder of a trained model. Unknown control 'nofolder'. Known:",
        ),
        (("--model", str(tmp_path / "run" / "tokenizer")), "no language model is here"),
        (("--model", str(run), "--pool-size", "1"), "pool_size is 1"),
        (("--model", str(run), "--pool-size", "30"), "30 are needed"),
        (("--model", str(run), "--share", "1.5"), "share is 1.5"),
    ]
    for words, message in cases:
        assert cra(manifest, tmp_path / "out", *words) == 2
        assert message in capsys.readouterr().err
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line.pop("words", None)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cra(manifest, tmp_path / "out", "--model", str(run)) == 2
    assert "None of 5 utterances can be cut in two (no word times: 5)" in capsys.readouterr().err
