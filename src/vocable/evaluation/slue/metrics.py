"""Scores of SLUE: macro-F1 and recall of sentiments, F1 of entities and of their tags, with bootstrap intervals.

    "Tom sang in New York."   [PERSON 0 3] [PLACE 12 8]   ->   B-PERSON O O B-PLACE I-PLACE   ->   (PLACE, new york)

    gold  (PLACE, eu) (WHEN, today) (PLACE, eu)      numbered  (PLACE, eu, 0) (WHEN, today, 0) (PLACE, eu, 1)
    found (PLACE, eu) (PLACE, today)                           (PLACE, eu, 0) (PLACE, today, 0)
    entities: 1 right of 3 gold, 2 found             tags only: 2 right of 3 gold, 2 found

Source: SLUE (Shon et al., 2022, arXiv:2111.10367) and its toolkit: sets of numbered entities are intersected in each
utterance, and counts are added up over all (micro). A word is tagged when a letter or digit of it lies in an entity,
so punctuation at a word does not matter.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import bootstrap
from vocable.evaluation.metrics.wer import normalise_basic, normalise_english
from vocable.evaluation.results import Score, score_between
from vocable.evaluation.slue.labelled_set import SENTIMENTS, TAGS, Entity
from vocable.sequences.word_slices import word_texts
from vocable.types import Word

NUM_RESAMPLES = 2000
OUTSIDE = "O"
WORD_TAGS = (OUTSIDE, *(f"{place}-{tag}" for tag in TAGS for place in "BI"))

Span = tuple[int, int]
"""First character of a word, and one past its last."""


class Found(NamedTuple):
    """An entity as it is compared: tag, and phrase in its spoken form."""

    tag: str
    phrase: str


class Counts(NamedTuple):
    """Entities of one utterance: correct ones, those of the reference, and those found."""

    correct: int
    gold: int
    found: int


@functools.lru_cache(maxsize=65_536)
def plain_phrase(phrase: str, language: str = "en") -> str:
    """Return a phrase as it is compared: lower case, no punctuation, no "'s" at the end; English numbers in digits.

    Differs from the toolkit, which compares normalised texts as they are and makes "'s" a word of its own: here
    transcripts with digits and capitals are compared too, and both sides go through the normaliser of error rates.
    """
    bare = re.sub(r"[][(){}<>]", " ", phrase)  # the normaliser would drop what stands in brackets
    bare = re.sub(r"['’]s?\W*$", "", bare.strip())
    return (normalise_english if language.startswith("en") else normalise_basic)(bare)


def numbered(entities: Sequence[Hashable]) -> set[tuple[Hashable, int]]:
    """Number equal entities, so that sets of them compare multisets."""
    seen: Counter[Hashable] = Counter()
    result = set()
    for entity in entities:
        result.add((entity, seen[entity]))
        seen[entity] += 1
    return result


def entity_counts(gold: Sequence[Found], found: Sequence[Found]) -> Counts:
    """Count entities of one utterance whose tag and phrase are right."""
    right, guessed = numbered(gold), numbered(found)
    return Counts(len(right & guessed), len(right), len(guessed))


def tag_counts(gold: Sequence[Found], found: Sequence[Found]) -> Counts:
    """Count entities of one utterance by their tags alone (label-F1)."""
    right, guessed = numbered([entity.tag for entity in gold]), numbered([entity.tag for entity in found])
    return Counts(len(right & guessed), len(right), len(guessed))


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of summed counts; `counts` is (..., 3): correct, gold, found. 0 where there is nothing to find or found."""
    correct, gold, found = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    total = gold + found
    return np.where(total > 0, 2 * correct / np.where(total > 0, total, 1), 0.0)


def confusion(gold: str, found: str) -> list[float]:
    """Return one utterance as a flat confusion table of zeros and a one: gold sentiment times found sentiment."""
    table = np.zeros((len(SENTIMENTS), len(SENTIMENTS)))
    table[SENTIMENTS.index(gold), SENTIMENTS.index(found)] = 1
    return table.reshape(-1).tolist()


def macro_f1(tables: np.ndarray) -> np.ndarray:
    """Mean F1 of the three sentiments; `tables` is (..., 9). A sentiment neither there nor found counts 0."""
    right, gold, found = _by_class(tables)
    total = gold + found
    return np.where(total > 0, 2 * right / np.where(total > 0, total, 1), 0.0).mean(axis=-1)


def macro_recall(tables: np.ndarray) -> np.ndarray:
    """Mean recall of the three sentiments; `tables` is (..., 9). A sentiment that is not there counts 0."""
    right, gold, _ = _by_class(tables)
    return np.where(gold > 0, right / np.where(gold > 0, gold, 1), 0.0).mean(axis=-1)


