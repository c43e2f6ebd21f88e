"""Put documents of unequal length side by side in rows, so that nothing is padded.

    documents   aaaa bb ccc            row        aaaabbccc
                                       positions  012301012
    lengths     4 2 3                  labels     -aaa-b-cc     (-: not predicted)

Positions restart with each document, and attention stays inside it (lm/packed.py). The order follows from the seed and
the epoch alone. Next stage: lm/.
"""

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.sequences.lazy import Lazy, document_lengths

IGNORED_LABEL = -100
OPEN_ROWS = 16  # rows kept open while packing; more fill rows better and cost time


@dataclass(frozen=True, slots=True)
class MaskedDocument:
    """A document, and which of its tokens the loss counts; the others are read only. Stands wherever token ids do."""

    token_ids: Int[Tensor, " positions"]
    mask: Bool[Tensor, " positions"]
    """True for the tokens that are predicted."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, part: slice) -> "MaskedDocument":
        return MaskedDocument(self.token_ids[part], self.mask[part])

    def tolist(self) -> list[list[int]]:
        """Return ids and mask, to be described by."""
        return [self.token_ids.tolist(), self.mask.int().tolist()]


Document = Int[Tensor, " _"] | MaskedDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One row of documents. `labels` follow Hugging Face: equal to `token_ids`, shifted inside the loss."""

    token_ids: Int[Tensor, "1 positions"]
    position_ids: Int[Tensor, "1 positions"]
    """Restart at 0 with each document."""
    document_ids: Int[Tensor, "1 positions"]
    """Which document of this row each position belongs to."""
    labels: Int[Tensor, "1 positions"]
    """The token ids, with -100 where nothing is predicted: at the first position of each document, and where its mask
    is False."""
    lengths: tuple[int, ...]
    """Positions of each document."""

    @property
    def num_positions(self) -> int:
        """Tokens in the row."""
        return self.token_ids.shape[1]

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted, which is what a loss is averaged over."""
        return int((self.labels != IGNORED_LABEL).sum())

    def to(self, device: torch.device | str) -> "PackedBatch":
        """Return the same row on `device`."""
        return PackedBatch(
            token_ids=self.token_ids.to(device),
            position_ids=self.position_ids.to(device),
            document_ids=self.document_ids.to(device),
            labels=self.labels.to(device),
            lengths=self.lengths,
        )


class Piece(NamedTuple):
    """Positions `start` to `stop` of one document."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Positions in the piece."""
        return self.stop - self.start


