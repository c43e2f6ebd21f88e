"""The judge against a server of the test's own, and the local judge against its definition."""

import http.server
import json
import threading
import time
from pathlib import Path

import pytest
import torch

from evaluation.tiny_text_lm import save_tiny_text_lm
from vocable.cli import main
from vocable.errors import ConfigError, ServiceError
from vocable.evaluation.judge_endpoint import EndpointConfig
from vocable.evaluation.llm_judge import (
    LOCAL_QUESTION,
    QUESTION,
    EndpointJudge,
    Judge,
    JudgeConfig,
    LocalJudge,
    fill,
    read_score,
    sha256,
)
from vocable.evaluation.results import EvaluationResult, load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.lm.text_lm import load_text_lm

KEY = "secret-key-123"


class Server:
    """Answers requests with what stands next in `answers`: a reply, a status, or seconds of silence."""

    def __init__(self) -> None:
        self.answers: list = []
        self.requests: list = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), body))
                answer = server.answers.pop(0)
                if isinstance(answer, float):
                    time.sleep(answer)
                    answer = "too late"
                status, content = answer if isinstance(answer, tuple) else (200, answer)
                if status == 200 and isinstance(content, str):
                    content = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
                try:
                    self.send_response(status)
                    if status == 302:
                        self.send_header("Location", server.url + "/elsewhere")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has given up

            def log_message(self, *_) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def make_judge(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)

    def make(**settings) -> EndpointJudge:
        given = {"base_url": server.url, "backoff_seconds": 0.0, "api_key_env": "TEST_JUDGE_KEY"}
        return EndpointJudge(EndpointConfig(**{**given, **settings}), "judge-1", tmp_path / "replies.jsonl")

    return make


def test_a_good_reply(server, make_judge):
    server.answers = ["It fits well.\nScore: 4"]
    judge = make_judge(temperature=0.2)
    assert judge.rate("the cat sat", "on the mat").value == 4
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "judge-1" and body["temperature"] == 0.2
    assert body["messages"] == [{"role": "user", "content": fill(QUESTION, "the cat sat", "on the mat")}]
    assert judge.conventions["judge_question_sha256"] == sha256(QUESTION)


def test_a_reply_is_asked_for_once_and_the_key_is_not_on_disk(server, make_judge):
    server.answers = ["Score: 2", "Score: 5"]
    judge = make_judge()
    assert judge.rate("a", "b").value == 2
    again = make_judge()  # a new run over the same folder
    assert again.rate("a", "b").value == 2 and again.num_requests == 0 and len(server.requests) == 1
    assert make_judge(temperature=1.0).rate("a", "b").value == 5  # another temperature is another question
    server.answers = ["Score: 1"]
    elsewhere = make_judge(base_url=server.url.replace("127.0.0.1", "localhost"))
    assert elsewhere.rate("a", "b").value == 1  # and so is another service, whatever it calls its model
    assert KEY not in judge.replies.path.read_text() and "Score: 2" in judge.replies.path.read_text()


def test_prose_is_no_score(server, make_judge):
    server.answers = ["I would give this four points."]
    rating = make_judge().rate("a", "b")
    assert rating.value is None and "four points" in rating.reply


def test_a_judge_that_is_too_slow(server, make_judge):
    server.answers = [0.5, 0.5]
    with pytest.raises(ServiceError, match=r"in 2 attempts; the last: no answer within 0\.05 s.*go on"):
        make_judge(timeout_seconds=0.05, num_retries=1).rate("a", "b")


def test_a_failure_that_passes(server, make_judge):
    server.answers = [(500, b"busy"), (429, b"slow down"), "Score: 3"]
    assert make_judge(num_retries=2).rate("a", "b").value == 3 and len(server.requests) == 3


def test_a_refusal_is_not_repeated_and_does_not_show_the_key(server, make_judge):
    server.answers = [(401, f"bad key {KEY}".encode())]
    with pytest.raises(ServiceError, match=r"refused the request for 'judge-1': HTTP 401.*bad key \*\*\*") as caught:
        make_judge().rate("a", "b")
    assert KEY not in str(caught.value) and len(server.requests) == 1


