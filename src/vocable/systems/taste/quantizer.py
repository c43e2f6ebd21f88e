"""Vectors of words become a few codes each: residual codebooks, or groups of finite scalars with as many bits."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.systems.taste.config import GridConfig
from vocable.tokens.quantizers import (
    FiniteScalarConfig,
    FiniteScalarQuantizer,
    QuantizedLevels,
    ResidualQuantizer,
    ResidualQuantizerConfig,
)


def build_quantizer(config: ResidualQuantizerConfig | GridConfig, dim: int) -> "Codebooks | Grid":
    """Make the quantizer for vectors of width `dim`."""
    return Grid(config, dim) if isinstance(config, GridConfig) else Codebooks(config, dim)


class Codebooks(nn.Module):
    """A linear map in, residual codebooks, a linear map out: one of each for all levels, as published.

    In evaluation mode each clip is computed by itself, as in the quantizers.
    """

    def __init__(self, config: ResidualQuantizerConfig, dim: int) -> None:
        super().__init__()
        self.codebook_sizes = tuple(level.codebook_size for level in config.levels())
        self.project_in = nn.Linear(dim, config.level.dim)
        self.residual = ResidualQuantizer(config)
        self.project_out = nn.Linear(config.level.dim, dim)

    @torch.no_grad()
    def start_from(self, words: Float[Tensor, "words dim"], principal: bool = True) -> None:
        """Fit the first codebooks to words, all levels at once, and with `principal` the maps as well.

        The maps then lead to the words' principal directions, centred and with a mean variance of 1, and back: what
        comes out is the word, but for what the codes lose, and the commitment loss of a level, a mean over numbers,
        is the share of the variance that it leaves over. Published: maps as torch draws them, so that the decoder must
        learn anew to read the words; and the common part of all words, four times as long in whisper-base as what
        differs between them, is in every distance until the codebooks hold it.

        Raises:
            ConfigError: there are fewer words than entries.
        """
        words = words.float()
        if principal:
            mean = words.mean(0)
            variances, directions = torch.linalg.eigh((words - mean).T.cov(correction=0))
            chosen = directions.flip(1)[:, : self.project_in.out_features]
            kept = chosen.shape[1]
            scale = (kept / variances.flip(0)[:kept].sum().clamp(min=1e-12)).sqrt()
            for linear in (self.project_in, self.project_out):
                linear.weight.zero_()
                linear.bias.zero_()
            self.project_in.weight[:kept] = scale * chosen.T
            self.project_in.bias[:kept] = -scale * (mean @ chosen)
            self.project_out.weight[:, :kept] = chosen / scale
            self.project_out.bias.copy_(mean)
        was_training = self.training
        self.train()
        projected = self.project_in(words)[None]
        while not all(bool(level.initialised) for level in self.residual.levels):
            self.residual(projected)
        self.train(was_training)

    def forward(
        self, words: Float[Tensor, "batch words dim"], mask: Bool[Tensor, "batch words"] | None = None
    ) -> QuantizedLevels:
        """Quantize words; in training mode, learn from them. `mask` is True for real ones."""
        output = self.residual(self.project_in(words), mask)
        return output._replace(quantized=_masked(self.project_out(output.quantized), mask))

    def encode(
        self, words: Float[Tensor, "batch words dim"], mask: Bool[Tensor, "batch words"] | None = None
    ) -> Int[Tensor, "batch levels words"]:
        """Return codes, -1 where masked, and change nothing."""
        return self.residual.encode(self.project_in(words), mask)

    def decode(self, codes: Int[Tensor, "batch levels words"]) -> Float[Tensor, "batch words dim"]:
        """Return the vectors of codes of the first levels; 0 where the codes are -1."""
        return _masked(self.project_out(self.residual.decode(codes)), codes[:, 0] >= 0)

    @torch.no_grad()
    def tables(self) -> list[Float[Tensor, "_codes code_dim"]]:
        """Return the vector of each code of each level, before the map out: a word's codes add up to its vector."""
        levels = zip(self.residual.levels, self.codebook_sizes, strict=True)
        return [level.decode(torch.arange(size, device=level.codebook.device)[None])[0] for level, size in levels]


class Grid(nn.Module):
    """Finite-scalar quantizers side by side, whose vectors add up; called as `Codebooks`, with losses of 0.

    Their linear maps together are one from the vectors to all coordinates, and one back. Vectors are first brought to
    unit variance (a layer norm without parameters): those of Whisper's decoder are so long (norm 200 in whisper-base,
    a quarter of it differing from word to word) that a fresh map would put every word far outside the grid, where the
    bound has no gradient.
    """

    def __init__(self, config: GridConfig, dim: int) -> None:
        super().__init__()
        self.codebook_sizes = config.codebook_sizes
        one = FiniteScalarConfig(dim=dim, levels=config.levels)
        self.groups = cast(
            Sequence[FiniteScalarQuantizer], nn.ModuleList(one.build() for _ in range(config.num_groups))
        )

    def forward(
        self, words: Float[Tensor, "batch words dim"], mask: Bool[Tensor, "batch words"] | None = None
    ) -> QuantizedLevels:
        """Quantize words. `mask` is True for real ones."""
        normed = self._norm(words)
        outputs = [group(normed, mask) for group in self.groups]
        return QuantizedLevels(
            quantized=torch.stack([output.quantized for output in outputs]).sum(0),
            codes=torch.stack([output.codes for output in outputs], dim=1),
            loss=outputs[0].loss,
            commitment_loss=outputs[0].commitment_loss,
            codebook_loss=None,
            statistics=tuple(output.statistics for output in outputs),
        )

    def encode(
        self, words: Float[Tensor, "batch words dim"], mask: Bool[Tensor, "batch words"] | None = None
    ) -> Int[Tensor, "batch levels words"]:
        """Return codes, -1 where masked, and change nothing."""
        normed = self._norm(words)
        return torch.stack([group.encode(normed, mask) for group in self.groups], dim=1)

    def decode(self, codes: Int[Tensor, "batch levels words"]) -> Float[Tensor, "batch words dim"]:
        """Return the vectors of codes of all groups; 0 where the codes are -1."""
        return torch.stack([group.decode(one) for group, one in zip(self.groups, codes.unbind(1), strict=True)]).sum(0)

    @torch.no_grad()
    def tables(self) -> list[Float[Tensor, "_codes code_dim"]]:
        """Return the rounded coordinates of each code of each group, with 0 for those of the other groups."""
        width, found = len(self.groups[0].config.levels), []
        for number, group in enumerate(self.groups):
            values = group.values(torch.arange(self.codebook_sizes[number], device=group.sizes.device))
            found.append(functional.pad(values, (number * width, (len(self.groups) - 1 - number) * width)))
        return found

    def _norm(self, words: Tensor) -> Tensor:
        return functional.layer_norm(words, words.shape[-1:])


def _masked(vectors: Tensor, mask: Tensor | None) -> Tensor:
    return vectors if mask is None else vectors * mask[..., None]
