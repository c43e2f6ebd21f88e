"""The picture of CRA: a table of four cells, shaded from chance to 1, with chance written below."""

from __future__ import annotations

from pathlib import Path

from vocable.evaluation.context_retrieval import score_name
from vocable.evaluation.figures import ACCENT, INK, figure_svg, load_pyplot
from vocable.evaluation.results import EvaluationResult
from vocable.files import write_text

PLACES = {"u2u": (0, 0), "u2t": (0, 1), "t2u": (1, 0), "t2t": (1, 1)}


def write_retrieval_picture(result: EvaluationResult, path: Path, way: str = "prompts") -> Path:
    """Draw the cells of a result as an SVG file; cells that were not measured stay empty.

    Args:
        result: of `evaluate_retrieval`.
        path: the file to write.
        way: which argmax; see `context_retrieval.WAYS`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    from matplotlib.colors import LinearSegmentedColormap

    chance = float(result.conventions["chance"])
    colours = LinearSegmentedColormap.from_list("retrieval", ["#ffffff", ACCENT])
    figure, axis = plt.subplots(figsize=(3.6, 3.2))
    for cell, (row, column) in PLACES.items():
        score = result.scores.get(score_name(way, cell))
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
    write_text(figure_svg(figure) + "\n", Path(path))
    return Path(path)
