"""LibriSpeech: read English from audiobooks (Panayotov et al., 2015), OpenSLR resource 12, CC BY 4.0.

LibriSpeech/SPEAKERS.TXT, LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac + .trans.txt
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.corpora.download import Progress, download_file, extract_archive
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_text
from vocable.registry import look_up
from vocable.types import Utterance

URL = "https://www.openslr.org/resources/12/{split}.tar.gz"

MD5 = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
"""Checksums as published with the corpus (md5sum.txt)."""


def download_librispeech(
    folder: Path, splits: Sequence[str] = ("dev-clean",), on_progress: Progress | None = None, url: str = URL
) -> Path:
    """Download and unpack splits into `folder`; return the folder `LibriSpeech` in it.

    A killed run goes on where it stopped; splits that are there are passed over.

    Args:
        folder: where archives and the unpacked corpus go.
        splits: names as in `MD5`.
        on_progress: called with the bytes done and in all.
        url: a mirror, with `{split}` in it.

    Raises:
        UnknownNameError: no such split.
        AssetError: the download fails or is not what was published.
        OutputError: the disk is full.
    """
    folder = Path(folder)
    checksums = {split: look_up("LibriSpeech split", split, MD5) for split in splits}
    for split, checksum in checksums.items():
        complete = folder / f".{split}.complete"
        if complete.exists():
            continue
        archive = download_file(
            url.format(split=split), folder / f"{split}.tar.gz", f"md5:{checksum}", on_progress=on_progress
        )
        extract_archive(archive, folder)
        complete.touch()
    return folder / "LibriSpeech"


def prepare_librispeech(
    folder: Path, splits: Sequence[str] | None = None, *, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Yield the utterances with text, speaker (`librispeech-<number>`), and in `extra` part, chapter and sex.

    Args:
        folder: `LibriSpeech`, or the folder it is in.
        splits: which to take; None takes all that are there.
        strict: raise on the first unreadable file instead of leaving it out.
        rejections: where utterances that are left out are noted.

    Raises:
        ManifestError: the folder holds none of the splits; with `strict`, a broken utterance.
    """
    root = absolute(Path(folder))
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    splits = [split for split in MD5 if (root / split).is_dir()] if splits is None else splits
    missing = [split for split in splits if not (root / split).is_dir()]
    if missing or not splits:
        wanted = ", ".join(missing) if missing else "any split of LibriSpeech"
        raise ManifestError(f"{root}: {wanted} is not there. Fetch it: vocable corpus download librispeech {folder}")
    sexes = _read_sexes(root / "SPEAKERS.TXT")
    for split in splits:
        chapters = [path for path in (root / split).glob("*/*") if path.is_dir()]
        for chapter in sorted(
            chapters, key=lambda path: [int(name) if name.isdigit() else 0 for name in path.parts[-2:]]
        ):
            yield from _chapter(chapter, split, sexes, strict, rejections)


def _chapter(
    chapter: Path, split: str, sexes: dict[str, str], strict: bool, rejections: Rejections | None
) -> Iterator[Utterance]:
    speaker = chapter.parent.name
    transcript = chapter / f"{speaker}-{chapter.name}.trans.txt"
    lines = read_text(transcript).split("\n") if transcript.is_file() else []
    texts = dict(line.split(" ", 1) for line in lines if " " in line)
    extra = {"part": split, "chapter": chapter.name}
    if speaker in sexes:
        extra["sex"] = sexes[speaker]
    for id in sorted(texts.keys() | {path.stem for path in chapter.glob("*.flac")}):
        audio = chapter / f"{id}.flac"
        try:
            if id not in texts:
                raise ManifestError(f"{audio} has no line in {transcript.name}.")
            yield Utterance(
                id=id,
                audio=audio,
                duration=audio_info(audio).duration,
                text=texts[id],
                language="en",
                speaker=f"librispeech-{speaker}",
                corpus="librispeech",
                licence="CC BY 4.0",
                extra=extra,
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(transcript, id, audio, str(error), strict=strict, rejections=rejections)


def _read_sexes(path: Path) -> dict[str, str]:
    """Speaker -> F or M; rows are `14   | F | train-clean-360  | 25.03 | name`, comments start with `;`."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [[part.strip() for part in line.split("|")] for line in lines if not line.startswith(";")]
    return {row[0]: row[1] for row in rows if len(row) > 2}
