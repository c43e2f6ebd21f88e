"""One semantic code a frame and several acoustic ones, from two streams of features.

    semantic, acoustic (batch, frames, dim)  ->  codes (batch, 1, frames), (batch, levels, frames)
                                             ->  semantic entry + sum of the acoustic entries (batch, frames, dim)

Only the semantic level is distilled from a teacher; in parallel, the acoustic levels need not repair what that costs in
sound (Mimi, Défossez et al., 2024, arXiv:2410.00037, section 3.3.3).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.tokens.code_usage import CodeUsage, usage_metrics
from vocable.tokens.quantizers.finite_scalar import FiniteScalarConfig
from vocable.tokens.quantizers.residual import (
    QuantizedLevels,
    ResidualQuantizer,
    ResidualQuantizerConfig,
)
from vocable.tokens.quantizers.vector import Quantized, VectorQuantizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitQuantizerConfig:
    """A semantic quantizer beside a residual one."""

    semantic: VectorQuantizerConfig | FiniteScalarConfig
    """Quantizer of the semantic features; `kind: finite_scalar` in a recipe for a grid."""
    acoustic: ResidualQuantizerConfig
    """Quantizer of the acoustic features."""
    subtract: bool = False
    """Whether the acoustic quantizer reads the acoustic features less the semantic entry, as in the release of LM-SPT
    (not detached); else the acoustic features, as in LM-SPT (2025, arXiv:2506.16738, first version) and Mimi."""

    def __post_init__(self) -> None:
        if self.semantic.dim != self.acoustic.level.dim:
            raise ConfigError(
                f"quantizer.semantic.dim is {self.semantic.dim}, but quantizer.acoustic.level.dim is "
                f"{self.acoustic.level.dim}: the entries are added up, so both need the same width."
            )


class SplitQuantized(NamedTuple):
    """A batch after both quantizers."""

    semantic: Quantized
    """The semantic level."""
    acoustic: QuantizedLevels
    """The acoustic levels."""
    quantized: Float[Tensor, "batch frames dim"]
    """The sum of both, in the dtype of the acoustic features; 0 where masked."""
    loss: Float[Tensor, ""]
    """The sum of both weighted losses."""


class SplitQuantizer(nn.Module):
    """Both quantizers; what they promise and ask for holds here too."""

    def __init__(self, config: SplitQuantizerConfig):
        super().__init__()
        self.config = config
        self.semantic = config.semantic.build()
        self.acoustic = ResidualQuantizer(config.acoustic)
        for name, usage in self.usages().items():
            usage.name = name

    def forward(
        self,
        semantic: Float[Tensor, "batch frames dim"],
        acoustic: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        num_levels: Int[Tensor, " batch"] | None = None,
    ) -> SplitQuantized:
        """Quantize a batch; in training mode, learn from it.

        Args:
            semantic: Features for the semantic level.
            acoustic: Features for the acoustic levels.
            mask: True for real frames; None when all are.
            num_levels: Number of acoustic levels of each item; None: as in `ResidualQuantizer`.

        Raises:
            ConfigError: as for both quantizers.
            NumericsError: NaN or infinite features, in training.
        """
        first = self.semantic(semantic.float(), mask)
        second = self.acoustic(self._left_over(acoustic, first.quantized), mask, num_levels)
        return SplitQuantized(
            semantic=first._replace(quantized=first.quantized.to(semantic.dtype)),
            acoustic=second._replace(quantized=second.quantized.to(acoustic.dtype)),
            quantized=(first.quantized + second.quantized).to(acoustic.dtype),
            loss=first.loss + second.loss,
        )

    @torch.no_grad()
    def encode(
        self,
        semantic: Float[Tensor, "batch frames dim"],
        acoustic: Float[Tensor, "batch frames dim"],
        mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> tuple[Int[Tensor, "batch 1 frames"], Int[Tensor, "batch levels frames"]]:
        """Return semantic and acoustic codes as in evaluation mode, and change nothing; -1 where masked.

        Raises:
            ConfigError: as for both quantizers.
        """
        codes = self.semantic.encode(semantic, mask)
        return codes[:, None], self.acoustic.encode(self._left_over(acoustic, self.semantic.decode(codes)), mask)

    def decode(
        self,
        semantic_codes: Int[Tensor, "batch semantic_levels frames"],
        acoustic_codes: Int[Tensor, "_ acoustic_levels _"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Return the sum of the entries, in float32; a code of -1 adds nothing.

        Args:
            semantic_codes: Codes of the semantic level.
            acoustic_codes: Codes of the first acoustic levels, as many as wanted, (batch, levels, frames); None: none.

        Raises:
            ConfigError: more or fewer semantic levels than one, no acoustic levels or more than there are, a code
                outside its codebook, or acoustic codes of other clips or frames.
        """
        if semantic_codes.shape[1] != 1:
            raise ConfigError(f"There is one semantic level; the codes have {semantic_codes.shape[1]}.")
        if acoustic_codes is not None and acoustic_codes.shape[::2] != semantic_codes.shape[::2]:
            raise ConfigError(
                f"The semantic codes are of {semantic_codes.shape[0]} clips of {semantic_codes.shape[2]} frames, the "
                f"acoustic codes of {acoustic_codes.shape[0]} of {acoustic_codes.shape[2]}: they do not go together."
            )
        vectors = self.semantic.decode(semantic_codes[:, 0])
        return vectors if acoustic_codes is None else vectors + self.acoustic.decode(acoustic_codes)

    def usages(self) -> dict[str, CodeUsage]:
        """Return what counts each codebook's usage: "semantic", "acoustic_1", ...; a run that goes on needs them."""
        levels = {f"acoustic_{name}": usage for name, usage in self.acoustic.usages().items()}
        return {"semantic": self.semantic.usage, **levels}

    def usage_metrics(self) -> dict[str, float]:
        """Return the latest usage of every codebook for the logs, under names such as "acoustic_1_perplexity"."""
        metrics: dict[str, float] = {}
        for name, usage in self.usages().items():
            metrics |= usage_metrics(usage.latest, f"{name}_")
        return metrics

    def _left_over(self, acoustic: Tensor, vectors: Tensor) -> Tensor:
        return acoustic.float() - vectors if self.config.subtract else acoustic.float()
