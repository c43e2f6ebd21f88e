"""Tables of a comparison for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from vocable.evaluation.comparison.compare import Comparison, Difference
from vocable.evaluation.pages import show
from vocable.evaluation.results import Score

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Names of the columns, and the rows."""


def difference_rows(comparison: Comparison) -> Table:
    """One line for each score and pair of models: the values, their difference, and whether it may be chance."""
    rows: list[Sequence[str]] = []
    if len(comparison.models) == 2:
        for d in comparison.differences:
            rows.append(
                (d.measure, *map(_short, d.values), _with_interval(d), show(d.p_holm), d.favours or "not shown")
            )
        return ("score", *comparison.models, "difference [95 %]", "p", "better"), rows
    for d in comparison.differences:
        values = " - ".join(map(_short, d.values))
        rows.append((d.measure, f"{d.first} - {d.second}", values, _with_interval(d), show(d.p_holm), d.favours or "-"))
    return ("score", "models", "values", "difference [95 %]", "p", "better"), rows


def reported_rows(comparison: Comparison) -> Table:
    """One line for each score that has no paired test: what each result reports."""
    rows = [(name, *map(_reported, models.values())) for name, models in comparison.reported.items()]
    return (("score" if comparison.untested else "without a test"), *comparison.models), rows


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _with_interval(difference: Difference) -> str:
    text = f"{difference.difference:+.3g}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{difference.low:.2g}, {difference.high:.2g}]"


def _reported(score: Score) -> str:
    if score.value is None:
        return "-"
    interval = "" if score.low is None or score.high is None else f" [{_short(score.low)}, {_short(score.high)}]"
    return _short(score.value) + interval
