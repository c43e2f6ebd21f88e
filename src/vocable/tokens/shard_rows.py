"""Utterances with their tokens as rows of a Parquet table, and back.

The columns are the keys of a manifest line, then `codes` (one list per level), `durations`, for tokens that follow
words `token_words` and `spans`, and for the first utterances of a manifest `levels`, the loudness of each frame. A
tokenizer with several streams has these five for each: `codes.semantic` and so on. Any Parquet reader can read them;
`audio` is relative to the file's folder.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from vocable.audio.manifest import absolute
from vocable.types import SpeechTokens, Stream, Utterance, Word

METADATA_KEY = b"vocable"
"""Under which the schema metadata holds fingerprint, card, run and rejections, as JSON."""

TOKEN_COLUMNS = ("codes", "durations", "token_words", "spans", "levels")
"""Columns that each stream has."""

_WORDS = pa.list_(pa.struct([("word", pa.string()), ("start", pa.float64()), ("end", pa.float64())]))
_TEXTS = ("text", "language", "speaker", "corpus", "licence", "split")


def make_schema(streams: Sequence[Stream], metadata: Mapping[str, Any]) -> pa.Schema:
    """Return the columns; codes are uint16 where they fit, else int32."""
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("audio", pa.string(), nullable=False),
        pa.field("start", pa.float64(), nullable=False),
        pa.field("duration", pa.float64()),
        *(pa.field(name, pa.string()) for name in _TEXTS),
        pa.field("words", _WORDS),
        pa.field("extra", pa.string()),  # JSON: its keys differ from manifest to manifest
    ]
    for stream in streams:
        suffix = column_suffix(stream, streams)
        code = pa.uint16() if max(stream.codebook_sizes) <= 1 << 16 else pa.int32()
        fields += [
            pa.field(f"codes{suffix}", pa.list_(pa.list_(code)), nullable=False),
            pa.field(f"durations{suffix}", pa.list_(pa.int32())),
            pa.field(f"token_words{suffix}", _WORDS),
            pa.field(f"spans{suffix}", pa.list_(pa.list_(pa.int32()))),
            pa.field(f"levels{suffix}", pa.list_(pa.float32())),
        ]
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(metadata, ensure_ascii=False).encode()})


def utterance_to_row(utterance: Utterance, folder: Path) -> dict[str, Any]:
    """Return the manifest's part of a row; `folder` is where the shard lies."""
    return {
        "id": utterance.id,
        "audio": _relative(utterance.audio, folder),
        "start": utterance.start,
        "duration": utterance.duration,
        **{name: getattr(utterance, name) for name in _TEXTS},
        "words": _words_to_list(utterance.words),
        "extra": json.dumps(dict(utterance.extra), ensure_ascii=False) if utterance.extra else None,
    }


def tokens_to_row(tokens: SpeechTokens, streams: Sequence[Stream]) -> dict[str, Any]:
    """Return the tokens' part of a row."""
    row: dict[str, Any] = {}
    for stream in streams:
        one, suffix = tokens.stream(stream.name), column_suffix(stream, streams)
        row |= {
            f"codes{suffix}": one.codes.tolist(),
            f"durations{suffix}": None if one.durations is None else one.durations.tolist(),
            f"token_words{suffix}": _words_to_list(one.words),
            f"spans{suffix}": None if one.spans is None else one.spans.tolist(),
        }
    return row


def row_to_utterance(row: Mapping[str, Any], folder: Path) -> Utterance:
    """Undo `utterance_to_row`."""
    return Utterance(
        id=row["id"],
        audio=absolute(folder / row["audio"]),
        start=row["start"],
        duration=row["duration"],
        words=_words_from_list(row["words"]),
        extra=json.loads(row["extra"]) if row["extra"] else {},
        **{name: row.get(name) for name in _TEXTS},  # shards of earlier versions have no split
    )


def row_to_tokens(row: Mapping[str, Any], streams: Sequence[Stream]) -> SpeechTokens:
    """Undo `tokens_to_row`; integers come back as int64."""
    if len(streams) == 1:
        return _row_to_stream(row, "")
    return SpeechTokens(streams={one.name: _row_to_stream(row, column_suffix(one, streams)) for one in streams})


def _row_to_stream(row: Mapping[str, Any], suffix: str) -> SpeechTokens:
    codes, spans = row[f"codes{suffix}"], row[f"spans{suffix}"]
    return SpeechTokens(
        codes=torch.tensor(codes, dtype=torch.int64).reshape(len(codes), -1),
        durations=_integers(row[f"durations{suffix}"]),
        words=_words_from_list(row[f"token_words{suffix}"]),
        spans=None if spans is None else torch.tensor(spans, dtype=torch.int64).reshape(-1, 2),
    )


def column_suffix(stream: Stream, streams: Sequence[Stream]) -> str:
    """End of the names of a stream's columns; a single stream has the plain names."""
    return "" if len(streams) == 1 else f".{stream.name}"


def _integers(values: Sequence[int] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.int64)


def _words_to_list(words: Sequence[Word] | None) -> list[dict[str, Any]] | None:
    if words is None:
        return None
    return [{"word": word.word, "start": word.start, "end": word.end} for word in words]


def _words_from_list(rows: Sequence[Mapping[str, Any]] | None) -> tuple[Word, ...] | None:
    return None if rows is None else tuple(Word(**row) for row in rows)


def _relative(audio: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(absolute(audio), absolute(folder))).as_posix()
    except ValueError:  # another drive, on Windows
        return absolute(audio).as_posix()
