"""LJ Speech 1.1: one speaker reads English non-fiction, 24 h at 22,050 Hz (Ito and Johnson, 2017), public domain.

LJSpeech-1.1/metadata.csv  LJ001-0001|text as printed|text with numbers spelt out     LJSpeech-1.1/wavs/LJ001-0001.wav
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.corpora.download import Progress, download_file, extract_archive
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_text
from vocable.types import Utterance

URL = "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2"
CHECKSUM = "sha256:be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"


def download_ljspeech(
    folder: Path, on_progress: Progress | None = None, url: str = URL, checksum: str = CHECKSUM
) -> Path:
    """Download and unpack the corpus into `folder`; return the folder `LJSpeech-1.1` in it.

    A killed run goes on where it stopped.

    Raises:
        AssetError: the download fails or is not what was published.
        OutputError: the disk is full.
    """
    folder = Path(folder)
    complete = folder / ".LJSpeech-1.1.complete"
    if not complete.exists():
        archive = download_file(url, folder / "LJSpeech-1.1.tar.bz2", checksum, on_progress=on_progress)
        extract_archive(archive, folder)
        complete.touch()
    return folder / "LJSpeech-1.1"


def prepare_ljspeech(
    folder: Path, *, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Yield the utterances: `text` with numbers spelt out, `extra["printed_text"]` as in the book.

    Args:
        folder: `LJSpeech-1.1`, or the folder it is in.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out are noted.

    Raises:
        ManifestError: there is no metadata.csv; with `strict`, a broken line or unreadable file.
    """
    root = absolute(Path(folder))
    if (root / "LJSpeech-1.1").is_dir():
        root = root / "LJSpeech-1.1"
    metadata = root / "metadata.csv"
    if not metadata.is_file():
        raise ManifestError(
            f"{root}: there is no metadata.csv. Fetch the corpus: vocable corpus download ljspeech {folder}"
        )
    for line, row in enumerate(read_text(metadata).split("\n"), start=1):
        if not row:
            continue
        id, *texts = row.split("|")  # not a quoted csv: quotation marks belong to the text
        audio = root / "wavs" / f"{id}.wav"
        try:
            if len(texts) != 2:
                raise ManifestError(f"{row!r}; expected: id|text as printed|text with numbers spelt out.")
            yield Utterance(
                id=id,
                audio=audio,
                duration=audio_info(audio).duration,
                text=texts[1],
                language="en",
                speaker="ljspeech-LJ",
                corpus="ljspeech",
                licence="public domain",
                extra={"printed_text": texts[0]},
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(metadata, id, audio, str(error), line, strict=strict, rejections=rejections)
