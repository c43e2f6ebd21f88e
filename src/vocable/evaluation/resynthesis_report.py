"""One HTML page to listen to: original beside resynthesis, with the words that were lost or made up marked.

The page holds its sound inside, so it can be mailed or kept with the results.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocable.evaluation.metrics.wer import align_texts
from vocable.evaluation.pages import page_template
from vocable.evaluation.results import save_result
from vocable.evaluation.resynthesis import Example, ResynthesisOutcome
from vocable.files import write_text


def save_resynthesis(outcome: ResynthesisOutcome, folder: Path) -> Path:
    """Write resynthesis.json, its items, and the page beside them; an earlier result is replaced.

    Returns:
        The path of the JSON.

    Raises:
        OutputError: the folder cannot be written.
        MissingDependencyError: jinja2 is not installed; the result is written.
    """
    path = save_result(outcome.result, folder, overwrite=True)
    write_resynthesis_page(outcome, path.with_suffix(".html"))
    return path


def write_resynthesis_page(outcome: ResynthesisOutcome, path: Path) -> None:
    """Write the page for a run.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    write_text(render_resynthesis_page(outcome), Path(path))


def render_resynthesis_page(outcome: ResynthesisOutcome) -> str:
    """Return the page as HTML; all text from outside is escaped.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    template = page_template("resynthesis.html.jinja")
    rows = {item["id"]: item for item in outcome.result.items}
    normaliser = outcome.result.conventions["normaliser"]
    items = [_shown(example, rows[example.id], normaliser) for example in outcome.examples]
    return template.render(result=outcome.result, items=items, show=_show, interval=_interval)


def _shown(example: Example, item: Mapping[str, Any], normaliser: str) -> dict[str, Any]:
    return {
        "id": item["id"],
        "speaker": item["speaker"],
        "seconds": item["seconds"],
        "source": item["reference_source"],
        "similarity": item.get("speaker_similarity"),
        "sides": [
            _side("Original", example.original, item, "original", normaliser),
            _side("Resynthesis", example.resynthesis, item, "resynthesis", normaliser),
        ],
    }


def _side(title: str, sound: bytes, item: Mapping[str, Any], whose: str, normaliser: str) -> dict[str, Any]:
    return {
        "title": title,
        "sound": base64.b64encode(sound).decode("ascii"),
        "mos": item.get(f"mos_{whose}"),
        "parts": align_texts(item["reference"], item[f"transcript_{whose}"], normaliser),
    }


def _show(value: float | int | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
