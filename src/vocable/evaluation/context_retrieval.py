"""Context retrieval accuracy (CRA): does a continuation find its own prompt among those of other utterances?

    prompts x_1 ... x_N, continuations y_1 ... y_N, log p(y_i | x_j) for every pair

    prompts          y_i kept, best x_j wanted: argmax_j log p(y_i | x_j) = i     the CRA of SUTLM
    continuations    x_j kept, best y_i wanted, by the sum of log-likelihoods, by their mean over tokens, and by
                     the sum less log p(y_i) without a prompt (pointwise mutual information)

The first needs no correction: y_i is the same in each argmax, and so are its length and its frequency. The second does,
which is why all three are given. Four cells say in which modality x and y are (halves.py); chance is 1/N. A model
whose modalities share nothing is good at u2u and t2t, and at chance in u2t and t2u.

Source: Toward Joint Language Modeling for Speech Units and Text (Chou et al., 2023, arXiv:2310.08715). Pool size, cut
and treatment of runs at the cut are not known to us from the paper; they are settings.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError, NumericsError
from vocable.evaluation.figures import ACCENT, INK, figure_svg, load_pyplot
from vocable.evaluation.halves import (
    CELLS,
    Cell,
    CutUtterance,
    HalfModel,
    HalvesBenchmark,
    HalvesConfig,
    continues_run,
    without_last_run,
)
from vocable.evaluation.results import EvaluationResult, Score, column_mean
from vocable.evaluation.runner import Item, Items
from vocable.evaluation.unusable import reasons
from vocable.lm.branches import Tree

WAYS = {
    "prompts": "continuation kept, prompts ranked by log p(y|x): the CRA of SUTLM",
    "continuations_sum": "prompt kept, continuations ranked by log p(y|x), summed over tokens",
    "continuations_mean": "prompt kept, continuations ranked by log p(y|x) per token",
    "continuations_pmi": "prompt kept, continuations ranked by log p(y|x) - log p(y)",
}
GROUP_PROMPTS = 8
"""Scored between two reports of progress."""
PLACES = {"u2u": (0, 0), "u2t": (0, 1), "t2u": (1, 0), "t2t": (1, 1)}
"""Row and column of each cell in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig(HalvesConfig):
    """Model, speech and switches of CRA; all of them are written into the result."""

    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """The text model of the control text."""
    pool_size: int = 100
    """Utterances that compete with each other (N). Chance is one in as many."""
    num_pools: int | None = None
    """Disjoint pools to average over; null takes as many as there are utterances for."""
    logits: Literal["kept", "masked"] = "kept"
    """Probabilities among all ids (kept), or within the continuation's modality (masked)."""
    seam: Literal["merge", "keep"] = "merge"
    """Units where the prompt ends in the unit that the continuation begins with, and runs are collapsed: leave it out
    of the prompt, as one run is one unit in training (merge); or keep both, a repetition that the model has never
    seen (keep)."""
    max_tokens: int = 4096
    """Tokens in one forward pass."""

    def __post_init__(self) -> None:
        if self.pool_size < 2:
            raise ConfigError(f"pool_size is {self.pool_size}; a continuation needs at least 2 prompts to choose from.")
        if self.num_pools is not None and self.num_pools < 1:
            raise ConfigError(f"num_pools is {self.num_pools}; give at least 1, or null for as many as there are.")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; it must be at least 1.")
        HalvesConfig.__post_init__(self)


