"""Measures of texts that continue a prompt, and how those of a run are summed up.

    prompt texts, continuation texts -> likelihood, repetition, copying, one row each -> scores with intervals

The model's columns and scores have bare names; those of an anchor carry its name: `true_copy_rate`, `copy_rate/true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vocable.evaluation.bootstrap import bootstrap
from vocable.evaluation.metrics.perplexity import TextNLL, continuation_nll, perplexity_scores, text_nll
from vocable.evaluation.metrics.repetition import (
    auto_bleu_gslm,
    auto_bleu_slam,
    copy_rate,
    nltk_words,
    plain_words,
    self_bleu,
    vert,
)
from vocable.evaluation.results import Score, column_mean, score_between
from vocable.lm.text_lm import TextLM

Items = Sequence[Mapping[str, Any]]
Settings = Mapping[str, int]

VIEWS = {
    "alone": "the continuation by itself",
    "given_prompt": "the continuation behind its prompt, prompt not scored",
    "with_prompt": "prompt and continuation, all tokens scored",
}
MEANS: dict[str, tuple[Literal["higher", "lower"] | None, str]] = {
    "auto_bleu2_slam": ("lower", "share of bigrams that occur again in the text (NLTK words, overlaps count)"),
    "auto_bleu2_geometric": ("lower", "share of 1- and 2-grams that occur elsewhere in the text, geometric mean"),
    "auto_bleu2_arithmetic": ("lower", "the same, arithmetic mean"),
    "auto_bleu3_geometric": ("lower", "share of 1- to 3-grams that occur elsewhere in the text, geometric mean"),
    "auto_bleu3_arithmetic": ("lower", "the same, arithmetic mean"),
    "self_bleu2_geometric": ("lower", "1- and 2-gram precision against all other texts, geometric mean"),
    "self_bleu2_arithmetic": ("lower", "the same, arithmetic mean"),
    "copy_rate": ("lower", "longest stretch of words that stands in the prompt, as a share of the text"),
    "mos": ("higher", "predicted opinion score of the sound, 1 to 5"),
    "num_words": (None, "words per continuation, empty ones included"),
    "seconds": (None, "length of the sound"),
    "empty": ("lower", "share of continuations in which no word was heard"),
}
TEXT_CONVENTIONS = {
    "text_for_likelihood": "as the recogniser writes it; prompt and continuation joined by a space",
    "words": "lower case, without punctuation; for auto_bleu2_slam NLTK's word tokens of the text as written",
    "auto_bleu": "shares from 0 to 1; papers print them times 100",
    "self_bleu": "against all other texts of the same system, clipped counts, no brevity penalty, no smoothing",
    "vert": "sqrt(mean self_bleu2_geometric * mean auto_bleu2_geometric)",
    "empty_transcripts": "left out of likelihood, repetition and copying; counted",
}


def column(system: str, name: str) -> str:
    """Name of a system's column: the model's are bare, an anchor's open with its name."""
    return name if system == "model" else f"{system}_{name}"


def score_name(system: str, name: str) -> str:
    """Name of a system's score: the model's are bare, an anchor's end with its name."""
    return name if system == "model" else f"{name}/{system}"


def measure_transcripts(prompts: Sequence[str], texts: Sequence[str], text_lm: TextLM | None) -> list[dict[str, Any]]:
    """Measure continuations by their texts; a value is None where a text holds no word."""
    rows = [text_measures(prompt, text) for prompt, text in zip(prompts, texts)]
    said = [index for index, row in enumerate(rows) if not row["empty"]]
    for averaging in ("geometric", "arithmetic"):
        spoken = [plain_words(texts[index]) for index in said]
        found = dict(zip(said, self_bleu(spoken, 2, averaging))) if len(said) > 1 else {}
        for index, row in enumerate(rows):
            row[f"self_bleu2_{averaging}"] = found.get(index)
    if text_lm is not None:
        for row, likelihoods in zip(rows, _likelihoods(text_lm, prompts, texts, set(said))):
            row |= likelihoods
    return rows


def text_measures(prompt: str, text: str) -> dict[str, Any]:
    """Measure what one text says by itself, and how much of it stands in the prompt; None where it holds no word."""
    words = plain_words(text)
    row: dict[str, Any] = {"empty": int(not words), "num_words": len(words)}
    for averaging in ("geometric", "arithmetic"):
        for order in (2, 3):
            row[f"auto_bleu{order}_{averaging}"] = auto_bleu_gslm(words, order, averaging) if words else None
    row["auto_bleu2_slam"] = auto_bleu_slam(nltk_words(text)) if words else None
    row["copy_rate"] = copy_rate(plain_words(prompt), words)
    return row


def nll_columns(view: str, score: TextNLL | None) -> dict[str, float | int | None]:
    """Name a likelihood and its tokens by the view; None where there is none."""
    return {f"nll_{view}": score and score.nll, f"tokens_{view}": score and score.num_tokens}


