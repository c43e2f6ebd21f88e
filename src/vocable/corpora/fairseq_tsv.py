"""A fairseq manifest: the root folder in the first line, then `path<TAB>samples`; text beside it in .wrd or .ltr.

train.tsv  /data/LibriSpeech            train.wrd
           1/2/1-2-0001.flac  225360    CHAPTER ONE
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_text
from vocable.types import Utterance


def import_fairseq_tsv(
    source: Path, *, audio_root: Path | None = None, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Read a fairseq `.tsv`; the id is the path inside the root, without suffix.

    vocable manifest import-fairseq-tsv train.tsv train.jsonl

    Text comes from the file of the same name in `.wrd` (words), or else `.ltr` (letters, `|` between words).

    Args:
        source: the `.tsv`.
        audio_root: the folder that the paths start from. Without it, the first line of the file.
        strict: raise on the first broken line instead of leaving it out.
        rejections: where lines that are left out are noted.

    Raises:
        ManifestError: there is no such file, or its text has another number of lines; with `strict`, a broken line.
    """
    source = absolute(Path(source))
    if not source.is_file():
        raise ManifestError(f"{source}: no such file.")
    first, *rows = _lines(source)
    root = Path(audio_root) if audio_root is not None else source.parent / first.strip()
    if "\t" in first or not root.is_dir():
        raise ManifestError(
            f"{source}, line 1: {first.strip()!r} is no folder; a fairseq manifest starts with the folder of the "
            "audio. Give it as audio_root if it has moved."
        )
    texts = _read_texts(source, len(rows))
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        path, *counts = row.split("\t")
        audio = absolute(root / path)
        id = Path(path).with_suffix("").as_posix() if path else f"line-{index + 2}"
        try:
            info = audio_info(audio)
            if counts and counts[0].strip() != str(info.num_samples):
                raise ManifestError(
                    f"{audio} has {info.num_samples} samples, but the line says {counts[0].strip()!r}. "
                    "The audio is not what the manifest was made from; make the manifest again."
                )
            yield Utterance(id=id, audio=audio, duration=info.duration, text=text)
        except (AudioFormatError, ManifestError) as error:
            note_rejection(source, id, audio, str(error), index + 2, strict=strict, rejections=rejections)


def _lines(path: Path) -> list[str]:
    lines = read_text(path).split("\n")
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    return [line.rstrip("\r") for line in lines]


def _read_texts(source: Path, num_rows: int) -> list[str | None]:
    for suffix in (".wrd", ".ltr"):
        path = source.with_suffix(suffix)
        if path.is_file():
            lines = _lines(path) if num_rows else []
            if len(lines) != num_rows:
                raise ManifestError(f"{path}: {len(lines)} lines of text for {num_rows} utterances in {source.name}.")
            return [_join_letters(line) if suffix == ".ltr" else line.strip() for line in lines]
    return [None] * num_rows


def _join_letters(line: str) -> str:
    """`H E L L O | Y O U |` -> `HELLO YOU`."""
    return line.replace(" ", "").replace("|", " ").strip()