def test_redirects_are_not_followed(server, make_judge):
    server.answers = [(302, b""), "Score: 5"]
    with pytest.raises(ServiceError, match="HTTP 302"):
        make_judge().rate("a", "b")
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"<html>", b'{"error": "no"}', b"[]", b'{"choices": []}'])
def test_another_kind_of_service(server, make_judge, content):
    server.answers = [(200, content)]
    with pytest.raises(ServiceError, match="not that of an OpenAI-compatible service"):
        make_judge().rate("a", "b")


def test_nobody_there(make_judge):
    with pytest.raises(ServiceError, match="in 1 attempts; the last: not reachable"):
        make_judge(base_url="http://127.0.0.1:9/v1", num_retries=0).rate("a", "b")


def test_settings_are_checked(make_judge, monkeypatch):
    monkeypatch.delenv("TEST_JUDGE_KEY")
    with pytest.raises(ConfigError, match="TEST_JUDGE_KEY is not set"):
        make_judge().rate("a", "b")
    with pytest.raises(ConfigError, match="must begin with http"):
        make_judge(base_url="localhost:8000")
    with pytest.raises(ConfigError, match="secrets must not be in it") as caught:
        make_judge(base_url="http://me:hunter2@localhost/v1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"judge\.timeout_seconds is 0"):
        make_judge(timeout_seconds=0)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 3", 3),
        ("It rambles.\n\n**Score: 2**\n", 2),
        ("score: 5/5", 5),
        ("SCORE: 4.", 4),
        ("Score: 4.5", None),
        ("Score: 7", None),
        ("Score: 10", None),
        ("The score: 3 or 4", None),
        ("Score: 3\nScore: 4", None),
        ("4", None),
        ("", None),
    ],
)
def test_scores_are_read_and_never_guessed(reply, score):
    assert read_score(reply) == score


def test_braces_in_a_text_stay():
    assert fill("{prompt}|{continuation}", "say {continuation}", "x\n y") == "say {continuation}|x y"


def test_a_question_without_a_place(server, make_judge, tmp_path):
    with pytest.raises(ConfigError, match=r"lacks \{continuation\}"):
        EndpointJudge(EndpointConfig(base_url=server.url), "m", tmp_path / "r.jsonl", "only {prompt}")


@pytest.fixture(scope="module")
def text_lm(tmp_path_factory):
    return load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("lm"), positions=2048)))


def test_the_local_judge_rates_by_expectation(text_lm):
    rating = LocalJudge(text_lm).rate("the cat sat", "on the mat")
    ids = [0, *text_lm.tokenizer(fill(LOCAL_QUESTION, "the cat sat", "on the mat") + " ")["input_ids"]]
    with torch.no_grad():
        probabilities = text_lm.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    five = [float(probabilities[text_lm.tokenizer.convert_tokens_to_ids(digit)]) for digit in "12345"]
    assert rating.value == pytest.approx(sum(i * p for i, p in enumerate(five, 1)) / sum(five), rel=1e-4)
    assert rating.digit_mass == pytest.approx(sum(five), rel=1e-4)
    assert 1 < rating.value < 5


@pytest.fixture(scope="module")
def short_lm(tmp_path_factory, text_lm):
    """A judge whose context has room for the question and forty tokens more."""
    asked = len(text_lm.tokenizer(fill(LOCAL_QUESTION, "", "") + " ")["input_ids"])
    return load_text_lm(str(save_tiny_text_lm(tmp_path_factory.mktemp("short"), positions=1 + asked + 40)))


def test_a_question_longer_than_the_judge_reads_is_left_out_and_counted(short_lm):
    judge, said = LocalJudge(short_lm), "cat"

    def tokens(text):
        return 1 + len(short_lm.tokenizer(fill(LOCAL_QUESTION, "the", text) + " ")["input_ids"])

    while tokens(f"{said} cat") <= short_lm.context_tokens:
        said += " cat"
    assert judge.rate("the", said).value is not None  # the longest that it reads
    rating = judge.rate("the", f"{said} cat")
    assert rating.value is None and rating.reply.endswith(f"the judge reads {short_lm.context_tokens}")
    items = [
        {"id": str(i), "speaker": None, "prompt_transcript": "the", "transcript": text}
        for i, text in enumerate(["cat", f"{said} cat"])
    ]
    result = evaluate_judge(continuation_result(items), judge)
    assert result.excluded == {"model: longer than the judge reads": 1}
    assert result.scores["rating"].num_items == 1 and result.items[1]["rating"] is None
    assert any("1 questions are longer than" in note for note in result.notes)
    assert result.measurements["replies_without_score"] == {"model": 0}