def column_perplexity(items: Items, stem: str, view: str, meaning: str, settings: Settings) -> dict[str, Score]:
    """Sum up the likelihoods of a view in three ways (perplexity.py); empty where no item has one."""
    kept = [item for item in items if item.get(f"{stem}nll_{view}") is not None]
    texts = [TextNLL(item[f"{stem}nll_{view}"], item[f"{stem}tokens_{view}"]) for item in kept]
    return perplexity_scores(texts, [item["speaker"] for item in kept], meaning=meaning, **settings) if kept else {}


def continuation_scores(items: Items, systems: Sequence[str], settings: Settings) -> dict[str, Score]:
    """All scores of a run, those of the model first."""
    scores: dict[str, Score] = {}
    for system in systems:
        found = {**_likelihood_scores(items, system, settings), **_mean_scores(items, system, settings)}
        both = [item for item in items if item.get(column(system, "self_bleu2_geometric")) is not None]
        if both:
            parts = [[item[column(system, f"{kind}_bleu2_geometric")] for item in both] for kind in ("self", "auto")]
            found["vert"] = vert_score(parts[0], parts[1], **settings)
        scores |= {score_name(system, name): score for name, score in found.items()}
    return scores


def vert_score(
    self_bleu2: Sequence[float], auto_bleu2: Sequence[float], seed: int = 0, num_resamples: int = 2000
) -> Score:
    """VERT of the mean self- and auto-BLEU2 of texts, with a percentile bootstrap interval over texts.

    What a text is compared with stays the same in every draw.
    """
    values = np.stack([np.asarray(self_bleu2, dtype=float), np.asarray(auto_bleu2, dtype=float)], axis=1)
    interval = bootstrap(
        lambda draws: np.sqrt((draws @ values / len(values)).prod(1)), len(values), num_resamples, seed=seed
    )
    value = vert(*values.mean(0).tolist())
    return score_between(value, len(values), interval, better="lower", meaning=TEXT_CONVENTIONS["vert"])


def continuation_exclusions(items: Items, systems: Sequence[str]) -> dict[str, int]:
    """Count the continuations without a text score, by system and reason."""
    counts = {f"{system}: no word heard": sum(item[column(system, "empty")] for item in items) for system in systems}
    counts["no word heard in the prompt: likelihoods with the prompt"] = sum(
        not plain_words(item["prompt_transcript"]) for item in items
    )
    return {reason: count for reason, count in counts.items() if count}


def continuation_notes(items: Items, systems: Sequence[str], scores: Mapping[str, Score]) -> list[str]:
    """Warn of few prompts, empty continuations, and scores that reward copying."""
    notes = []
    if len(items) < 30:
        notes.append(f"Only {len(items)} prompts: intervals are rough, and self-BLEU grows with the number of texts.")
    empty = scores["empty"].value or 0.0
    if empty > 0.1:
        notes.append(f"No word was heard in {empty:.0%} of the model's continuations; text scores leave these out.")
    name = "genppl_with_prompt_token_weighted"
    if is_below(scores.get(f"{name}/copy"), scores.get(name)):
        notes.append(
            "Repeating the prompt gives a lower perplexity with the prompt than the model does: that score rewards "
            "copying here."
        )
    if is_below(scores.get("genppl_geometric/random"), scores.get("genppl_geometric"), "low", "high"):
        notes.append("The interval of the model's GenPPL reaches that of random units: they are not told apart.")
    return notes


def is_below(first: Score | None, second: Score | None, end: str = "value", other_end: str = "value") -> bool:
    """Whether an end of the first score lies below one of the second, where both are known."""
    low, high = getattr(first, end, None), getattr(second, other_end, None)
    return low is not None and high is not None and low < high


def _likelihoods(
    lm: TextLM, prompts: Sequence[str], texts: Sequence[str], said: set[int]
) -> list[dict[str, float | int | None]]:
    kept = [text if index in said else "" for index, text in enumerate(texts)]
    heard = [prompt if plain_words(prompt) else "" for prompt in prompts]
    rows = []
    for alone, behind in zip(text_nll(lm, kept), continuation_nll(lm, heard, kept)):
        given_prompt, with_prompt = behind if behind is not None else (None, None)
        found = {"alone": alone, "given_prompt": given_prompt, "with_prompt": with_prompt}
        row: dict[str, float | int | None] = {}
        for view, score in found.items():
            row |= nll_columns(view, score)
            row[f"nats_per_token_{view}"] = score and score.mean
        rows.append(row)
    return rows


def _likelihood_scores(items: Items, system: str, settings: Settings) -> dict[str, Score]:
    scores = {}
    for view, meaning in VIEWS.items():
        averages = column_perplexity(items, column(system, ""), view, f"perplexity, {meaning}", settings)
        name = "genppl" if view == "alone" else f"genppl_{view}"
        scores |= {f"{name}_{way}": score for way, score in averages.items()}
        nats = f"nats_per_token_{view}"
        said = f"mean over texts of nats per token, {meaning}"
        if averages:
            scores[nats] = column_mean(items, column(system, nats), better="lower", meaning=said, **settings)
    return scores


def _mean_scores(items: Items, system: str, settings: Settings) -> dict[str, Score]:
    scores = {
        name: column_mean(items, column(system, name), better=better, meaning=meaning, **settings)
        for name, (better, meaning) in MEANS.items()
    }
    return {name: score for name, score in scores.items() if score.num_items}
