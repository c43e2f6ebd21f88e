"""`vocable evaluate continuation`, `judge` and `retention`, from folders to result files."""

import json

import pytest

from evaluation.tiny_text_lm import save_tiny_text_lm
from tiny import save_tiny_joint_run, save_tiny_lm
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.evaluation.results import load_result
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.surgery import UnitLMConfig, build_lm
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.types import Utterance

SAMPLING = ("max_seconds=0.2", "top_k=5", "batch_size=2")


@pytest.fixture
def run(tiny_tokenizer, tiny_vocoder, make_speechlike, tmp_path):
    """A run folder: a tokenizer, a vocoder, a language model on its units, and recordings; and a text model."""
    folder = tmp_path / "run"
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    tiny_vocoder.save_pretrained(folder / "vocoder")
    vocabulary = UnitVocabulary(codebook_size=8)
    text_model = save_tiny_lm("opt", tmp_path / "opt")
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary).card(),
        tokenizer_fingerprint=tiny_tokenizer.fingerprint,
        tokenizer_card=tiny_tokenizer.card(),
        unit_seconds=(0.03,) * 8,
    )
    save_lm(build_lm(UnitLMConfig(text_model=str(text_model), warm=True), vocabulary), folder / "lm" / "last", card)
    utterances = []
    for index in range(3):
        path = folder / f"{index}.wav"
        write_audio(path, make_speechlike(8000 + 800 * index, seed=index), 16_000)
        utterances.append(Utterance(id=f"u{index}", audio=path, speaker=f"s{index % 2}"))
    write_manifest(utterances, folder / "test.jsonl")
    save_tiny_text_lm(tmp_path / "text", positions=2048)
    return folder


@pytest.fixture
def listening(monkeypatch, tiny_transcriber):
    """The tiny recogniser in the place of Whisper, whose weights a test must not need."""
    monkeypatch.setattr("vocable.recognition.transcribe.load_transcriber", lambda *_, **__: tiny_transcriber)


def continue_recordings(run, out, *words):
    places = ("--model", str(run / "lm"), "--manifest", str(run / "test.jsonl"), "--vocoder", str(run / "vocoder"))
    lengths = ("--prompt-seconds", "0.2", "--min-seconds", "0.45", "--text-model", str(run.parent / "text"))
    return main(["evaluate", "continuation", *places, "--out", str(out), *lengths, *words, *SAMPLING])


def test_from_recordings_to_ratings(run, listening, tmp_path, capsys):
    out = tmp_path / "out"
    assert continue_recordings(run, out) == 0, capsys.readouterr().err
    result = load_result(out / "continuation.json")
    assert len(result.items) == 3 and result.conventions["sampling"]["top_k"] == 5
    assert "genppl_geometric" in result.scores and "genppl_geometric/random" in result.scores
    assert (out / "continuation.html").read_text().count("<audio") >= 3
    assert "continuation.html" in capsys.readouterr().out

    assert continue_recordings(run, out) == 2  # nothing is replaced unasked
    assert "holds an earlier result" in capsys.readouterr().err
    assert continue_recordings(run, out, "--overwrite", "--anchors", '["true", "copy"]') == 0
    again = load_result(out / "continuation.json")
    assert "genppl_geometric/random" not in again.scores and "genppl_geometric/copy" in again.scores
    assert again.measurements["made_in_this_run"].get("continuations generated", 0) == 0
    assert [i["transcript"] for i in again.items] == [i["transcript"] for i in result.items]

    judge = ("evaluate", "judge", "--continuations", str(out), "--model", str(tmp_path / "text"))
    assert main([*judge]) == 0, capsys.readouterr().err
    ratings = load_result(out / "judge.json")
    rated = [item["rating"] for item in ratings.items if item["rating"] is not None]
    assert rated and all(1 < rating < 5 for rating in rated) and "rating_minus/true" in ratings.scores
    question = tmp_path / "question.txt"
    question.write_text("Rate {prompt}")
    assert main([*judge, "--question", str(question), "--overwrite"]) == 2
    assert "lacks {continuation}" in capsys.readouterr().err
    assert main([*judge, "--overwrite", "--base-url", "localhost/v1"]) == 2
    assert "must begin with http" in capsys.readouterr().err


def test_a_misspelt_setting_is_named(run, listening, tmp_path, capsys):
    assert continue_recordings(run, tmp_path / "out", "temprature=1") == 2
    assert "temperature" in capsys.readouterr().err


def test_a_model_of_speech_and_text_speaks_on(run, tiny_tokenizer, listening, tmp_path, capsys):
    joint = save_tiny_joint_run(tmp_path / "joint", tiny_tokenizer)
    (joint / "test.jsonl").write_bytes((run / "test.jsonl").read_bytes())
    for index in range(3):
        (joint / f"{index}.wav").write_bytes((run / f"{index}.wav").read_bytes())
    assert continue_recordings(joint, tmp_path / "out") == 0, capsys.readouterr().err
    result = load_result(tmp_path / "out" / "continuation.json")
    assert len(result.items) == 3 and "genppl_geometric" in result.scores
    text = tmp_path / "text.txt"
    text.write_text("the cat sat\n", encoding="utf-8")
    words = ("--model", str(joint), "--text", str(text), "--opening", "none", "--out", str(tmp_path / "kept"))
    assert main(["evaluate", "retention", *words]) == 0, capsys.readouterr().err
    assert load_result(tmp_path / "kept" / "retention.json").scores["bits_per_byte/after"].value > 0


def test_retention(run, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat sat\n\non the mat\n", encoding="utf-8")
    question = {"question": "the cat sat on the", "choices": ["mat", "sun"], "answer": "mat"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(question), encoding="utf-8")
    files = ("--text", str(tmp_path / "text.txt"), "--questions", str(tmp_path / "questions.jsonl"))
    models = ("--model", str(tmp_path / "text"), "--before", str(tmp_path / "text"))
    assert main(["evaluate", "retention", *models, *files, "--out", str(tmp_path / "out")]) == 0
    result = load_result(tmp_path / "out" / "retention.json")
    assert result.scores["bits_per_byte_difference"].value == 0 and len(result.items) == 3

    words = ("--model", str(run / "lm" / "last"), *files, "--out", str(tmp_path / "units"))
    assert main(["evaluate", "retention", *words]) == 2
    assert "language model of speech units; its text vocabulary was replaced" in capsys.readouterr().err
