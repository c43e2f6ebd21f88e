"""Text before and after: sums against transformers' own loss, answers against the slow way, files that are broken."""

import json
import math

import pytest
import torch

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation import text_retention
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.text_retention import (
    Question,
    Retention,
    RetentionConfig,
    choice_nlls,
    credit,
    document_nll,
    read_plain_text,
    read_questions,
)
from vocable.lm.text_lm import TextLM, load_text_lm

DOCUMENTS = ["the cat sat on the mat", "and then he went on", "x"]
QUESTIONS = [
    Question("q1", "The cat sat on the", ("mat", "moon of old"), 0),
    Question("q2", "Two and two are", ("four", "five", "a"), 1),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lms")
    return [load_text_lm(str(save_tiny_text_lm(folder / f"{seed}", seed=seed))) for seed in (0, 1)]


def evaluate_retention(after, before, out, **texts):
    benchmark = Retention(RetentionConfig(model="none"), {"after": after, "before": before, **texts})
    return run_benchmark(benchmark, out)


def plain_nll(lm, text: str) -> float:
    ids = torch.tensor([[0, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        return float(lm.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)


def test_against_the_plain_way(models, tmp_path):
    after, before = models
    evaluate_retention(after, before, tmp_path, documents=DOCUMENTS, questions=QUESTIONS)
    result = load_result(tmp_path / "retention.json")
    sums = {role: sum(plain_nll(lm, text) for text in DOCUMENTS) for role, lm in zip(("after", "before"), models)}
    tokens = sum(len(after.tokenizer(text)["input_ids"]) for text in DOCUMENTS)
    num_bytes = sum(len(text) for text in DOCUMENTS)
    scores = result.scores
    for role, nll in sums.items():
        assert scores[f"nats_per_token/{role}"].value == pytest.approx(nll / tokens, rel=1e-4)
        assert scores[f"perplexity/{role}"].value == pytest.approx(math.exp(nll / tokens), rel=1e-4)
        assert scores[f"bits_per_byte/{role}"].value == pytest.approx(nll / math.log(2) / num_bytes, rel=1e-4)
    difference = scores["nats_per_token_difference"]
    assert difference.value == pytest.approx((sums["after"] - sums["before"]) / tokens, rel=1e-3)
    assert difference.low <= difference.value <= difference.high

    for question, row in zip(QUESTIONS, result.items[3:]):
        nlls = [
            plain_nll(after, f"{question.question} {c}") - plain_nll(after, question.question) for c in question.choices
        ]
        assert row["after_choice_nlls"] == pytest.approx(nlls, rel=1e-3)
        lengths = [len(after.tokenizer(f" {c}")["input_ids"]) for c in question.choices]
        best = min(range(len(nlls)), key=lambda i: nlls[i] / lengths[i])
        assert row["after_correct_per_token"] == float(best == question.answer)
    for how in ("sum", "per_token", "per_byte"):
        both = [scores[f"accuracy_{how}/{role}"].value for role in ("after", "before")]
        assert scores[f"accuracy_{how}_difference"].value == pytest.approx(both[0] - both[1])


def test_a_model_against_itself_loses_nothing(models):
    result = evaluate_retention(models[0], models[0], None, documents=DOCUMENTS, questions=QUESTIONS)
    for name, score in result.scores.items():
        if name.endswith("_difference"):
            assert (score.value, score.low, score.high) == (0, 0, 0)


def test_long_documents_are_cut_into_windows(models, monkeypatch):
    monkeypatch.setattr(text_retention, "WINDOW_TOKENS", 5)
    ids = models[0].tokenizer("abcdefghijkl")["input_ids"]
    assert len(ids) == 12
    expected = sum(plain_nll(models[0], part) for part in ("abcde", "fghij", "kl"))
    score = document_nll(models[0], "abcdefghijkl")
    assert score.num_tokens == 12 and score.nll == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(text_retention, "WINDOW_TOKENS", 100_000)  # the model's context is the limit then
    assert document_nll(models[0], "ab " * 800).num_tokens > 512
    assert document_nll(TextLM(models[0].model, models[0].tokenizer, "x", "none"), "a") is None


def test_ties_and_length():
    assert credit([1.0, 2.0], 0) == 1 and credit([1.0, 2.0], 1) == 0
    assert credit([1.0, 1.0], 1) == 0.5 and credit([1.0, 1.0, 1.0], 0) == pytest.approx(1 / 3)


def test_equal_answers_tie(models):
    nlls = choice_nlls(models[0], Question("q", "say", ("on", "on"), 0))
    assert nlls[0] == nlls[1]


def test_plain_text_is_cut_at_blank_lines(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\n two \n\n\n three\n", encoding="utf-8")
    assert read_plain_text(path) == ["one\ntwo", "three"]
    path.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="holds no text"):
        read_plain_text(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not UTF-8 text"):
        read_plain_text(path)


GOOD = {"question": "q", "choices": ["a", "b"], "answer": 1}


def test_questions_are_read(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "answer": "a", "id": "x"}), encoding="utf-8")
    assert read_questions(path) == [Question("question-1", "q", ("a", "b"), 1), Question("x", "q", ("a", "b"), 0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"question": "q", "choices": ["a", "b"]}', "line 2: not a question.*answer"),
        (json.dumps({**GOOD, "choices": ["a"]}), "at least two texts"),
        (json.dumps({**GOOD, "question": " "}), "question must be text"),
        (json.dumps({**GOOD, "answer": 2}), "answer is 2; it must be one of the choices, or its place: 0 to 1"),
        (json.dumps({**GOOD, "answer": "c"}), "answer is 'c'"),
        (json.dumps({**GOOD, "answer": True}), "answer is True"),
    ],
)
def test_broken_questions_are_refused(tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_questions(path)


def test_a_twin_id_and_an_empty_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join([json.dumps({**GOOD, "id": "x"})] * 2), encoding="utf-8")
    with pytest.raises(ManifestError, match="the id 'x' occurs twice"):
        read_questions(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ManifestError, match="holds no question"):
        read_questions(path)


def test_nothing_to_measure_on(models):
    with pytest.raises(ConfigError, match="neither text nor questions"):
        evaluate_retention(models[0], None, None)
