"""Resynthesised speech against its originals: STOI, PESQ, mel distance, pitch, energy, word durations, MOS.

    originals (manifest) + copies (manifest, or folder of <id>.wav)  ->  pairs at 16 kHz  ->  aligned  ->  metrics

What cannot be scored (silence, too short, no pitch, no word times) is left out of that score and counted: no metric has
a default value.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.metrics import signal
from vocable.evaluation.metrics.durations import TOLERANCE_SECONDS, compare_durations
from vocable.evaluation.results import EvaluationResult, Score, mean_score, ratio_score
from vocable.registry import look_up
from vocable.types import Utterance

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.evaluation.metrics.mos_predictors import MosPredictor

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SCORES = {
    "stoi": ("higher", "short-time objective intelligibility of the aligned copy"),
    "estoi": ("higher", "extended STOI of the aligned copy"),
    "pesq": ("higher", "PESQ wide band (P.862.2) of the aligned copy"),
    "mel_distance": ("lower", "mean absolute log-mel difference at 3 window sizes, natural log"),
    "f0_correlation": ("higher", "Pearson of log f0 over frames voiced in both, mean over utterances"),
    "voicing_agreement": ("higher", "share of 10 ms frames voiced in both or in neither, mean over utterances"),
    "energy_correlation": ("higher", "Pearson of log energy over 10 ms frames, mean over utterances"),
    "mos_original": ("higher", "predicted opinion score of the original"),
    "mos_copy": ("higher", "predicted opinion score of the copy"),
}
METRICS = {
    "stoi": ("stoi", "estoi"),
    "pesq": ("pesq",),
    "mel": ("mel_distance",),
    "prosody": ("f0_correlation", "voicing_agreement", "energy_correlation"),
    "durations": (),
}
"""Names to choose from, and the scores they give; `durations` gives duration_consistency and its difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConfig:
    """Which metrics are computed."""

    metrics: tuple[str, ...] = tuple(METRICS)
    """stoi and pesq need packages of their own."""
    max_shift_seconds: float = signal.MAX_SHIFT_SECONDS
    """Delays that the alignment looks for, either way."""
    tolerance_seconds: float = TOLERANCE_SECONDS
    """Of word durations."""
    seed: int = 0
    """Of the bootstrap."""
    num_resamples: int = 2000

    def __post_init__(self) -> None:
        for name in self.metrics:
            look_up("signal metric", name, METRICS)
        if not self.metrics or self.tolerance_seconds < 0 or self.max_shift_seconds < 0 or self.num_resamples < 1:
            raise ConfigError(
                "Name at least one metric; tolerance and shift are not negative, num_resamples at least 1."
            )


class Pair(NamedTuple):
    """An utterance and its copy; the copy may have word times of its own."""

    original: Utterance
    copy: Utterance


