"""Embed units by the vectors that they stand for, so that one vocoder serves any codebook of the same encoder.

    unit -> codebook vector (dim of the encoder) -> standardise -> linear -> embedding

A table with a row per unit, the usual way, fits one codebook only: fit the units again, and the vocoder is worthless.
k-means centroids are features, and where they lie says how they sound.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class CodebookEmbedding(nn.Module):
    """Takes the place of `nn.Embedding`: a linear map of the vectors of one or several codebooks.

    Beside its vector, each unit is told log2 of its codebook's size: runs in a coarse codebook last longer.
    """

    codebook: Tensor
    log_size: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, codebook_size: int, codebook_dim: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.zeros(codebook_size, codebook_dim))
        self.register_buffer("log_size", torch.zeros(codebook_size, 1))
        self.register_buffer("mean", torch.zeros(codebook_dim))
        self.register_buffer("deviation", torch.ones(codebook_dim))
        self.linear = nn.Linear(codebook_dim + 1, dim)

    @property
    def weight(self) -> Float[Tensor, "codebook_size dim"]:
        """The table that an `nn.Embedding` would hold."""
        vectors = (self.codebook - self.mean) / self.deviation
        return self.linear(torch.cat([vectors, self.log_size], dim=1))

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """Embed units; with several codebooks, those of the second begin where the first ends."""
        return functional.embedding(ids, self.weight)

    @torch.no_grad()
    def set_codebooks(self, codebooks: Sequence[Float[Tensor, "_ codebook_dim"]], standardise: bool = False) -> None:
        """Take these codebooks; `standardise` also sets mean and deviation from them, which training does once."""
        self.codebook = torch.cat([vectors.float() for vectors in codebooks]).to(self.mean.device)
        sizes = torch.cat([torch.full((len(vectors), 1), float(len(vectors))) for vectors in codebooks])
        self.log_size = (sizes.log2() / 8).to(self.mean.device)
        if standardise:
            self.mean = self.codebook.mean(0)
            self.deviation = self.codebook.std(0).clamp(min=1e-4)
