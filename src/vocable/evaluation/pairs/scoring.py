"""Score minimal pairs with a language model: is the right half the more likely one?

    pairs -> rows -> every distinct row once, shared prefixes once -> log-likelihoods -> 1, 0.5 (a tie) or 0

The sum and the mean of log-likelihoods are a first-order difference (SpiRit-LM, Nguyen et al., 2024, arXiv:2402.05755,
recomputes both): a result holds both, and says which one is its headline. TWIST divides by the number of units.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vocable.errors import ManifestError
from vocable.evaluation.pairs.items import PairItem, PairSet
from vocable.evaluation.pairs.models import PairModel
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.unusable import UnusableError
from vocable.lm.rows import Progress, Row, RowScore
from vocable.lm.scoring import Boundary

ScoreTable = Callable[[Sequence[Mapping[str, Any]], str], dict[str, Score]]
"""From item rows and the name of the column with credits to a benchmark's scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScoringConfig:
    """The switches of pair scoring; all of them are written into the result."""

    normalise: Literal["mean", "sum"] = "mean"
    """Headline: log-likelihood per scored token, as TWIST, or summed. The other one is reported beside it."""
    scored: Literal["whole", "ending"] = "whole"
    """Score all of each half, or the last segment alone, given what comes before."""
    text_logits: Literal["kept", "masked"] = "kept"
    """In a model of speech and text: probabilities among all ids, or among ids of the token's own modality."""
    share_prefixes: bool = True
    """Read what rows begin with once, in the halves of a pair and in pairs with one context. Changes no score but by
    rounding."""
    max_tokens: int = 4096
    """Tokens in one forward pass."""
    seed: int = 0
    """Of the random control. Intervals have a fixed seed, so that results differ by their items alone."""


def credit(positive: float, negative: float) -> float:
    """Return 1 where the positive half has the smaller negative log-likelihood, 0.5 for a tie, else 0."""
    return 0.5 if positive == negative else float(positive < negative)


def evaluate_pairs(
    pair_set: PairSet,
    model: PairModel,
    table: ScoreTable,
    config: PairScoringConfig,
    *,
    boundary: Boundary,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Score every pair of a set, and sum up as its benchmark does.

    A pair of which one half cannot be scored is left out whole and counted. The items of the result hold both halves'
    log-likelihoods, so that any other convention can be computed from them.

    Args:
        pair_set: the pairs.
        model: of `load_pair_model`.
        table: sums up.
        config: the conventions.
        boundary: symbols around a row; see lm/scoring.py.
        on_progress: told of each forward pass.

    Raises:
        ManifestError: no pair could be scored; the reasons are in the message.
    """
    started = time.perf_counter()
    excluded = Counter(pair_set.excluded)
    usable: list[PairItem] = []
    rows: list[Row] = []
    for item in pair_set.items:
        try:
            rows += [model.row(half, boundary, config.scored == "ending") for half in (item.positive, item.negative)]
            usable.append(item)
        except UnusableError as error:
            excluded[str(error)] += 1
    if not usable:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
        raise ManifestError(f"None of {len(pair_set.items)} pairs could be scored ({reasons}).")
    scores = model.lm.score(
        rows,
        logits=config.text_logits,
        share_prefixes=config.share_prefixes,
        max_tokens=config.max_tokens,
        on_progress=on_progress,
    )
    halves = list(zip(scores[::2], scores[1::2], strict=True))
    items = [_item_row(item, pair, config) for item, pair in zip(usable, halves, strict=True)]
    other = "sum" if config.normalise == "mean" else "mean"
    scored = table(items, "correct")
    scored |= {f"{name}_{other}": score for name, score in table(items, f"correct_{other}").items()}
    return EvaluationResult(
        benchmark=pair_set.benchmark,
        scores=scored,
        conventions={
            "normalise": config.normalise,
            "scored": config.scored,
            "text_logits": config.text_logits,
            "ties": 0.5,
            "boundary": boundary,
        },
        fingerprints=model.fingerprints,
        weights={**model.weights, "model": {**model.weights.get("model", {}), "rows": model.description()}},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=[*model.notes, *_notes(items)],
        measurements={
            "num_pairs": len(items),
            "ties": _num_ties(items),
            "scored_tokens": sum(item["tokens_positive"] + item["tokens_negative"] for item in items),
        },
        items=items,
    )


def _num_ties(items: Sequence[Mapping[str, Any]]) -> int:
    return sum(item["correct"] == 0.5 for item in items)


def _notes(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before using the numbers."""
    notes, ties = [], _num_ties(items)
    if ties == len(items):
        notes.append("Every pair is a tie: this model cannot tell the halves apart, and 0.5 says no more than that.")
    elif ties > len(items) / 10:
        notes.append(f"{ties} of {len(items)} pairs are ties, which count half.")
    if len(items) < 30:
        notes.append(f"Only {len(items)} pairs: intervals are rough.")
    return notes


def _item_row(item: PairItem, halves: tuple[RowScore, RowScore], config: PairScoringConfig) -> dict[str, Any]:
    positive, negative = halves
    by = {
        "sum": credit(positive.nll, negative.nll),
        "mean": credit(positive.nll / positive.num_tokens, negative.nll / negative.num_tokens),
    }
    return {
        "id": item.id,
        "voice": item.voice,
        **item.group,
        "nll_positive": positive.nll,
        "tokens_positive": positive.num_tokens,
        "nll_negative": negative.nll,
        "tokens_negative": negative.num_tokens,
        "correct_sum": by["sum"],
        "correct_mean": by["mean"],
        "correct": by[config.normalise],
    }
