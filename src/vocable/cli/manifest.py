"""Commands that make manifests from audio in other layouts, and that check them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocable.audio.manifest import Rejections
    from vocable.types import Utterance


def validate(manifest: Path, check_audio: bool = True) -> None:
    """Check every line of a manifest, and every audio file in it; list what is wrong.

    Args:
        manifest: the JSONL file.
        check_audio: also open the audio files (headers only) and check that the utterances lie inside.
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.manifest import validate_manifest
    from vocable.errors import ManifestError

    with Console(stderr=True).status(f"checking {manifest}"):
        report = validate_manifest(manifest, check_audio)
    table = Table("utterances", "hours", "speakers", "of unknown length", "problems")
    counts = (report.num_speakers, report.num_without_duration, len(report.problems))
    table.add_row(str(report.num_utterances), f"{report.hours:.3f}", *map(str, counts))
    Console().print(table)
    for problem in report.problems:
        print(f"line {problem.line}{f' ({problem.id})' if problem.id else ''}: {problem.reason}")
    if report.problems:
        raise ManifestError(
            f"{manifest}: {len(report.problems)} of {len(report.problems) + report.num_utterances} lines cannot be "
            "used. Correct them; other commands skip them and say so."
        )


def split(manifest: Path, out: Path, valid: float = 0.02, test: float = 0.0, by: str = "id") -> None:
    """Divide a manifest: write it again with `split` (train, valid or test) on each line, which all stages then obey.

    Args:
        manifest: the JSONL file; marks in it are replaced.
        out: the manifest to write.
        valid: share to validate on.
        test: share to test on.
        by: id; text, so that no sentence is on two sides; or speaker, so that no voice is.
    """
    from vocable.audio.manifest import read_manifest, write_manifest
    from vocable.registry import look_up
    from vocable.splits import BY, SPLITS, mark_splits

    divided = mark_splits(read_manifest(manifest), valid, test, look_up("way to divide", by, BY))
    write_manifest(divided, out)
    for name in SPLITS:
        items = [utterance for utterance in divided if utterance.split == name]
        hours = sum(utterance.duration or 0.0 for utterance in items) / 3600
        print(f"{name}: {len(items)} utterances, {hours:.3f} h, {len({item.speaker for item in items})} speakers")


def import_folder(
    source: Path,
    out: Path,
    speaker_from_folder: bool = False,
    language: str | None = None,
    licence: str | None = None,
    strict: bool = False,
) -> None:
    """Make a manifest from a folder of audio, with the text of each file in a .txt beside it, if there is one.

    Args:
        source: the folder; sub-folders are included.
        out: the manifest to write.
        speaker_from_folder: take the name of the first sub-folder as the speaker.
        language: the language of all utterances, such as en.
        licence: the licence of all utterances.
        strict: stop at the first unreadable file; otherwise it is noted in rejected.jsonl beside OUT.
    """
    from vocable.corpora import folder

    rejections = _rejections(out)
    utterances = folder.import_folder(
        source,
        speaker_from_folder=speaker_from_folder,
        language=language,
        licence=licence,
        strict=strict,
        rejections=rejections,
    )
    write_with_progress(utterances, out, rejections)


def import_kaldi(source: Path, out: Path, audio_root: Path | None = None, strict: bool = False) -> None:
    """Make a manifest from a Kaldi data folder (wav.scp, segments, text, utt2spk).

    Args:
        source: the folder with wav.scp; commands in it (lines with `|`) are refused.
        out: the manifest to write.
        audio_root: the folder that relative paths in wav.scp start from; without it, the data folder.
        strict: stop at the first broken utterance; otherwise it is noted in rejected.jsonl beside OUT.
    """
    from vocable.corpora import kaldi

    rejections = _rejections(out)
    write_with_progress(
        kaldi.import_kaldi(source, audio_root=audio_root, strict=strict, rejections=rejections), out, rejections
    )


