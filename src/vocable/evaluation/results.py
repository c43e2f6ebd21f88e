"""What every evaluation writes: one JSON with the scores and how they came about, one Parquet with a row per item.

    <out>/resynthesis.json            scores with intervals, conventions, fingerprints, weights, versions, seed, seconds
    <out>/resynthesis.items.parquet   one row per utterance or pair, for paired comparison and error analysis

A score without its conventions cannot be compared: every switch that changes the number is written down.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vocable.errors import ConfigError, NumericsError, OutputError
from vocable.evaluation.bootstrap import Interval, bootstrap_ratio
from vocable.files import replace_file, write_text

FORMAT = "vocable.evaluation/1"
PACKAGES = ("vocable", "torch", "transformers", "numpy", "soundfile", "soxr", "tokenizers")
PACKAGES += ("jiwer", "onnxruntime", "pystoi", "pesq", "fastabx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A number, its 95 % interval over items, and where speakers or voices are known its interval over them."""

    value: float | None
    """None where nothing could be scored."""
    num_items: int
    low: float | None = None
    high: float | None = None
    num_speakers: int | None = None
    speaker_low: float | None = None
    speaker_high: float | None = None
    better: Literal["higher", "lower"] | None = None
    """Which way is good; None where neither is, e.g. code usage."""
    meaning: str = ""
    """Definition in one line: what is counted, and against what."""

    def __str__(self) -> str:
        if self.value is None:
            return "not scored"
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval} (n={self.num_items})"

    def rounded(self, digits: int = 2, scale: float = 1.0) -> str:
        """Write the value, times `scale`, and its interval over items with so many decimals; a dash for no value."""
        numbers = (self.value, self.low, self.high)
        value, low, high = ("" if number is None else f"{scale * number:.{digits}f}" for number in numbers)
        return f"{value} [{low}, {high}]" if low and high else value or "–"


def score_between(
    value: float | None,
    num_items: int,
    interval: Interval | None,
    by_speaker: Interval | None = None,
    num_speakers: int | None = None,
    *,
    better: Literal["higher", "lower"] | None,
    meaning: str,
) -> Score:
    """Put a value and its intervals over items and over speakers together; None for an interval that is unknown."""
    low, high = interval or (None, None)
    speaker_low, speaker_high = by_speaker or (None, None)
    return Score(
        value=value,
        num_items=num_items,
        low=low,
        high=high,
        num_speakers=num_speakers,
        speaker_low=speaker_low,
        speaker_high=speaker_high,
        better=better,
        meaning=meaning,
    )


