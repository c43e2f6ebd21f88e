"""The endless stream of packed rows that a run reads: one order per seed and epoch, from any position on."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from vocable.errors import ConfigError
from vocable.sequences.packing import PackedBatch, Piece, concatenate, cut_documents, plan_rows, shuffled


class PackedStream:
    """Rows of documents, epoch after epoch; no row is lost between epochs.

    The order depends on the seed and the epoch alone, and each process builds only its own rows, so any number of
    processes sees the same rows in the same steps.
    """

    def __init__(self, documents: Sequence[Tensor], *, context_tokens: int, max_tokens: int, seed: int) -> None:
        """Plan the rows; `documents` is read lazily, one item when its row comes up.

        Raises:
            ConfigError: no document has two tokens.
        """
        self.documents = documents
        self.max_tokens = max_tokens
        self.seed = seed
        self.pieces, report = cut_documents([len(document) for document in documents], context_tokens)
        self.report = asdict(report)
        if not self.pieces:
            raise ConfigError(
                f"None of the {len(documents)} training documents has two tokens; there is nothing to predict."
            )
        self._start_epoch(0)

    def next_rows(self, count: int, process: int = 0, num_processes: int = 1) -> list[PackedBatch]:
        """Return this process's share of the next `count` rows, and move on by `count`."""
        rows = []
        for place in range(count):
            if self.row == len(self.plan):
                self._start_epoch(self.epoch + 1)
            if place % num_processes == process:
                rows.append(self._build(self.plan[self.row]))
            self.row += 1
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream."""
        return {"epoch": self.epoch, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned."""
        self._start_epoch(state["epoch"])
        self.row = state["row"]

    def _start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.row = 0
        order = [self.pieces[index] for index in shuffled(len(self.pieces), self.seed, epoch)]
        rows = plan_rows([piece.length for piece in order], self.max_tokens)
        self.plan: list[list[Piece]] = [[order[index] for index in row] for row in rows]

    def _build(self, pieces: Sequence[Piece]) -> PackedBatch:
        return concatenate([self.documents[piece.document][piece.start : piece.stop] for piece in pieces])
