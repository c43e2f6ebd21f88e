"""What a language model still knows of text after it was trained on speech.

    before: text model          nats per token, accuracy        difference, paired
    after:  the same, trained   nats per token, accuracy   ->   with its interval

Two measures: how likely plain text is, and how often the right one of several answers is the likeliest. Both models
read the same texts. A likelihood is over the whole vocabulary, so what a model spends on speech tokens while it reads
text counts against it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.metrics.perplexity import BATCH_TOKENS, TextNLL, map_score
from vocable.evaluation.results import Score, mean_score, ratio_score
from vocable.evaluation.runner import Benchmark, Items, SampledConfig
from vocable.files import read_json_lines, read_text, split_lines
from vocable.lm.scoring import token_nll
from vocable.lm.spoken import find_lm
from vocable.lm.text_lm import TextLM, load_text_lm

NORMALISATIONS = {
    "sum": "log-likelihood of the whole answer",
    "per_token": "log-likelihood per token of the answer",
    "per_byte": "log-likelihood per byte of the answer",
}
WINDOW_TOKENS = 1024
"""Longer texts are cut into windows of this many tokens, or of the model's context if that is shorter."""


class Question(NamedTuple):
    """A question with its possible answers."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    """Place of the right one, from 0."""


def read_plain_text(path: Path) -> list[str]:
    """Read documents: stretches of text between blank lines.

    Raises:
        ManifestError: the file cannot be read as UTF-8, or holds no text.
    """
    blocks, block = [], []
    for line in [*split_lines(read_text(path)), ""]:
        if line.strip():
            block.append(line.strip())
        elif block:
            blocks.append("\n".join(block))
            block = []
    if not blocks:
        raise ManifestError(f"{path}: holds no text.")
    return blocks


def read_questions(path: Path) -> list[Question]:
    """Read questions, one JSON a line: `question`, `choices` and `answer`; perhaps `id`.

    `answer` is the place of the right choice, from 0, or its text.

    Raises:
        ManifestError: a line is broken; the message names it and what is wrong.
    """
    questions = [_question(row, f"{path}, line {number}", number) for number, row in read_json_lines(path)]
    if not questions:
        raise ManifestError(f"{path}: holds no question.")
    names = [question.id for question in questions]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ManifestError(f"{path}: the id {twice!r} occurs twice. Give each question its own, or none.")
    return questions


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig(SampledConfig):
    """Which models read which texts."""

    model: str
    """The model after training: a folder, or that of its run, or a hub or asset name."""
    before: str | None = None
    """The model before training; null measures `model` alone."""
    text: Path | None = None
    """A plain text file, UTF-8; blank lines divide it into documents."""
    questions: Path | None = None
    """Questions, one JSON a line: question, choices, answer (the right choice, or its place from 0)."""
    tokenizer: str | None = None
    """Where the text tokenizer of `model` is, when it is not in its folder."""
    opening: Literal["bos", "none"] = "bos"
    """Open texts with the start symbol (bos), or leave their first token unscored (none)."""


class Retention(Benchmark[RetentionConfig]):
    """Measure what a language model still knows of text after training on speech, against what it knew before.

    Plain text gives nats per token, perplexity and bits per byte; questions give the accuracy of the likeliest answer,
    by summed log-likelihood, per token and per byte. With --before, differences are paired and have intervals. A model
    whose text vocabulary was replaced by units has no text left, and is refused. Writes retention.json and
    retention.items.parquet.

    vocable evaluate retention --model runs/sutlm --before HuggingFaceTB/SmolLM2-135M --text news.txt --out results
    """

    name, Config, counted = "retention", RetentionConfig, "items"

    def items(self) -> Items:
        """Let each model read every text."""
        config, run = self.config, self.run
        documents = run.open("documents", lambda: [] if config.text is None else read_plain_text(config.text))
        questions = run.open("questions", lambda: [] if config.questions is None else read_questions(config.questions))
        if not documents and not questions:
            raise ConfigError("There is neither text nor questions to measure retention on. Give one of them, or both.")
        self.num_documents, self.num_questions = len(documents), len(questions)
        after = run.open("after", lambda: self._load(_model_of_run(config.model), config.tokenizer))
        before = run.open("before", lambda: None if config.before is None else self._load(config.before))
        self.models = {"after": after, **({"before": before} if before is not None else {})}
        run.fingerprints |= {role: lm.weights.get("sha256", "unknown")[:16] for role, lm in self.models.items()}
        run.weights |= {role: dict(lm.weights) for role, lm in self.models.items()}
        rows = [{"id": f"text-{index}", "kind": "text"} for index in range(len(documents))]
        rows += [{"id": q.id, "kind": "question"} for q in questions]
        for role, lm in self.models.items():
            for index, text in enumerate(run.watch(f"Reading text, {role}", [*documents, *questions])):
                found = _text_row(lm, text) if isinstance(text, str) else _question_row(lm, text)
                rows[index] |= {f"{role}_{name}": value for name, value in found.items()}
        self.same_tokens = before is not None and all(r.get("after_tokens") == r.get("before_tokens") for r in rows)
        return rows

    def _load(self, name: str, tokenizer: str | None = None) -> TextLM:
        return load_text_lm(name, opening=self.config.opening, tokenizer=tokenizer, device=self.run.device)

    def scores(self, items: Items) -> dict[str, Score]:
        """Score each model, and what it lost or gained."""
        texts = [row for row in items if row["kind"] == "text"]
        texts = [row for row in texts if all(row[f"{role}_nll"] is not None for role in self.models)]
        questions = [row for row in items if row["kind"] == "question"]
        scores = self._text_scores(texts) if texts else {}
        return scores | (self._question_scores(questions) if questions else {})

    def _text_scores(self, rows: Items) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        score = functools.partial(ratio_score, better="lower", **self.draws)
        for role in self.models:
            nlls, tokens, sizes = (_column(rows, f"{role}_{name}") for name in ("nll", "tokens", "bytes"))
            per_token = score(nlls, tokens, meaning=f"nats per token of plain text, {role}")
            scores[f"nats_per_token/{role}"] = per_token
            scores[f"perplexity/{role}"] = map_score(per_token, math.exp)
            scores[f"bits_per_byte/{role}"] = score(_bits(nlls), sizes, meaning=f"bits per byte, {role}")
        if "before" in self.models:
            lost, said = _difference(rows, "nll"), "of plain text, after minus before, paired"
            sizes, tokens = _column(rows, "after_bytes"), _column(rows, "after_tokens")
            scores["bits_per_byte_difference"] = score(_bits(lost), sizes, meaning=f"bits per byte {said}")
            if self.same_tokens:
                scores["nats_per_token_difference"] = score(lost, tokens, meaning=f"nats per token {said}")
        return scores

    def _question_scores(self, rows: Items) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        score = functools.partial(mean_score, better="higher", **self.draws)
        for how, meaning in NORMALISATIONS.items():
            for role in self.models:
                right = _column(rows, f"{role}_correct_{how}")
                scores[f"accuracy_{how}/{role}"] = score(
                    right, meaning=f"right answer has the highest {meaning}, {role}"
                )
            if "before" in self.models:
                scores[f"accuracy_{how}_difference"] = score(
                    _difference(rows, f"correct_{how}"), meaning=f"accuracy by {meaning}, after minus before, paired"
                )
        return scores

    def conventions(self) -> dict[str, Any]:
        """How texts and questions are scored."""
        models = self.models.items()
        return {
            **{f"{role}_{name}": value for role, lm in models for name, value in lm.conventions.items()},
            "text": f"documents cut into windows of {WINDOW_TOKENS} tokens (or the model's context), each by itself",
            "questions": "p(a space and the answer | question); ties among k answers count 1/k",
            "difference": "after minus before, paired by item",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """How much was read."""
        return {"num_documents": self.num_documents, "num_questions": self.num_questions}

    def notes(self, items: Items) -> list[str]:
        """Warn of other tokens, of texts without a score, and of few items."""
        notes = []
        if "before" in self.models and not self.same_tokens and self.num_documents:
            notes.append("The two tokenizers cut text differently: compare bits per byte, not nats per token.")
        unscored = sum(row["kind"] == "text" and row["after_nll"] is None for row in items)
        if unscored:
            notes.append(f"{unscored} documents have no token that can be scored; they are left out.")
        if len(items) < 30:
            notes.append(f"Only {len(items)} items: intervals are rough.")
        return notes


def _column(rows: Items, name: str) -> list[float]:
    return [row[name] for row in rows]


def _difference(rows: Items, name: str) -> list[float]:
    """After minus before."""
    return [row[f"after_{name}"] - row[f"before_{name}"] for row in rows]


def _bits(nats: Sequence[float]) -> list[float]:
    return [value / math.log(2) for value in nats]


def document_nll(lm: TextLM, text: str) -> TextNLL | None:
    """Score a document of any length, window by window; None where no token can be scored."""
    row = lm.token_ids(text)
    room = min(WINDOW_TOKENS, (lm.context_tokens or WINDOW_TOKENS) - (lm.opening == "bos"))
    windows = [window for window in row.split(room) if len(window) > (lm.opening == "none")]
    losses = token_nll(lm.model, windows, lm.opening, bos_id=lm.bos_id, max_tokens=BATCH_TOKENS) if len(row) else []
    if not losses:
        return None
    return TextNLL(float(torch.cat(losses).double().sum()), sum(len(loss) for loss in losses))


def choice_nlls(lm: TextLM, question: Question) -> list[TextNLL]:
    """Negative log-likelihood of each answer behind the question, a space between.

    Raises:
        ConfigError: question and answer are longer than the model's context.
    """
    texts = [f"{question.question.strip()} {choice.strip()}" for choice in question.choices]
    start = len(question.question.strip())
    encoded = [lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True) for text in texts]
    rows = [torch.tensor(one["input_ids"], dtype=torch.long) for one in encoded]
    losses = token_nll(lm.model, rows, lm.opening, bos_id=lm.bos_id, max_tokens=BATCH_TOKENS)
    scores = []
    for one, loss in zip(encoded, losses, strict=True):
        num_new = sum(end > start for _, end in one["offset_mapping"])
        scores.append(TextNLL(float(loss.double()[-num_new:].sum()), num_new))
    return scores


def credit(nlls: Sequence[float], answer: int) -> float:
    """1 where the right answer alone has the lowest value, 1/k where k answers share it, else 0."""
    best = min(nlls)
    winners = [index for index, value in enumerate(nlls) if value == best]
    return 1 / len(winners) if answer in winners else 0.0


def _model_of_run(name: str) -> str:
    """Return the folder of the model where `name` is that of a run; any other name as it is."""
    folder = Path(name)
    return str(find_lm(folder)) if folder.is_dir() and not (folder / "config.json").is_file() else name


def _question(row: Any, where: str, number: int) -> Question:
    try:
        question, choices, answer = row["question"], row["choices"], row["answer"]
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{where}: not a question ({error!r}). Each line needs question, choices and answer, as JSON."
        ) from error
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not isinstance(question, str) or not question.strip() or not texts or len(choices) < 2:
        raise ManifestError(f"{where}: question must be text, and choices a list of at least two texts.")
    if isinstance(answer, str) and choices.count(answer) == 1:
        answer = choices.index(answer)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ManifestError(
            f"{where}: answer is {answer!r}; it must be one of the choices, or its place: 0 to {len(choices) - 1}."
        )
    return Question(str(row.get("id", f"question-{number}")), question, tuple(choices), answer)


def _text_row(lm: TextLM, text: str) -> dict[str, Any]:
    score = document_nll(lm, text)
    return {
        "nll": score.nll if score else None,
        "tokens": score.num_tokens if score else None,
        "bytes": len(text.encode("utf-8")),
    }


def _question_row(lm: TextLM, question: Question) -> dict[str, Any]:
    nlls = choice_nlls(lm, question)
    lengths = {
        "sum": [1] * len(nlls),
        "per_token": [score.num_tokens for score in nlls],
        "per_byte": [len(choice.strip().encode("utf-8")) for choice in question.choices],
    }
    row: dict[str, Any] = {
        f"correct_{how}": credit([score.nll / size for score, size in zip(nlls, lengths[how])], question.answer)
        for how in NORMALISATIONS
    }
    return {**row, "choice_nlls": [score.nll for score in nlls]}
