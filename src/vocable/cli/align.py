"""`vocable align`: when each word is spoken; and how well two sets of word times agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.cli.options import OverwriteOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vocable.recognition.opening import AlignerConfig
    from vocable.recognition.run import AlignConfig
    from vocable.types import Utterance


@dataclass(frozen=True, kw_only=True)
class AlignCommandConfig(OverwriteOption):
    """Utterances whose words are timed."""

    manifest: Path
    """Manifest of utterances with text (JSONL)."""
    out: Path
    """The manifest to write."""
    compare: bool = False
    """Also print how well the result agrees with the words that the manifest has already."""


def align(config: AlignCommandConfig, rules: AlignConfig, aligner: AlignerConfig) -> None:
    """Find the time of every word of a manifest's texts; writes the manifest with `words`.

    Beside OUT: OUT.report.jsonl (words that were read otherwise than written, letters or words that were left out,
    interpolated times) and rejected.jsonl (utterances without a result). A run that was stopped goes on where it was.

    vocable align corpus.jsonl aligned.jsonl --aligner pocketsphinx
    vocable align corpus.jsonl aligned.jsonl --aligner ctc:facebook/wav2vec2-base-960h --device cuda
    """
    from vocable.audio.manifest import read_manifest
    from vocable.progress import progress
    from vocable.recognition.opening import open_aligner
    from vocable.recognition.run import align_manifest
    from vocable.recognition.stamps import StampAligner

    out = config.out
    utterances = read_manifest(config.manifest, strict=rules.strict)
    opened = open_aligner(aligner)
    with progress("Aligning", len(utterances)) as advance:
        report = align_manifest(utterances, opened, out, rules, config.overwrite, on_progress=advance)
    kept = f", {report.num_kept} of them by an earlier run" if report.num_kept else ""
    words = f"{report.num_words} words, {report.num_interpolated} of them interpolated"
    print(f"{out}: {report.num_aligned} utterances{kept}; {words}")
    print(f"{report.path}: {report.num_notes} words with a note")
    if report.num_rejected:
        print(f"{out.parent / 'rejected.jsonl'}: {report.num_rejected} left out, with the reasons")
    unasked = opened.unasked() if isinstance(opened, StampAligner) else []
    if unasked:
        print(f"{len(unasked)} of the aligner's entries belong to no utterance, such as {unasked[0]}")
    if config.compare:
        print_agreement(utterances, read_manifest(out), str(config.manifest), str(out))


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Two manifests of the same utterances."""

    first: Path
    """A manifest with words, taken as the reference."""
    second: Path
    """Another one with words of the same utterances."""
    out: Path | None = None
    """A file for the numbers, as JSON."""


def align_compare(config: CompareConfig) -> None:
    """Measure how well the word times of two manifests agree; the first one is taken as the reference.

    vocable align compare reference.jsonl aligned.jsonl --out agreement.json
    """
    import json

    from vocable.audio.manifest import read_manifest
    from vocable.files import write_text

    first, second = (read_manifest(file) for file in (config.first, config.second))
    record = print_agreement(first, second, str(config.first), str(config.second))
    if config.out is not None:
        write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", config.out)
        print(f"Results: {config.out}")


def print_agreement(
    first: Sequence[Utterance], second: Sequence[Utterance], first_name: str, second_name: str
) -> dict[str, Any]:
    """Print the agreement of two lists of utterances, with intervals; return the numbers.

    Raises:
        AlignmentError: no utterance has words in both.
    """
    from rich.console import Console
    from rich.table import Table

    record = agreement_record(first, second)
    title = f"{second_name} against {first_name}: {record['num_utterances']} utterances, {record['num_words']} words"
    table = Table(title=title)
    for column in ("measure", "value", "95 % over utterances", "over speakers"):
        table.add_column(column)
    for measure in record["measures"]:
        is_time = measure["unit"] == "seconds"
        table.add_row(
            measure["name"],
            _show(measure["value"], is_time) + (" ms" if is_time else ""),
            *(_show_interval(measure[key], is_time) for key in ("interval", "speaker_interval")),
        )
    console = Console()
    console.print(table, markup=False)
    if record["left_out"]:
        console.print(
            f"Left out: {record['left_out']} utterances that only one has, or has without words.", markup=False
        )
    return record


def agreement_record(first: Sequence[Utterance], second: Sequence[Utterance]) -> dict[str, Any]:
    """Work out the agreement of the utterances that both lists have, with bootstrap intervals.

    Raises:
        AlignmentError: no utterance has words in both.
    """
    from vocable.errors import AlignmentError
    from vocable.evaluation.bootstrap import bootstrap_ratio
    from vocable.recognition.agreement import agreement, median_deviation, word_deviations

    others = {utterance.id: utterance for utterance in second if utterance.words}
    pairs = [(mine, others[mine.id]) for mine in first if mine.words and mine.id in others]
    if not pairs:
        raise AlignmentError(
            "No utterance has words in both manifests. Do their ids differ? Make word times: vocable align"
        )
    deviations = [word_deviations(mine, theirs, mine.language or "en") for mine, theirs in pairs]
    speakers = [mine.speaker or mine.id for mine, _ in pairs]
    measures = []
    for measure in agreement(deviations):
        sums = measure.numerators, measure.denominators
        intervals = (
            [bootstrap_ratio(*sums, clusters) for clusters in (None, speakers)] if sum(sums[1]) else [None, None]
        )
        measures.append(
            {
                "name": measure.name,
                "unit": measure.unit,
                "value": measure.value,
                "interval": intervals[0],
                "speaker_interval": intervals[1] if any(mine.speaker for mine, _ in pairs) else None,
            }
        )
    median = {"name": "median absolute deviation", "unit": "seconds", "value": median_deviation(deviations)}
    measures.insert(4, {**median, "interval": None, "speaker_interval": None})
    return {
        "num_utterances": len(pairs),
        "num_words": sum(d.num_words for d in deviations),
        "num_boundaries": sum(len(d.boundaries) for d in deviations),
        "left_out": len({u.id for u in first} | {u.id for u in second}) - len(pairs),
        "measures": measures,
    }


def _show(value: float | None, is_time: bool) -> str:
    if value is None:
        return "-"
    return f"{1000 * value:.1f}" if is_time else f"{value:.3f}"


def _show_interval(interval: tuple[float, float] | None, is_time: bool) -> str:
    return "-" if interval is None else " to ".join(_show(end, is_time) for end in interval)


COMMANDS = {"align MANIFEST OUT": align, "align compare FIRST SECOND": align_compare}
