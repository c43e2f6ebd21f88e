"""Resynthesised speech against its originals: STOI, PESQ, mel distance, pitch, energy, word durations, MOS.

    originals (manifest) + copies (manifest, or folder of <id>.wav)  ->  pairs at 16 kHz  ->  aligned  ->  metrics

What cannot be scored (silence, too short, no pitch, no word times) is left out of that score and counted: no metric has
a default value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.metrics import signal
from vocable.evaluation.results import Score, column_mean, column_ratio
from vocable.evaluation.runner import Benchmark, Item, Items, SampledConfig
from vocable.registry import look_up
from vocable.types import Utterance

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.evaluation.metrics.mos import MosPredictor

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SCORES: dict[str, tuple[Literal["higher", "lower"], str]] = {
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
class SignalConfig(SampledConfig):
    """Which recordings are compared, and how."""

    manifest: Path
    """The originals (JSONL)."""
    copies: Path
    """A manifest with the same ids, or a folder of <id>.wav (flac, ogg, opus, mp3)."""
    metrics: tuple[str, ...] = tuple(METRICS)
    """Which: stoi, pesq, mel, prosody (pitch, voicing, energy), durations (both manifests need word times)."""
    mos: str | None = None
    """Also predict opinion scores: distillmos, dnsmos, or utmos:FOLDER."""
    max_shift_seconds: float = signal.MAX_SHIFT_SECONDS
    """Longest delay that the alignment looks for, either way."""
    tolerance_seconds: float = signal.TOLERANCE_SECONDS
    """A word counts as equally long up to this difference."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        for name in self.metrics:
            look_up("signal metric", name, METRICS)
        if not self.metrics or self.tolerance_seconds < 0 or self.max_shift_seconds < 0:
            raise ConfigError("Name at least one metric; tolerance and shift are not negative.")


class Pair(NamedTuple):
    """An utterance and its copy; the copy may have word times of its own."""

    original: Utterance
    copy: Utterance


def pair_utterances(originals: Sequence[Utterance], copies: Path) -> tuple[list[Pair], Counter[str]]:
    """Find the copy of each utterance: by id in a manifest (.jsonl), or as <id>.wav (flac, ogg, ...) in a folder.

    In a folder, an id may hold sub-folders (anna/one); a copy elsewhere in it is found by its bare name, if only one
    file has that name.

    Returns:
        The pairs, and how many utterances have no copy.

    Raises:
        ManifestError: nothing matches, or there is no such manifest or folder.
    """
    copies = Path(copies)
    if copies.is_dir():
        found = _copies_in(copies)
    else:
        found = {utterance.id: utterance for utterance in read_manifest(copies)}
    pairs = [Pair(utterance, found[utterance.id]) for utterance in originals if utterance.id in found]
    if not pairs:
        raise ManifestError(
            f"{copies}: holds a copy of none of {len(originals)} utterances, such as {originals[0].id!r}. "
            "Copies have the id of their original: in a manifest, or as the name of the file."
        )
    return pairs, Counter({"no copy": len(originals) - len(pairs)} if len(pairs) < len(originals) else {})


