"""Show an edit: both versions to hear, with the length, pitch and level of each word, and their pitch curves.

    speech before and after, spoken  ->  compare_words  ->  a row for each word  ->  page, locality

Words lie in one row by their place in the original. Locality tells how far an edit reaches: how much the words changed
that no edit is of, against those that one is of.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.evaluation.figures import ACCENT, FAINT, INK, figure_svg, load_pyplot
from vocable.evaluation.pages import page_template
from vocable.features.pitch import REFERENCE_HZ, measure_pitch
from vocable.systems.taste.editing import DeliveredWord, Edited
from vocable.systems.taste.speech_decoder import SpokenWords

MEASURE_RATE = 16_000
HOP_SAMPLES = 160
EDITED = "#f3d9a4"
INCHES_PER_SECOND, LEAST_INCHES, MOST_INCHES = 1.8, 7.6, 60.0


class WordMeasure(NamedTuple):
    """How a word sounds."""

    seconds: float
    hertz: float | None
    """Geometric mean of the pitch where voiced; None where nothing is."""
    decibels: float
    """Level against full scale."""


class WordRow(NamedTuple):
    """A word before and after, None where it is not there; measures are None, too, where times are not known."""

    before: str | None
    after: str | None
    measured_before: WordMeasure | None
    measured_after: WordMeasure | None
    is_edited: bool


class Shift(NamedTuple):
    """How much some words that stand on both sides changed: means of absolute differences, None without words."""

    num_words: int
    seconds: float | None
    semitones: float | None
    """Over words that are voiced on both sides."""
    decibels: float | None


class Version(NamedTuple):
    """Sound to hear and see."""

    title: str
    spoken: SpokenWords
    sample_rate: int
    marked: frozenset[int] = frozenset()
    """Numbers of words that edits are of."""


def measure_words(spoken: SpokenWords, sample_rate: int) -> list[WordMeasure]:
    """Measure each word; empty where the times are not known."""
    waveform = resample(spoken.waveform.float().cpu(), sample_rate, MEASURE_RATE)
    if not spoken.words or len(waveform) < HOP_SAMPLES:
        return []
    hertz = _pitch_curve(spoken, sample_rate)
    measured = []
    for word in spoken.words:
        first, last = _place(word.start, len(hertz), HOP_SAMPLES), _place(word.end, len(hertz), HOP_SAMPLES)
        pitch = hertz[min(first, len(hertz) - 1) : max(last, first + 1)]
        pitch = pitch[np.isfinite(pitch)]
        start, stop = _place(word.start, len(waveform) - 1), _place(word.end, len(waveform))
        power = float(waveform[start : max(stop, start + 1)].square().mean())
        measured.append(
            WordMeasure(
                seconds=word.end - word.start,
                hertz=float(np.exp(np.log(pitch).mean())) if len(pitch) else None,
                decibels=10 * math.log10(power + 1e-10),
            )
        )
    return measured


def compare_words(
    original: Sequence[DeliveredWord],
    edited: Edited,
    before: Sequence[WordMeasure] = (),
    after: Sequence[WordMeasure] = (),
) -> list[WordRow]:
    """Put words before and after an edit side by side.

    Args:
        original: The words before.
        edited: What the edits made of them.
        before: Measures of the words before; empty where they are not known.
        after: Measures of the words after.
    """
    kept, rows, next_place = set(edited.places), [], 0

    def gone(until: int) -> Iterator[WordRow]:
        for place in range(next_place, until):
            if place not in kept:
                yield WordRow(original[place].word, None, before[place] if before else None, None, True)

    for index, (word, place) in enumerate(zip(edited.words, edited.places, strict=True)):
        if place is not None:
            rows += gone(place)
            next_place = place + 1
        same = place is not None and word == original[place]
        rows.append(
            WordRow(
                before=None if place is None else original[place].word,
                after=word.word,
                measured_before=before[place] if before and place is not None else None,
                measured_after=after[index] if after else None,
                is_edited=not same,
            )
        )
    return [*rows, *gone(len(original))]


def mean_shift(rows: Sequence[WordRow], is_edited: bool) -> Shift:
    """Measure how much the words changed that edits are of, or the others; those on one side only do not count."""
    pairs = [
        (row.measured_before, row.measured_after)
        for row in rows
        if row.is_edited == is_edited and row.measured_before is not None and row.measured_after is not None
    ]
    semitones = [12 * math.log2(b.hertz / a.hertz) for a, b in pairs if a.hertz is not None and b.hertz is not None]
    return Shift(
        num_words=len(pairs),
        seconds=_mean([b.seconds - a.seconds for a, b in pairs]),
        semitones=_mean(semitones),
        decibels=_mean([b.decibels - a.decibels for a, b in pairs]),
    )


def edit_page(
    versions: Sequence[Version], rows: Sequence[WordRow], edits: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """Return a page, with sound and pictures inside.

    Args:
        versions: What to hear, in order.
        rows: Words before and after.
        edits: The edits in words.
        notes: What a reader must know.

    Raises:
        MissingDependencyError: matplotlib or jinja2 is not installed.
    """
    sounds = [
        (version.title, encode_audio(version.spoken.waveform.clamp(-1, 1), version.sample_rate)) for version in versions
    ]
    return page_template("edit.html.jinja", Path(__file__).parent).render(
        sounds=sounds,
        figure=pitch_curves(versions),
        rows=rows,
        shifts=[("edited words", mean_shift(rows, True)), ("other words", mean_shift(rows, False))],
        edits=edits,
        notes=notes,
    )


def pitch_curves(versions: Sequence[Version]) -> str:
    """Draw the pitch of each version over time, above each other, with the words; returns an `<svg>` element.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = load_pyplot()
    seconds = max(len(version.spoken.waveform) / version.sample_rate for version in versions)
    width = min(max(INCHES_PER_SECOND * seconds, LEAST_INCHES), MOST_INCHES)
    figure, axes = plt.subplots(
        len(versions), 1, figsize=(width, 2.1 * len(versions)), sharex=True, sharey=True, squeeze=False
    )
    for axis, version in zip(axes[:, 0], versions, strict=True):
        _draw_version(axis, version)
    axes[-1, 0].set(xlabel="seconds", xlim=(0, seconds))
    return figure_svg(figure)


