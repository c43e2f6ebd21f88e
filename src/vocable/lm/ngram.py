"""Unigram and bigram models over token ids: the controls that a neural unit LM has to beat.

A bigram table needs no training steps and knows only which unit follows which; a language model that does not go below
its loss has learnt phonotactics at best.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class NgramLM:
    """Counts of token ids (`order` 1) or of pairs of them (`order` 2), smoothed.

    The unigram is add-one smoothed; the bigram is interpolated with it as Witten and Bell (1991) do:
    p(b|a) = (c(a,b) + t(a) p(b)) / (c(a) + t(a)), where t(a) is the number of different ids seen after a.
    """

    def __init__(self, documents: Sequence[Int[Tensor, " _"]], vocabulary_size: int, order: int) -> None:
        if order not in (1, 2):
            raise ValueError(f"order is {order}; only 1 (unigram) and 2 (bigram) exist.")
        self.order = order
        followers = torch.cat([document[1:] for document in documents])
        counts = torch.bincount(followers, minlength=vocabulary_size).double() + 1
        self.unigram = counts / counts.sum()
        if order == 2:
            pairs = torch.cat([document[:-1] * vocabulary_size + document[1:] for document in documents])
            table = torch.bincount(pairs, minlength=vocabulary_size**2).double().view(vocabulary_size, -1)
            kinds = (table > 0).sum(1, keepdim=True).double().clamp(min=1)  # an id never seen: the unigram alone
            self.bigram = (table + kinds * self.unigram) / (table.sum(1, keepdim=True) + kinds)

    def nll(self, document: Int[Tensor, " positions"]) -> Float[Tensor, " predicted"]:
        """Return the negative log-likelihood, in nats, of every token after the first."""
        if self.order == 1:
            return -self.unigram[document[1:]].log()
        return -self.bigram[document[:-1], document[1:]].log()