class Retrieval(HalvesBenchmark[RetrievalConfig]):
    """Measure context retrieval (CRA): how often a continuation finds its own prompt among others.

    Four cells: prompt and continuation each as units or text (u2u, t2t, u2t, t2u). Both argmax directions: prompts
    ranked for a continuation (the CRA of SUTLM), and continuations for a prompt (sum, mean, and less log p(y)).
    Chance is 1 in POOL_SIZE. A model of units alone has the cell u2u only.

    Writes cra.json, cra.items.parquet (ranks and credits of every utterance) and cra.svg (the four cells).

    vocable evaluate cra dev.jsonl --model runs/sutlm --out results
    """

    name, Config = "cra", RetrievalConfig

    def items(self) -> Iterator[Item]:
        """Draw pools, and score every continuation behind every prompt of its pool."""
        config, run = self.config, self.run
        self.model = model = self.open_model(config.text_model)
        self.pools = draw_pools(self.cut_utterances(model), config, run.excluded)
        total = len(self.pools) * len(model.cells) * config.pool_size**2
        for number, pool in enumerate(self.pools):
            rows: list[dict[str, Any]] = [_item(one, number) for one in pool]
            for cell in model.cells:
                if model.lm is None:
                    scores = _random_scores(len(pool), config.seed, number, cell)
                    run.advance("Scoring pairs", len(pool) ** 2, total)
                else:
                    watch = lambda count: run.advance("Scoring pairs", count, total)  # noqa: E731
                    scores = score_pool(model, pool, cell, config, watch)
                _add(rows, cell, scores)
            yield from rows

    def scores(self, items: Items) -> dict[str, Score]:
        """Sum up the credits: the CRA of each cell first, then the other direction.

        Intervals are bootstraps over utterances (and over speakers), which takes pools as they were drawn.
        """
        size = self.config.pool_size
        self.scored = {
            score_name(way, cell): column_mean(
                items,
                score_name(way, cell),
                better="higher",
                meaning=f"{meaning}; {cell}, {size} compete, chance {1 / size:.4g}",
                num_resamples=self.config.num_resamples,
            )
            for way, meaning in WAYS.items()
            for cell in self.model.cells
        }
        return self.scored

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        config, lm = self.config, self.model.lm
        return {
            "pool_size": config.pool_size,
            "chance": 1 / config.pool_size,
            "cut": config.cut_conventions(),
            "logits": config.logits,
            "seam": config.seam if lm is not None and lm.collapsed and "u2u" in self.model.cells else None,
            "scored": "tokens of the continuation; switch symbol and openers are read only",
            "ties": "share the credit",
            "directions": WAYS,
            "without_a_prompt": "behind the opener of the continuation's modality",
            "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over utterances and over speakers",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        cells = self.model.cells
        names = [score_name(way, cell) for way in WAYS for cell in cells]
        return {
            "num_utterances": len(items),
            "num_pools": len(self.pools),
            "pool_size": self.config.pool_size,
            "chance": 1 / self.config.pool_size,
            "mean_rank": {name: float(np.mean([item[f"rank_{name}"] for item in items])) for name in names},
            "ties": {name: sum(0 < item[name] < 1 for item in items) for name in names},
            "scored_tokens": {cell: sum(item[f"scored_tokens_{cell}"] for item in items) for cell in cells},
        }

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        chance = 1 / self.config.pool_size
        notes = [f"Chance is {chance:.4g} (1 in {self.config.pool_size})."]
        found = {cell: self.scored[score_name("prompts", cell)].low for cell in self.model.cells}
        near = [cell for cell in CELLS if (low := found.get(cell)) is not None and low <= chance * (1 + 1e-9)]
        if near:
            notes.append(f"Not told apart from chance: CRA of {', '.join(near)}.")
        if len(items) < 30:
            notes.append(f"Only {len(items)} utterances: intervals are rough.")
        return notes

    def picture(self, result: EvaluationResult) -> str:
        """Draw the four cells."""
        return retrieval_picture(result)


class PairScores(NamedTuple):
    """Log-likelihoods, in nats, of all continuations of a pool behind all of its prompts."""

    given: Float[Tensor, "prompts continuations"]
    """log p(y_i | x_j), summed over the tokens of y_i."""
    alone: Float[Tensor, " continuations"]
    """log p(y_i) behind the opener of its modality."""
    num_tokens: Int[Tensor, " continuations"]


class Retrieved(NamedTuple):
    """How well each query finds its own among the candidates."""

    credit: Float[Tensor, " queries"]
    """1 where its own is best, 1/m where m are equally good, else 0."""
    rank: Float[Tensor, " queries"]
    """Place of its own, 1 being the best; equal ones share the mean of their places."""


def retrieve(scores: Float[Tensor, "candidates queries"]) -> Retrieved:
    """Rank the candidates of every query; the candidate with the query's own number is the right one."""
    own = scores.diagonal()
    better = (scores > own[None]).sum(0).double()
    equal = (scores == own[None]).sum(0).double()  # itself among them
    return Retrieved(torch.where(better == 0, 1 / equal, 0.0), 1 + better + (equal - 1) / 2)


def retrieved_in(scores: PairScores) -> dict[str, Retrieved]:
    """Return what is found in each of `WAYS`."""
    given = scores.given
    return {
        "prompts": retrieve(given),
        "continuations_sum": retrieve(given.T),
        "continuations_mean": retrieve((given / scores.num_tokens).T),
        "continuations_pmi": retrieve((given - scores.alone).T),
    }


def score_pool(
    model: HalfModel,
    pool: Sequence[CutUtterance],
    cell: Cell,
    config: RetrievalConfig,
    on_progress: Callable[[int], None] = lambda count: None,
) -> PairScores:
    """Score every continuation of a pool behind every prompt. Each prompt is read once; equal rows are scored once.

    Raises:
        NumericsError: the model returned NaN or infinite values.
    """
    assert model.lm is not None
    logits = config.logits if len(model.lm.modalities) > 1 else "kept"
    continuations = [model.continuation(one.continuation, cell) for one in pool]
    lengths = torch.tensor([len(row) for row in continuations])
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {
        tuple(model.opener(cell).tolist()): [(len(pool), i) for i in range(len(pool))]
    }
    for j, i, row in _prompt_rows(model, pool, cell, config):
        places.setdefault(tuple(row.tolist()), []).append((j, i))
    given = torch.full((len(pool) + 1, len(pool)), torch.nan, dtype=torch.float64)  # the last row: without a prompt
    prefixes, done = list(places), 0
    for start in range(0, len(prefixes), GROUP_PROMPTS):
        group = prefixes[start : start + GROUP_PROMPTS]
        trees, homes = _trees([(prefix, places[prefix]) for prefix in group], continuations, config.max_tokens)
        losses = model.lm.score_branches(trees, logits=logits, max_tokens=config.max_tokens)
        for home, loss in zip(homes, losses):
            for cells_of, branch in zip(home, loss.branches):
                for j, i in cells_of:
                    given[j, i] = -float(branch.double().sum())
        scored = int(given[:-1].isfinite().sum())
        on_progress(scored - done)
        done = scored
    if not bool(given.isfinite().all()):
        raise NumericsError("The model's log-likelihoods are NaN or infinite. Its weights or its precision are broken.")
    return PairScores(given[:-1], given[-1], lengths)


def draw_pools(
    utterances: Sequence[CutUtterance], config: RetrievalConfig, excluded: Counter[str]
) -> list[list[CutUtterance]]:
    """Draw disjoint pools; who is left over is counted in `excluded`.

    Raises:
        ManifestError: there are too few for one pool, or for as many as were asked for.
    """
    needed = config.pool_size * (config.num_pools or 1)
    if len(utterances) < needed:
        raise ManifestError(
            f"{len(utterances)} utterances can be used ({reasons(excluded)} left out), {needed} are needed for "
            f"{config.num_pools or 1} pool(s) of {config.pool_size}. Give more, or a smaller pool_size: chance is 1 in "
            "as many, so results with other pool sizes are not comparable."
        )
    count = config.num_pools or len(utterances) // config.pool_size
    order = np.random.default_rng(config.seed).permutation(len(utterances))
    rest = len(utterances) - count * config.pool_size
    if rest:
        excluded["not drawn into a pool"] = rest
    starts = range(0, count * config.pool_size, config.pool_size)
    return [[utterances[k] for k in order[start : start + config.pool_size]] for start in starts]


def score_name(way: str, cell: str) -> str:
    """Name of a score, and of the column of its credits: `cra_u2t`, `continuations_pmi_u2t`."""
    return f"cra_{cell}" if way == "prompts" else f"{way}_{cell}"


def retrieval_picture(result: EvaluationResult) -> str:
    """Draw the CRA of the cells as SVG, shaded from chance to 1; cells that were not measured stay empty.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    from matplotlib.colors import LinearSegmentedColormap

    chance = float(result.conventions["chance"])
    colours = LinearSegmentedColormap.from_list("retrieval", ["#ffffff", ACCENT])
    figure, axis = plt.subplots(figsize=(3.6, 3.2))
    for cell, (row, column) in PLACES.items():
        score = result.scores.get(score_name("prompts", cell))
        if score is None or score.value is None:
            continue
        height = max(0.0, (score.value - chance) / (1 - chance))
        axis.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, color=colours(height), linewidth=0))
        ink = "#ffffff" if height > 0.6 else INK
        axis.text(column, row - 0.08, f"{score.value:.3g}", ha="center", va="center", color=ink, fontsize=13)
        if score.low is not None and score.high is not None:
            interval = f"{score.low:.3g} to {score.high:.3g}"
            axis.text(column, row + 0.2, interval, ha="center", va="center", color=ink, fontsize=8)
    axis.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal")
    axis.set_xticks([0, 1], ["units", "text"])
    axis.set_yticks([0, 1], ["units", "text"])
    axis.set_xlabel(f"continuation      (chance {chance:.3g})")
    axis.set_ylabel("prompt")
    axis.set_title("Context retrieval accuracy", loc="left", color=INK)
    axis.tick_params(length=0)
    return figure_svg(figure) + "\n"


def _prompt_rows(
    model: HalfModel, pool: Sequence[CutUtterance], cell: Cell, config: RetrievalConfig
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield number of prompt and of continuation, and what is read before the latter."""
    assert model.lm is not None
    merges = cell == "u2u" and model.lm.collapsed and config.seam == "merge"
    for j, prompt in enumerate(pool):
        whole = model.prompt(prompt.prompt, cell)
        shorter = None
        for i, other in enumerate(pool):
            if merges and continues_run(prompt.prompt, other.continuation):
                if shorter is None:
                    shorter = model.prompt(without_last_run(prompt.prompt), cell)
                yield j, i, shorter
            else:
                yield j, i, whole


def _trees(
    prefixes: Sequence[tuple[tuple[int, ...], list[tuple[int, int]]]], continuations: Sequence[Tensor], max_tokens: int
) -> tuple[list[Tree], list[list[list[tuple[int, int]]]]]:
    """Trees of at most `max_tokens` where that is possible, and for each branch the pairs that it is the score of."""
    trees, homes = [], []
    for prefix, pairs in prefixes:
        wanted: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for j, i in pairs:
            wanted.setdefault(tuple(continuations[i].tolist()), []).append((j, i))
        # like lengths together: a branch's place in a tree changes no score
        branches = sorted(wanted.items(), key=lambda branch: len(branch[0]))
        size, chosen = len(prefix), list[tuple[tuple[int, ...], list[tuple[int, int]]]]()
        for branch in [*branches, None]:
            if chosen and (branch is None or size + len(branch[0]) > max_tokens):
                trees.append(Tree(torch.tensor(prefix), tuple(torch.tensor(ids) for ids, _ in chosen)))
                homes.append([places for _, places in chosen])
                size, chosen = len(prefix), []
            if branch is not None:
                chosen.append(branch)
                size += len(branch[0])
    return trees, homes


def _random_scores(size: int, seed: int, pool: int, cell: Cell) -> PairScores:
    rng = np.random.default_rng([seed, pool, CELLS.index(cell)])
    drawn = torch.from_numpy(rng.standard_normal((size, size)))
    return PairScores(drawn, torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.long))


def _item(one: CutUtterance, pool: int) -> dict[str, Any]:
    return {
        "id": one.id,
        "speaker": one.speaker,
        "pool": pool,
        "words_prompt": one.prompt.num_words,
        "words_continuation": one.continuation.num_words,
    }


def _add(rows: Sequence[dict[str, Any]], cell: Cell, scores: PairScores) -> None:
    """Add what was found in one cell to the rows of a pool."""
    for way, found in retrieved_in(scores).items():
        name = score_name(way, cell)
        for row, credit, rank in zip(rows, found.credit.tolist(), found.rank.tolist(), strict=True):
            row[name], row[f"rank_{name}"] = credit, rank
    own = scores.given.diagonal().tolist()
    for row, nll, alone, tokens in zip(rows, own, scores.alone.tolist(), scores.num_tokens.tolist(), strict=True):
        row[f"loglik_{cell}"], row[f"loglik_alone_{cell}"], row[f"scored_tokens_{cell}"] = nll, alone, tokens