def pair_utterances(originals: Sequence[Utterance], copies: Path) -> tuple[list[Pair], Counter[str]]:
    """Find the copy of each utterance: by id in a manifest (.jsonl), or as <id>.wav (flac, ogg, ...) in a folder.

    Returns:
        The pairs, and how many utterances have no copy.

    Raises:
        ManifestError: nothing matches, or there is no such manifest or folder.
    """
    copies = Path(copies)
    if copies.is_dir():
        files = {path.name: path for path in sorted(copies.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES}
        named = {file.removesuffix(path.suffix): path for file, path in files.items()}
        found = {name: Utterance(id=name, audio=path) for name, path in named.items()}
    else:
        found = {utterance.id: utterance for utterance in read_manifest(copies)}
    pairs = [Pair(utterance, found[utterance.id]) for utterance in originals if utterance.id in found]
    if not pairs:
        raise ManifestError(
            f"{copies}: holds a copy of none of {len(originals)} utterances, such as {originals[0].id!r}. "
            "Copies have the id of their original: in a manifest, or as the name of the file."
        )
    return pairs, Counter({"no copy": len(originals) - len(pairs)} if len(pairs) < len(originals) else {})


def evaluate_signal(
    pairs: Sequence[Pair],
    config: SignalConfig | None = None,
    mos: MosPredictor | None = None,
    excluded: Counter[str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Score every pair, and average.

    Args:
        pairs: originals and copies.
        config: see `SignalConfig`.
        mos: also predict opinion scores of both.
        excluded: left out before, by reason.
        on_progress: called with 1 after each pair.

    Raises:
        ManifestError: no pair could be scored; the message says why.
        MissingDependencyError: a metric's package is not installed.
    """
    config = config or SignalConfig()
    started = time.perf_counter()
    reasons = Counter(excluded or {})
    items = []
    for pair in pairs:
        item = _score_pair(pair, config, mos, reasons)
        if item is not None:
            items.append(item)
        if on_progress is not None:
            on_progress(1)
    if not items:
        said = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise ManifestError(f"None of {len(pairs)} pairs could be scored ({said}).")
    return EvaluationResult(
        benchmark="signal",
        scores=_scores(items, config, mos is not None),
        conventions=_conventions(config, mos),
        fingerprints={},
        weights={"mos": dict(mos.weights)} if mos is not None else {},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(reasons),
        notes=_notes(items, config),
        measurements=_measurements(items),
        items=items,
    )


def _score_pair(
    pair: Pair, config: SignalConfig, mos: MosPredictor | None, reasons: Counter[str]
) -> dict[str, Any] | None:
    """One row; None when the pair cannot be scored at all."""
    try:
        original, copy = (read_utterance(utterance, signal.SAMPLE_RATE) for utterance in pair)
    except AudioFormatError:
        reasons["unreadable audio"] += 1
        return None
    try:
        signal.check_pair(original, copy)
    except AudioFormatError as error:
        reasons[str(error)] += 1
        return None
    aligned = signal.align(original, copy, max_shift_seconds=config.max_shift_seconds)
    item: dict[str, Any] = {
        "id": pair.original.id,
        "speaker": pair.original.speaker,
        "seconds": len(original) / signal.SAMPLE_RATE,
        "copy_seconds": len(copy) / signal.SAMPLE_RATE,
        "shift_seconds": aligned.shift_samples / signal.SAMPLE_RATE,
    }
    item |= _intrusive(aligned, config, reasons)
    if "durations" in config.metrics:
        item |= _durations(pair, config, reasons)
    if mos is not None:
        item["mos_original"], item["mos_copy"] = mos.predict([original, copy])
    return item


def _intrusive(aligned: signal.Aligned, config: SignalConfig, reasons: Counter[str]) -> dict[str, float | None]:
    """What needs the original, sample by sample; None, and a reason counted, where it cannot be had."""
    original, copy = aligned.original, aligned.copy
    functions: dict[str, Callable[[Tensor, Tensor], float | None]] = {
        "stoi": signal.stoi,
        "estoi": lambda x, y: signal.stoi(x, y, extended=True),
        "pesq": signal.pesq,
        "mel_distance": signal.mel_distance,
    }
    item: dict[str, float | None] = {}
    for name in (score for metric in config.metrics for score in METRICS[metric] if score in functions):
        try:
            item[name] = functions[name](original, copy)
        except AudioFormatError as error:
            reasons[f"{name}: {error}"] += 1
            item[name] = None
    if "prosody" in config.metrics:
        try:
            item |= signal.frame_agreement(original, copy)._asdict()
        except AudioFormatError as error:
            reasons[f"prosody: {error}"] += 1
            item |= dict.fromkeys(METRICS["prosody"])
            return item
        for name in ("f0_correlation", "energy_correlation"):
            if item[name] is None:
                reasons[f"{name}: too few frames, or no change"] += 1
    return item


def _durations(pair: Pair, config: SignalConfig, reasons: Counter[str]) -> dict[str, Any]:
    names = ("words_consistent", "words_matched", "words", "duration_difference")
    original, copy = pair.original.words, pair.copy.words
    if original is None or copy is None:
        reasons["durations: no word times in " + ("the original" if original is None else "the copy")] += 1
        return dict.fromkeys(names)
    return dict(zip(names, compare_durations(original, copy, config.tolerance_seconds)))


def _scores(items: Sequence[dict[str, Any]], config: SignalConfig, with_mos: bool) -> dict[str, Score]:
    names = [name for metric in config.metrics for name in METRICS[metric]]
    scores = {}
    for name in [*names, *(("mos_original", "mos_copy") if with_mos else ())]:
        kept = [item for item in items if item[name] is not None]
        better, meaning = SCORES[name]
        scores[name] = mean_score(
            [item[name] for item in kept],
            [item["speaker"] for item in kept],
            better=better,  # type: ignore[arg-type]
            meaning=meaning,
            seed=config.seed,
            num_resamples=config.num_resamples,
        )
    if "durations" in config.metrics:
        kept = [item for item in items if item["words_matched"]]
        scores["duration_consistency"] = ratio_score(
            [item["words_consistent"] for item in kept],
            [item["words_matched"] for item in kept],
            [item["speaker"] for item in kept],
            better="higher",
            meaning=f"words said in both whose durations differ by at most {config.tolerance_seconds * 1000:g} ms",
            seed=config.seed,
            num_resamples=config.num_resamples,
        )
    return scores


def _conventions(config: SignalConfig, mos: MosPredictor | None) -> dict[str, Any]:
    return {
        "sample_rate": signal.SAMPLE_RATE,
        "metrics": list(config.metrics),
        "alignment": "envelopes to 1 ms, then waveforms within 2 ms where they correlate by 0.5",
        "max_shift_seconds": config.max_shift_seconds,
        "silent_below_peak": signal.SILENT_PEAK,
        "mel_windows_and_bands": {str(size): bands for size, bands in signal.MEL_SIZES.items()},
        "frame_seconds": signal.PITCH_HOP / signal.SAMPLE_RATE,
        "pitch": "YIN, 60 to 450 Hz",
        "duration_tolerance_seconds": config.tolerance_seconds,
        "levels": "as recorded",
        "mos": mos.name if mos is not None else None,
    }


def _measurements(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    matched = [item for item in items if item.get("words_matched")]
    total = sum(item["words_matched"] for item in matched)
    return {
        "seconds_original": sum(item["seconds"] for item in items),
        "seconds_copies": sum(item["copy_seconds"] for item in items),
        "mean_shift_seconds": sum(item["shift_seconds"] for item in items) / len(items),
        "words_matched": total,
        "words": sum(item["words"] for item in items if item.get("words") is not None),
        "mean_duration_difference_seconds": (
            sum(item["duration_difference"] * item["words_matched"] for item in matched) / total if total else None
        ),
    }


def _notes(items: Sequence[dict[str, Any]], config: SignalConfig) -> list[str]:
    notes = []
    if {"stoi", "pesq"} & set(config.metrics):
        notes.append("STOI and PESQ judge waveforms that keep the original's timing: vocoders of units score low.")
    off = sum(abs(item["seconds"] - item["copy_seconds"]) > 0.1 for item in items)
    if off:
        notes.append(f"{off} of {len(items)} copies differ in length by over 0.1 s; their frames do not correspond.")
    return notes
