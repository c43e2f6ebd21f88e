"""Commands that make manifests: of audio in other layouts and of published corpora; and that check and divide them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vocable.cli.options import StrictOption

if TYPE_CHECKING:
    from vocable.audio.manifest import Rejections
    from vocable.types import Utterance


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """A manifest to check."""

    manifest: Path
    """The manifest (JSONL)."""
    check_audio: bool = True
    """Also open the audio files (headers only) and check that the utterances lie inside."""


def validate(config: ValidateConfig) -> None:
    """Check every line of a manifest, and every audio file in it; list what is wrong.

    vocable manifest validate dev.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.manifest import validate_manifest
    from vocable.errors import ManifestError

    with Console(stderr=True).status(f"checking {config.manifest}"):
        report = validate_manifest(config.manifest, config.check_audio)
    table = Table("utterances", "hours", "speakers", "of unknown length", "problems")
    counts = (report.num_speakers, report.num_without_duration, len(report.problems))
    table.add_row(str(report.num_utterances), f"{report.hours:.3f}", *map(str, counts))
    Console().print(table)
    for problem in report.problems:
        print(f"line {problem.line}{f' ({problem.id})' if problem.id else ''}: {problem.reason}")
    if report.problems:
        raise ManifestError(
            f"{config.manifest}: {len(report.problems)} of {len(report.problems) + report.num_utterances} lines cannot "
            "be used. Correct them; other commands skip them and say so."
        )


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Shares of a manifest."""

    manifest: Path
    """The manifest (JSONL); marks in it are replaced."""
    out: Path
    """The manifest to write."""
    valid: float = 0.02
    """Share to validate on."""
    test: float = 0.0
    """Share to test on."""
    by: Literal["id", "text", "speaker"] = "id"
    """Key of the split: id; text, so that no sentence is on two sides; or speaker, so that no voice is."""


def split(config: SplitConfig) -> None:
    """Divide a manifest: write it again with `split` (train, valid or test) on each line, which all stages then obey.

    vocable manifest split all.jsonl divided.jsonl --valid 0.05 --by speaker
    """
    from vocable.audio.manifest import read_manifest, write_manifest
    from vocable.splits import SPLITS, mark_splits

    divided = mark_splits(read_manifest(config.manifest), config.valid, config.test, config.by)
    write_manifest(divided, config.out)
    for name in SPLITS:
        items = [utterance for utterance in divided if utterance.split == name]
        hours = sum(utterance.duration or 0.0 for utterance in items) / 3600
        print(f"{name}: {len(items)} utterances, {hours:.3f} h, {len({item.speaker for item in items})} speakers")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(StrictOption):
    """Speech in another layout."""

    source: Path
    """The folder or file to read."""
    out: Path
    """The manifest to write."""


@dataclass(frozen=True, kw_only=True)
class ImportFolderConfig(ImportConfig):
    """A folder of audio."""

    speaker_from_folder: bool = False
    """Take the name of the first sub-folder as the speaker."""
    language: str | None = None
    """Language of all utterances, such as en."""
    licence: str | None = None
    """Licence of all utterances."""


def import_folder(config: ImportFolderConfig) -> None:
    """Make a manifest from a folder of audio and its sub-folders, with the text of each file in a .txt beside it.

    vocable manifest import-folder my-recordings all.jsonl --language en
    """
    from vocable.corpora import folder

    _import(folder.import_folder, config)


@dataclass(frozen=True, kw_only=True)
class ImportFilesConfig(ImportConfig):
    """Lists of audio files."""

    audio_root: Path | None = None
    """Folder that relative paths start from. Without it: Kaldi's data folder, the first line of a .tsv, or the folder
    of the cuts."""


def import_kaldi(config: ImportFilesConfig) -> None:
    """Make a manifest from a Kaldi data folder (wav.scp, segments, text, utt2spk); commands in wav.scp are refused.

    vocable manifest import-kaldi data/train train.jsonl
    """
    from vocable.corpora import kaldi

    _import(kaldi.import_kaldi, config)


def import_fairseq_tsv(config: ImportFilesConfig) -> None:
    """Make a manifest from a fairseq .tsv, with text from the .wrd or .ltr beside it, if there is one.

    vocable manifest import-fairseq-tsv train.tsv train.jsonl
    """
    from vocable.corpora import fairseq_tsv

    _import(fairseq_tsv.import_fairseq_tsv, config)


def import_lhotse_cuts(config: ImportFilesConfig) -> None:
    """Make a manifest from lhotse cuts (cuts.jsonl or cuts.jsonl.gz); lhotse need not be installed.

    vocable manifest import-lhotse-cuts cuts.jsonl.gz train.jsonl
    """
    from vocable.corpora import lhotse_cuts

    _import(lhotse_cuts.import_lhotse_cuts, config)


@dataclass(frozen=True, kw_only=True)
class ImportDatasetConfig(StrictOption):
    """A Hugging Face dataset."""

    source: str
    """A folder written by `save_to_disk`, or a name on the hub."""
    out: Path
    """The manifest to write."""
    split: str = "train"
    """The split to take."""
    name: str | None = None
    """Configuration of a dataset on the hub."""
    audio_column: str = "audio"
    """Column with the audio."""
    text_column: str | None = None
    """Column with the text; without it, the usual names are tried."""
    id_column: str | None = None
    """Column with the ids; without it, the usual names are tried, then rows are numbered."""
    speaker_column: str | None = None
    """Column with the speaker; without it, the usual names are tried."""
    licence: str | None = None
    """Licence of all utterances."""


def import_hf_dataset(config: ImportDatasetConfig) -> None:
    """Make a manifest from a Hugging Face dataset; audio in it is written to the folder audio/ beside OUT.

    vocable manifest import-hf-dataset PolyAI/minds14 minds.jsonl --name en-GB --text-column transcription
    """
    from vocable.audio.manifest import Rejections
    from vocable.corpora import hf_dataset

    rejections = Rejections(config.out.parent)
    named = {"text": config.text_column, "id": config.id_column, "speaker": config.speaker_column}
    utterances = hf_dataset.import_hf_dataset(
        hf_dataset.load(config.source, config.name, config.split),
        config.out.parent,
        audio_column=config.audio_column,
        columns={key: column for key, column in named.items() if column is not None},
        licence=config.licence,
        strict=config.strict,
        rejections=rejections,
    )
    write_with_progress(utterances, config.out, rejections)


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """A published corpus."""

    name: Literal["librispeech", "ljspeech"]
    """librispeech or ljspeech."""
    folder: Path
    """Folder for archives and the unpacked corpus."""
    splits: tuple[str, ...] = ("dev-clean",)
    """Splits of librispeech to fetch."""


def download(config: DownloadConfig) -> None:
    """Download a corpus, check its checksum and unpack it; a run that was stopped goes on where it was.

    vocable corpus download librispeech corpora --splits dev-clean,test-clean
    """
    from vocable.corpora.librispeech import download_librispeech
    from vocable.corpora.ljspeech import download_ljspeech
    from vocable.progress import progress_steps

    with progress_steps(in_bytes=True) as advance:
        shown = 0

        def show(done: int, total: int | None) -> None:
            nonlocal shown
            advance(config.name, done - shown, total)
            shown = done

        if config.name == "librispeech":
            root = download_librispeech(config.folder, config.splits, show)
        else:
            root = download_ljspeech(config.folder, show)
    print(f"{root}\nNext: vocable corpus prepare {config.name} {config.folder} {config.folder / config.name}.jsonl")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(StrictOption):
    """A corpus that has been downloaded."""

    name: Literal["librispeech", "ljspeech"]
    """librispeech or ljspeech."""
    folder: Path
    """The folder given to `vocable corpus download`, or the unpacked corpus itself."""
    out: Path
    """The manifest to write."""
    splits: tuple[str, ...] | None = None
    """Splits of librispeech to take; without it, all that are there."""


def prepare(config: PrepareConfig) -> None:
    """Make a manifest of a corpus that has been downloaded: text, speaker, licence.

    vocable corpus prepare librispeech corpora librispeech.jsonl
    """
    from vocable.audio.manifest import Rejections
    from vocable.corpora.librispeech import prepare_librispeech
    from vocable.corpora.ljspeech import prepare_ljspeech

    notes = {"strict": config.strict, "rejections": Rejections(config.out.parent)}
    if config.name == "librispeech":
        utterances = prepare_librispeech(config.folder, config.splits, **notes)
    else:
        utterances = prepare_ljspeech(config.folder, **notes)
    write_with_progress(utterances, config.out, notes["rejections"])


def _import(importer: Callable[..., Iterable[Utterance]], config: ImportConfig) -> None:
    """Call an importer with the fields of the config, and write the manifest."""
    from vocable.audio.manifest import Rejections

    rejections = Rejections(config.out.parent)
    settings = {name: value for name, value in vars(config).items() if name not in ("source", "out")}
    write_with_progress(importer(config.source, **settings, rejections=rejections), config.out, rejections)


def write_with_progress(utterances: Iterable[Utterance], out: Path, rejections: Rejections) -> None:
    """Write a manifest while showing how far it is; say what was written and what was left out."""
    from vocable.audio.manifest import write_manifest
    from vocable.errors import ManifestError
    from vocable.progress import track

    seconds = 0.0

    def counted() -> Iterator[Utterance]:
        nonlocal seconds
        for utterance in track(utterances, "Utterances"):
            seconds += utterance.duration or 0.0
            yield utterance

    try:
        count = write_manifest(counted(), out)
    except ManifestError as error:
        if not rejections.count:
            raise
        raise ManifestError(f"{error} {rejections.count} were left out; see {rejections.path}.") from error
    print(f"{out}: {count} utterances, {seconds / 3600:.3f} h")
    if rejections.count:
        print(f"{rejections.path}: {rejections.count} left out, with the reasons")


COMMANDS = {
    "manifest validate MANIFEST": validate,
    "manifest split MANIFEST OUT": split,
    "manifest import-folder SOURCE OUT": import_folder,
    "manifest import-kaldi SOURCE OUT": import_kaldi,
    "manifest import-fairseq-tsv SOURCE OUT": import_fairseq_tsv,
    "manifest import-lhotse-cuts SOURCE OUT": import_lhotse_cuts,
    "manifest import-hf-dataset SOURCE OUT": import_hf_dataset,
    "corpus download NAME FOLDER": download,
    "corpus prepare NAME FOLDER OUT": prepare,
}
