"""Put documents of unequal length side by side in rows, so that nothing is padded.

    documents   aaaa bb ccc            row        aaaabbccc
                                       positions  012301012
    lengths     4 2 3                  labels     -aaa-b-cc     (-: not predicted)

Positions restart with each document, and attention stays inside it (lm/packed.py). The order follows from the seed and
the epoch alone. Next stage: lm/.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError

IGNORED_LABEL = -100
OPEN_ROWS = 16  # rows kept open while packing; more fill rows better and cost time


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One row of documents. `labels` follow Hugging Face: equal to `token_ids`, shifted inside the loss."""

    token_ids: Int[Tensor, "1 positions"]
    position_ids: Int[Tensor, "1 positions"]
    """Restart at 0 with each document."""
    document_ids: Int[Tensor, "1 positions"]
    """Which document of this row each position belongs to."""
    labels: Int[Tensor, "1 positions"]
    """The token ids, with -100 where nothing is predicted: at the first position of each document."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingReport:
    """What cutting did to a set of documents."""

    num_documents: int
    num_tokens: int
    num_cut: int
    """Documents longer than the context, which became several pieces."""
    num_pieces: int
    num_too_short: int
    """Documents of fewer than two tokens, in which there is nothing to predict; left out."""


def cut_documents(lengths: Sequence[int], context_tokens: int) -> tuple[list[Piece], PackingReport]:
    """Cut documents longer than `context_tokens`; every remainder is kept.

    A piece starts with the last token of the piece before it, as context: each token but a document's first is
    predicted exactly once. No start or end symbols are added at cuts.

    Raises:
        ConfigError: `context_tokens` is below 2.
    """
    if context_tokens < 2:
        raise ConfigError(f"context_tokens is {context_tokens}; predicting one token from another takes at least 2.")
    pieces = []
    for document, length in enumerate(lengths):
        for start in range(0, length - 1, context_tokens - 1):
            pieces.append(Piece(document, start, min(start + context_tokens, length)))
    report = PackingReport(
        num_documents=len(lengths),
        num_tokens=sum(lengths),
        num_cut=sum(length > context_tokens for length in lengths),
        num_pieces=len(pieces),
        num_too_short=sum(length < 2 for length in lengths),
    )
    return pieces, report


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """Return 0 to `count` - 1 in the order of this epoch; the same seed and epoch always give the same order."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()


def plan_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Assign documents, in the order given, to rows of at most `max_tokens` positions (first fit, a few rows open).

    Raises:
        ConfigError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []  # (free positions, documents)
    for index, length in enumerate(lengths):
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
    return rows + [row for _, row in open_rows]


def concatenate(documents: Sequence[Int[Tensor, " _"]]) -> PackedBatch:
    """Put whole documents into one row, in the order given.

    Raises:
        ConfigError: there are no documents, or one is empty.
    """
    lengths = tuple(len(document) for document in documents)
    if not lengths or 0 in lengths:
        raise ConfigError("A packed row needs at least one document, and no document may be empty.")
    token_ids = torch.cat([document.long() for document in documents])
    position_ids = torch.cat([torch.arange(length) for length in lengths])
    document_ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    labels = token_ids.masked_fill(position_ids.to(token_ids.device) == 0, IGNORED_LABEL)
    device = token_ids.device
    return PackedBatch(
        token_ids=token_ids[None],
        position_ids=position_ids[None].to(device),
        document_ids=document_ids[None].to(device),
        labels=labels[None],
        lengths=lengths,
    )


def pack_documents(
    documents: Sequence[Int[Tensor, " _"]],
    max_tokens: int,
    *,
    context_tokens: int | None = None,
    seed: int | None = None,
    epoch: int = 0,
) -> Iterator[PackedBatch]:
    """Yield all documents once, in rows of at most `max_tokens` positions.

    Documents longer than `context_tokens` (None: `max_tokens`) are cut. With a `seed` the order is that of the epoch;
    without, documents keep their order as far as packing allows.
    """
    pieces, _ = cut_documents([len(document) for document in documents], context_tokens or max_tokens)
    if seed is not None:
        pieces = [pieces[index] for index in shuffled(len(pieces), seed, epoch)]
    for row in plan_rows([piece.length for piece in pieces], max_tokens):
        yield concatenate([documents[pieces[i].document][pieces[i].start : pieces[i].stop] for i in row])


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
