"""Score minimal pairs with a language model: is the right half the more likely one?

    pairs -> rows -> every distinct row once, shared prefixes once -> log-likelihoods -> 1, 0.5 (a tie) or 0

The sum and the mean of log-likelihoods are a first-order difference (SpiRit-LM, Nguyen et al., 2024, arXiv:2402.05755,
recomputes both): a result holds both, and says which one is its headline. TWIST divides by the number of units.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vocable.errors import ManifestError
from vocable.evaluation.pairs.items import PairItem, PairSet
from vocable.evaluation.pairs.rows import Row, RowBuilder
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.unusable import UnusableError
from vocable.lm.branches import Tree, join_rows, tree_nll
from vocable.lm.ngram import NgramLM
from vocable.lm.scoring import Boundary

MIN_SHARED_TOKENS = 16
"""A prefix shorter than this is read twice: handling the fork costs more than reading it."""

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


class HalfNLL(NamedTuple):
    """Summed negative log-likelihood (nats) and number of scored tokens of one half."""

    nll: float
    num_tokens: int


class PairScorer(Protocol):
    """Anything that scores rows of pairs."""

    def __call__(self, pairs: Sequence[tuple[Row, Row]]) -> list[tuple[HalfNLL, HalfNLL]]:
        """Return the two halves' scores of each pair, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuralScorer:
    """Scores rows with a Hugging Face causal LM."""

    model: nn.Module
    share_prefixes: bool = True
    max_tokens: int = 4096
    classes: Int[Tensor, " vocabulary"] | None = None
    """See `tree_nll`."""
    on_progress: Callable[[int, int], None] | None = None
    """Called after each forward pass with the number of trees it scored (rows that share a beginning, or a row alone),
    and their total."""

    def __call__(self, pairs: Sequence[tuple[Row, Row]]) -> list[tuple[HalfNLL, HalfNLL]]:
        """See `PairScorer`."""
        rows = {tuple(row.token_ids.tolist()): row.token_ids for pair in pairs for row in pair}  # equal ones once: ties
        shared = share_rows(list(rows), self.max_tokens) if self.share_prefixes else [[key] for key in rows]
        trees = [_tree([rows[key] for key in keys]) for keys in shared]
        homes = {key: (tree, branch) for tree, keys in enumerate(shared) for branch, key in enumerate(keys)}
        show = self.on_progress
        watch = None if show is None else lambda count: show(count, len(trees))
        losses = tree_nll(self.model, trees, max_tokens=self.max_tokens, classes=self.classes, on_progress=watch)

        def score(row: Row) -> HalfNLL:
            tree, branch = homes[tuple(row.token_ids.tolist())]
            found = torch.cat([losses[tree].prefix, losses[tree].branches[branch]]).double()
            return HalfNLL(float(found[row.first_scored - 1 :].sum()), len(row.token_ids) - row.first_scored)

        return [(score(positive), score(negative)) for positive, negative in pairs]


def share_rows(rows: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[tuple[int, ...]]]:
    """Put rows that begin alike together, whichever pairs they are of, so that few tokens are read in all.

    In alphabetical order, rows with a common beginning stand side by side; runs of neighbours are cut so that most is
    saved. The rows of a run share `MIN_SHARED_TOKENS` at least, and take `max_tokens` at most, the beginning once.

    Args:
        rows: all different; none is empty.
        max_tokens: of a run of two rows or more.

    Returns:
        The rows of each run; every row is in one.
    """
    order = sorted(rows)
    common = [0] + [_num_common(first, second) for first, second in itertools.pairwise(order)]
    saved = [0] * (len(order) + 1)  # by the best way to cut the rows before this place
    starts = list(range(len(order)))  # where the last run begins in it, for each row that is its last
    for last in range(len(order)):
        saved[last + 1] = saved[last]
        shared, length = len(order[last]), len(order[last])
        for first in range(last - 1, -1, -1):
            shared = min(shared, common[first + 1])
            length += len(order[first])
            spared = (last - first) * shared
            if shared < MIN_SHARED_TOKENS or length - spared > max_tokens:
                break
            if saved[first] + spared > saved[last + 1]:
                saved[last + 1], starts[last] = saved[first] + spared, first
    runs, stop = [], len(order)
    while stop:
        start = starts[stop - 1]
        runs.append(order[start:stop])
        stop = start
    return runs


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    places = range(min(len(first), len(second)))
    return next((place for place in places if first[place] != second[place]), len(places))


def _tree(rows: Sequence[Tensor]) -> Tree:
    return join_rows(rows) if len(rows) > 1 else Tree(rows[0][:1], (rows[0][1:],))


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramScorer:
    """Scores rows with counts of units or of pairs of units: the control that a neural model has to beat."""

    ngram: NgramLM

    def __call__(self, pairs: Sequence[tuple[Row, Row]]) -> list[tuple[HalfNLL, HalfNLL]]:
        """See `PairScorer`."""
        results = []
        for pair in pairs:
            halves = []
            for row in pair:
                losses = self.ngram.nll(row.token_ids)[row.first_scored - 1 :]
                halves.append(HalfNLL(float(losses.sum()), len(losses)))
            results.append((halves[0], halves[1]))
        return results


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomScorer:
    """Draws a score for each half: what chance looks like on this set, with its interval."""

    seed: int = 0

    def __call__(self, pairs: Sequence[tuple[Row, Row]]) -> list[tuple[HalfNLL, HalfNLL]]:
        """See `PairScorer`."""
        drawn = torch.rand(len(pairs), 2, generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [(HalfNLL(a, 1), HalfNLL(b, 1)) for a, b in drawn]


def credit(positive: float, negative: float) -> float:
    """Return 1 where the positive half has the smaller negative log-likelihood, 0.5 for a tie, else 0."""
    return 0.5 if positive == negative else float(positive < negative)


def evaluate_pairs(
    pair_set: PairSet,
    rows: RowBuilder,
    scorer: PairScorer,
    table: ScoreTable,
    config: PairScoringConfig,
    *,
    fingerprints: Mapping[str, str],
    weights: Mapping[str, Any],
    boundary: Boundary,
    notes: Sequence[str] = (),
) -> EvaluationResult:
    """Score every pair of a set, and sum up as its benchmark does.

    A pair of which one half cannot be scored is left out whole and counted. The items of the result hold both halves'
    log-likelihoods, so that any other convention can be computed from them.

    Raises:
        ManifestError: no pair could be scored; the reasons are in the message.
    """
    started = time.perf_counter()
    excluded = Counter(pair_set.excluded)
    usable: list[tuple[PairItem, tuple[Row, Row]]] = []
    for item in pair_set.items:
        try:
            ending = config.scored == "ending"
            usable.append((item, (rows(item.positive, ending), rows(item.negative, ending))))
        except UnusableError as error:
            excluded[str(error)] += 1
    if not usable:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
        raise ManifestError(f"None of {len(pair_set.items)} pairs could be scored ({reasons}).")
    scores = scorer([pair for _, pair in usable])
    items = [_item_row(item, halves, config) for (item, _), halves in zip(usable, scores, strict=True)]
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
        fingerprints=fingerprints,
        weights={**weights, "model": {**weights.get("model", {}), "rows": rows.description()}},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=[*notes, *_notes(items)],
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


def _item_row(item: PairItem, halves: tuple[HalfNLL, HalfNLL], config: PairScoringConfig) -> dict[str, Any]:
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
