"""One HTML page that shows a comparison: scores, differences with intervals and tests, and the items to listen to.

The page holds its figures and its sound inside, so it can be mailed or kept with the results.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vocable.evaluation.comparison.compare import Comparison, Difference
from vocable.evaluation.comparison.examples import Example, SoundSource, most_different
from vocable.evaluation.figures import Estimate, Panel, forest_plot
from vocable.evaluation.pages import page_template
from vocable.files import write_text


def write_comparison_page(comparison: Comparison, path: Path, find_sounds: SoundSource, num_examples: int) -> None:
    """Write the page; `num_examples` items for each pair of models.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    write_text(render_comparison_page(comparison, find_sounds, num_examples), Path(path))


def render_comparison_page(comparison: Comparison, find_sounds: SoundSource, num_examples: int) -> str:
    """Return the page as HTML; all text from outside is escaped.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    examples = {
        f"{first} and {second}": most_different(comparison, first, second, find_sounds, num_examples)
        for first, second in itertools.combinations(comparison.models, 2)
    }
    return page_template("comparison.html.jinja").render(
        comparison=comparison,
        differences_figure=forest_plot(_difference_panels(comparison)),
        scores_figure=forest_plot(_score_panels(comparison)),
        group_figures=_group_figures(comparison),
        examples=examples,
        silent=sum(_is_silent(example) for shown in examples.values() for example in shown),
        show=show,
        interval=interval,
        base64=lambda sound: base64.b64encode(sound).decode("ascii"),
    )


def show(value: Any) -> str:
    """A number with four digits, a dash for None, text as it is."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval, or a dash."""
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _is_silent(example: Example) -> bool:
    return all(sound.audio is None for sound in example.sounds)


def _difference_panels(comparison: Comparison) -> list[Panel]:
    panels = []
    for measure in comparison.measures:
        of_measure = [d for d in comparison.differences if d.measure == measure.name]
        title = f"{measure.name}: difference" + (f" ({measure.better} is better)" if measure.better else "")
        panels.append(Panel(title, [_estimate(f"{d.first} - {d.second}", d) for d in of_measure], reference=0))
    return panels


def _score_panels(comparison: Comparison) -> list[Panel]:
    return [
        Panel(name, [Estimate(m, s.value, s.low, s.high) for m, s in models.items() if s.value is not None])
        for name, models in comparison.scores.items()
    ]


def _group_figures(comparison: Comparison) -> dict[str, str]:
    """One figure for each group column: a panel for each pair of models."""
    columns = dict.fromkeys(d.group[0] for d in comparison.groups if d.group is not None)
    return {column: forest_plot(_group_panels(comparison.groups, column)) for column in columns}


def _group_panels(groups: Sequence[Difference], column: str) -> list[Panel]:
    of_column = [(d.group[1], d) for d in groups if d.group is not None and d.group[0] == column]
    pairs = dict.fromkeys((d.first, d.second) for _, d in of_column)
    panels = []
    for models in pairs:
        rows = [_estimate(f"{value} (n={d.num_items})", d) for value, d in of_column if (d.first, d.second) == models]
        panels.append(Panel(f"{' - '.join(models)}, by {column}", rows, reference=0))
    return panels


def _estimate(label: str, difference: Difference) -> Estimate:
    return Estimate(label, difference.difference, difference.low, difference.high)
