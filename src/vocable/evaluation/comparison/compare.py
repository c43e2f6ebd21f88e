"""Compare models on the items that all of them were judged on: differences, their intervals, and tests.

    warm/swuggy.json + items   \\
                                 pair items by id -> difference per score, per group -> comparison.json, .html
    cold/swuggy.json + items   /

Every pair of models is tested on every score, and on the first score group by group (phenomenon, band, voice, ...).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.evaluation.bootstrap import bootstrap_ratio
from vocable.evaluation.comparison.measures import Measure, find_measures, unpaired_scores, why_untested
from vocable.evaluation.comparison.pairing import (
    CONTENT_COLUMNS,
    CONTENT_KEYS,
    GROUP_COLUMNS,
    Items,
    common_items,
    differing_conventions,
    unlike_message,
)
from vocable.evaluation.pairs.tables import MIN_VOICES, thing_said
from vocable.evaluation.results import EvaluationResult, Score, ratio_score
from vocable.evaluation.significance import (
    ItemScores,
    bootstrap_difference,
    holm,
    mcnemar_test,
    paired_permutation_test,
)

FORMAT = "vocable.comparison/1"
MAX_GROUPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Scores to compare, and how they are tested."""

    scores: tuple[str, ...] | None = None
    """Scores to test. Without it, all that are sums over items; the first is the one shown by group."""
    groups: tuple[str, ...] | None = None
    """Item columns to make tables of, such as phenomenon. Without it, the known ones that are there."""
    content: str | None = None
    """Item column that tells which items say the same in several voices, and so count as one piece of evidence.
    Without it, word, sentence, story or context (of a phone), where one is there."""
    conventions: Literal["refuse", "allow"] = "refuse"
    """Refuse or allow results that were not measured alike."""
    num_resamples: int = 2000
    """Resamples of the bootstrap."""
    num_permutations: int = 10_000
    """Arrangements drawn for the permutation test where there are too many to go through."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Score of the first model minus score of the second, on the same items."""

    measure: str
    first: str
    second: str
    group: tuple[str, str] | None = None
    """Column and value; None is all items."""
    values: tuple[float, float]
    difference: float
    low: float | None
    """95 % interval over items (over contents, where items share them)."""
    high: float | None
    speaker_low: float | None = None
    """95 % interval over speakers or voices, where all are known and there are `MIN_VOICES` or more."""
    speaker_high: float | None = None
    num_speakers: int | None = None
    num_items: int
    num_differing: int
    """Items or contents on which the models differ."""
    p_permutation: float
    exact: bool
    p_holm: float = 1.0
    """The p-value corrected for all scores (or all groups) and pairs of models that are compared together."""
    p_mcnemar: float | None = None
    """McNemar's test, for scores that are right or wrong on independent items."""
    first_better: int | None = None
    second_better: int | None = None
    half: int | None = None
    """Items that differ by half a point, because of a tie."""
    better: Literal["higher", "lower"] | None = None

    @property
    def favours(self) -> str | None:
        """The model that is better at the 5 % level after the correction; None where neither is."""
        if self.better is None or self.p_holm >= 0.05 or self.difference == 0:
            return None
        return self.first if (self.difference > 0) == (self.better == "higher") else self.second


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything the page and the table show."""

    benchmark: str
    models: tuple[str, ...]
    measures: tuple[Measure, ...]
    scores: Mapping[str, Mapping[str, Score]]
    """Measure -> model -> score on the common items."""
    reported: Mapping[str, Mapping[str, Score]]
    """Score -> model -> score as its result file says it, on all its items; those without a paired test."""
    differences: Sequence[Difference]
    groups: Sequence[Difference]
    """Differences of the first measure, by group."""
    num_common: int
    untested: str | None = None
    """Why no score has a paired test; None where one has."""
    excluded: Mapping[str, int]
    content: str | None
    differing: Mapping[str, Mapping[str, Any]]
    """Conventions and judges that differ -> model -> value."""
    notes: Sequence[str]
    conventions: Mapping[str, Any]
    fingerprints: Mapping[str, Mapping[str, str]]
    items: Mapping[str, Items]
    """Model -> its rows of the common items, all in the same order."""

    def record(self) -> dict[str, Any]:
        """As JSON holds it, without the items."""
        kept = config_to_dict(dataclasses.replace(self, items={}))
        del kept["items"]
        for name in ("differences", "groups"):
            kept[name] = [{**row, "favours": d.favours} for row, d in zip(kept[name], getattr(self, name), strict=True)]
        return {"format": FORMAT, **kept}


@dataclass(frozen=True, slots=True)
class _Scored:
    """Rows of the items that every model was scored on, by one measure."""

    measure: Measure
    rows: Mapping[str, Items]
    """Model -> its rows, all in the same order."""
    content: str | None
    config: CompareConfig

    @property
    def num_items(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def draws(self) -> dict[str, int]:
        return {"num_resamples": self.config.num_resamples, "seed": self.config.seed}

    def part(self, column: str, value: Any) -> _Scored:
        """Keep the rows that hold this value in this column, by the first model's rows."""
        places = [place for place, row in enumerate(next(iter(self.rows.values()))) if row.get(column) == value]
        return dataclasses.replace(self, rows={name: [rows[p] for p in places] for name, rows in self.rows.items()})

    def score(self, model: str) -> Score:
        """The score of one model, with intervals over contents and speakers."""
        rows, measure = self.rows[model], self.measure
        sums = measure.scores(rows)
        drawn = _to_draw_from(_speakers(rows))
        score = ratio_score(*sums, drawn, better=measure.better, meaning=measure.meaning, **self.draws)
        if self.content is None or score.value is None:
            return score
        low, high = bootstrap_ratio(*sums, _contents(rows, self.content), **self.draws) or (None, None)
        return dataclasses.replace(score, low=low, high=high)

    def differences(self, group: tuple[str, str] | None = None) -> list[Difference]:
        """The difference of every pair of models; a pair without a score has none."""
        found = [self.difference(first, second, group) for first, second in itertools.combinations(self.rows, 2)]
        return [difference for difference in found if difference is not None]

    def difference(self, first: str, second: str, group: tuple[str, str] | None) -> Difference | None:
        """None where there is nothing to divide by, such as no word in any reference."""
        rows, config = self.rows[first], self.config
        ours, theirs = self.measure.scores(rows), self.measure.scores(self.rows[second])
        if ours.value is None or theirs.value is None:
            return None
        clusters = _contents(rows, self.content) if self.content is not None else None
        speakers = _speakers(rows)
        drawn = _to_draw_from(speakers)
        over_items = bootstrap_difference(ours, theirs, clusters, **self.draws)
        over_speakers = bootstrap_difference(ours, theirs, drawn, **self.draws) if drawn else None
        test = paired_permutation_test(ours, theirs, clusters, config.num_permutations, config.seed)
        independent = clusters is None or len(set(clusters)) == len(clusters)
        return Difference(
            measure=self.measure.name,
            first=first,
            second=second,
            group=group,
            values=(ours.value, theirs.value),
            difference=ours.value - theirs.value,
            low=over_items.low if over_items else None,
            high=over_items.high if over_items else None,
            speaker_low=over_speakers.low if over_speakers else None,
            speaker_high=over_speakers.high if over_speakers else None,
            num_speakers=len(set(speakers)) if speakers else None,
            num_items=len(rows),
            num_differing=test.num_units,
            p_permutation=test.p_value,
            exact=test.exact,
            better=self.measure.better,
            **(_mcnemar(ours, theirs) if independent and not self.measure.denominators else {}),
        )

    def by_group(self) -> list[Difference]:
        """Differences by each value of each group column, corrected over the values of one column."""
        rows = next(iter(self.rows.values()))
        found: list[Difference] = []
        for column in _group_columns(rows, self.config.groups):
            of_column: list[Difference] = []
            values = dict.fromkeys(row.get(column) for row in rows)
            for value in sorted(values, key=lambda value: (value is None, str(value))):
                group = (column, "(none)" if value is None else str(value))
                of_column += self.part(column, value).differences(group)
            found += corrected(of_column)
        return found


