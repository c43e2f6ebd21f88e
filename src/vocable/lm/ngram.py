"""Unigram, bigram and trigram models over token ids: the controls that a neural unit LM has to beat.

    documents -> NgramCounts (kept beside a model as ngrams.npz) -> NgramLM of order 1, 2 or 3

Tables need no training steps and know only which unit follows which; a language model that does not go below the loss
of the bigram table has learnt phonotactics at best.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import AssetError
from vocable.files import replace_file

COUNTS_NAME = "ngrams.npz"


class NgramCounts:
    """How often every three neighbouring token ids occur; before the first id of a document stands an empty place."""

    def __init__(self, keys: Int[Tensor, " kinds"], counts: Int[Tensor, " kinds"], vocabulary_size: int) -> None:
        """Take what `of` counted: one sorted key for the three ids, base `vocabulary_size` + 1."""
        self.keys, self.counts, self.vocabulary_size = keys, counts, vocabulary_size

    @classmethod
    def of(cls, documents: Sequence[Int[Tensor, " _"]], vocabulary_size: int) -> "NgramCounts":
        """Count documents, as a language model reads them: symbols included."""
        found = torch.cat([_keys(document, vocabulary_size) for document in documents])
        keys, counts = torch.unique(found, return_counts=True)
        return cls(keys, counts, vocabulary_size)

    def save(self, folder: Path) -> None:
        """Write ngrams.npz into the folder of a model: keys as steps from one to the next, which pack well."""
        steps, counts = self.keys.diff(prepend=self.keys.new_zeros(1)), self.counts.to(torch.int32)
        with replace_file(Path(folder) / COUNTS_NAME) as file:
            np.savez_compressed(file, steps=steps.numpy(), counts=counts.numpy(), vocabulary_size=self.vocabulary_size)

    @classmethod
    def load(cls, folder: Path) -> "NgramCounts":
        """Read what `save` wrote.

        Raises:
            AssetError: the file is missing or damaged.
        """
        path = Path(folder) / COUNTS_NAME
        try:
            with np.load(path, allow_pickle=False) as stored:
                steps, counts = torch.from_numpy(stored["steps"]), torch.from_numpy(stored["counts"])
                return cls(steps.cumsum(0), counts.long(), int(stored["vocabulary_size"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise AssetError(f"{path}: no counts of a model's training units that can be read ({error}).") from error


class NgramLM:
    """Counts of token ids (`order` 1), of pairs (2) or of triples of them (3), smoothed.

    The unigram is add-one smoothed; the others are interpolated with the next lower order as Witten and Bell (1991) do:
    p(b|a) = (c(a,b) + t(a) p(b)) / (c(a) + t(a)), where t(a) is the number of different ids seen after a.
    """

    def __init__(self, counts: NgramCounts, order: int) -> None:
        if order not in (1, 2, 3):
            raise ValueError(f"order is {order}; only 1 (unigram), 2 (bigram) and 3 (trigram) exist.")
        self.order, self.counts, size = order, counts, counts.vocabulary_size
        pairs, weights = counts.keys % (size + 1) ** 2, counts.counts.double()
        before, after = pairs // (size + 1), pairs % (size + 1)
        unigram = torch.bincount(after, weights, minlength=size) + 1
        self.unigram = unigram / unigram.sum()
        if order > 1:
            table = torch.bincount(before * size + after, weights, minlength=size**2).view(size, -1)
            kinds = (table > 0).sum(1, keepdim=True).double().clamp(min=1)  # an id never seen: the unigram alone
            self.bigram = (table + kinds * self.unigram) / (table.sum(1, keepdim=True) + kinds)
        if order > 2:
            self._contexts, place, kinds = torch.unique_consecutive(
                counts.keys // (size + 1), return_inverse=True, return_counts=True
            )
            self._kinds, self._totals = kinds.double(), torch.bincount(place, weights)

    def nll(self, document: Int[Tensor, " positions"]) -> Float[Tensor, " predicted"]:
        """Return the negative log-likelihood, in nats, of every token after the first."""
        if self.order == 1:
            return -self.unigram[document[1:]].log()
        lower = self.bigram[document[:-1], document[1:]]
        return -(lower if self.order == 2 else self._trigram(document, lower)).log()

    def _trigram(self, document: Tensor, lower: Tensor) -> Tensor:
        keys = _keys(document, self.counts.vocabulary_size)
        seen = _look_up(keys, self.counts.keys, self.counts.counts.double())
        contexts = keys // (self.counts.vocabulary_size + 1)
        totals, kinds = (_look_up(contexts, self._contexts, values) for values in (self._totals, self._kinds))
        return torch.where(totals > 0, (seen + kinds * lower) / (totals + kinds).clamp(min=1), lower)


def _keys(document: Tensor, size: int) -> Tensor:
    """One number for each token after the first, and the two before it."""
    document = document.long()
    first = torch.cat([document.new_full((1,), size), document[:-2]])[: max(len(document) - 1, 0)]
    return (first * (size + 1) + document[:-1]) * (size + 1) + document[1:]


def _look_up(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the value of each key, 0 where there is none."""
    places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[places] == wanted, values[places], 0.0)
