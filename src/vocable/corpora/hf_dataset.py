"""A Hugging Face dataset with an audio column; datasets' own decoding is not used.

dataset row {"audio": {"bytes" or "path"}, "text": ...}  ->  <out>/audio/00000000.flac + a line of the manifest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import replace_file
from vocable.registry import nearest_name
from vocable.types import Utterance

COLUMN_NAMES = {
    "id": ("id", "utt_id", "utterance_id", "segment_id"),
    "text": ("text", "sentence", "transcription", "transcript", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "language": ("language", "lang", "locale"),
}
"""Where to look for each field when no column is named; the first that exists is taken."""

MAGIC_SUFFIXES = ((b"RIFF", ".wav"), (b"fLaC", ".flac"), (b"OggS", ".ogg"), (b"ID3", ".mp3"), (b"FORM", ".aiff"))


def import_hf_dataset(
    dataset: Any,
    out: Path,
    *,
    audio_column: str = "audio",
    columns: Mapping[str, str] | None = None,
    licence: str | None = None,
    strict: bool = False,
    rejections: Rejections | None = None,
) -> Iterator[Utterance]:
    """Yield the utterances of a dataset; audio that the dataset holds as bytes is written to `<out>/audio/`.

    Files are numbered by row, and those that are there with the same length are not written again.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset` (one split).
        out: the folder for the audio files.
        audio_column: the name of the audio column.
        columns: the columns of `id`, `text`, `speaker`, `language`; those not named are looked for (`COLUMN_NAMES`).
        licence: set for all utterances.
        strict: raise on the first broken row instead of leaving it out.
        rejections: where rows that are left out are noted.

    Raises:
        ManifestError: a column does not exist; with `strict`, a broken row.
        OutputError: an audio file cannot be written.
    """
    import datasets

    out = absolute(Path(out))
    features = dataset.features
    if features is None:
        raise ManifestError(
            "The dataset does not say which columns it has. Load it with features=..., or not streamed."
        )
    chosen = _choose_columns(dict(columns or {}), audio_column, list(features))
    plain = dataset.cast_column(audio_column, datasets.Audio(decode=False))
    seen: set[str] = set()
    for index, row in enumerate(plain):
        audio = None
        id = str(row[chosen["id"]]) if "id" in chosen else f"{index:08d}"
        try:
            if id in seen:
                raise ManifestError(f"The id {id!r} came before; name another column for the ids.")
            seen.add(id)
            audio = _audio_file(row[audio_column], out / "audio" / f"{index:08d}")
            duration = audio_info(audio).duration
            text, speaker, language = (_text(row, chosen.get(key), features) for key in ("text", "speaker", "language"))
            yield Utterance(
                id=id, audio=audio, duration=duration, text=text, speaker=speaker, language=language, licence=licence
            )
        except (AudioFormatError, ManifestError) as error:
            note_rejection(f"row {index}", id, audio, str(error), strict=strict, rejections=rejections)


def load(source: str, name: str | None, split: str) -> Any:
    """Load a split of a dataset: from a folder that `save_to_disk` wrote, or by its name on the hub.

    Raises:
        ManifestError: there is no such dataset, configuration or split.
    """
    import datasets

    try:
        if not Path(source).is_dir():
            return datasets.load_dataset(source, name, split=split)
        found = datasets.load_from_disk(source)
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    except (OSError, ValueError, KeyError) as error:
        raise ManifestError(
            f"The dataset {source!r}, split {split!r}, cannot be loaded: {type(error).__name__}: {error}. "
            "Name a folder that save_to_disk wrote, or a dataset on the hub that can be reached."
        ) from error


def _choose_columns(named: dict[str, str], audio_column: str, existing: Sequence[str]) -> dict[str, str]:
    for column in (audio_column, *named.values()):
        if column not in existing:
            guess = nearest_name(column, existing)
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise ManifestError(f"The dataset has no column {column!r}.{hint} It has: {', '.join(existing)}.")
    for key, names in COLUMN_NAMES.items():
        found = next((name for name in names if name in existing), None)
        if key not in named and found is not None:
            named[key] = found
    return named


def _audio_file(value: Mapping[str, Any] | None, stem: Path) -> Path:
    """The path of a row's audio; bytes are written to `stem` plus a suffix that fits them."""
    content, path = (value or {}).get("bytes"), (value or {}).get("path")
    if content is not None:
        audio = stem.with_suffix(_suffix_of(content) or Path(path or "").suffix or ".audio")
        if not (audio.is_file() and audio.stat().st_size == len(content)):
            with replace_file(audio) as file:
                file.write(content)
        return audio
    if path is None:
        raise ManifestError("The row holds neither audio bytes nor a path.")
    return absolute(Path(path))


def _suffix_of(content: bytes) -> str | None:
    if content.startswith(b"OggS") and b"OpusHead" in content[:64]:
        return ".opus"
    if content[:1] == b"\xff" and content[1:2] >= b"\xe0":  # the eleven 1-bits that open an MPEG frame
        return ".mp3"
    return next((suffix for magic, suffix in MAGIC_SUFFIXES if content.startswith(magic)), None)


def _text(row: Mapping[str, Any], column: str | None, features: Mapping[str, Any]) -> str | None:
    value = None if column is None else row[column]
    if column is None or value is None:
        return None
    names = getattr(features[column], "names", None)  # a ClassLabel: the number stands for a name
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else str(value)
