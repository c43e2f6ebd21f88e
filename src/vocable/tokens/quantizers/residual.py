"""Several codebooks in a row: each quantizes what the ones before it left over.

    features (batch, frames, dim) -> codes (batch, levels, frames) -> sum of the entries (batch, frames, dim)

    r_1 = features;   q_i = entry of level i nearest to r_i;   r_(i+1) = r_i - q_i;   quantized = q_1 + ... + q_n

The sum of the first n levels is already a coarser version of the features. Quantizer dropout trains for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.tokens.code_usage import CodeStatistics, CodeUsage, code_statistics
from vocable.tokens.gradient_estimators import estimate_gradient
from vocable.tokens.quantizers.frames import PADDING_CODE, check_features
from vocable.tokens.quantizers.vector import Quantized, VectorQuantizer, VectorQuantizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualQuantizerConfig:
    """A residual quantizer (SoundStream, Zeghidour et al., 2021, arXiv:2107.03312, section III.C)."""

    level: VectorQuantizerConfig
    """Settings of every level; level i has the seed `level.seed + i`, from 0."""
    num_levels: int = 7
    """Number of codebooks."""
    codebook_sizes: tuple[int, ...] | None = None
    """Number of entries, level by level; None: `level.codebook_size` everywhere."""
    dropout: float = 0.0
    """Share of the items of a training batch that are quantized by a random number of levels, from 1 to all."""

    def __post_init__(self) -> None:
        if self.num_levels < 1:
            raise ConfigError(f"quantizer.num_levels is {self.num_levels}; it must be at least 1.")
        if not 0 <= self.dropout <= 1:
            raise ConfigError(f"quantizer.dropout is {self.dropout}; it is a share of the items, from 0 to 1.")
        if self.codebook_sizes is not None and len(self.codebook_sizes) != self.num_levels:
            raise ConfigError(
                f"quantizer.codebook_sizes has {len(self.codebook_sizes)} sizes, but quantizer.num_levels is "
                f"{self.num_levels}: give every level one."
            )
        self.levels()

    def levels(self) -> list[VectorQuantizerConfig]:
        """Return the settings of each level."""
        sizes = self.codebook_sizes or (self.level.codebook_size,) * self.num_levels
        return [
            replace(self.level, codebook_size=size, seed=self.level.seed + index) for index, size in enumerate(sizes)
        ]


class QuantizedLevels(NamedTuple):
    """A batch after residual quantization."""

    quantized: Float[Tensor, "batch frames dim"]
    """Sum of the levels, in the dtype of the features; 0 where masked."""
    codes: Int[Tensor, "batch levels frames"]
    """Numbers of the entries; -1 where masked, and at levels beyond an item's `num_levels`."""
    loss: Float[Tensor, ""]
    """Sum of the levels' weighted losses."""
    commitment_loss: Float[Tensor, ""]
    """Sum of the levels' commitment losses. A level's is its squared differences over *all* unmasked frames and
    code_dim, with 0 at frames whose item did without that level (as in DAC)."""
    codebook_loss: Float[Tensor, ""] | None
    """The same for the codebook losses; None with update 'ema'."""
    statistics: tuple[CodeStatistics, ...]
    """Usage of each level's codebook, over the frames that were quantized by it."""