def import_fairseq_tsv(source: Path, out: Path, audio_root: Path | None = None, strict: bool = False) -> None:
    """Make a manifest from a fairseq .tsv, with text from the .wrd or .ltr beside it, if there is one.

    Args:
        source: the .tsv file.
        out: the manifest to write.
        audio_root: the folder that the paths start from; without it, the first line of the file.
        strict: stop at the first broken line; otherwise it is noted in rejected.jsonl beside OUT.
    """
    from vocable.corpora import fairseq_tsv

    rejections = _rejections(out)
    utterances = fairseq_tsv.import_fairseq_tsv(source, audio_root=audio_root, strict=strict, rejections=rejections)
    write_with_progress(utterances, out, rejections)


def import_lhotse_cuts(source: Path, out: Path, audio_root: Path | None = None, strict: bool = False) -> None:
    """Make a manifest from lhotse cuts (cuts.jsonl or cuts.jsonl.gz); lhotse need not be installed.

    Args:
        source: the file of cuts.
        out: the manifest to write.
        audio_root: the folder that relative paths of recordings start from; without it, the folder of SOURCE.
        strict: stop at the first cut that a manifest cannot express; otherwise it is noted in rejected.jsonl.
    """
    from vocable.corpora import lhotse_cuts

    rejections = _rejections(out)
    utterances = lhotse_cuts.import_lhotse_cuts(source, audio_root=audio_root, strict=strict, rejections=rejections)
    write_with_progress(utterances, out, rejections)


def import_hf_dataset(
    source: str,
    out: Path,
    split: str = "train",
    name: str | None = None,
    audio_column: str = "audio",
    text_column: str | None = None,
    id_column: str | None = None,
    speaker_column: str | None = None,
    licence: str | None = None,
    strict: bool = False,
) -> None:
    """Make a manifest from a Hugging Face dataset; audio in it is written to the folder audio/ beside OUT.

    Args:
        source: a folder written by `save_to_disk`, or a name on the hub.
        out: the manifest to write.
        split: which split.
        name: the configuration of a dataset on the hub.
        audio_column: the column with the audio.
        text_column: the column with the text; without it, the usual names are tried.
        id_column: the column with the ids; without it, the usual names are tried, then rows are numbered.
        speaker_column: the column with the speaker; without it, the usual names are tried.
        licence: the licence of all utterances.
        strict: stop at the first broken row; otherwise it is noted in rejected.jsonl beside OUT.
    """
    from vocable.corpora import hf_dataset

    rejections = _rejections(out)
    named = {"text": text_column, "id": id_column, "speaker": speaker_column}
    utterances = hf_dataset.import_hf_dataset(
        hf_dataset.load(source, name, split),
        out.parent,
        audio_column=audio_column,
        columns={key: column for key, column in named.items() if column is not None},
        licence=licence,
        strict=strict,
        rejections=rejections,
    )
    write_with_progress(utterances, out, rejections)


def write_with_progress(utterances: Iterable[Utterance], out: Path, rejections: Rejections) -> None:
    """Write a manifest while showing how far it is; say what was written and what was left out."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from vocable.audio.manifest import write_manifest
    from vocable.errors import ManifestError

    columns = (BarColumn(), TextColumn("{task.completed} utterances"), TimeElapsedColumn())
    seconds = 0.0

    def counted() -> Iterator[Utterance]:
        nonlocal seconds
        for utterance in progress.track(utterances):
            seconds += utterance.duration or 0.0
            yield utterance

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        try:
            count = write_manifest(counted(), out)
        except ManifestError as error:
            if not rejections.count:
                raise
            raise ManifestError(f"{error} {rejections.count} were left out; see {rejections.path}.") from error
    print(f"{out}: {count} utterances, {seconds / 3600:.3f} h")
    if rejections.count:
        print(f"{rejections.path}: {rejections.count} left out, with the reasons")


def _rejections(out: Path) -> Rejections:
    from vocable.audio.manifest import Rejections

    return Rejections(out.parent)


COMMANDS = {
    "manifest validate": validate,
    "manifest split": split,
    "manifest import-folder": import_folder,
    "manifest import-kaldi": import_kaldi,
    "manifest import-fairseq-tsv": import_fairseq_tsv,
    "manifest import-lhotse-cuts": import_lhotse_cuts,
    "manifest import-hf-dataset": import_hf_dataset,
}
