"""The endless stream of packed rows that a run reads: one order per seed and epoch, from any position on.

`PackedStream` reads documents that stay the same, in a new order each epoch; `EpochStream` documents that each epoch
makes anew, such as a mixture whose sentences alternate between speech and text at other words each time.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from vocable.errors import ConfigError
from vocable.sequences.lazy import document_lengths
from vocable.sequences.packing import Document, PackedRows, concatenate, cut_documents, shuffled
from vocable.training.task import DataSize


class RowStream(ABC):
    """What both streams share: a plan of rows, a position in it, and what follows when the plan is used up."""

    plan: PackedRows
    row: int

    def next_rows(self, count: int, process: int = 0, num_processes: int = 1) -> list[Any]:
        """Return this process's share of the next `count` rows, and move on by `count`."""
        rows: list[Any] = []
        for place in range(count):
            if self.row == len(self.plan):
                self._advance()
            if place % num_processes == process:
                rows.append(self.plan[self.row])
            self.row += 1
        return rows

    @abstractmethod
    def size(self) -> DataSize:
        """Count documents, and where they stay the same their tokens."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the documents well enough to notice other ones, as JSON values."""

    @abstractmethod
    def _advance(self) -> None:
        """Make the next plan."""


class PackedStream(RowStream):
    """Rows of documents, epoch after epoch; no row is lost between epochs.

    The order depends on the seed and the epoch alone, and each process builds only its own rows, so any number of
    processes sees the same rows in the same steps.
    """

    def __init__(
        self,
        documents: Sequence[Any],
        *,
        context_tokens: int,
        max_tokens: int,
        seed: int,
        join: Callable[[Sequence[Any]], Any] = concatenate,
    ) -> None:
        """Plan the rows; `documents` is read lazily, one item when its row comes up. `join` makes a row of some.

        Raises:
            ConfigError: no document has two tokens.
        """
        self.documents, self.join = documents, join
        self.max_tokens = max_tokens
        self.seed = seed
        self.pieces, report = cut_documents(document_lengths(documents), context_tokens)
        self.report = asdict(report)
        if not self.pieces:
            raise ConfigError(
                f"None of the {len(documents)} training documents has two tokens; there is nothing to predict."
            )
        self._start_epoch(0)

    def size(self) -> DataSize:
        """Count documents and their tokens."""
        return DataSize(len(self.documents), "document", tokens=self.report["num_tokens"])

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"epoch": self.epoch, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self._start_epoch(state["epoch"])
        self.row = state["row"]

    def describe(self) -> dict[str, Any]:
        """Describe the documents: their lengths, and the first few in full."""
        return describe_documents(self.documents)

    def _advance(self) -> None:
        self._start_epoch(self.epoch + 1)

    def _start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.row = 0
        order = self.pieces[shuffled(len(self.pieces), self.seed, epoch)]
        self.plan = PackedRows(self.documents, order, self.max_tokens, self.join)


class EpochStream(RowStream):
    """Rows of documents that are made for each epoch, in the order in which the epoch has them.

    Documents are built once, `window` at a time, and packed within their window, so that an epoch need not fit in
    memory. Each process builds all documents of a window and keeps its own rows of it.
    """

    def __init__(
        self,
        epochs: Callable[[int], Sequence[Document]],
        *,
        context_tokens: int,
        max_tokens: int,
        window: int = 4096,
    ) -> None:
        """Plan the first window; `epochs` returns the documents of an epoch, the same ones each time it is asked.

        Raises:
            ConfigError: no document of the first epoch has two tokens.
        """
        self.epochs = epochs
        self.context_tokens = context_tokens
        self.max_tokens = max_tokens
        self.window = window
        self._load(0, 0)
        if not self.plan:
            raise ConfigError("No document of the first epoch has two tokens; there is nothing to predict.")

    def size(self) -> DataSize:
        """Count the documents of the first epoch; their tokens are not known before they are built."""
        return DataSize(len(self.epochs(0)), "document")

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"epoch": self.epoch, "window": self.start, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self._load(state["epoch"], state["window"])
        self.row = state["row"]

    def describe(self) -> dict[str, Any]:
        """Describe the first window, and how many documents the first epoch has."""
        first = self.epochs(0)
        return {"first_epoch": len(first), **describe_documents(list(first[: self.window]))}

    def _load(self, epoch: int, start: int) -> None:
        source = self.epochs(epoch)
        self.epoch, self.start, self.row = epoch, start, 0
        self.last_window = start + self.window >= len(source)
        documents = list(source[start : start + self.window])
        pieces, _ = cut_documents(document_lengths(documents), self.context_tokens)
        self.plan = PackedRows(documents, pieces, self.max_tokens)

    def _advance(self) -> None:
        epoch = self.epoch
        while True:  # a window may hold nothing but documents that are too short
            self._load(*((self.epoch + 1, 0) if self.last_window else (self.epoch, self.start + self.window)))
            if self.plan:
                return
            if self.epoch > epoch + 1:
                raise ConfigError(f"No document of epoch {epoch + 1} has two tokens; there is nothing to predict.")


def describe_documents(documents: Sequence[Document]) -> dict[str, Any]:
    """Describe a set of documents well enough to notice another one: its lengths, and the first few in full."""
    lengths = document_lengths(documents)
    first = [documents[index].tolist() for index in range(min(8, len(documents)))]
    digest = hashlib.sha256(b"([")  # the bytes of repr((list of lengths, first)), a part at a time
    for start in range(0, len(lengths), 4096):
        part = ", ".join(map(str, lengths[start : start + 4096].tolist()))
        digest.update((", " if start else "").encode() + part.encode())
    digest.update(f"], {first!r})".encode())
    return {
        "num_documents": len(lengths),
        "num_tokens": int(lengths.sum()),
        "sha256": digest.hexdigest()[:16],
    }