def test_a_question_that_leaves_no_room_is_refused(short_lm):
    with pytest.raises(ConfigError, match=r"reads \d+ tokens, and the judge's question alone has \d+\. Shorten"):
        LocalJudge(short_lm, "Consider this well. " * 20 + LOCAL_QUESTION)


def evaluate_judge(continuations, judge, on_progress=None, **settings) -> EvaluationResult:
    config = JudgeConfig(continuations=Path("not read"), **settings)
    opened = {"continuations": continuations, "judge": judge}
    return run_benchmark(Judge(config, opened, on_progress))


def continuation_result(items) -> EvaluationResult:
    return EvaluationResult(
        benchmark="continuation",
        scores={},
        conventions={},
        fingerprints={"tokenizer": "f"},
        weights={},
        seed=0,
        seconds=0,
        items=items,
    )


def test_a_run_is_rated_and_what_cannot_be_is_counted(server, make_judge):
    texts = [("p", "one", "true one"), ("p", "", "true two"), ("", "three", "true three"), ("p", "four", "true four")]
    items = [
        {"id": str(i), "speaker": None, "prompt_transcript": p, "transcript": m, "true_transcript": t}
        for i, (p, m, t) in enumerate(texts)
    ]
    server.answers = ["Score: 2", "Score: 5", "Score: 4", "who knows", "Score: 3"]
    done = []
    result = evaluate_judge(continuation_result(items), make_judge(), on_progress=lambda *counts: done.append(counts))
    assert done == [("Judging", 1, 8)] * 8
    assert result.scores["rating"].value == 2 and result.scores["rating"].num_items == 1
    assert result.scores["rating/true"].value == pytest.approx((5 + 4 + 3) / 3)
    assert result.scores["rating_minus/true"].value == -3 and result.scores["rating_minus/true"].num_items == 1
    assert result.excluded == {
        "model: empty transcript": 1,
        "model: empty transcript of the prompt": 1,
        "true: empty transcript of the prompt": 1,
        "model: no score in the reply": 1,
    }
    assert result.items[3]["rating"] is None and result.items[3]["reply"] == "who knows"
    assert result.measurements["replies_without_score"] == {"model": 1, "true": 0}
    assert any("1 replies hold no score" in note for note in result.notes)


def test_the_command_keeps_replies_beside_the_continuations(server, tmp_path, capsys):
    items = [{"id": "0", "speaker": None, "prompt_transcript": "p", "transcript": "m"}]
    save_result(continuation_result(items), tmp_path)
    server.answers = ["Score: 4"]
    command = ["evaluate", "judge", "--continuations", str(tmp_path), "--base-url", server.url, "--model", "judge-2"]
    assert main([*command, "--max-tokens", "50"]) == 0, capsys.readouterr().err
    assert main([*command, "max_tokens=50", "--overwrite"]) == 0, capsys.readouterr().err
    assert [(body["model"], body["max_tokens"]) for _, _, body in server.requests] == [("judge-2", 50)]
    assert load_result(tmp_path / "judge.json").scores["rating"].value == 4
    assert "Score: 4" in (tmp_path / "judge_replies.jsonl").read_text()


def test_only_continuations_are_rated(make_judge):
    import dataclasses

    items = [{"id": "0", "speaker": None, "prompt_transcript": "p", "transcript": "m"}]
    other = dataclasses.replace(continuation_result(items), benchmark="swuggy")
    with pytest.raises(ConfigError, match="this is a result of 'swuggy'"):
        evaluate_judge(other, make_judge())
    with pytest.raises(ConfigError, match=r"no continuations of 'copy'. It has: model"):
        evaluate_judge(continuation_result(items), make_judge(), systems=("copy",))


def test_a_judge_that_cannot_tell_is_called_out(text_lm):
    items = [
        {"id": "0", "speaker": None, "prompt_transcript": "p", "transcript": "m", "true_transcript": "same",
         "shuffled_transcript": "same"}
    ]  # fmt: skip
    result = evaluate_judge(continuation_result(items), LocalJudge(text_lm))
    assert result.scores["true_minus_shuffled"].value == 0
    assert any("does not rate true continuations above shuffled ones" in note for note in result.notes)
    assert not any("random" in note for note in result.notes)  # there are none in this run
    assert 0 < result.measurements["mean_digit_mass"] < 1
