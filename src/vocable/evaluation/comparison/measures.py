"""Which columns of a result's items make which score, so that two results can be compared item by item.

    columns of resynthesis.items.parquet                                  score
    correct                                                               accuracy, a mean of 0, 0.5 and 1
    resynthesis_word_substitutions + ... / resynthesis_word_reference_length   wer_resynthesis, a ratio of sums
    speaker_similarity                                                    speaker_similarity, a mean

A score that is no mean and no ratio of sums over items (a perplexity of the whole codebook, say) has no paired test.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vocable.errors import ConfigError
from vocable.evaluation.pairs.tables import thing_said
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.sblimp import SENTENCE
from vocable.evaluation.significance import ItemScores
from vocable.evaluation.swuggy import WORD
from vocable.registry import unknown_name_message

ACCURACIES = {
    "correct": ("accuracy", "pairs whose positive half is the likelier one; ties count half"),
    "correct_sum": ("accuracy_sum", "the same, by summed log-likelihood"),
    "correct_mean": ("accuracy_mean", "the same, by log-likelihood per token"),
}
VOICES_FIRST = {"swuggy": WORD, "sblimp": SENTENCE}
"""Benchmarks whose accuracy is a mean over things said, not over pairs; see `Measure.said`."""
EDITS = ("substitutions", "deletions", "insertions")
LEVELS = {"wer": "word", "cer": "character"}
ERROR_RATE = re.compile(r"(wer|cer)_(\w+?)(_to_asr)?")
NOT_OF_MODELS = re.compile(r"\w+_topline|(wer|cer)_loss|\w+/(true|resynthesised|transcribed|shuffled|copy|random)")
"""Scores of the recordings and of anchors, and differences to these: two models on equal recordings differ as without
them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A score as sums over items."""

    name: str
    numerators: tuple[str, ...]
    """Columns whose sum is the numerator."""
    denominators: tuple[str, ...] = ()
    """Columns whose sum is the denominator; without any, the score is a mean."""
    where: tuple[str, str] | None = None
    """Only items that hold this value in this column."""
    said: tuple[str, ...] = ()
    """Columns that name the thing said; items that say the same are averaged first, and count as one. Without any,
    every item counts."""
    better: Literal["higher", "lower"] | None = None
    meaning: str = ""

    def of(self, item: Mapping[str, Any]) -> tuple[float, float] | None:
        """Numerator and denominator of one item; None where it was not scored."""
        if self.where is not None and item.get(self.where[0]) != self.where[1]:
            return None
        above: list[Any] = [item.get(column) for column in self.numerators]
        below: list[Any] = [item.get(column) for column in self.denominators] or [1.0]
        if not all(_is_number(value) for value in above + below):
            return None
        return float(sum(above)), float(sum(below))

    def scores(self, items: Sequence[Mapping[str, Any]]) -> ItemScores:
        """All items' numbers; every item must have been scored. Of n items that say the same, each counts 1 / n."""
        pairs = [self.of(item) for item in items]
        assert all(pair is not None for pair in pairs)
        names = [thing_said(item, self.said) for item in items]
        times = Counter(names)
        found = [(pair, times[name]) for pair, name in zip(pairs, names) if pair]
        return ItemScores([above / n for (above, _), n in found], [below / n for (_, below), n in found])


RATIOS: Mapping[str, Measure] = {
    "within": Measure(name="within", numerators=("weighted_error",), denominators=("weight",)),
    "across": Measure(name="across", numerators=("weighted_error",), denominators=("weight",)),
    "phone_accuracy": Measure(name="phone_accuracy", numerators=("frames_right",), denominators=("num_frames",)),
    "speaker_frame_accuracy": Measure(
        name="speaker_frame_accuracy", numerators=("frames_right",), denominators=("num_frames",)
    ),
    "duration_consistency": Measure(
        name="duration_consistency", numerators=("words_consistent",), denominators=("words_matched",)
    ),
}
"""Scores that are ratios of sums: ABX, whose rows say how much a cell counts, and duration consistency."""