def compare_results(results: Mapping[str, EvaluationResult], config: CompareConfig | None = None) -> Comparison:
    """Compare results of one benchmark, item by item; every pair of models is tested.

    Raises:
        ConfigError: conventions differ and `config.conventions` is "refuse"; no items are shared, ids repeat, or no
            score can be compared.
    """
    config = config or CompareConfig()
    differing = differing_conventions(results)
    if differing and config.conventions == "refuse":
        raise ConfigError(unlike_message(differing))
    measures = find_measures(list(results.values()), config.scores)
    if not measures:
        return _untested(results, config, differing)
    items, excluded = common_items(results)
    content = _content_column(items, config.content)
    scored = []
    for measure in measures:
        kept, dropped = _scored_rows(items, measure)
        if dropped:
            excluded[f"{measure.name}: not scored in every result"] = dropped
        scored.append(_Scored(measure, kept, content, config))
    scored = [one for one in scored if one.num_items]
    differences = corrected([difference for one in scored for difference in one.differences()])
    if not differences:
        raise ConfigError("None of the common items was scored in every result: nothing to compare.")
    unpaired = unpaired_scores(list(results.values()), measures)
    return Comparison(
        benchmark=next(iter(results.values())).benchmark,
        models=tuple(results),
        measures=tuple(one.measure for one in scored),
        scores={one.measure.name: {model: one.score(model) for model in results} for one in scored},
        reported={score: {name: results[name].scores[score] for name in results} for score in unpaired},
        differences=differences,
        groups=scored[0].by_group(),
        num_common=len(next(iter(items.values()))),
        excluded=dict(excluded),
        content=content,
        differing=differing,
        notes=_notes(results, differences, differing, content),
        conventions=_conventions(config, content),
        fingerprints={name: dict(result.fingerprints) for name, result in results.items()},
        items=items,
    )