def _draw_version(axis: Any, version: Version) -> None:
    hertz = _pitch_curve(version.spoken, version.sample_rate)
    axis.plot((np.arange(len(hertz)) + 0.5) * HOP_SAMPLES / MEASURE_RATE, hertz, color=ACCENT, linewidth=1.4)
    axis.set_title(version.title, loc="left", fontsize=9, color=INK, pad=16)
    axis.set_ylabel("Hz")
    top = axis.get_xaxis_transform()  # y: share of the axis
    for index, word in enumerate(version.spoken.words):
        is_marked = index in version.marked
        if is_marked:
            axis.axvspan(word.start, word.end, color=EDITED, alpha=0.6, linewidth=0)
        for edge in (word.start, word.end):
            axis.axvline(edge, color=FAINT, linewidth=0.5)
        middle, weight = (word.start + word.end) / 2, "bold" if is_marked else "normal"
        axis.text(middle, 1.02, word.word, transform=top, ha="center", fontsize=7, color=INK, fontweight=weight)


def _pitch_curve(spoken: SpokenWords, sample_rate: int) -> np.ndarray:
    """Return the pitch in Hz of every 10 ms, NaN where unvoiced."""
    waveform = resample(spoken.waveform.float().cpu(), sample_rate, MEASURE_RATE)
    if len(waveform) < HOP_SAMPLES:
        return np.zeros(0)
    with torch.inference_mode():
        pitch = measure_pitch(waveform[None], MEASURE_RATE, HOP_SAMPLES)
    return np.where(pitch.voiced[0].numpy(), REFERENCE_HZ * np.exp(pitch.log_f0[0].numpy()), np.nan)


def _place(seconds: float, most: int, hop: int = 1) -> int:
    return min(max(round(seconds * MEASURE_RATE / hop), 0), most)


def _mean(values: Sequence[float]) -> float | None:
    return sum(map(abs, values)) / len(values) if values else None