class Pieces(Sequence[Piece]):
    """Pieces in one table: 24 bytes each."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    @property
    def lengths(self) -> np.ndarray:
        """Positions in each piece."""
        return self.table[:, 2] - self.table[:, 1]

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> "Pieces": ...
    def __getitem__(self, index: int | slice | np.ndarray) -> "Piece | Pieces":
        if isinstance(index, slice | np.ndarray):
            return Pieces(self.table[index])
        return Piece(*self.table[index].tolist())


class Rows(Sequence[list[int]]):
    """Which items each row holds: 8 bytes for each item, and for each row."""

    def __init__(self) -> None:
        self._items, self._ends = array("q"), array("q", [0])

    def append(self, row: Sequence[int]) -> None:
        """Add a row."""
        self._items.extend(row)
        self._ends.append(len(self._items))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._items[self._ends[index] : self._ends[index + 1]].tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingReport:
    """Counts of what cutting did to a set of documents."""

    num_documents: int
    num_tokens: int
    num_cut: int
    """Documents longer than the context, which became several pieces."""
    num_pieces: int
    num_too_short: int
    """Documents of fewer than two tokens, in which there is nothing to predict; left out."""


def cut_documents(lengths: Sequence[int] | np.ndarray, context_tokens: int) -> tuple[Pieces, PackingReport]:
    """Cut documents longer than `context_tokens`; every remainder is kept.

    A piece starts with the last token of the piece before it, as context: each token but a document's first is
    predicted exactly once. No start or end symbols are added at cuts.

    Raises:
        ConfigError: `context_tokens` is below 2.
    """
    if context_tokens < 2:
        raise ConfigError(f"context_tokens is {context_tokens}; predicting one token from another takes at least 2.")
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = np.maximum(0, -((1 - lengths) // (context_tokens - 1)))
    document = np.repeat(np.arange(len(lengths)), counts)
    start = (np.arange(len(document)) - np.repeat(counts.cumsum() - counts, counts)) * (context_tokens - 1)
    pieces = Pieces(np.stack([document, start, np.minimum(start + context_tokens, lengths[document])], axis=1))
    report = PackingReport(
        num_documents=len(lengths),
        num_tokens=int(lengths.sum()),
        num_cut=int((lengths > context_tokens).sum()),
        num_pieces=len(pieces),
        num_too_short=int((lengths < 2).sum()),
    )
    return pieces, report


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return 0 to `count` - 1 in the order of this epoch; the same seed and epoch always give the same order."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).numpy()


def plan_rows(lengths: Sequence[int] | np.ndarray, max_tokens: int) -> Rows:
    """Assign documents, in the order given, to rows of at most `max_tokens` positions (first fit, a few rows open).

    Raises:
        ConfigError: a document is longer than a row.
    """
    rows = Rows()
    open_rows: list[tuple[int, list[int]]] = []  # (free positions, documents)
    for index, length in enumerate(_integers(lengths)):
        if length > max_tokens:
            raise ConfigError(
                f"A document has {length} tokens, a row only {max_tokens}. Cut documents first, or use longer rows."
            )
        for slot, (free, row) in enumerate(open_rows):
            if length <= free:
                row.append(index)
                open_rows[slot] = (free - length, row)
                break
        else:
            if len(open_rows) == OPEN_ROWS:
                fullest = min(range(OPEN_ROWS), key=lambda slot: open_rows[slot][0])
                rows.append(open_rows.pop(fullest)[1])
            open_rows.append((max_tokens - length, [index]))
    for _, row in open_rows:
        rows.append(row)
    return rows


def _integers(values: Sequence[int] | np.ndarray) -> Iterator[int]:
    """Yield plain integers; those of an array a few thousand at a time, for one by one is slow."""
    blocks = (values[start : start + 4096] for start in range(0, len(values), 4096))
    return itertools.chain.from_iterable(b.tolist() if isinstance(b, np.ndarray) else b for b in blocks)


def concatenate(documents: Sequence[Document]) -> PackedBatch:
    """Put whole documents into one row, in the order given.

    Raises:
        ConfigError: there are no documents, or one is empty.
    """
    lengths = tuple(len(document) for document in documents)
    if not lengths or 0 in lengths:
        raise ConfigError("A packed row needs at least one document, and no document may be empty.")
    plain = [one.token_ids if isinstance(one, MaskedDocument) else one for one in documents]
    token_ids = torch.cat([document.long() for document in plain])
    position_ids = torch.cat([torch.arange(length) for length in lengths])
    document_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    labels = token_ids.masked_fill(position_ids.to(token_ids.device) == 0, IGNORED_LABEL)
    if any(isinstance(one, MaskedDocument) for one in documents):
        masks = [one.mask if isinstance(one, MaskedDocument) else torch.ones(len(one)).bool() for one in documents]
        labels = labels.masked_fill(~torch.cat(masks).to(labels.device), IGNORED_LABEL)
    device = token_ids.device
    return PackedBatch(
        token_ids=token_ids[None],
        position_ids=position_ids[None].to(device),
        document_ids=document_ids[None].to(device),
        labels=labels[None],
        lengths=lengths,
    )


class PackedRows(Lazy[Any]):
    """Rows of pieces of documents, each row built when it is asked for."""

    def __init__(
        self,
        documents: Sequence[Any],
        pieces: Pieces,
        max_tokens: int,
        join: Callable[[Sequence[Any]], Any] = concatenate,
    ) -> None:
        """Plan the rows; pieces keep their order as far as packing allows. `join` makes a row of pieces."""
        self.documents, self.pieces, self.join = documents, pieces, join
        super().__init__(plan_rows(pieces.lengths, max_tokens), self._pack)

    def _pack(self, row: Sequence[int]) -> Any:
        pieces = [self.pieces[place] for place in row]
        return self.join([self.documents[piece.document][piece.start : piece.stop] for piece in pieces])


def pack_documents(
    documents: Sequence[Any],
    max_tokens: int,
    *,
    context_tokens: int | None = None,
    seed: int | None = None,
    epoch: int = 0,
    join: Callable[[Sequence[Any]], Any] = concatenate,
) -> PackedRows:
    """Put all documents once into rows of at most `max_tokens` positions.

    Documents longer than `context_tokens` (None: `max_tokens`) are cut. With a `seed` the order is that of the epoch;
    without, documents keep their order as far as packing allows.
    """
    pieces, _ = cut_documents(document_lengths(documents), context_tokens or max_tokens)
    if seed is not None:
        pieces = pieces[shuffled(len(pieces), seed, epoch)]
    return PackedRows(documents, pieces, max_tokens, join)


def token_budget_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group documents, longest first, into batches of at most `max_tokens` tokens; a longer one is a batch of its own.

    Documents of equal length come out side by side, so that attention can take them together.
    """
    batches: list[list[int]] = []
    used = max_tokens
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or used + lengths[index] > max_tokens:
            batches.append([])
            used = 0
        batches[-1].append(index)
        used += lengths[index]
    return batches
