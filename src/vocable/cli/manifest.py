"""Commands on speech: what audio files hold, manifests of folders and published corpora, and their splits."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import vocable
from vocable.cli.command import Command
from vocable.errors import AudioFormatError, ManifestError
from vocable.printing import print_table
from vocable.progress import progress_steps, track

if TYPE_CHECKING:
    from vocable.audio.overview import Overview


def info(files: list[Path]) -> None:
    """Show sample rate, channels and length of audio files.

    vocable audio info speech/*.wav

    Args:
        files: the files; those that cannot be read are listed with the reason, and make the command fail.
    """
    from vocable.audio.io import audio_info

    rows, problems = [], []
    for path in files:
        try:
            facts = audio_info(path)
        except AudioFormatError as error:
            problems.append(str(error))
        else:
            seconds = f"{facts.duration:.3f}"
            rows.append((path, facts.sample_rate, facts.num_channels, facts.num_samples, seconds))
    if rows:
        print_table(("file", "sample rate (Hz)", "channels", "samples", "seconds"), rows)
    if problems:
        raise AudioFormatError("\n".join(problems))


def resample(source: Path, out: Path, sample_rate: int = 16_000, overwrite: bool = False) -> None:
    """Write an audio file again as mono at another sample rate; the suffix of OUT chooses the format.

    vocable audio resample talk.mp3 talk.wav --sample-rate 24000

    Args:
        source: the file to read; of any length, it is streamed.
        out: the file to write: wav, flac, ogg, opus or mp3.
        sample_rate: samples per second of the new file.
        overwrite: replace a file that is there.
    """
    import math

    from vocable.audio.io import audio_info, iterate_audio
    from vocable.audio.writing import write_audio_blocks
    from vocable.files import refuse_existing

    refuse_existing(out, overwrite)
    block_seconds = 30.0
    num_blocks = math.ceil(audio_info(source).duration / block_seconds)
    blocks = track(iterate_audio(source, sample_rate, block_seconds), "Resampling", num_blocks)
    num_samples = write_audio_blocks(out, blocks, sample_rate)
    print(f"{out}: {num_samples / sample_rate:.2f} s at {sample_rate} Hz")


def validate(manifest: Path, check_audio: bool = True) -> None:
    """Check every line of a manifest, and every audio file in it; list what is wrong.

    vocable manifest validate dev.jsonl

    Args:
        manifest: the manifest (JSONL).
        check_audio: also open the audio files (headers only) and check that the utterances lie inside.
    """
    from rich.console import Console

    from vocable.audio.manifest import validate_manifest

    with Console(stderr=True).status(f"checking {manifest}"):
        report = validate_manifest(manifest, check_audio)
    num_problems, hours = len(report.problems), f"{report.hours:.3f}"
    counts = (report.num_utterances, hours, report.num_speakers, report.num_without_duration, num_problems)
    print_table(("utterances", "hours", "speakers", "of unknown length", "problems"), [counts])
    for problem in report.problems:
        print(f"line {problem.line}{f' ({problem.id})' if problem.id else ''}: {problem.reason}")
    if num_problems:
        raise ManifestError(
            f"{manifest}: {num_problems} of {num_problems + report.num_utterances} lines cannot be used. "
            "Correct them; other commands skip them and say so."
        )


def show(manifest: Path, lines: int = 3, by: str | None = None, where: str | None = None) -> None:
    """Say what a manifest holds: utterances, hours, speakers, which fields its lines have, and the first lines.

    vocable manifest show all.jsonl
    vocable manifest show all.jsonl --by speaker --where 'duration > 10'

    Args:
        manifest: the manifest (JSONL).
        lines: how many lines to show as they are.
        by: field whose values are counted apart, such as speaker, split or corpus.
        where: condition for the lines to count, as in vocable manifest filter.
    """
    from vocable.audio.editing import choose, known_field
    from vocable.audio.manifest import to_row
    from vocable.audio.overview import Overview

    utterances = vocable.read_manifest(manifest) if where is None else [*choose(manifest, where)]
    overview = Overview(by if by is None else known_field(by, utterances))
    for utterance in utterances:
        overview.add(utterance)
    _print_overview(manifest, overview)
    for utterance in utterances[: max(lines, 0)]:
        print(json.dumps(to_row(utterance, manifest.parent), ensure_ascii=False))


def _print_overview(manifest: Path, overview: Overview) -> None:
    print(f"{manifest}: {overview.size}")
    rows = [*overview.rows()]
    for name, share, values in rows:
        text = f"{name:{max(len(name) for name, *_ in rows)}}  {share}{': ' * bool(values)}{values}"
        print(textwrap.fill(text, 80, initial_indent="  ", subsequent_indent="      "))
    if overview.groups:
        groups = sorted(overview.groups.items(), key=lambda item: -item[1].num_utterances)
        cells = [(v, g.num_utterances, f"{g.seconds / 3600:.3f}", g.present["text"], g.num_speakers) for v, g in groups]
        print_table((overview.by or "", "utterances", "hours", "with text", "speakers"), cells)


def make_manifest(
    importer: Callable[..., Iterable[Any]], out: Path, strict: bool = False, overwrite: bool = False, **settings: Any
) -> None:
    """Write the utterances that an importer yields while showing how far it is; say what was left out.

    Args:
        importer: a function that takes `settings`, `strict` and `rejections`.
        out: the manifest to write.
        strict: stop at the first bad line or unreadable file; otherwise these are left out, and noted in
            OUT.rejected.jsonl.
        overwrite: replace a manifest that is there.
        settings: what the importer is to read.
    """
    from vocable.audio.manifest import Rejections, note_rejection
    from vocable.audio.overview import Overview
    from vocable.files import refuse_existing

    refuse_existing(out, overwrite)
    rejections, overview, ids = Rejections.beside(out), Overview("split"), set[str]()

    def counted() -> Iterator[Any]:
        for utterance in track(importer(**settings, strict=strict, rejections=rejections), "Utterances"):
            if utterance.id in ids:
                reason = f"The id {utterance.id!r} came before; ids must differ."
                note_rejection(out, utterance.id, utterance.audio, reason, strict=strict, rejections=rejections)
                continue
            ids.add(utterance.id)
            overview.add(utterance)
            yield utterance

    try:
        vocable.write_manifest(counted(), out)
    except ManifestError as error:
        if not rejections.count:
            raise
        raise ManifestError(f"{error} {rejections.count} were left out; see {rejections.path}.") from error
    if not overview.present["split"]:
        overview.groups.clear()
    _print_overview(out, overview)
    if not overview.present["speaker"]:
        print("  No speaker is known. From names: --speaker-pattern (import-folder), or: vocable manifest set")
        print(f"  {out} NEW 'speaker=match(id, \"^([^-_/]+)\")'")
    if rejections.count:
        print(f"{rejections.path}: {rejections.count} left out, with the reasons")


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
    overwrite: bool = False,
) -> None:
    """Make a manifest from a Hugging Face dataset; audio in it is written to the folder audio/ beside OUT.

    vocable manifest import-hf-dataset PolyAI/minds14 minds.jsonl --name en-GB --text-column transcription

    Args:
        source: a folder written by `save_to_disk`, or a name on the hub.
        out: the manifest to write.
        split: the split to take.
        name: configuration of a dataset on the hub.
        audio_column: column with the audio.
        text_column: column with the text; without it, the usual names are tried.
        id_column: column with the ids; without it, the usual names are tried, then rows are numbered.
        speaker_column: column with the speaker; without it, the usual names are tried.
        licence: licence of all utterances.
        strict: stop at the first bad row; otherwise these are noted in OUT.rejected.jsonl and left out.
        overwrite: replace a manifest that is there.
    """
    import functools

    from vocable.corpora import hf_dataset

    dataset = hf_dataset.load(source, name, split)
    named = {"text": text_column, "id": id_column, "speaker": speaker_column}
    columns = {key: column for key, column in named.items() if column is not None}
    importer = functools.partial(hf_dataset.import_hf_dataset, dataset, out.parent)
    make_manifest(importer, out, strict, overwrite, audio_column=audio_column, columns=columns, licence=licence)


def download(name: Literal["librispeech", "ljspeech"], folder: Path, splits: tuple[str, ...] = ("dev-clean",)) -> None:
    """Download a corpus, check its checksum and unpack it; a run that was stopped goes on where it was.

    vocable corpus download librispeech corpora --splits dev-clean,test-clean

    Args:
        name: librispeech or ljspeech.
        folder: folder for archives and the unpacked corpus.
        splits: splits of librispeech to fetch.
    """
    from vocable.corpora.librispeech import download_librispeech
    from vocable.corpora.ljspeech import download_ljspeech

    with progress_steps(in_bytes=True) as advance:
        shown = 0

        def show(done: int, total: int | None) -> None:
            nonlocal shown
            advance(name, done - shown, total)
            shown = done

        root = download_ljspeech(folder, show) if name == "ljspeech" else download_librispeech(folder, splits, show)
    print(f"{root}\nNext: vocable corpus prepare {name} {folder} {folder / name}.jsonl")


def prepare(
    name: Literal["librispeech", "ljspeech", "timit"],
    folder: Path,
    out: Path,
    splits: tuple[str, ...] | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a manifest of a corpus that is there: text, speaker, licence; of TIMIT words and phones, too.

    vocable corpus prepare librispeech corpora librispeech.jsonl
    vocable corpus prepare timit /data/TIMIT timit.jsonl

    Args:
        name: librispeech, ljspeech, or timit, which cannot be downloaded.
        folder: the folder given to `vocable corpus download`, or the unpacked corpus itself.
        out: the manifest to write.
        splits: splits of librispeech to take; without it, all that are there.
        strict: stop at the first bad line or unreadable file; otherwise these are left out, and noted in
            OUT.rejected.jsonl.
        overwrite: replace a manifest that is there.
    """
    from vocable.corpora.librispeech import prepare_librispeech
    from vocable.corpora.ljspeech import prepare_ljspeech
    from vocable.corpora.timit import prepare_timit

    importers: dict[str, Callable[..., Iterable[Any]]] = {"ljspeech": prepare_ljspeech, "timit": prepare_timit}
    if name == "librispeech":
        make_manifest(prepare_librispeech, out, strict, overwrite, folder=folder, splits=splits)
    else:
        make_manifest(importers[name], out, strict, overwrite, folder=folder)


COMMANDS = {
    "audio info FILES...": info,
    "audio resample SOURCE OUT": resample,
    "manifest validate MANIFEST": validate,
    "manifest show MANIFEST": show,
    "manifest filter MANIFEST OUT CONDITION": Command("vocable.audio.editing:choose", through=make_manifest),
    "manifest set MANIFEST OUT ASSIGNMENTS...": Command("vocable.audio.editing:assign", through=make_manifest),
    "manifest merge MANIFESTS... OUT": Command("vocable.audio.editing:merge", through=make_manifest),
    "manifest split MANIFEST OUT": Command("vocable.audio.editing:divide", through=make_manifest),
    "manifest import-folder SOURCE OUT": Command("vocable.corpora.folder:import_folder", through=make_manifest),
    "manifest import-kaldi SOURCE OUT": Command("vocable.corpora.kaldi:import_kaldi", through=make_manifest),
    "manifest import-fairseq-tsv SOURCE OUT": Command(
        "vocable.corpora.fairseq_tsv:import_fairseq_tsv", through=make_manifest
    ),
    "manifest import-lhotse-cuts SOURCE OUT": Command(
        "vocable.corpora.lhotse_cuts:import_lhotse_cuts", through=make_manifest
    ),
    "manifest import-hf-dataset SOURCE OUT": import_hf_dataset,
    "corpus download NAME FOLDER": download,
    "corpus prepare NAME FOLDER OUT": prepare,
}