def _copies_in(folder: Path) -> dict[str, Utterance]:
    """Every recording below a folder by its path without suffix, and by its bare name where that is its alone."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]
    places = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    bare = Counter(path.stem for path in places.values())
    places |= {path.stem: path for name, path in places.items() if bare[path.stem] == 1 and name != path.stem}
    return {name: Utterance(id=name, audio=path) for name, path in places.items()}


class Signal(Benchmark[SignalConfig]):
    """Compare resynthesised recordings with their originals: STOI, PESQ, mel distance, pitch, energy, word durations.

    Writes signal.json and signal.items.parquet (one row per utterance). Copies are aligned first; what is silent or too
    short is counted, not scored.

    vocable evaluate signal --manifest dev.jsonl --copies resynthesised --metrics mel,prosody --out results
    """

    name, Config = "signal", SignalConfig

    def items(self) -> Iterator[Item]:
        """Compare every pair that can be read."""
        config, reasons = self.config, self.run.excluded
        self.pairs, missing = self.run.open("pairs", lambda: pair_utterances(self.run.utterances(), config.copies))
        reasons.update(missing)
        self.mos: MosPredictor | None = self.run.open("mos", self._load_mos)
        if self.mos is not None:
            self.run.weights["mos"] = dict(self.mos.weights)
        for pair in self.run.watch("Comparing recordings", self.pairs):
            try:
                original, copy = (read_utterance(utterance, signal.SAMPLE_RATE) for utterance in pair)
            except AudioFormatError:
                reasons["unreadable audio"] += 1
                continue
            try:
                signal.check_pair(original, copy)
            except AudioFormatError as error:
                reasons[str(error)] += 1
                continue
            aligned = signal.align(original, copy, max_shift_seconds=config.max_shift_seconds)
            item: dict[str, Any] = {
                "id": pair.original.id,
                "speaker": pair.original.speaker,
                "seconds": len(original) / signal.SAMPLE_RATE,
                "copy_seconds": len(copy) / signal.SAMPLE_RATE,
                "shift_seconds": aligned.shift_samples / signal.SAMPLE_RATE,
            }
            item |= compare_waveforms(aligned, config.metrics, reasons)
            if "durations" in config.metrics:
                item |= _durations(pair, config, reasons)
            if self.mos is not None:
                item["mos_original"], item["mos_copy"] = self.mos.predict([original, copy])
            yield item

    def _load_mos(self) -> MosPredictor | None:
        from vocable.evaluation.metrics.mos import load_mos

        return load_mos(self.config.mos, self.run.device) if self.config.mos is not None else None

    def nothing(self, reasons: str) -> ManifestError:
        """Say how many pairs there were."""
        return ManifestError(f"None of {len(self.pairs)} pairs could be scored ({reasons}).")

    def scores(self, items: Items) -> dict[str, Score]:
        """Average over utterances; durations over words."""
        config, scores = self.config, {}
        names = [name for metric in config.metrics for name in METRICS[metric]]
        for name in [*names, *(("mos_original", "mos_copy") if self.mos is not None else ())]:
            better, meaning = SCORES[name]
            scores[name] = column_mean(items, name, better=better, meaning=meaning, **self.draws)
        if "durations" in config.metrics:
            scores["duration_consistency"] = column_ratio(
                [item for item in items if item["words_matched"]],
                "words_consistent",
                "words_matched",
                better="higher",
                meaning=f"words said in both whose durations differ by at most {config.tolerance_seconds * 1000:g} ms",
                **self.draws,
            )
        return scores

    def conventions(self) -> dict[str, Any]:
        """How recordings are aligned and compared."""
        return {
            "sample_rate": signal.SAMPLE_RATE,
            "metrics": list(self.config.metrics),
            "alignment": "envelopes to 1 ms, then waveforms within 2 ms where they correlate by 0.5",
            "max_shift_seconds": self.config.max_shift_seconds,
            "silent_below_peak": signal.SILENT_PEAK,
            "mel_windows_and_bands": {str(size): bands for size, bands in signal.MEL_SIZES.items()},
            "frame_seconds": signal.PITCH_HOP / signal.SAMPLE_RATE,
            "pitch": "YIN, 60 to 450 Hz",
            "duration_tolerance_seconds": self.config.tolerance_seconds,
            "levels": "as recorded",
            "mos": self.mos.name if self.mos is not None else None,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """Seconds, shifts and words."""
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

    def notes(self, items: Items) -> list[str]:
        """Warn where frames do not correspond."""
        notes = []
        if {"stoi", "pesq"} & set(self.config.metrics):
            notes.append("STOI and PESQ judge waveforms that keep the original's timing: vocoders of units score low.")
        off = sum(abs(item["seconds"] - item["copy_seconds"]) > 0.1 for item in items)
        if off:
            which = f"{off} of {len(items)} copies"
            notes.append(f"{which} differ in length by over 0.1 s; their frames do not correspond.")
        return notes


def compare_waveforms(
    aligned: signal.Aligned, metrics: Sequence[str], reasons: Counter[str]
) -> dict[str, float | None]:
    """Score what `METRICS` names, sample by sample; None, and a reason counted, where a metric cannot be had."""
    original, copy = aligned.original, aligned.copy
    functions: dict[str, Callable[[Tensor, Tensor], float | None]] = {
        "stoi": signal.stoi,
        "estoi": lambda x, y: signal.stoi(x, y, extended=True),
        "pesq": signal.pesq,
        "mel_distance": signal.mel_distance,
    }
    item: dict[str, float | None] = {}
    for name in (score for metric in metrics for score in METRICS[metric] if score in functions):
        try:
            item[name] = functions[name](original, copy)
        except AudioFormatError as error:
            reasons[f"{name}: {error}"] += 1
            item[name] = None
    if "prosody" in metrics:
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
    return dict(zip(names, signal.compare_durations(original, copy, config.tolerance_seconds)))
