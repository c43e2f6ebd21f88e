"""The pictures of the report: learning curves, unit usage, and a spectrogram with its units."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vocable.evaluation.figures import figure_png, figure_svg, load_pyplot
from vocable.types import SpeechTokens, Word

WARM, COLD, INK, FAINT = "#c8553d", "#2d6a8e", "#222222", "#b8b8b8"


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]], baselines: Mapping[str, float]) -> str:
    """Plot held-out loss in nats per unit against steps, a line for each run, dashed ones for baselines; `<svg>`."""
    plt = load_pyplot()
    figure, axis = plt.subplots(figsize=(7.2, 3.6))
    for name, points in curves.items():
        colour = WARM if name.startswith("warm") else COLD if name.startswith("cold") else None
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
    for name, value in baselines.items():
        axis.axhline(value, color=FAINT, linestyle="--", linewidth=1)
        axis.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#777777")
    axis.set(xlabel="training steps", ylabel="held-out loss (nats per unit)")
    axis.legend(frameon=False)
    return figure_svg(figure)


def unit_usage(counts: Sequence[int]) -> str:
    """Plot how often each unit is used, most used first; returns an `<svg>` element."""
    plt = load_pyplot()
    shares = torch.tensor(sorted(counts, reverse=True), dtype=torch.float64)
    shares = 100 * shares / shares.sum().clamp(min=1)
    figure, axis = plt.subplots(figsize=(7.2, 2.6))
    axis.bar(range(len(shares)), shares.tolist(), color=COLD, width=1.0)
    axis.axhline(100 / len(shares), color=WARM, linewidth=1, label="all units used equally")
    axis.set(xlabel="units, most used first", ylabel="% of frames")
    axis.legend(frameon=False)
    return figure_svg(figure)


def spectrogram_with_units(
    mel: Tensor, tokens: SpeechTokens, frame_rate: float, duration: float, words: Sequence[Word] = ()
) -> str:
    """Draw log-mel frames (frames, num_mels), words above and runs of units below, over one time axis; `<img>`."""
    plt = load_pyplot()
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(11, 4.2), sharex=True, height_ratios=(5, 1))
    upper.imshow(mel.T.numpy(), origin="lower", aspect="auto", extent=(0, duration, 0, mel.shape[1]), cmap="magma")
    upper.set_ylabel("mel band")
    for word in words:
        upper.axvline(word.start, color="white", linewidth=0.4, alpha=0.6)
        upper.text((word.start + word.end) / 2, mel.shape[1] * 1.02, word.word, ha="center", fontsize=8, color=INK)
    _draw_units(lower, tokens, frame_rate, plt.get_cmap("tab20"))
    lower.set(xlabel="seconds", xlim=(0, duration), ylim=(0, 1), yticks=[], ylabel="units")
    return figure_png(figure, "spectrogram with units")


def _draw_units(axis: Any, tokens: SpeechTokens, frame_rate: float, colours: Any) -> None:
    durations = tokens.durations if tokens.durations is not None else torch.ones_like(tokens.units)
    starts = (torch.cumsum(durations, 0) - durations).tolist()
    for unit, start, frames in zip(tokens.units.tolist(), starts, durations.tolist(), strict=True):
        left, width = start / frame_rate, frames / frame_rate
        axis.barh(0.5, width, left=left, height=1.0, color=colours(unit % 20), edgecolor="white", linewidth=0.3)
        if frames >= 3:
            axis.text(left + width / 2, 0.5, str(unit), ha="center", va="center", fontsize=6, color="white")