def find_measures(results: Sequence[EvaluationResult], wanted: Sequence[str] | None = None) -> list[Measure]:
    """The scores that all results have and that are sums over items, the headline score first.

    A score belongs to the column whose mean it is in every result (to the one of its name, where several fit), or to a
    column of log-likelihoods and one of tokens.

    Args:
        results: of one benchmark.
        wanted: names of scores or of measures; None takes all, which may be none.

    Raises:
        ConfigError: a wanted score is not among them.
    """
    measures: dict[str, Measure] = {}
    for measure in (*_accuracies(results), *_reported(results)):
        same = [m for m in measures.values() if _same_columns(m, measure, results)]
        if measure.name not in measures and not same:
            measures[measure.name] = measure
    for name in wanted or ():
        if not measures:
            raise ConfigError(why_untested(results))
        if name not in measures:
            raise ConfigError(unknown_name_message("score with a paired test", name, measures))
    return [measures[name] for name in wanted] if wanted else list(measures.values())


def why_untested(results: Sequence[EvaluationResult]) -> str:
    """Say why none of the scores of these results has a paired test."""
    names = [name for name in results[0].scores if all(name in result.scores for result in results)]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return (
        f"No paired test: no score of {results[0].benchmark} ({shown or 'the results share none'}) is a mean or a "
        "ratio of sums over items. Scores are shown as each result reports them."
    )


def unpaired_scores(results: Sequence[EvaluationResult], measures: Sequence[Measure]) -> list[str]:
    """Scores of all results that no measure stands for: they are shown, not tested."""
    shared = [name for name in results[0].scores if all(name in result.scores for result in results)]
    names = {measure.name for measure in measures}
    return [
        name
        for name in shared
        if name not in names and not any(_matches(measure, name, results) for measure in measures)
    ]


def _accuracies(results: Sequence[EvaluationResult]) -> Iterator[Measure]:
    for column, (name, meaning) in ACCURACIES.items():
        if all(any(_is_number(item.get(column)) for item in result.items) for result in results):
            said = VOICES_FIRST.get(results[0].benchmark, ())
            yield Measure(name=name, numerators=(column,), said=said, better="higher", meaning=meaning)


def _reported(results: Sequence[EvaluationResult]) -> Iterator[Measure]:
    for name, score in results[0].scores.items():
        if NOT_OF_MODELS.fullmatch(name) or not all(name in result.scores for result in results):
            continue
        found = _error_rate(name) or _known_ratio(name, results) or _mean_of_column(name, results)
        if found is not None and all(any(found.of(item) for item in result.items) for result in results):
            yield dataclasses.replace(found, name=name, better=score.better, meaning=score.meaning)


def _error_rate(name: str) -> Measure | None:
    match = ERROR_RATE.fullmatch(name)
    if match is None:
        return None
    prefix = f"{match[2]}_{LEVELS[match[1]]}"
    source = "asr of the original" if match[3] else "manifest"
    return Measure(
        name=name,
        numerators=tuple(f"{prefix}_{edit}" for edit in EDITS),
        denominators=(f"{prefix}_reference_length",),
        where=("reference_source", source),
    )


def _known_ratio(name: str, results: Sequence[EvaluationResult]) -> Measure | None:
    """A ratio of `RATIOS` whose columns are there; of ABX, the rows of its own speakers."""
    measure = RATIOS.get(name)
    if measure is None or not all(c in result.items[0] for result in results for c in measure.denominators):
        return None
    where = ("speakers", name) if name in ("within", "across") else None
    return dataclasses.replace(measure, where=where)


def _mean_of_column(name: str, results: Sequence[EvaluationResult]) -> Measure | None:
    """The column whose mean is the score in every result, first the one of its name; or log-likelihood per token."""
    columns = list(dict.fromkeys(column for item in results[0].items for column in item))
    candidates = [Measure(name=name, numerators=(column,)) for column in [name] * (name in columns) + columns]
    for column in columns:
        tokens = column.replace("nll", "tokens")
        if tokens != column and tokens in columns:
            candidates.append(Measure(name=name, numerators=(column,), denominators=(tokens,)))
    return next((measure for measure in candidates if _matches(measure, name, results)), None)


def _matches(measure: Measure, name: str, results: Sequence[EvaluationResult]) -> bool:
    """In every result, the measure over all items gives the value that the score of this name has."""
    for result in results:
        scored = [item for item in result.items if measure.of(item) is not None]
        value, reported = measure.scores(scored).value, result.scores[name].value
        if value is None or reported is None or not math.isclose(value, reported, rel_tol=1e-9, abs_tol=1e-12):
            return False
    return True


def _same_columns(first: Measure, second: Measure, results: Sequence[EvaluationResult]) -> bool:
    """Both give the same number for every item: one test is enough."""
    return all(first.of(item) == second.of(item) for result in results for item in result.items)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