class Metric(NamedTuple):
    """A score of a task."""

    name: str
    counts: Callable[[Any, Any], Sequence[float]]
    """Counts one utterance, from what is right and what was found."""
    score: Callable[[np.ndarray], np.ndarray]
    """Maps summed counts (..., k) to values (...)."""
    meaning: str


SENTIMENT_METRICS = (
    Metric("macro_f1", confusion, macro_f1, "mean F1 of the three sentiments"),
    Metric("macro_recall", confusion, macro_recall, "mean recall of the three sentiments"),
)
ENTITY_METRICS = (
    Metric("f1", entity_counts, micro_f1, "micro F1 of entities, combined tag and phrase"),
    Metric("label_f1", tag_counts, micro_f1, "micro F1 of entities, combined tag only"),
)


def run_counts(metric: Metric, gold: Sequence[Any], runs: Sequence[Sequence[Any]]) -> np.ndarray:
    """Count every utterance of every run: (runs, utterances, k)."""
    counts = [[metric.counts(right, guess) for right, guess in zip(gold, run, strict=True)] for run in runs]
    return np.asarray(counts, dtype=float)


def resampled_score(
    runs: Sequence[Sequence[Sequence[float]]] | np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    meaning: str,
    seed: int = 0,
) -> Score:
    """Score one or several runs (seeds) on the same utterances: the mean of their statistics, and its 95 % interval.

    The interval is over utterances: each resample draws utterances, the same for all runs (percentile bootstrap). It
    does not hold what other seeds would have given; the runs' own values show that.

    Args:
        runs: for each run, for each utterance, what `statistic` takes the sums of.
        statistic: maps sums (..., k) to values (...).

    Raises:
        ConfigError: there is no run, or no utterance.
    """
    counts = np.asarray(runs, dtype=float)  # (runs, utterances, k)
    if counts.ndim != 3 or 0 in counts.shape:
        raise ConfigError(f"{len(runs)} runs on {counts.shape[1] if counts.ndim > 1 else 0} utterances: nothing to do.")
    num_items = counts.shape[1]
    value = float(statistic(counts.sum(axis=1)).mean())
    interval = bootstrap(
        lambda draws: statistic(np.einsum("ri,sik->rsk", draws, counts, optimize=True)).mean(axis=1),
        num_items,
        NUM_RESAMPLES,
        seed=seed,
    )
    return score_between(value, num_items, interval, better="higher", meaning=meaning)


def _by_class(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, gold and found of each sentiment, (..., 3) each."""
    square = np.asarray(tables, dtype=float).reshape(*np.shape(tables)[:-1], len(SENTIMENTS), len(SENTIMENTS))
    return np.diagonal(square, axis1=-2, axis2=-1), square.sum(axis=-1), square.sum(axis=-2)


def written_spans(text: str) -> tuple[Span, ...]:
    """Return the words of a text: what stands between blanks."""
    return tuple(match.span() for match in re.finditer(r"\S+", text))


def spoken_spans(text: str, words: Sequence[Word]) -> tuple[Span, ...] | None:
    """Return where each spoken word stands in the text; None when words and text are not the same."""
    pieces = word_texts(text, words)
    if "".join(pieces) != text or not words:
        return None
    spans, start = [], 0
    for piece in pieces:
        stop = start + len(piece)
        spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = stop
    return tuple(spans)


def tag_words(text: str, spans: Sequence[Span], entities: Sequence[Entity]) -> list[str]:
    """Return a tag of `WORD_TAGS` for each word; a word in two entities belongs to the first."""
    tags: list[str] = []
    before: Entity | None = None
    for start, stop in spans:
        inside = next((entity for entity in entities if _shares_letter(text, start, stop, entity)), None)
        if inside is None:
            tags.append(OUTSIDE)
        else:
            tags.append(f"{'I' if inside is before else 'B'}-{inside.tag}")
        before = inside
    return tags


def tagged_entities(text: str, spans: Sequence[Span], tags: Sequence[str], language: str = "en") -> list[Found]:
    """Return the entities that tags say; an I- that continues nothing of its kind begins an entity."""
    groups: list[tuple[str, list[Span]]] = []
    before = OUTSIDE
    for span, tag in zip(spans, tags, strict=True):
        if tag != OUTSIDE:
            if tag.startswith("I-") and before[2:] == tag[2:]:
                groups[-1][1].append(span)
            else:
                groups.append((tag[2:], [span]))
        before = tag
    return [Found(tag, plain_phrase(text[rows[0][0] : rows[-1][1]], language)) for tag, rows in groups]


def gold_entities(text: str, entities: Sequence[Entity], language: str = "en") -> list[Found]:
    """Return labelled entities in the form in which they are compared."""
    return [Found(entity.tag, plain_phrase(entity.phrase(text), language)) for entity in entities]


def _shares_letter(text: str, start: int, stop: int, entity: Entity) -> bool:
    first, last = max(start, entity.start), min(stop, entity.start + entity.length)
    return any(char.isalnum() for char in text[first:last])
