"""Commands that fetch published corpora and make manifests of them."""

from __future__ import annotations

from pathlib import Path

NAMES = ("librispeech", "ljspeech")


def download(name: str, folder: Path, splits: str = "dev-clean") -> None:
    """Download a corpus, check its checksum and unpack it; a run that was stopped goes on where it was.

    Args:
        name: librispeech or ljspeech.
        folder: where archives and the unpacked corpus go.
        splits: for librispeech, the splits to fetch, separated by commas.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from vocable.corpora.librispeech import download_librispeech
    from vocable.corpora.ljspeech import download_ljspeech

    _check_name(name)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None)

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        if name == "librispeech":
            root = download_librispeech(folder, _split_names(splits) or (), show)
        else:
            root = download_ljspeech(folder, show)
    print(f"{root}\nNext: vocable corpus prepare {name} {folder} {folder / name}.jsonl")


def prepare(name: str, folder: Path, out: Path, splits: str | None = None, strict: bool = False) -> None:
    """Make a manifest of a corpus that has been downloaded: text, speaker, licence.

    Args:
        name: librispeech or ljspeech.
        folder: the folder given to `vocable corpus download`, or the unpacked corpus itself.
        out: the manifest to write.
        splits: for librispeech, the splits to take, separated by commas; without it, all that are there.
        strict: stop at the first unreadable file; otherwise it is noted in rejected.jsonl beside OUT.
    """
    from vocable.audio.manifest import Rejections
    from vocable.cli.manifest import write_with_progress
    from vocable.corpora.librispeech import prepare_librispeech
    from vocable.corpora.ljspeech import prepare_ljspeech

    _check_name(name)
    rejections = Rejections(out.parent)
    if name == "librispeech":
        utterances = prepare_librispeech(folder, _split_names(splits), strict=strict, rejections=rejections)
    else:
        utterances = prepare_ljspeech(folder, strict=strict, rejections=rejections)
    write_with_progress(utterances, out, rejections)


def _check_name(name: str) -> None:
    from vocable.registry import look_up

    look_up("corpus", name, dict.fromkeys(NAMES))


def _split_names(splits: str | None) -> tuple[str, ...] | None:
    return None if splits is None else tuple(split.strip() for split in splits.split(",") if split.strip())


COMMANDS = {"corpus download": download, "corpus prepare": prepare}
