"""A language model rates continuations from 1 to 5: does what was said follow from the prompt?

    prompt and continuation (transcripts) -> a fixed question -> reply -> "Score: 4" -> rating

The question is pinned by its hash, every raw reply is kept, and a reply without a score is counted and left out, never
filled in. Two judges: any OpenAI-compatible service, and a local language model, which is asked for the likelihood of
the digits 1 to 5 and rates by their expectation. Ratings of different judges or questions cannot be compared; those of
the anchors (the true continuation, a foreign one, ...) say what a judge can tell at all.

Source of the protocol: TASTE (Tseng et al., 2025, arXiv:2504.07053), where GPT-4o rates transcripts from 1 to 5 after a
short analysis. The wording is ours.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from vocable.errors import ConfigError
from vocable.evaluation.judge_endpoint import EndpointConfig, ask, reply_text
from vocable.evaluation.keyed_store import KeyedStore
from vocable.evaluation.metrics.continuations import column, score_name
from vocable.evaluation.results import EvaluationResult, Score, mean_score
from vocable.lm.text_lm import TextLM

QUESTION = """\
Below are transcripts of two stretches of speech: the beginning of a recording, and something that is offered as its
continuation. A speech recogniser wrote both down, so spelling and punctuation do not count, and either may break off
in the middle of a sentence.

Rate the continuation. Is it grammatical, does it make sense in itself, and could it follow this beginning?
1: nothing of this, or no real sentences
2: some words fit together, but it makes no sense
3: understandable, but it hardly belongs to the beginning
4: sensible and on the subject, with small faults
5: could well be the real continuation

Beginning: {prompt}
Continuation: {continuation}

First say in one or two sentences what you notice. Then end with one line of exactly this form, N being a whole number
from 1 to 5:
Score: N
"""
LOCAL_QUESTION = """\
Ratings of how well one piece of text continues another, from 1 (nonsense) to 5 (could well be the real continuation).

Beginning: I went to the shop this morning because there was no
Continuation: milk left in the house, and I wanted to make pancakes.
Rating: 5

Beginning: I went to the shop this morning because there was no
Continuation: and of the the was a to in of of.
Rating: 1

Beginning: I went to the shop this morning because there was no
Continuation: the king of Spain had three sons, and they were brave.
Rating: 2

Beginning: {prompt}
Continuation: {continuation}
Rating:"""
DIGITS = "12345"
CHECKED_AGAINST = ("shuffled", "random")
"""A judge that does not rate the true continuation above these cannot judge."""
SCORE_LINE = re.compile(r"^\W*score\W*([1-5])(?:\s*(?:/|out of)\s*5)?\W*$", re.IGNORECASE | re.MULTILINE)
NO_SCORE = "no score in the reply"
TOO_LONG = "longer than the judge reads"
PLACES = re.compile(r"\{(prompt|continuation)\}")


class Rating(NamedTuple):
    """What a judge said."""

    value: float | None
    """1 to 5; None when there is none, see `left_out`."""
    reply: str
    digit_mass: float | None = None
    """A local judge's probability that a rating comes next at all; far below 1, it does not understand the question."""
    left_out: str = NO_SCORE
    """Why there is no value, where there is none."""


class ContinuationJudge(Protocol):
    """Rates a continuation of a prompt, both as text."""

    name: str
    conventions: Mapping[str, Any]
    """Every switch that changes a rating, the question's hash among them."""
    weights: Mapping[str, str]

    def rate(self, prompt: str, continuation: str) -> Rating:
        """Return the rating; a reply without one gives a `value` of None."""
        ...


