"""Draw the figures of the experiments from their results.csv.

    python experiments/figure.py                  # all of them
    python experiments/figure.py warm-start last  # some of them

figures.yaml lists the panels of each folder. A panel with a table of results.csv and a `score` has a row for each
system: its interval, and a mark for each seed. Without `score`, every score is a row and every system a colour. Where
all results have a place (`at`, such as a training step), the panel shows curves.
"""

import argparse
import csv
from pathlib import Path
from textwrap import wrap

import matplotlib
import yaml

matplotlib.use("agg")
import matplotlib.pyplot as plt

HOME = Path(__file__).parent
MARKS = "os^D"  # one for each seed


def draw(folder: Path, panels: list[dict], out: Path) -> None:
    """Draw the panels of one folder side by side, or below each other where that reads better (`below`)."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    below = any(panel.get("below") for panel in panels)
    chosen = [[row for row in rows if belongs(row, panel)] for panel in panels]
    heights = [height(panel, part) for panel, part in zip(panels, chosen)]
    if below:
        figure, grid = plt.subplots(
            len(panels), squeeze=False, figsize=(8, sum(heights)), height_ratios=heights, layout="constrained"
        )
    else:
        figure, grid = plt.subplots(1, len(panels), squeeze=False, figsize=(8, max(heights)), layout="constrained")
    shown = None
    for axes, panel, part in zip(grid.flat, panels, chosen):
        assert part, f"{folder.name}: results.csv has nothing for {panel}"
        curve = all(row.get("at") for row in part)
        names = draw_curve(axes, panel, part) if curve else draw_intervals(axes, panel, part)
        if not below and names and names == shown:
            axes.set_yticklabels([])
        shown = names
        axes.set_title(panel.get("title", ""), fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110)
    plt.close(figure)


def belongs(row: dict, panel: dict) -> bool:
    """Whether a result is shown in a panel."""
    systems = panel.get("systems")
    scores = [panel["score"]] if "score" in panel else panel.get("scores")
    right_table = row["table"] == panel["table"]
    return right_table and (not scores or row["score"] in scores) and (not systems or row["system"] in systems)


def height(panel: dict, rows: list[dict]) -> float:
    """Inches that a panel needs for its rows."""
    if all(row.get("at") for row in rows):
        return 2.6
    return 0.7 + (0.26 if "score" in panel else 0.36) * len({row[row_key(panel)] for row in rows})


def row_key(panel: dict) -> str:
    """The column that names the rows of a panel."""
    return "system" if "score" in panel else "score"


def draw_intervals(axes, panel: dict, rows: list[dict]) -> list[str]:
    """Draw a row for each system (or score), with seeds and colours below each other; returns the names of the rows."""
    key, colour = row_key(panel), "score" if "score" in panel else "system"
    names, kinds = unique(rows, key), unique(rows, colour)
    if key == "system":
        names = panel.get("systems", names)
    for name in names:
        within = [row for row in rows if row[key] == name]
        for place, row in enumerate(within):
            y = names.index(name) + (place - (len(within) - 1) / 2) * 0.7 / max(len(within), 4)
            value = float(row["value"])
            shade = f"C{kinds.index(row[colour])}"
            if row.get("low"):
                axes.plot([float(row["low"]), float(row["high"])], [y, y], color=shade, linewidth=1)
            axes.plot(value, y, MARKS[int(row.get("seed") or 0) % 4], color=shade, markersize=3)
    if len(kinds) > 1:
        for number, kind in enumerate(kinds):
            axes.plot([], [], "o", color=f"C{number}", markersize=3, label=kind)
        axes.legend(fontsize=7, frameon=False, ncols=len(kinds), loc="lower right", bbox_to_anchor=(1, 1))
    finish(axes, panel, rows)
    axes.set_yticks(range(len(names)), ["\n".join(wrap(name.replace("`", ""), 40)) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    return names


def draw_curve(axes, panel: dict, rows: list[dict]) -> list[str]:
    """Draw a line for each system and seed, over `at`."""
    systems = unique(rows, "system")
    for system in systems:
        for seed in unique([row for row in rows if row["system"] == system], "seed"):
            line = [row for row in rows if row["system"] == system and row.get("seed", "") == seed]
            mark = MARKS[int(seed or 0) % 4] + "-"
            label = system if seed == rows[0].get("seed", "") else None
            points = [float(row["at"]) for row in line], [float(row["value"]) for row in line]
            axes.plot(*points, mark, color=f"C{systems.index(system)}", linewidth=1, markersize=3, label=label)
    if len(systems) > 1:
        axes.legend(fontsize=7, frameon=False)
    axes.set_xlabel(panel.get("at", "step"), fontsize=7)
    axes.set_ylabel(label_of(panel, rows), fontsize=7)
    return []


def finish(axes, panel: dict, rows: list[dict]) -> None:
    """Set the axis label, the scale, and the line of chance."""
    axes.set_xlabel(label_of(panel, rows), fontsize=7)
    if panel.get("log"):
        axes.set_xscale("log")
    if "chance" in panel:
        axes.axvline(panel["chance"], color="grey", linewidth=0.8, linestyle=":")


def label_of(panel: dict, rows: list[dict]) -> str:
    """The score and its unit."""
    units = {row.get("unit") or "" for row in rows}
    unit = units.pop() if len(units) == 1 else ""
    return panel.get("label", panel.get("score", "")) + (f", {unit}" if unit else "")


def unique(rows: list[dict], column: str) -> list[str]:
    """Different values of a column, in the order in which they come."""
    return list(dict.fromkeys(row.get(column) or "" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help="folders of experiments; without any, all in figures.yaml")
    parser.add_argument("--suffix", default=".svg", help="format of the figures")
    arguments = parser.parse_args()
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "vocable"
    plans = yaml.safe_load((HOME / "figures.yaml").read_text(encoding="utf-8"))
    for name in arguments.folders or plans:
        draw(HOME / name, plans[name], HOME / name / f"figure{arguments.suffix}")
