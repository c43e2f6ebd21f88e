"""One HTML page to listen to: each prompt, what the model made of it, and the anchors, with their transcripts.

The page holds its sound inside, so it can be mailed or kept with the results.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocable.evaluation.continuation import ContinuationOutcome, Example
from vocable.evaluation.continuation_summary import column, score_name
from vocable.evaluation.pages import page_template
from vocable.evaluation.results import EvaluationResult
from vocable.files import write_text

TITLES = {
    "prompt": "Prompt",
    "model": "Model",
    "true": "True continuation",
    "resynthesised": "True continuation, resynthesised",
    "copy": "Anchor: the prompt again",
    "random": "Anchor: random units",
}


def write_continuation_page(outcome: ContinuationOutcome, path: Path) -> None:
    """Write the page for a run.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    write_text(render_continuation_page(outcome), Path(path))


def render_continuation_page(outcome: ContinuationOutcome) -> str:
    """Return the page as HTML; all text from outside is escaped.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    rows = {item["id"]: item for item in outcome.result.items}
    return page_template("continuation.html.jinja").render(
        result=outcome.result,
        systems=systems_of(outcome.result),
        table=score_table(outcome.result),
        items=[_shown(example, rows[example.id]) for example in outcome.examples],
        show=_show,
        interval=lambda low, high: "-" if low is None or high is None else f"{low:.3g} to {high:.3g}",
    )


def systems_of(result: EvaluationResult) -> list[str]:
    """The model and the anchors that a result has scores of."""
    return ["model", *dict.fromkeys(name.split("/")[1] for name in result.scores if "/" in name)]


def score_table(result: EvaluationResult) -> list[dict[str, Any]]:
    """One row per score: its name, the model's and each anchor's value, and what it means."""
    names = dict.fromkeys(name.split("/")[0] for name in result.scores)
    rows = []
    for name in names:
        scores = [result.scores.get(score_name(system, name)) for system in systems_of(result)]
        rows.append({"name": name, "scores": scores, "meaning": next(s.meaning for s in scores if s is not None)})
    return rows


def _shown(example: Example, item: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"prompt": item["prompt_transcript"]}
    texts |= {s: item.get(column(s, "transcript")) for s in TITLES if s != "prompt"}
    return {
        "id": item["id"],
        "speaker": item["speaker"],
        "sides": [
            {
                "title": title,
                "text": texts[system],
                "sound": base64.b64encode(example.sounds.get(system, b"")).decode("ascii"),
                "mos": item.get(column(system, "mos")) if system != "prompt" else None,
            }
            for system, title in TITLES.items()
            if texts[system] is not None
        ],
    }


def _show(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
