"""Lhotse cuts, read as JSON without lhotse: cuts.jsonl or cuts.jsonl.gz.

    {"type": "MonoCut", "id": ..., "start": 1.0, "duration": 3.0, "supervisions": [{"text": ...}], "recording": {...}}

A cut becomes an utterance; the texts of its supervisions are joined in the order of their times. What a manifest cannot
express (mixed or padded cuts, transforms, one channel of several, audio in pipes or archives) is left out with the
reason.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vocable.audio.manifest import Rejections, absolute, check_stretch, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.types import Utterance, Word


def import_lhotse_cuts(
    source: Path, *, audio_root: Path | None = None, strict: bool = False, rejections: Rejections | None = None
) -> Iterator[Utterance]:
    """Read a file of lhotse cuts, plain or gzipped; lhotse need not be installed.

    vocable manifest import-lhotse-cuts cuts.jsonl.gz train.jsonl

    Args:
        source: `cuts.jsonl` or `cuts.jsonl.gz`.
        audio_root: what relative paths of recordings start from. Without it, the folder of the cuts.
        strict: raise on the first cut that cannot be expressed instead of leaving it out.
        rejections: where cuts that are left out are noted.

    Raises:
        ManifestError: there is no such file, or it is cut short; with `strict`, a broken cut.
    """
    source = absolute(Path(source))
    if not source.is_file():
        raise ManifestError(f"{source}: no such file.")
    root = source.parent if audio_root is None else absolute(Path(audio_root))
    for line, content in _lines(source):
        cut: Any = None
        try:
            cut = _parse(content)
            utterance = _to_utterance(cut, root)
            check_stretch(utterance)
            yield utterance
        except (ManifestError, AudioFormatError) as error:
            id = cut.get("id") if isinstance(cut, dict) else None
            note_rejection(source, id, None, str(error), line, strict=strict, rejections=rejections)


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(source) if zipped else source.open("rb") as file:
            for line, content in enumerate(file, start=1):
                if content.strip():
                    yield line, content
    except (EOFError, gzip.BadGzipFile) as error:
        raise ManifestError(f"{source}: the gzip file is damaged or cut short ({error}). Copy it again.") from error


def _parse(content: bytes) -> dict[str, Any]:
    try:
        cut = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"Not JSON: {error}.") from error
    if not isinstance(cut, dict):
        raise ManifestError(f"The line holds a {type(cut).__name__}; expected a cut.")
    return cut


def _to_utterance(cut: dict[str, Any], root: Path) -> Utterance:
    try:
        if cut.get("type") not in ("MonoCut", "MultiCut"):
            raise ManifestError(
                f"A cut of type {cut.get('type')!r} is no stretch of one recording. "
                "Save its audio first: CutSet.save_audios(folder) in lhotse."
            )
        start, duration = float(cut["start"]), float(cut["duration"])
        supervisions = sorted(cut.get("supervisions") or [], key=lambda one: float(one.get("start", 0)))
        words = [word for supervision in supervisions for word in _words(supervision, start)]
        texts = [supervision["text"] for supervision in supervisions if supervision.get("text")]
        return Utterance(
            id=str(cut["id"]),
            audio=absolute(root / _audio_file(cut)),
            start=start,
            duration=duration,
            text=" ".join(texts) or None,
            language=_only_value(supervisions, "language"),
            speaker=_only_value(supervisions, "speaker"),
            words=tuple(sorted(words, key=lambda word: word.start)) or None,
            extra={"custom": cut["custom"]} if cut.get("custom") else {},
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"Not a lhotse cut: {type(error).__name__}: {error}.") from error


def _audio_file(cut: dict[str, Any]) -> str:
    recording = cut.get("recording")
    if not recording:
        raise ManifestError("The cut has no recording; cuts of features only cannot be used. Attach the recordings.")
    if recording.get("transforms"):
        names = ", ".join(str(step.get("name")) for step in recording["transforms"])
        raise ManifestError(f"The recording is transformed on the fly ({names}). Save its audio first: save_audios.")
    if len(recording["sources"]) != 1:
        raise ManifestError(f"The recording has {len(recording['sources'])} sources; expected one file.")
    (source,) = recording["sources"]
    if source["type"] != "file":
        raise ManifestError(f"The audio is of type {source['type']!r}, not a file. Save it first: save_audios.")
    if cut["type"] == "MonoCut" and len(source["channels"]) > 1:
        raise ManifestError(
            f"The cut is channel {cut.get('channel')} of a file of {len(source['channels'])} channels; Vocable reads "
            "their mean. Save the channel first: save_audios."
        )
    return source["source"]


def _words(supervision: dict[str, Any], cut_start: float) -> Iterator[Word]:
    """Read the word alignment; lhotse counts its times from the start of the recording (`trim_to_alignments`)."""
    for symbol, start, duration, *_ in (supervision.get("alignment") or {}).get("word", []):
        if symbol.strip():
            yield Word(word=symbol, start=round(start - cut_start, 8), end=round(start + duration - cut_start, 8))


def _only_value(supervisions: list[dict[str, Any]], key: str) -> str | None:
    """The value that all supervisions share, or None."""
    values = {supervision.get(key) for supervision in supervisions}
    value = values.pop() if len(values) == 1 else None
    return None if value is None else str(value)