def _untested(
    results: Mapping[str, EvaluationResult], config: CompareConfig, differing: Mapping[str, Mapping[str, Any]]
) -> Comparison:
    """Put the scores of results side by side that come from all items together.

    Raises:
        ConfigError: the results share no score.
    """
    found = list(results.values())
    shared = unpaired_scores(found, [])
    if not shared:
        raise ConfigError(why_untested(found))
    ids = [{str(item.get("id")) for item in result.items} for result in found]
    return Comparison(
        benchmark=found[0].benchmark,
        models=tuple(results),
        measures=(),
        scores={},
        reported={score: {name: results[name].scores[score] for name in results} for score in shared},
        differences=(),
        groups=(),
        num_common=len(set.intersection(*ids)),
        untested=why_untested(found),
        excluded={f"items of {name} that are not in all results": n for name, n in _unshared(results, ids) if n},
        content=None,
        differing=differing,
        notes=_notes(results, (), differing, None),
        conventions=_conventions(config, None),
        fingerprints={name: dict(result.fingerprints) for name, result in results.items()},
        items=dict.fromkeys(results, ()),
    )


def _unshared(names: Iterable[str], ids: Sequence[set[str]]) -> list[tuple[str, int]]:
    shared = set.intersection(*ids)
    return [(name, len(own - shared)) for name, own in zip(names, ids, strict=True)]


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same, with Holm's correction over all of them."""
    adjusted = holm([difference.p_permutation for difference in differences])
    return [dataclasses.replace(d, p_holm=p) for d, p in zip(differences, adjusted)]


def _mcnemar(ours: ItemScores, theirs: ItemScores) -> dict[str, Any]:
    """McNemar's test, as `Difference` has it, of scores that are right, wrong or tied; nothing of others."""
    if not {*ours.numerators, *theirs.numerators} <= {0.0, 0.5, 1.0}:
        return {}
    found = mcnemar_test(ours.numerators, theirs.numerators)
    names = ("first_better", "second_better", "half")
    return {"p_mcnemar": found.p_value, **{name: getattr(found, name) for name in names}}


