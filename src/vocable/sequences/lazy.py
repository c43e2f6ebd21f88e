"""Sequences whose items are built when they are asked for, so that a corpus is never in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar, overload

import numpy as np
from jaxtyping import Int

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """The results of `build` for each item, made anew each time."""

    def __init__(self, items: Sequence[Any] | np.ndarray, build: Callable[[Any], T]) -> None:
        self.items, self.build = items, build

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "Lazy[T]": ...
    def __getitem__(self, index: int | slice) -> "T | Lazy[T]":
        if isinstance(index, slice):
            return Lazy(self.items[index], self.build)
        return self.build(self.items[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.build, self.items)

    def take(self, numbers: Sequence[int]) -> "Lazy[T]":
        """Return the items of these numbers: 8 bytes for each."""
        return Lazy(np.asarray(numbers, dtype=np.int64), lambda number: self[int(number)])


class LazyDocuments(Lazy[Any]):
    """Documents of token ids, of which only the lengths are held in memory."""

    def __init__(self, items: Sequence[Any], build: Callable[[Any], Sized], lengths: np.ndarray | None = None) -> None:
        """Build all documents once to measure them, where `lengths` does not say how long they are."""
        super().__init__(items, build)
        self.lengths = document_lengths(iter(self), len(items)) if lengths is None else lengths


def document_lengths(documents: Iterable[Sized], count: int = -1) -> Int[np.ndarray, " documents"]:
    """Return the tokens of each document: as they are known, or by going through the documents once."""
    if isinstance(documents, LazyDocuments):
        return documents.lengths
    return np.fromiter((len(document) for document in documents), np.int64, count)
