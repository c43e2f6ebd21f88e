"""The pair benchmarks by name: how each is read, and how its credits are summed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vocable.evaluation.pairs.items import PairSet, is_pair_set, pair_fingerprint, read_pair_set
from vocable.evaluation.pairs.models import UNWATCHED, PairModelConfig, Watch, load_pair_model
from vocable.evaluation.pairs.scoring import PairScoringConfig, ScoreTable, evaluate_pairs
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.salmon import read_salmon, salmon_scores
from vocable.evaluation.sblimp import read_sblimp, sblimp_scores
from vocable.evaluation.storycloze import Modalities, read_storycloze, storycloze_scores, with_modalities
from vocable.evaluation.swuggy import read_swuggy, swuggy_scores
from vocable.registry import look_up


class PairBenchmark(NamedTuple):
    """A benchmark of minimal pairs."""

    read: Callable[[Path], PairSet]
    """Reads the published layout."""
    table: ScoreTable


PAIR_BENCHMARKS = {
    "swuggy": PairBenchmark(read_swuggy, swuggy_scores),
    "sblimp": PairBenchmark(read_sblimp, sblimp_scores),
    "storycloze": PairBenchmark(read_storycloze, storycloze_scores),
    "salmon": PairBenchmark(read_salmon, salmon_scores),
}


def read_benchmark(benchmark: str, folder: Path) -> PairSet:
    """Read a benchmark from its published layout, or from a pair set that 'vocable evaluate build' made.

    Raises:
        UnknownNameError: there is no such benchmark.
        ManifestError: the folder has neither layout.
    """
    kind = look_up("benchmark", benchmark, PAIR_BENCHMARKS)
    if not is_pair_set(folder):
        return kind.read(folder)
    found = read_pair_set(folder)
    return replace(found, benchmark=benchmark)


def run_pair_benchmark(
    benchmark: str,
    folder: Path,
    model: PairModelConfig,
    scoring: PairScoringConfig,
    modalities: Modalities | None = None,
    watch: Watch = UNWATCHED,
) -> EvaluationResult:
    """Read a benchmark, load a model, score the pairs.

    Args:
        benchmark: swuggy, sblimp, storycloze or salmon.
        folder: of the benchmark.
        model: what is scored.
        scoring: the conventions.
        modalities: context and ending each as speech or text; None takes the pairs as they are.
        watch: who is told of progress.

    Raises:
        UnknownNameError, ManifestError, ConfigError, FingerprintError: see `read_benchmark`, `load_pair_model` and
            `evaluate_pairs`.
    """
    pair_set = read_benchmark(benchmark, folder)
    if modalities is not None:
        pair_set = with_modalities(pair_set, modalities)
    loaded = load_pair_model(pair_set, model, watch, scoring.seed)
    card = {key: value for key, value in pair_set.card.items() if key in ("layout", "name", "modalities", "seed")}
    table = look_up("benchmark", benchmark, PAIR_BENCHMARKS).table
    result = evaluate_pairs(pair_set, loaded, table, scoring, boundary=model.boundary, on_progress=watch.scoring)
    pairs = pair_fingerprint(pair_set)
    return replace(
        result,
        conventions={**result.conventions, "data": card},
        fingerprints={**result.fingerprints, "pairs": pairs},
        measurements={**result.measurements, "data": str(folder)},
    )