def ratio_score(
    numerators: Sequence[float],
    denominators: Sequence[float],
    speakers: Sequence[Hashable | None] | None = None,
    *,
    better: Literal["higher", "lower"] | None,
    meaning: str,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Score:
    """Score sum(numerators) / sum(denominators) with 95 % bootstrap intervals.

    The interval over speakers is left out unless every item names its speaker and there are at least two of them.
    """
    total = float(sum(denominators))
    if total <= 0:
        return Score(value=None, num_items=len(numerators), better=better, meaning=meaning)
    value, count = float(sum(numerators)) / total, len(numerators)
    interval = bootstrap_ratio(numerators, denominators, num_resamples=num_resamples, seed=seed)
    by_speaker = num_speakers = None
    if speakers is not None and all(speaker is not None for speaker in speakers):
        num_speakers = len(set(speakers))
        by_speaker = bootstrap_ratio(numerators, denominators, speakers, num_resamples=num_resamples, seed=seed)
    return score_between(value, count, interval, by_speaker, num_speakers, better=better, meaning=meaning)


def mean_score(
    values: Sequence[float],
    speakers: Sequence[Hashable | None] | None = None,
    *,
    better: Literal["higher", "lower"] | None,
    meaning: str,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Score:
    """Score the mean of `values` with 95 % bootstrap intervals, as in `ratio_score`."""
    ones = [1.0] * len(values)
    return ratio_score(values, ones, speakers, better=better, meaning=meaning, seed=seed, num_resamples=num_resamples)


def column_mean(
    items: Sequence[Mapping[str, Any]],
    column: str,
    *,
    better: Literal["higher", "lower"] | None,
    meaning: str,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Score:
    """Score the mean of a column of items, by speaker too; an item without a number there is left out."""
    kept = [item for item in items if item.get(column) is not None]
    values, speakers = [item[column] for item in kept], [item.get("speaker") for item in kept]
    return mean_score(values, speakers, better=better, meaning=meaning, seed=seed, num_resamples=num_resamples)


def column_ratio(
    items: Sequence[Mapping[str, Any]],
    numerators: str,
    denominators: str,
    *,
    better: Literal["higher", "lower"] | None,
    meaning: str,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Score:
    """Score the sum of one column of items over the sum of another, by speaker too."""
    above, below, speakers = ([item.get(name) for item in items] for name in (numerators, denominators, "speaker"))
    return ratio_score(above, below, speakers, better=better, meaning=meaning, seed=seed, num_resamples=num_resamples)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The outcome of one evaluation run."""

    benchmark: str
    scores: Mapping[str, Score]
    conventions: Mapping[str, Any]
    """Every switch that changes a number: normaliser, padding, sampling, ties, ..."""
    fingerprints: Mapping[str, str]
    """Fingerprints of whatever was evaluated: tokenizer, vocoder, language model."""
    weights: Mapping[str, Any]
    """Which judge weights were used: name and sha256 each."""
    seed: int
    seconds: float
    """Wall-clock time of the run."""
    versions: Mapping[str, str] = field(default_factory=lambda: environment_versions())
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Items left out of a score, by reason."""
    notes: Sequence[str] = ()
    """Notes that a reader needs before using the numbers."""
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """Numbers without an interval: rates, counts, real-time factors."""
    items: Sequence[Mapping[str, Any]] = ()
    """One flat mapping per item; `id` names it."""

    def __post_init__(self) -> None:
        """Refuse a score that is not finite.

        Raises:
            NumericsError: names the score.
        """
        for name, score in self.scores.items():
            numbers = (score.value, score.low, score.high, score.speaker_low, score.speaker_high)
            if any(number is not None and not math.isfinite(number) for number in numbers):
                raise NumericsError(
                    f"The score {name!r} of {self.benchmark} is {score}: a number that is not finite is no score."
                )


RECORDED = [field.name for field in fields(EvaluationResult) if field.name != "items"]
"""Contents of the JSON file; the items have a file of their own."""


def save_result(result: EvaluationResult, folder: Path, overwrite: bool = False) -> Path:
    """Write `<benchmark>.json` and `<benchmark>.items.parquet` into `folder`; return the path of the JSON.

    Each file is written under a temporary name and renamed, the JSON last: where it exists, the run is complete.

    Raises:
        OutputError: there is a result already and `overwrite` is False, or the folder cannot be written.
    """
    folder = Path(folder)
    path = folder / f"{result.benchmark}.json"
    items_path = folder / f"{result.benchmark}.items.parquet"
    check_output(folder, result.benchmark, overwrite)
    kept = {name: getattr(result, name) for name in RECORDED}
    record = {
        "format": FORMAT,
        **kept,
        "scores": {name: asdict(score) for name, score in result.scores.items()},
        "num_items": len(result.items),
        "seconds": round(result.seconds, 3),
        "items": items_path.name,
    }
    try:
        _write_items(result.items, items_path)
        text = json.dumps(_finite(record), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(text + "\n", path)
    except OSError as error:
        raise OutputError(f"{folder}: the result could not be written: {error}") from error
    return path


def check_output(folder: Path, benchmark: str, overwrite: bool = False) -> None:
    """Make the output folder; refuse to replace an older result unless `overwrite` is True.

    Raises:
        OutputError: as for `save_result`. Call it before a long run, so that the run is not lost.
    """
    path = Path(folder) / f"{benchmark}.json"
    if path.exists() and not overwrite:
        raise OutputError(f"{path} holds an earlier result. Choose another folder, or pass --overwrite.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: not a folder that can be made: {error}") from error


def load_result(path: Path) -> EvaluationResult:
    """Read a result written by `save_result`, items included.

    Raises:
        ConfigError: the file is missing, is not a result, or its items file is missing.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a readable result file: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a result of 'vocable evaluate' (no format {FORMAT!r} in it).")
    items_path = path.parent / Path(record["items"]).name
    if not items_path.is_file():
        raise ConfigError(f"{items_path}: the items of {path.name} are missing. Keep both files together.")
    known: dict[str, Any] = {name: record[name] for name in RECORDED}
    known["scores"] = {name: Score(**score) for name, score in record["scores"].items()}
    known["notes"] = tuple(record["notes"])
    return EvaluationResult(**known, items=pq.read_table(items_path).to_pylist())


def environment_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a score, and the machine's kind."""
    versions = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _write_items(items: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for item in items for name in item))
    table = pa.table({name: [item.get(name) for item in items] for name in columns})
    with replace_file(path) as file:
        pq.write_table(table, file)


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: NaN and infinity become null, paths become text."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
