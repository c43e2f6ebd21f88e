"""Score minimal pairs with a language model: is the right half the more likely one?

    pairs -> rows -> every distinct row once, shared prefixes once -> log-likelihoods -> 1, 0.5 (a tie) or 0

The sum and the mean of log-likelihoods are a first-order difference (SpiRit-LM, Nguyen et al., 2024, arXiv:2402.05755,
recomputes both): a result holds both, and says which one is its headline. TWIST divides by the number of units.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vocable.errors import ManifestError
from vocable.evaluation.pairs.items import (
    PairItem,
    PairSet,
    is_pair_set,
    pair_fingerprint,
    read_pair_set,
    with_modalities,
)
from vocable.evaluation.pairs.models import PairModel, PairsConfig, load_pair_model
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, Item, Items, find_benchmark
from vocable.evaluation.unusable import UnusableError
from vocable.lm.rows import RowScore

CARD_KEYS = ("layout", "name", "modalities", "seed")
"""Entries of a set's card that are conventions."""


class PairBenchmark(Benchmark[PairsConfig]):
    """A benchmark of minimal pairs. The result holds both conventions, summed and mean log-likelihood."""

    Config = PairsConfig
    positional = ("data",)
    counted, grouped = "pairs", "voices"

    @staticmethod
    @abstractmethod
    def read(folder: Path) -> PairSet:
        """Read the published layout."""

    @staticmethod
    @abstractmethod
    def score_items(items: Sequence[Mapping[str, Any]], column: str) -> dict[str, Score]:
        """Sum up credits: from item rows and the name of the column that holds them."""

    @classmethod
    def read_pairs(cls, folder: Path) -> PairSet:
        """Read the published layout, or a pair set that 'vocable evaluate build' made.

        Raises:
            ManifestError: the folder has neither layout.
        """
        return replace(read_pair_set(folder), benchmark=cls.name) if is_pair_set(folder) else cls.read(folder)

    def items(self) -> Iterator[Item]:
        """Score both halves of every pair; a pair of which one half cannot be scored is left out whole."""
        config, run = self.config, self.run
        self.pairs = pairs = run.open("pairs", self._pairs)
        encoding, scoring = (functools.partial(run.advance, step) for step in ("Encoding speech", "Scoring"))
        model: PairModel = run.open("model", lambda: load_pair_model(pairs, config, encoding))
        self.model_notes = model.notes
        run.fingerprints |= {**model.fingerprints, "pairs": pair_fingerprint(pairs)}
        run.weights |= {**model.weights, "model": {**model.weights.get("model", {}), "rows": model.description()}}
        run.excluded.update(pairs.excluded)
        usable: list[PairItem] = []
        rows: list[Any] = []
        for item in pairs.items:
            halves = (item.positive, item.negative)
            try:
                rows += [model.row(half, config.boundary, config.scored == "ending") for half in halves]
                usable.append(item)
            except UnusableError as error:
                run.excluded[str(error)] += 1
        scores = model.lm.score(
            rows,
            logits=config.text_logits,
            share_prefixes=config.share_prefixes,
            max_tokens=config.max_tokens,
            on_progress=scoring,
        )
        if config.scored_part != "both":
            scores = [score.of(config.scored_part) for score in scores]
        for item, positive, negative in zip(usable, scores[::2], scores[1::2], strict=True):
            yield self._row(item, positive, negative)

    def _pairs(self) -> PairSet:
        pairs = self.read_pairs(self.config.data)
        return pairs if self.config.modalities is None else with_modalities(pairs, self.config.modalities)

    def _row(self, item: PairItem, positive: RowScore, negative: RowScore) -> dict[str, Any]:
        """Both halves' log-likelihoods, from which any other convention can be computed."""
        credits = {
            "correct_sum": credit(positive.nll, negative.nll),
            "correct_mean": credit(positive.nll / positive.num_tokens, negative.nll / negative.num_tokens),
        }
        return {
            "id": item.id,
            "voice": item.voice,
            **item.group,
            "nll_positive": positive.nll,
            "tokens_positive": positive.num_tokens,
            "nll_negative": negative.nll,
            "tokens_negative": negative.num_tokens,
            **credits,
            "correct": credits[f"correct_{self.config.normalise}"],
        }

    def nothing(self, reasons: str) -> ManifestError:
        """Say how many pairs there were."""
        return ManifestError(f"None of {len(self.pairs.items)} pairs could be scored ({reasons}).")

    def scores(self, items: Items) -> dict[str, Score]:
        """Sum up by the headline's convention, then by the other one."""
        other = "sum" if self.config.normalise == "mean" else "mean"
        others = {f"{name}_{other}": score for name, score in self.score_items(items, f"correct_{other}").items()}
        return {**self.score_items(items, "correct"), **others}

    def conventions(self) -> dict[str, Any]:
        """How rows are scored."""
        config = self.config
        return {
            "normalise": config.normalise,
            "scored": config.scored,
            **({} if config.scored_part == "both" else {"scored_part": config.scored_part}),
            "text_logits": config.text_logits,
            "ties": 0.5,
            "boundary": config.boundary,
            "data": {key: value for key, value in self.pairs.card.items() if key in CARD_KEYS},
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """How much was scored."""
        return {
            "num_pairs": len(items),
            "ties": _num_ties(items),
            "scored_tokens": sum(item["tokens_positive"] + item["tokens_negative"] for item in items),
            "data": str(self.config.data),
        }

    def notes(self, items: Items) -> list[str]:
        """Warn of ties and of few pairs."""
        notes, ties = [*self.model_notes], _num_ties(items)
        if ties == len(items):
            notes.append(
                "Every pair is a tie: this model cannot tell the halves apart, and 0.5 says no more than that."
            )
        elif ties > len(items) / 10:
            notes.append(f"{ties} of {len(items)} pairs are ties, which count half.")
        if len(items) < 30:
            notes.append(f"Only {len(items)} pairs: intervals are rough.")
        return notes


def credit(positive: float, negative: float) -> float:
    """Return 1 where the positive half has the smaller negative log-likelihood, 0.5 for a tie, else 0."""
    return 0.5 if positive == negative else float(positive < negative)


def read_benchmark(name: str, folder: Path) -> PairSet:
    """Read the pairs of a benchmark by its name; see `PairBenchmark.read_pairs`.

    Raises:
        UnknownNameError: there is no such benchmark.
        ManifestError: the benchmark has no pairs, or the folder has neither layout.
    """
    kind = find_benchmark(name)
    if not issubclass(kind, PairBenchmark):
        raise ManifestError(f"The benchmark {name!r} has no pairs.")
    return kind.read_pairs(folder)


def _num_ties(items: Items) -> int:
    return sum(item["correct"] == 0.5 for item in items)