class EndpointJudge:
    """Asks a service; each reply is kept under the hash of address, model, message, temperature and length limit."""

    def __init__(self, config: EndpointConfig, replies: Path, question: str = QUESTION) -> None:
        self.config = config
        self.name = config.model
        self.question = check_question(question)
        self.replies = KeyedStore(replies)
        self.num_requests = 0
        self.weights: Mapping[str, str] = {"name": config.model, "served_by": config.base_url}
        self.conventions: Mapping[str, Any] = {
            "judge": config.model,
            "judge_kind": "endpoint",
            "judge_temperature": config.temperature,
            "judge_max_tokens": config.max_tokens,
            "judge_question_sha256": sha256(question),
            "judge_scale": "1 to 5, whole numbers read from the last line of the reply",
        }

    def rate(self, prompt: str, continuation: str) -> Rating:
        """Rate; a question that was asked before is answered from disk.

        Raises:
            ServiceError: the service refuses, or does not answer.
        """
        message = fill(self.question, prompt, continuation)
        key = self.key(message)
        if key not in self.replies:
            self.num_requests += 1
            answer = ask(self.config, message)
            self.replies.put(key, {"model": self.config.model, "message": message, "answer": answer})
        reply = reply_text(self.replies[key]["answer"])
        return Rating(read_score(reply), reply)

    def key(self, message: str) -> str:
        """What a reply is kept under."""
        config = self.config
        address = config.base_url.rstrip("/")
        return sha256(json.dumps([address, config.model, message, config.temperature, config.max_tokens]))


class LocalJudge:
    """Rates by the expectation of the digits 1 to 5 as the next token of a text LM; needs no network.

    A small text LM is a weak judge: read its ratings of the anchors first.
    """

    def __init__(self, lm: TextLM, question: str = LOCAL_QUESTION) -> None:
        """Wrap a text LM.

        Raises:
            ConfigError: the question lacks a place; the LM's tokenizer does not write each digit as one token; or the
                question fills the LM's context before any text is in it.
        """
        self.lm = lm
        self.name = lm.name
        self.question = check_question(question)
        self.weights = lm.weights
        self.conventions: Mapping[str, Any] = {
            **lm.conventions,
            "judge": lm.name,
            "judge_kind": "local",
            "judge_question_sha256": sha256(question),
            "judge_scale": "expectation over the digits 1 to 5 as next token",
        }
        _digit_rows(lm, "Rating:")
        row, _ = self._row("", "")
        if self._is_too_long(row):
            raise ConfigError(
                f"{lm.name} reads {lm.context_tokens} tokens, and the judge's question alone has {row.shape[1]}. "
                "Shorten the question, or take a judge with a longer context."
            )

    @torch.inference_mode()
    def rate(self, prompt: str, continuation: str) -> Rating:
        """Rate; there is a value unless the filled-in question is longer than the LM reads: nothing is cut off."""
        row, digits = self._row(prompt, continuation)
        if self._is_too_long(row):
            said = f"not asked: {row.shape[1]} tokens, the judge reads {self.lm.context_tokens}"
            return Rating(None, said, left_out=TOO_LONG)
        logits = self.lm.model(input_ids=row.to(self.lm.model.device), logits_to_keep=1).logits[0, -1].double().cpu()
        mass = logits.softmax(-1)[digits]
        rating = float((mass / mass.sum()) @ torch.arange(1, 6, dtype=torch.float64))
        said = ", ".join(f"{digit}: {share:.3f}" for digit, share in zip(DIGITS, mass.tolist()))
        return Rating(rating, f"p({said})", float(mass.sum()))

    def _row(self, prompt: str, continuation: str) -> tuple[Tensor, list[int]]:
        """Ids of the filled-in question, (1, tokens), and those of the digits that may follow."""
        shared, digits = _digit_rows(self.lm, fill(self.question, prompt, continuation))
        return torch.tensor([[*([self.lm.bos_id] if self.lm.opening == "bos" else []), *shared]]), digits

    def _is_too_long(self, row: Tensor) -> bool:
        return self.lm.context_tokens is not None and row.shape[1] > self.lm.context_tokens


