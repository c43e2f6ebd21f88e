"""Align a manifest, and go on where a run was stopped.

    manifest + aligner  ->  OUT (the manifest with `words`), OUT.report.jsonl, OUT.rejected.jsonl

Each line of OUT keeps under `alignment` which aligner timed it, the confidence of each word, which words are
interpolated, and what was read otherwise than written. While a run goes on, finished lines stand in OUT.unfinished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, note_rejection, read_manifest, write_manifest
from vocable.errors import AlignmentError, AudioFormatError, ConfigError, ManifestError, OutputError
from vocable.files import write_json_lines
from vocable.recognition.aligner import Aligner
from vocable.recognition.normalise import spoken_words
from vocable.recognition.words import MAX_MISSING, complete_times
from vocable.types import Utterance

KEY = "alignment"
"""The key of a manifest line that says how its words were timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignConfig:
    """Settings that do not depend on the aligner."""

    language: str = "en"
    """Language of utterances whose manifest line names none; it decides how numbers are read."""
    max_missing: float = MAX_MISSING
    """Share of an utterance's words that may be interpolated; beyond it, the utterance is rejected."""
    strict: bool = False
    """Stop at the first utterance that cannot be aligned, and at a letter that a CTC vocabulary lacks."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing <= 1:
            raise ConfigError(f"max_missing is {self.max_missing}; it is a share, between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignReport:
    """Counts of a run."""

    num_aligned: int
    num_kept: int
    """Utterances among these that an earlier run had aligned."""
    num_rejected: int
    num_words: int
    num_interpolated: int
    num_notes: int
    """Words with a note."""
    path: Path
    """The report: one JSON object a line, {id, index, word, note}, or {id, unused} for words without a place."""


def align_utterance(utterance: Utterance, aligner: Aligner, config: AlignConfig | None = None) -> Utterance:
    """Return the utterance with `words`, and with `alignment` among its other keys.

    Raises:
        AlignmentError: there is no text, or too few words were found.
        AudioFormatError: the audio cannot be read.
    """
    config = config or AlignConfig()
    if not (utterance.text or "").strip():
        raise AlignmentError(f"{utterance.id} has no text to align.")
    language = utterance.language or config.language
    words = spoken_words(utterance.text or "", language)
    duration = utterance.duration or audio_info(utterance.audio).duration - utterance.start
    found = aligner.find(utterance, words, language)
    times = complete_times(words, found.times, duration, found.notes, config.max_missing)
    record: dict[str, Any] = {"aligner": aligner.name, "language": language, **times.record()}
    record["unused"] = [[stamp.word, round(stamp.start, 4), round(stamp.end, 4)] for stamp in found.unused]
    return replace(utterance, words=times.words, extra={**utterance.extra, KEY: record})


def align_manifest(
    utterances: Sequence[Utterance],
    aligner: Aligner,
    out: Path,
    config: AlignConfig | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> AlignReport:
    """Align all utterances and write them, in their order.

    What cannot be aligned is left out, and noted beside `out` (`Rejections.beside`). Utterances that stand in `out`, or
    in what a stopped run left, are kept if their text, audio and aligner are the same.

    Raises:
        OutputError: `out` was made with another aligner or of other utterances, and `overwrite` is not set.
        ManifestError: no utterance could be aligned; with `strict`, one could not.
    """
    config, out = config or AlignConfig(), Path(out)
    unfinished = out.with_name(out.name + ".unfinished")
    if overwrite:
        unfinished.unlink(missing_ok=True)
    done = {} if overwrite else _earlier(utterances, aligner, out, unfinished, config)
    num_kept, rejections = len(done), Rejections.beside(out)
    for utterance in utterances:
        if utterance.id not in done:
            try:
                aligned = align_utterance(utterance, aligner, config)
                _append(aligned, unfinished)
            except (AlignmentError, AudioFormatError, ManifestError) as error:
                source = utterance.audio
                note_rejection(source, utterance.id, source, str(error), strict=config.strict, rejections=rejections)
            else:
                done[utterance.id] = aligned
        if on_progress is not None:
            on_progress(1)
    if not done:
        raise ManifestError(f"{out}: no utterance could be aligned; the reasons are in {rejections.path}.")
    write_manifest((done[u.id] for u in utterances if u.id in done), out)
    report = _write_report([done[u.id] for u in utterances if u.id in done], out, num_kept, rejections.count)
    unfinished.unlink(missing_ok=True)
    return report


def has_own_time(utterance: Utterance) -> list[bool]:
    """For each word of an utterance, whether its time was found rather than interpolated."""
    record = utterance.extra.get(KEY)
    interpolated = set(record.get("interpolated", ())) if isinstance(record, Mapping) else set()
    return [index not in interpolated for index in range(len(utterance.words or ()))]


def _earlier(
    utterances: Sequence[Utterance], aligner: Aligner, out: Path, unfinished: Path, config: AlignConfig
) -> dict[str, Utterance]:
    """Return the results of earlier runs with the same aligner on the same utterances."""
    wanted = {utterance.id: utterance for utterance in utterances}
    earlier = [u for path in (out, unfinished) if path.is_file() for u in _read_if_any(path)]
    remedy = f"Choose another name for OUT, or delete {out} and {unfinished}, or replace them: --overwrite"
    kept = {}
    for old in earlier:
        record = old.extra.get(KEY)
        made_by = record.get("aligner") if isinstance(record, Mapping) else None
        if made_by != aligner.name:
            raise OutputError(f"{out}: {old.id} was aligned by {made_by}, not by {aligner.name}. {remedy}")
        new = wanted.get(old.id)
        if new is None:
            raise OutputError(f"{out}: holds {old.id}, which the manifest lacks. {remedy}")
        same = _what_counts(old) == _what_counts(new)
        if same and record is not None and record.get("language") == (new.language or config.language):
            kept[old.id] = replace(new, words=old.words, extra={**new.extra, KEY: record})
    return kept


def _what_counts(utterance: Utterance) -> tuple[object, ...]:
    return utterance.text, utterance.audio, utterance.start, utterance.duration


def _read_if_any(path: Path) -> list[Utterance]:
    """Read a manifest that a kill may have left with half a line at its end, or with nothing else."""
    return read_manifest(path) if b"\n" in path.read_bytes() else []


def _append(utterance: Utterance, path: Path) -> None:
    """Add a line to the unfinished manifest."""
    part = path.with_name(path.name + ".line")
    write_manifest([utterance], part)
    line = part.read_bytes()
    part.unlink()
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(line)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Free some space and run again.") from error


def _write_report(aligned: Sequence[Utterance], out: Path, num_kept: int, num_rejected: int) -> AlignReport:
    path = out.with_name(f"{out.stem}.report.jsonl")
    noted = {(u.id, note["index"]) for u in aligned for note in u.extra[KEY]["notes"]}
    write_json_lines((row for utterance in aligned for row in _rows(utterance)), path)
    return AlignReport(
        num_aligned=len(aligned),
        num_kept=num_kept,
        num_rejected=num_rejected,
        num_words=sum(len(u.words or ()) for u in aligned),
        num_interpolated=sum(len(u.extra[KEY]["interpolated"]) for u in aligned),
        num_notes=len(noted),
        path=path,
    )


def _rows(utterance: Utterance) -> Iterator[dict[str, Any]]:
    record = utterance.extra[KEY]
    yield from ({"id": utterance.id, **note} for note in record["notes"])
    if record.get("unused"):
        yield {"id": utterance.id, "unused": record["unused"]}