class ResidualQuantizer(nn.Module):
    """Vector quantizers in a row, any settings of `VectorQuantizer`, whose promises and duties hold here too.

    Levels that an item does without, by dropout or on request, add nothing to its sum and to the losses; nor do their
    averages, counts, first codebook and revival look at its frames. With k-means as the first codebook, a level starts
    once the one before it has its codebook, so that it is fitted on true residuals: with `init_batches` 1, all start on
    the first training batch. Dropout begins when all have started.

    Gradients, where levels have linear maps (`code_dim`): as in DAC. The residual is not detached from the entries, so
    with A_i the level's map in and out, the gradient of the sum passes 1 - (1 - A_n) ... (1 - A_1). Without maps that
    rule would hide the encoder from the losses of all levels but the first, since r_2 has no gradient. There the
    residual is detached, as in EnCodec, so all losses reach the encoder; the gradient of the sum passes once, by the
    estimator of `level` between features and sum.

    Source: SoundStream (arXiv:2107.03312); DAC (Kumar et al., 2023, arXiv:2306.06546), for dropout and losses.
    """

    def __init__(self, config: ResidualQuantizerConfig):
        super().__init__()
        self.config = config
        self.levels = cast(Sequence[VectorQuantizer], nn.ModuleList(level.build() for level in config.levels()))
        for name, usage in self.usages().items():
            usage.name = f"level {name}"

    def forward(
        self,
        features: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        num_levels: Int[Tensor, " batch"] | None = None,
    ) -> QuantizedLevels:
        """Quantize a batch; in training mode, learn from it.

        Args:
            features: Vectors of any floating dtype. What stands where `mask` is false is never looked at.
            mask: True for real frames; None when all are.
            num_levels: Number of levels of each item. None: all; in training, `draw_num_levels` as `dropout` says.

        Raises:
            ConfigError: as for `VectorQuantizer`; or `num_levels` below 1 or above the number of levels.
            NumericsError: NaN or infinite features, in training.
        """
        check_features(features, mask, self.config.level.dim)
        if num_levels is None and self.training and self.config.dropout and self._has_started(len(self.levels)):
            num_levels = self.draw_num_levels(len(features))
        if num_levels is not None:
            self._check_num_levels(num_levels)
            num_levels = num_levels.to(features.device)
        is_factorised = self.config.level.code_dim is not None
        residual = first = _unmasked(features, mask)
        total = torch.zeros_like(first)
        outputs = []
        for index, level in enumerate(self.levels):
            used, share = _used_frames(first, mask, num_levels, index)
            if self.training and not self._has_started(index):
                outputs.append(_nothing(level, first))
                continue
            output = level(residual, used)
            vectors = output.quantized if is_factorised else output.quantized.detach()
            total, residual = total + vectors, residual - vectors
            outputs.append(_scaled(output, share))
        if not is_factorised:
            total = estimate_gradient(first, total, self.config.level.estimator)
        codebook_losses = [output.codebook_loss for output in outputs if output.codebook_loss is not None]
        return QuantizedLevels(
            quantized=total.to(features.dtype),
            codes=torch.stack([output.codes for output in outputs], dim=1),
            loss=torch.stack([output.loss for output in outputs]).sum(),
            commitment_loss=torch.stack([output.commitment_loss for output in outputs]).sum(),
            codebook_loss=torch.stack(codebook_losses).sum() if codebook_losses else None,
            statistics=tuple(output.statistics for output in outputs),
        )

    @torch.no_grad()
    def encode(
        self, features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Int[Tensor, "batch levels frames"]:
        """Return the codes of all levels as in evaluation mode, and change nothing; -1 where masked.

        Raises:
            ConfigError: as in `forward`; also when a level's codebook has not got its first values.
        """
        check_features(features, mask, self.config.level.dim)
        residual = _unmasked(features, mask)
        codes = []
        for level in self.levels:
            codes.append(level.encode(residual, mask))
            residual = residual - level.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def decode(self, codes: Int[Tensor, "batch levels frames"]) -> Float[Tensor, "batch frames dim"]:
        """Return the sum of the first levels, as many as `codes` has, in float32; a code of -1 adds nothing.

        Raises:
            ConfigError: no levels, more than there are, or a code outside its codebook.
        """
        if not 1 <= codes.shape[1] <= len(self.levels):
            raise ConfigError(
                f"The codes have {codes.shape[1]} levels; this quantizer decodes from 1 to {len(self.levels)} levels."
            )
        total = self.levels[0].decode(codes[:, 0])
        for index in range(1, codes.shape[1]):
            total = total + self.levels[index].decode(codes[:, index])
        return total

    def draw_num_levels(self, batch_size: int, generator: torch.Generator | None = None) -> Int[Tensor, " batch"]:
        """Draw how many levels each item of a training batch has.

        The first floor(dropout * batch_size) items have from 1 to all levels, uniformly; the rest have all.

        Args:
            batch_size: Number of items.
            generator: Source of random numbers, on the CPU; None: torch's own.

        Source: DAC, section 3.2 (quantizer dropout applied to a share of the items), and the authors' implementation.
        """
        drawn = floor(self.config.dropout * batch_size + 1e-9)  # 0.29 * 100 is 28.999999999999996
        numbers = torch.full((batch_size,), len(self.levels))
        numbers[:drawn] = torch.randint(1, len(self.levels) + 1, (drawn,), generator=generator)
        return numbers

    def usages(self) -> dict[str, CodeUsage]:
        """Return what counts each level's usage, under the level's number from 1."""
        return {str(index): level.usage for index, level in enumerate(self.levels, start=1)}

    def _has_started(self, index: int) -> bool:
        """Whether the levels before `index` have their first codebook; a random one they have at once."""
        return not index or self.config.level.init == "random" or bool(self.levels[index - 1].initialised)

    def _check_num_levels(self, num_levels: Tensor) -> None:
        if len(num_levels) and not 1 <= int(num_levels.min()) <= int(num_levels.max()) <= len(self.levels):
            raise ConfigError(
                f"num_levels goes from {int(num_levels.min())} to {int(num_levels.max())}; every item takes from 1 to "
                f"{len(self.levels)} levels."
            )


def _unmasked(features: Tensor, mask: Tensor | None) -> Tensor:
    """Features in float32, with 0 where masked: there may be NaN, which 0 times does not remove."""
    return features.float() if mask is None else features.float().masked_fill(~mask[..., None], 0)


def _used_frames(
    features: Tensor, mask: Tensor | None, num_levels: Tensor | None, index: int
) -> tuple[Tensor | None, Tensor | None]:
    """The frames that a level quantizes, and their share of the unmasked frames; None where it is all of them."""
    if num_levels is None:
        return mask, None
    real = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if mask is None else mask
    used = real & (num_levels > index)[:, None]
    return used, used.sum() / real.sum().clamp(min=1)


def _scaled(output: Quantized, share: Tensor | None) -> Quantized:
    """A level's losses as means over all unmasked frames."""
    if share is None:
        return output
    codebook_loss = None if output.codebook_loss is None else output.codebook_loss * share
    return output._replace(
        loss=output.loss * share, commitment_loss=output.commitment_loss * share, codebook_loss=codebook_loss
    )


def _nothing(level: VectorQuantizer, features: Tensor) -> Quantized:
    """A level that has not started."""
    none = features.new_zeros(())
    return Quantized(
        quantized=torch.zeros_like(features),
        codes=torch.full(features.shape[:2], PADDING_CODE, device=features.device),
        loss=none,
        commitment_loss=none,
        codebook_loss=None if level.config.update == "ema" else none,
        statistics=code_statistics(torch.zeros(level.config.codebook_size, dtype=torch.int64)),
    )
