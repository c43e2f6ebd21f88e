"""Rows of token shards by number, from a memory-mapped file: memory stays flat however large the corpus is.

    tokens-*.parquet (compressed)  --first use-->  .columns/tokens.arrow (plain)  --mmap-->  rows[i]: one utterance

Parquet has to be decompressed and cannot be mapped; the copy can, and a row of it takes a tenth of a millisecond. It is
made again when a shard has changed. Where the folder cannot be written, it lies in Vocable's cache. (`datasets` would
make such a copy too, in a cache of its own; importing it takes 130 MB, and reading a row twice the time.)
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vocable.assets.cache import cache_folder
from vocable.errors import OutputError
from vocable.files import replace_file
from vocable.splits import By, assign_splits, refuse_nothing_to_train_on
from vocable.tokens.fingerprint import fingerprint
from vocable.tokens.shard_rows import (
    TOKEN_COLUMNS,
    column_suffix,
    make_schema,
    row_to_tokens,
    row_to_utterance,
    tokens_to_row,
    utterance_to_row,
)
from vocable.tokens.streams import choose_stream
from vocable.types import SpeechTokens, Split, Stream, Utterance

BATCH_ROWS = 4096
"""Rows of the copy that are decompressed, and held in memory, at a time."""
KEY = b"vocable_shards"
"""Metadata entry of the copy that names the shards it was made from."""

Pair = tuple[Utterance, SpeechTokens]


class Columns:
    """Record batches of shard rows, of a mapped file or in memory; audio paths are relative to `folder`."""

    def __init__(self, batches: Sequence[pa.RecordBatch], folder: Path, streams: Sequence[Stream]) -> None:
        self.batches, self.folder, self.streams = list(batches), folder, tuple(streams)
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self._path: Path | None = None
        self._mapped: mmap.mmap | None = None

    @classmethod
    def open(cls, path: Path, folder: Path, streams: Sequence[Stream]) -> Columns:
        """Map an Arrow file."""
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
        columns = cls([reader.get_batch(index) for index in range(reader.num_record_batches)], folder, streams)
        columns._path, columns._mapped = path, mapped
        return columns

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process map the file again."""
        where = (self.folder, self.streams)
        return (Columns, (self.batches, *where)) if self._path is None else (Columns.open, (self._path, *where))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def pair(self, place: int) -> Pair:
        """Return the utterance of one row, and its tokens."""
        batch = int(np.searchsorted(self.starts, place, side="right")) - 1
        (row,) = self.batches[batch].slice(place - int(self.starts[batch]), 1).to_pylist()
        return row_to_utterance(row, self.folder), row_to_tokens(row, self.streams)

    def release(self) -> None:
        """Tell the system that pages read so far are not needed; it would find out only when memory is short."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


class TokenRows(Sequence[Pair]):
    """Utterances with their tokens, each read when it is asked for; a selection holds 8 bytes for each."""

    parts: Sequence[Columns]
    """Where the rows are read from."""
    places: np.ndarray
    """Number of each row, counted over all parts."""
    chosen: str | None = None
    """Stream that is read; None reads all there are."""

    def __init__(self, parts: Sequence[Columns], places: np.ndarray | None = None, chosen: str | None = None) -> None:
        self.parts, self.chosen = parts, chosen
        self.places = np.arange(sum(map(len, parts))) if places is None else places

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> TokenRows:
        """Return rows as they are, and put other pairs into columns in memory."""
        if isinstance(pairs, TokenRows):
            return pairs
        folder, pairs = Path.cwd(), list(pairs)
        num_levels = max((len(tokens.codes) for _, tokens in pairs), default=1)
        streams = (Stream(name="units", codebook_sizes=(1 << 31,) * num_levels, rate=None),)
        rows = [utterance_to_row(utterance, folder) | tokens_to_row(tokens, streams) for utterance, tokens in pairs]
        table = pa.Table.from_pylist(rows, schema=make_schema(streams, {}))
        return TokenRows([Columns(table.to_batches(), folder, streams)])

    @functools.cached_property
    def num_frames(self) -> np.ndarray:
        """Frames of each utterance before run collapsing; positions, where tokens follow words.

        Raises:
            ConfigError: there are several streams.
        """
        frames = [np.zeros(0, np.int64)]
        for part in self.parts:
            frames += [_count_frames(batch, self._suffix(part)) for batch in part.batches]
        self.release()
        return np.concatenate(frames)[self.places]

    @property
    def any_durations(self) -> bool:
        """Whether any row that these were selected from has runs with durations."""
        columns = (batch.column(f"durations{self._suffix(part)}") for part in self.parts for batch in part.batches)
        return any(column.null_count < len(column) for column in columns)

    @property
    def marks(self) -> _Marks:
        """The fields that a split is decided by."""
        return _Marks(self)

    def divide(self, valid_share: float, by: By = "id") -> tuple[TokenRows, TokenRows]:
        """Return the rows to train on and those to validate on, as `splits.divide` does.

        Raises:
            ManifestError: nothing is left to train on.
        """
        splits = assign_splits(self.marks, valid_share, by=by)
        train, valid = (np.array([split == wanted for split in splits], dtype=bool) for wanted in ("train", "valid"))
        refuse_nothing_to_train_on(int(train.sum()), self.marks)
        return self.select(train), self.select(valid)

    def training_rows(self) -> TokenRows:
        """Return what may be trained on where validation has a set of its own, as `splits.training_items` does.

        Raises:
            ManifestError: nothing is left.
        """
        train = np.fromiter((split in (None, "train") for split in self.values("split")), bool)
        refuse_nothing_to_train_on(int(train.sum()), self.marks)
        return self.select(train)

    def validation_rows(self) -> TokenRows:
        """Return what a set given for validation is used for, as `splits.validation_items` does."""
        valid = np.fromiter((split == "valid" for split in self.values("split")), bool)
        return self.select(valid) if valid.any() else self

    def values(self, column: str) -> Iterator[Any]:
        """Yield what one column holds, such as `id`, or of the only stream `levels`, without reading the others."""
        chunks = [
            batch.column(column + (self._suffix(part) if column in TOKEN_COLUMNS else ""))
            for part in self.parts
            for batch in part.batches
        ]
        whole = pa.chunked_array(chunks, type=None if chunks else pa.null())
        for start in range(0, len(self), BATCH_ROWS):
            yield from whole.take(self.places[start : start + BATCH_ROWS]).to_pylist()
        self.release()

    def select(self, which: np.ndarray) -> TokenRows:
        """Return some of the rows: by number, in that order, or where `which` is True."""
        return TokenRows(self.parts, self.places[which], self.chosen)

    def release(self) -> None:
        """Give memory back after going through all rows; see `Columns.release`."""
        for part in self.parts:
            part.release()

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index: int | slice) -> Pair | TokenRows:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place = int(self.places[index])
        for part in self.parts:
            if place < len(part):
                utterance, tokens = part.pair(place)
                return utterance, self._chosen(tokens)
            place -= len(part)
        raise IndexError(index)

    def _suffix(self, part: Columns) -> str:
        return column_suffix(choose_stream(part.streams, self.chosen, str(part.folder)), part.streams)

    def _chosen(self, tokens: SpeechTokens) -> SpeechTokens:
        return tokens if self.chosen is None else tokens.stream(self.chosen)

    def __iter__(self) -> Iterator[Pair]:
        for index in range(len(self)):
            yield self[index]
            if index % BATCH_ROWS == BATCH_ROWS - 1:
                self.release()
        self.release()

    def __add__(self, other: TokenRows) -> TokenRows:
        """Return these rows followed by others."""
        shift = sum(map(len, self.parts))
        places = np.concatenate([self.places, other.places + shift])
        return TokenRows([*self.parts, *other.parts], places, self.chosen)


class Mark(NamedTuple):
    """The fields that decide about the split of an utterance."""

    id: str
    text: str | None
    speaker: str | None
    split: Split | None


class _Marks(Sequence[Mark]):
    """Marks of all rows, made while they are gone through."""

    def __init__(self, rows: TokenRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Mark: ...
    @overload
    def __getitem__(self, index: slice) -> _Marks: ...
    def __getitem__(self, index: int | slice) -> Mark | _Marks:
        if isinstance(index, slice):
            return _Marks(self._rows[index])
        return next(iter(_Marks(self._rows.select(np.array([index])))))

    def __iter__(self) -> Iterator[Mark]:
        return map(Mark, *map(self._rows.values, Mark._fields))


def map_shards(paths: Sequence[Path], folder: Path, streams: Sequence[Stream]) -> Columns:
    """Map the copy of these shards; make it first where there is none, or a shard has changed.

    Raises:
        OutputError: the copy can be written neither into the folder nor into the cache.
    """
    stamps = [[path.name, (status := path.stat()).st_size, status.st_mtime_ns] for path in paths]
    newest = make_schema(streams, {})
    key = fingerprint({"shards": stamps, "columns": newest.names})
    inside = folder / ".columns" / "tokens.arrow"
    elsewhere = cache_folder() / "columns" / f"{fingerprint({'folder': str(folder.resolve())})}.arrow"
    for copy in (inside, elsewhere):
        if _key_of(copy) == key:
            return Columns.open(copy, folder, streams)
    try:
        _copy(paths, inside, newest, key)
    except OutputError:
        _copy(paths, elsewhere, newest, key)
        return Columns.open(elsewhere, folder, streams)
    return Columns.open(inside, folder, streams)


def _copy(paths: Sequence[Path], copy: Path, newest: pa.Schema, key: str) -> None:
    """Write all columns; shards of earlier versions lack some of the newest, which hold nulls then."""
    fields = list(pq.read_schema(paths[0]))
    missing = [field for field in newest if field.name not in {field.name for field in fields}]
    schema = pa.schema([*fields, *missing], metadata={KEY: key.encode()})
    with replace_file(copy) as file, pa.ipc.new_file(file, schema) as writer:
        waiting: list[pa.RecordBatch] = []
        for path in paths:
            with pq.ParquetFile(path) as shard:
                waiting += shard.iter_batches(batch_size=BATCH_ROWS)
            if sum(batch.num_rows for batch in waiting) >= BATCH_ROWS:
                _write_joined(waiting, writer, schema)
                waiting = []
        _write_joined(waiting, writer, schema)


def _write_joined(batches: Sequence[pa.RecordBatch], writer: Any, schema: pa.Schema) -> None:
    """Write batches as one; a column that a shard of an older version lacks holds nulls there."""
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    if tables:
        whole = pa.concat_tables([_with_columns(table, schema) for table in tables]).combine_chunks()
        writer.write_table(whole)


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table.column(field.name) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _key_of(copy: Path) -> str | None:
    try:
        with pa.OSFile(str(copy)) as file:
            return (pa.ipc.open_file(file).schema.metadata or {})[KEY].decode()
    except (OSError, pa.ArrowInvalid, KeyError):
        return None


def _count_frames(batch: pa.RecordBatch, suffix: str) -> np.ndarray:
    """Add up durations; where there are none, count the codes of the first level."""
    codes, durations = batch.column(f"codes{suffix}"), batch.column(f"durations{suffix}")
    rows, levels = codes.offsets.to_numpy(), codes.values.offsets.to_numpy()
    positions = np.where(np.diff(rows) > 0, levels[np.minimum(rows[:-1] + 1, len(levels) - 1)] - levels[rows[:-1]], 0)
    ends = np.concatenate([[0], durations.values.to_numpy().cumsum(dtype=np.int64)])[durations.offsets.to_numpy()]
    return np.where(durations.is_null().to_numpy(zero_copy_only=False), positions, np.diff(ends)).astype(np.int64)