def _content_column(items: Mapping[str, Items], wanted: str | None) -> str | None:
    """The column whose values say which items are one piece of evidence; None where every item is.

    A column with one value for all, such as the context of ABX without contexts, says nothing of that kind.
    """
    rows = next(iter(items.values()))
    if wanted is not None and not any(wanted in row for row in rows):
        raise ConfigError(f"content is {wanted!r}, but items have no such column. Columns: {', '.join(rows[0])}.")
    for column in CONTENT_COLUMNS if wanted is None else (wanted,):
        distinct = len(set(_contents(rows, column)))
        if distinct < len(rows) and (distinct > 1 or wanted is not None):
            return column
    return None


def _scored_rows(items: Mapping[str, Items], measure: Measure) -> tuple[dict[str, Items], int]:
    """Rows that have the measure in every result; and how many do in some, but not in all."""
    places = range(len(next(iter(items.values()))))
    has = [[measure.of(rows[place]) is not None for rows in items.values()] for place in places]
    kept = [place for place in places if all(has[place])]
    dropped = sum(any(row) for row in has) - len(kept)
    return {name: [rows[place] for place in kept] for name, rows in items.items()}, dropped


def _group_columns(rows: Items, wanted: Sequence[str] | None) -> list[str]:
    present = list(dict.fromkeys(column for row in rows for column in row))
    for column in wanted or ():
        if column not in present:
            raise ConfigError(f"groups names {column!r}, but items have no such column. Columns: {', '.join(present)}.")
    if wanted is not None:
        return list(wanted)
    counts = {column: len({row.get(column) for row in rows}) for column in GROUP_COLUMNS if column in present}
    return [column for column, count in counts.items() if 2 <= count <= MAX_GROUPS]


def _contents(rows: Items, column: str) -> list[tuple[Hashable, ...]]:
    """The content of each item: what it says. Items without a value have a content of their own each."""
    keys = CONTENT_KEYS.get(column, (column,))
    return [(row.get(column) is None, *thing_said(row, keys)) for row in rows]


def _speakers(rows: Items) -> list[str] | None:
    """Speaker of every item, or its voice; None unless all are known."""
    for column in ("speaker", "voice"):
        names = [row.get(column) for row in rows]
        if names and all(name is not None for name in names):
            return [str(name) for name in names]
    return None


def _to_draw_from(speakers: list[str] | None) -> list[str] | None:
    """The speakers, where there are enough for an interval over them; else None."""
    return speakers if speakers is not None and len(set(speakers)) >= MIN_VOICES else None


def _notes(
    results: Mapping[str, EvaluationResult],
    differences: Sequence[Difference],
    differing: Mapping[str, Any],
    content: str | None,
) -> list[str]:
    notes = []
    if differing:
        notes.append(f"Not measured alike: {', '.join(differing)}. A difference may come from that alone.")
    if content is not None:
        notes.append(
            f"Items with the same {content} count as one piece of evidence: they are drawn and swapped together, and "
            "McNemar's test, which needs independent items, is left out."
        )
    num_items = min((difference.num_items for difference in differences), default=30)
    if num_items < 30:
        notes.append(f"Only {num_items} items: intervals are rough, and a difference is hard to show.")
    for d in differences:
        if not d.num_differing:
            notes.append(f"{d.measure}: {d.first} and {d.second} do not differ on a single item.")
    versions = {name: result.versions for name, result in results.items()}
    for package in ("vocable", "torch", "transformers"):
        found = {str(version.get(package)) for version in versions.values()}
        if len(found) > 1:
            notes.append(f"Made with different versions of {package}: {', '.join(sorted(found))}.")
    for name, result in results.items():
        notes += [f"{name}: {note}" for note in result.notes]
    return notes


def _conventions(config: CompareConfig, content: str | None) -> dict[str, Any]:
    over = f"over {content}s" if content else "over items"
    return {
        "difference": "first model minus second, on items that all results have",
        "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} paired draws, {over} and over speakers",
        "fewest_speakers": MIN_VOICES,
        "permutation test": f"two-sided, {over}; all arrangements where few differ, else "
        f"{config.num_permutations} draws",
        "McNemar's test": "two-sided, exact; a tie is half right, and the item goes to the model that scored higher",
        "correction": "Holm, over all scores and pairs of models; by group, over the groups of one column",
        "seed": config.seed,
    }
