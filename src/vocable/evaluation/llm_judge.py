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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.judge_endpoint import EndpointConfig, ask, reply_text
from vocable.evaluation.keyed_store import KeyedStore
from vocable.evaluation.metrics.continuations import column, score_name
from vocable.evaluation.results import EvaluationResult, Score, column_mean, load_result
from vocable.evaluation.runner import Benchmark, Item, Items, SampledConfig
from vocable.files import read_text
from vocable.lm.text_lm import TextLM, load_text_lm

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
TRANSCRIPT = "_transcript"
PLACES = re.compile(r"\{(prompt|continuation)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig(SampledConfig):
    """Continuations, and who rates them."""

    continuations: Path
    """Folder that 'vocable evaluate continuation' wrote; the result goes there too where there is no --out."""
    model: str = "HuggingFaceTB/SmolLM2-135M"
    """The judge: a local text model, or a model's name at the service."""
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible service to ask. Without it, a local text model rates."""
    question: Path | None = None
    """A text file to ask with instead of the built-in question, with {prompt} and {continuation} in it."""
    systems: tuple[str, ...] | None = None
    """The systems to rate: model, true, resynthesised, shuffled, copy, random. Without it, all there are."""


class Rating(NamedTuple):
    """A judge's answer about one continuation."""

    value: float | None
    """1 to 5; None when there is none, see `left_out`."""
    reply: str
    digit_mass: float | None = None
    """A local judge's probability that a rating comes next at all; far below 1, it does not understand the question."""
    left_out: str = NO_SCORE
    """Why there is no value, where there is none."""


class EndpointJudge:
    """Asks a service; each reply is kept under the hash of address, model, message, temperature and length limit."""

    def __init__(self, config: EndpointConfig, model: str, replies: Path | None, question: str = QUESTION) -> None:
        self.config = config
        self.name = model
        self.question = check_question(question)
        self.replies = KeyedStore(replies)
        self.num_requests = 0
        self.weights: Mapping[str, str] = {"name": model, "served_by": config.base_url}
        self.conventions: Mapping[str, Any] = {
            "judge": model,
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
        config, message = self.config, fill(self.question, prompt, continuation)
        address = config.base_url.rstrip("/")
        key = sha256(json.dumps([address, self.name, message, config.temperature, config.max_tokens]))
        if key not in self.replies:
            self.num_requests += 1
            answer = ask(config, self.name, message)
            self.replies.put(key, {"model": self.name, "message": message, "answer": answer})
        reply = reply_text(self.replies[key]["answer"])
        return Rating(read_score(reply), reply)


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


ContinuationJudge = EndpointJudge | LocalJudge
"""Rates a continuation of a prompt, both as text; its conventions are all switches that change a rating."""


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


class Judge(Benchmark[JudgeConfig]):
    """Let a language model rate the continuations of a run from 1 to 5, and those of its anchors.

    With --base-url, an OpenAI-compatible service is asked; each raw reply is kept in OUT/judge_replies.jsonl, so that a
    stopped run goes on and a second one asks nothing again. Without it, a local text model rates by the likelihood of
    the digits. A reply without a score is counted and left out. Writes judge.json and judge.items.parquet.

    Scores are `rating`, `rating/<anchor>`, and the paired differences `rating_minus/<anchor>`; `true_minus_shuffled`
    and `true_minus_random` say whether the judge can tell anything at all.

    vocable evaluate judge --continuations runs/warm/eval
    vocable evaluate judge --continuations runs/warm/eval --base-url http://localhost:8000/v1 --model NAME
    """

    name, Config, counted = "judge", JudgeConfig, "prompts"
    default_out = "continuations"

    def items(self) -> Iterator[Item]:
        """Rate the transcripts of the model and of each anchor.

        Raises:
            ConfigError: the result is of another benchmark, or lacks a system; the judge cannot ask this question.
            ServiceError: the judge cannot be asked.
        """
        run = self.run
        self.rated = run.open("continuations", lambda: load_result(self.config.continuations / "continuation.json"))
        if self.rated.benchmark != "continuation":
            raise ConfigError(f"The judge rates continuations; this is a result of {self.rated.benchmark!r}.")
        self.judge: ContinuationJudge = run.open("judge", self._load_judge)
        self.systems = choose_systems(self.rated, self.config.systems)
        run.fingerprints |= self.rated.fingerprints
        run.weights["judge"] = dict(self.judge.weights)
        for item in self.rated.items:
            row: dict[str, Any] = {"id": item["id"], "speaker": item.get("speaker")}
            for system in self.systems:
                row |= self._rate(item, system)
                run.advance("Judging", 1, len(self.systems) * len(self.rated.items))
            yield row

    def scores(self, items: Items) -> dict[str, Score]:
        """See `Benchmark`."""
        scores = {}
        for system in self.systems:
            meaning = f"mean rating from 1 to 5, {system}"
            ratings = column_mean(items, column(system, "rating"), better="higher", meaning=meaning, **self.draws)
            scores[score_name(system, "rating")] = ratings
        pairs = {f"rating_minus/{system}": ("model", system) for system in self.systems if system != "model"}
        pairs |= {f"true_minus_{system}": ("true", system) for system in CHECKED_AGAINST}
        for name, (first, second) in pairs.items():
            differences = [
                {"difference": ours - theirs, "speaker": item["speaker"]}
                for item in items
                if (ours := item.get(column(first, "rating"))) is not None
                and (theirs := item.get(column(second, "rating"))) is not None
            ]
            if differences:
                meaning = f"rating of {first} minus rating of {second}, paired by prompt"
                scores[name] = column_mean(differences, "difference", better="higher", meaning=meaning, **self.draws)
        self.scored = scores
        return scores

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        return {**self.judge.conventions, "continuations": dict(self.rated.conventions)}

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        failures = {system: self.run.excluded[f"{system}: {NO_SCORE}"] for system in self.systems}
        measured: dict[str, Any] = {"replies_without_score": failures}
        if isinstance(self.judge, EndpointJudge):
            measured["requests_made"] = self.judge.num_requests
        masses = [item[column(system, "digit_mass")] for item in items for system in self.systems]
        known = [mass for mass in masses if mass is not None]
        return measured | ({"mean_digit_mass": sum(known) / len(known)} if known else {})

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        failures, too_long = (
            sum(count for name, count in self.run.excluded.items() if name.endswith(reason))
            for reason in (NO_SCORE, TOO_LONG)
        )
        notes = []
        if failures:
            notes.append(
                f"{failures} replies hold no score; they are left out, which favours what the judge could rate."
            )
        if too_long:
            notes.append(f"{too_long} questions are longer than {self.judge.name} reads; they are left out, not cut.")
        if isinstance(self.judge, LocalJudge):
            notes.append(f"{self.judge.name} is a text model of no great size: read its ratings of the anchors first.")
        for system in CHECKED_AGAINST:
            check = self.scored.get(f"true_minus_{system}")
            if check is not None and (check.low is None or check.low <= 0):
                notes.append(
                    f"It does not rate true continuations above {system} ones beyond chance ({check}): its ratings of "
                    "the model say nothing."
                )
        return notes

    def _load_judge(self) -> ContinuationJudge:
        config, folder = self.config, self.run.folder
        try:
            question = read_text(config.question) if config.question is not None else None
        except (OSError, ManifestError) as error:
            raise ConfigError(f"{config.question}: the judge's question cannot be read: {error}") from error
        if config.endpoint is None:
            return LocalJudge(load_text_lm(config.model, device=self.run.device), question or LOCAL_QUESTION)
        replies = None if folder is None else folder / "judge_replies.jsonl"
        return EndpointJudge(config.endpoint, config.model, replies, question or QUESTION)

    def _rate(self, item: Item, system: str) -> Item:
        prompt, text = item["prompt_transcript"], item[column(system, "transcript")]
        rating, problem = Rating(None, ""), None
        if not (prompt or "").strip():
            problem = "empty transcript of the prompt"
        elif not (text or "").strip():
            problem = "empty transcript"
        else:
            rating = self.judge.rate(prompt, text)
            problem = rating.left_out if rating.value is None else None
        if problem is not None:
            self.run.excluded[f"{system}: {problem}"] += 1
        found = {"rating": rating.value, "reply": rating.reply, "digit_mass": rating.digit_mass}
        return {column(system, name): value for name, value in found.items()}


def choose_systems(continuations: EvaluationResult, wanted: tuple[str, ...] | None) -> list[str]:
    """Return the systems to rate: those that are wanted, or else all that the run has transcripts of.

    Raises:
        ConfigError: the run lacks one of them, or has none.
    """
    first = continuations.items[0] if continuations.items else {}
    anchors = [name.removesuffix(TRANSCRIPT) for name in first if name.endswith(TRANSCRIPT)]
    known = [s for s in ("model", *anchors) if s != "prompt" and column(s, "transcript") in first]
    if not known:
        raise ConfigError("The result holds no transcripts to rate.")
    unknown = [system for system in wanted or () if system not in known]
    if unknown:
        raise ConfigError(f"The run has no continuations of {unknown[0]!r}. It has: {', '.join(known)}.")
    return list(wanted) if wanted else known


def _digit_rows(lm: TextLM, text: str) -> tuple[list[int], list[int]]:
    """The tokens of `text` and of a space as far as all digits share them, and the token of each digit behind."""
    rows = [lm.token_ids(f"{text} {digit}").tolist() for digit in DIGITS]
    shared, digits = rows[0][:-1], [row[-1] for row in rows]
    if any(row[:-1] != shared for row in rows) or len(set(digits)) < len(DIGITS):
        raise ConfigError(f"{lm.name}: its tokenizer does not write each of the digits 1 to 5 as one token of its own.")
    return shared, digits