def read_score(reply: str) -> int | None:
    """Read "Score: N" from a line of its own; None where there is no such line, or several that disagree."""
    found = set(SCORE_LINE.findall(reply))
    return int(found.pop()) if len(found) == 1 else None


def fill(question: str, prompt: str, continuation: str) -> str:
    """Put the texts in their places, white space made single; braces in the texts are left alone."""
    texts = {"prompt": " ".join(prompt.split()), "continuation": " ".join(continuation.split())}
    return PLACES.sub(lambda place: texts[place.group(1)], question)


def check_question(question: str) -> str:
    """Return the question.

    Raises:
        ConfigError: it lacks {prompt} or {continuation}.
    """
    missing = [f"{{{name}}}" for name in ("prompt", "continuation") if f"{{{name}}}" not in question]
    if missing:
        raise ConfigError(f"The judge's question lacks {' and '.join(missing)}: write where the texts go.")
    return question


def sha256(text: str) -> str:
    """Hash of a text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def evaluate_judge(
    continuations: EvaluationResult,
    judge: ContinuationJudge,
    *,
    systems: Sequence[str] | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
    on_progress: Callable[[int, int], None] = lambda count, total: None,
) -> EvaluationResult:
    """Rate the transcripts of a continuation run: those of the model and of each anchor.

    Args:
        continuations: a result of the benchmark "continuation".
        judge: who rates.
        systems: which to rate: "model" and names of anchors; None takes all that the run has.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        on_progress: called with the number of ratings done since the last call, and of all.

    Returns:
        Scores `rating` (the model) and `rating/<anchor>`, and `rating_minus/<anchor>`, the paired difference; and, to
        see what the judge can tell, `true_minus_shuffled` and `true_minus_random`. An empty transcript, a reply
        without a score, and a question longer than a local judge reads are counted as left out, not rated.

    Raises:
        ConfigError: the result is of another benchmark, or lacks a system.
        ServiceError: the judge cannot be asked.
    """
    if continuations.benchmark != "continuation":
        raise ConfigError(f"The judge rates continuations; this is a result of {continuations.benchmark!r}.")
    started, excluded = time.perf_counter(), Counter[str]()
    chosen = _systems(continuations, systems)
    rows = []
    for item in continuations.items:
        row: dict[str, Any] = {"id": item["id"], "speaker": item.get("speaker")}
        for system in chosen:
            row |= _rated(item, system, judge, excluded)
            on_progress(1, len(chosen) * len(continuations.items))
        rows.append(row)
    scores = _judge_scores(rows, chosen, {"seed": seed, "num_resamples": num_resamples})
    return EvaluationResult(
        benchmark="judge",
        scores=scores,
        conventions={**judge.conventions, "continuations": dict(continuations.conventions)},
        fingerprints=continuations.fingerprints,
        weights={"judge": dict(judge.weights)},
        seed=seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=_judge_notes(scores, judge, excluded),
        measurements=_judge_measurements(rows, chosen, judge, excluded),
        items=rows,
    )


def _systems(continuations: EvaluationResult, wanted: Sequence[str] | None) -> list[str]:
    first = continuations.items[0] if continuations.items else {}
    known = ["model", *(name.removesuffix("_transcript") for name in first if name.endswith("_transcript"))]
    known = [system for system in known if system != "prompt" and column(system, "transcript") in first]
    if not known:
        raise ConfigError("The result holds no transcripts to rate.")
    unknown = [system for system in wanted or () if system not in known]
    if unknown:
        raise ConfigError(f"The run has no continuations of {unknown[0]!r}. It has: {', '.join(known)}.")
    return list(wanted) if wanted else known


def _rated(item: Mapping[str, Any], system: str, judge: ContinuationJudge, excluded: Counter[str]) -> dict[str, Any]:
    text = item[column(system, "transcript")]
    rating = Rating(None, "")
    if not (item["prompt_transcript"] or "").strip():
        excluded[f"{system}: empty transcript of the prompt"] += 1
    elif not (text or "").strip():
        excluded[f"{system}: empty transcript"] += 1
    else:
        rating = judge.rate(item["prompt_transcript"], text)
        excluded[f"{system}: {rating.left_out}"] += rating.value is None
    excluded += Counter()  # drops zeros
    return {
        column(system, "rating"): rating.value,
        column(system, "reply"): rating.reply,
        column(system, "digit_mass"): rating.digit_mass,
    }


def _judge_scores(
    rows: Sequence[Mapping[str, Any]], systems: Sequence[str], settings: dict[str, int]
) -> dict[str, Score]:
    scores = {}
    for system in systems:
        kept = [row for row in rows if row[column(system, "rating")] is not None]
        scores[score_name(system, "rating")] = mean_score(
            [row[column(system, "rating")] for row in kept],
            [row["speaker"] for row in kept],
            better="higher",
            meaning=f"mean rating from 1 to 5, {system}",
            **settings,
        )
    pairs = {f"rating_minus/{system}": ("model", system) for system in systems if system != "model"}
    pairs |= {f"true_minus_{system}": ("true", system) for system in CHECKED_AGAINST}
    for name, (first, second) in pairs.items():
        columns = column(first, "rating"), column(second, "rating")
        both = [row for row in rows if all(row.get(one) is not None for one in columns)]
        if both:
            scores[name] = mean_score(
                [row[columns[0]] - row[columns[1]] for row in both],
                [row["speaker"] for row in both],
                better="higher",
                meaning=f"rating of {first} minus rating of {second}, paired by prompt",
                **settings,
            )
    return scores


def _judge_notes(scores: Mapping[str, Score], judge: ContinuationJudge, excluded: Mapping[str, int]) -> list[str]:
    notes = []
    failures = sum(count for reason, count in excluded.items() if reason.endswith(NO_SCORE))
    if failures:
        notes.append(f"{failures} replies hold no score; they are left out, which favours what the judge could rate.")
    too_long = sum(count for reason, count in excluded.items() if reason.endswith(TOO_LONG))
    if too_long:
        notes.append(f"{too_long} questions are longer than {judge.name} reads; they are left out, not cut.")
    if isinstance(judge, LocalJudge):
        notes.append(f"{judge.name} is a text model of no great size: read its ratings of the anchors first.")
    for system in CHECKED_AGAINST:
        check = scores.get(f"true_minus_{system}")
        if check is not None and (check.low is None or check.low <= 0):
            notes.append(
                f"It does not rate true continuations above {system} ones beyond chance ({check}): its ratings of the "
                "model say nothing."
            )
    return notes


def _judge_measurements(
    rows: Sequence[Mapping[str, Any]], systems: Sequence[str], judge: ContinuationJudge, excluded: Mapping[str, int]
) -> dict[str, Any]:
    failures = {s: excluded.get(f"{s}: {NO_SCORE}", 0) for s in systems}
    measured: dict[str, Any] = {"replies_without_score": failures}
    if isinstance(judge, EndpointJudge):
        measured["requests_made"] = judge.num_requests
    masses = [row[column(s, "digit_mass")] for row in rows for s in systems if row[column(s, "digit_mass")] is not None]
    if masses:
        measured["mean_digit_mass"] = sum(masses) / len(masses)
    return measured


def _digit_rows(lm: TextLM, text: str) -> tuple[list[int], list[int]]:
    """The tokens of `text` and of a space as far as all digits share them, and the token of each digit behind."""
    rows = [lm.token_ids(f"{text} {digit}").tolist() for digit in DIGITS]
    shared, digits = rows[0][:-1], [row[-1] for row in rows]
    if any(row[:-1] != shared for row in rows) or len(set(digits)) < len(DIGITS):
        raise ConfigError(f"{lm.name}: its tokenizer does not write each of the digits 1 to 5 as one token of its own.")
    return shared, digits
