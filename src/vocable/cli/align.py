"""`vocable align`: when each word is spoken; and how well two sets of word times agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import vocable
from vocable.errors import AlignmentError
from vocable.printing import print_table
from vocable.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vocable.recognition.opening import AlignerConfig
    from vocable.recognition.run import AlignConfig
    from vocable.types import Utterance


def align(
    manifest: Path,
    out: Path,
    rules: AlignConfig,
    aligner: AlignerConfig,
    compare: bool = False,
    overwrite: bool = False,
) -> None:
    """Find the time of every word of a manifest's texts; writes the manifest with `words`.

    Beside OUT: OUT.report.jsonl (words that were read otherwise than written, letters or words that were left out,
    interpolated times) and OUT.rejected.jsonl (utterances without a result). A run that was stopped goes on where it
    was.

    vocable align corpus.jsonl aligned.jsonl --aligner pocketsphinx
    vocable align corpus.jsonl aligned.jsonl --aligner ctc:facebook/wav2vec2-base-960h --device cuda

    Args:
        manifest: manifest of utterances with text (JSONL).
        out: the manifest to write.
        rules: what does not depend on the aligner.
        aligner: which aligner to use, and its settings.
        compare: also print how well the result agrees with the words that the manifest has already.
        overwrite: replace an earlier result in the same place.
    """
    from vocable.recognition.opening import open_aligner
    from vocable.recognition.run import align_manifest
    from vocable.recognition.stamps import StampAligner

    utterances = vocable.read_manifest(manifest, strict=rules.strict)
    opened = open_aligner(aligner)
    with progress("Aligning", len(utterances)) as advance:
        report = align_manifest(utterances, opened, out, rules, overwrite, on_progress=advance)
    kept = f", {report.num_kept} of them by an earlier run" if report.num_kept else ""
    words = f"{report.num_words} words, {report.num_interpolated} of them interpolated"
    print(f"{out}: {report.num_aligned} utterances{kept}; {words}")
    print(f"{report.path}: {report.num_notes} words with a note")
    if report.num_rejected:
        print(f"{out.with_name(f'{out.stem}.rejected.jsonl')}: {report.num_rejected} left out, with the reasons")
    unasked = opened.unasked() if isinstance(opened, StampAligner) else []
    if unasked:
        print(f"{len(unasked)} of the aligner's entries belong to no utterance, such as {unasked[0]}")
    if compare:
        print_agreement(agreement_record(utterances, vocable.read_manifest(out)), f"{out} against {manifest}")


def align_compare(first: Path, second: Path, out: Path | None = None) -> None:
    """Measure how well the word times of two manifests agree; the first one is taken as the reference.

    vocable align compare reference.jsonl aligned.jsonl --out agreement.json

    Args:
        first: a manifest with words, taken as the reference.
        second: another one with words of the same utterances.
        out: a file for the numbers, as JSON.
    """
    from vocable.files import write_json

    record = agreement_record(vocable.read_manifest(first), vocable.read_manifest(second))
    print_agreement(record, f"{second} against {first}")
    if out is not None:
        write_json(record, out)
        print(f"Results: {out}")


def print_agreement(record: dict[str, Any], compared: str) -> None:
    """Print the agreement of two lists of utterances, with intervals."""

    def show(values: Sequence[float] | None, is_time: bool) -> str | None:
        shown = [f"{1000 * value:.1f}" if is_time else f"{value:.3f}" for value in values or ()]
        return " to ".join(shown) or None

    rows = []
    for measure in record["measures"]:
        is_time = measure["unit"] == "seconds"
        value = show(None if measure["value"] is None else [measure["value"]], is_time)
        intervals = [show(measure[key], is_time) for key in ("interval", "speaker_interval")]
        rows.append((measure["name"], value and value + " ms" * is_time, *intervals))
    title = f"{compared}: {record['num_utterances']} utterances, {record['num_words']} words"
    print_table(("measure", "value", "95 % over utterances", "over speakers"), rows, title)
    if record["left_out"]:
        print(f"Left out: {record['left_out']} utterances that only one has, or has without words.")


def agreement_record(first: Sequence[Utterance], second: Sequence[Utterance]) -> dict[str, Any]:
    """Work out the agreement of the utterances that both lists have, with bootstrap intervals.

    Raises:
        AlignmentError: no utterance has words in both.
    """
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
    has_speakers = any(mine.speaker for mine, _ in pairs)
    measures = []
    for measure in agreement(deviations):
        over, speaker_over = (
            bootstrap_ratio(measure.numerators, measure.denominators, clusters) if sum(measure.denominators) else None
            for clusters in (None, speakers)
        )
        shown = {"name": measure.name, "unit": measure.unit, "value": measure.value}
        measures.append({**shown, "interval": over, "speaker_interval": speaker_over if has_speakers else None})
    median = {"name": "median absolute deviation", "unit": "seconds", "value": median_deviation(deviations)}
    measures.insert(4, {**median, "interval": None, "speaker_interval": None})
    return {
        "num_utterances": len(pairs),
        "num_words": sum(d.num_words for d in deviations),
        "num_boundaries": sum(len(d.boundaries) for d in deviations),
        "left_out": len({u.id for u in first} | {u.id for u in second}) - len(pairs),
        "measures": measures,
    }


COMMANDS = {"align MANIFEST OUT": align, "align compare FIRST SECOND": align_compare}
