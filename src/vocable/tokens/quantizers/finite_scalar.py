"""A grid instead of a codebook: every coordinate of a narrow vector is rounded to one of a few values.

    features (batch, frames, dim) -> (frames, d), bounded and rounded -> codes (batch, frames) -> (batch, frames, dim)

With levels (8, 5, 5, 5) there are 8 * 5 * 5 * 5 = 1,000 codes. Nothing but the linear maps in and out learns, so there
are no losses, no first codebook and no dead codes to revive (Mentzer et al., 2023, arXiv:2309.15505).
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError, NumericsError
from vocable.tokens import processes
from vocable.tokens.code_usage import CodeStatistics, CodeUsage
from vocable.tokens.gradient_estimators import straight_through
from vocable.tokens.kmeans import full_precision_products
from vocable.tokens.quantizers.frames import PADDING_CODE, check_features, join, spread, unmasked_frames
from vocable.tokens.quantizers.vector import Quantized

MOST_CODES = 2**20
"""Usage is counted code by code."""
MOST_VALUES = 256
"""From about 1,000 values on, the bound below leaves out the outermost ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FiniteScalarConfig:
    """A finite-scalar quantizer."""

    kind: Literal["finite_scalar"] = "finite_scalar"
    dim: int
    """Width of the features."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Number of values of each coordinate. For 2^10, 2^12, 2^14 and 2^16 codes the paper has (8, 5, 5, 5),
    (7, 5, 5, 5, 5), (8, 8, 8, 6, 5) and (8, 8, 8, 5, 5, 5) (table 1)."""
    window_frames: int | None = None
    """Frames (of all processes) over which usage is counted; None: 100 per code."""
    collapse_perplexity: float | None = 0.1
    """Alarm when a window's perplexity is below this fraction of the number of codes; None: never."""
    collapse_top_share: float | None = 0.2
    """Alarm when one code has more than this share of a window; None: never."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"quantizer.dim is {self.dim}; it must be at least 1.")
        if not self.levels or not 2 <= min(self.levels) <= max(self.levels) <= MOST_VALUES:
            raise ConfigError(
                f"quantizer.levels is {list(self.levels)}; give one coordinate or more, each of 2 to {MOST_VALUES} "
                "values."
            )
        if self.codebook_size > MOST_CODES:
            raise ConfigError(
                f"quantizer.levels is {list(self.levels)}, which makes {self.codebook_size} codes; the most is "
                f"{MOST_CODES}. Take fewer or smaller levels."
            )
        if self.window_frames is not None and self.window_frames < 1:
            raise ConfigError(f"quantizer.window_frames is {self.window_frames}; it must be at least 1.")

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return prod(self.levels)

    def build(self) -> "FiniteScalarQuantizer":
        """Make the quantizer."""
        return FiniteScalarQuantizer(self)


class FiniteScalarQuantizer(nn.Module):
    """A linear map in, the grid, a linear map out; called like `VectorQuantizer`, with losses of 0.

    The code of a frame is its digits in mixed radix, the first coordinate's the lowest. Bounds, rounding and maps are
    float32 also under autocast. Gradients pass the rounding unchanged.

    In evaluation mode nothing is exchanged between processes and nothing changes, and each clip is computed by itself:
    its codes and vectors are the same to the bit whatever shares its batch, and so are the vectors of `decode`.
    """

    half_range: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    sizes: Tensor
    places: Tensor

    def __init__(self, config: FiniteScalarConfig):
        super().__init__()
        self.config = config
        num_coordinates = len(config.levels)
        self.project_in = nn.Linear(config.dim, num_coordinates)
        self.project_out = nn.Linear(num_coordinates, config.dim)
        sizes = torch.tensor(config.levels)
        offset = torch.where(sizes % 2 == 0, 0.5, 0.0).double()
        half_range = (sizes - 1) * (1 - 1e-3) / 2
        constants = {
            "half_range": half_range.float(),
            "offset": offset.float(),
            "shift": (offset / half_range).tan().float(),
            "half_width": (sizes // 2).float(),
            "sizes": sizes,
            "places": torch.tensor([prod(config.levels[:index]) for index in range(num_coordinates)]),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.usage = CodeUsage(
            config.codebook_size,
            config.window_frames or 100 * config.codebook_size,
            config.collapse_perplexity,
            config.collapse_top_share,
        )

    def forward(
        self, features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Quantized:
        """Quantize a batch; in training mode, count usage.

        Args:
            features: Vectors of any floating dtype. What stands where `mask` is false is never looked at.
            mask: True for real frames; None when all are.

        Raises:
            ConfigError: features of another width, or a mask of another shape.
            NumericsError: NaN or infinite features, in training.
        """
        check_features(features, mask, self.config.dim)
        with full_precision_products(features.device):
            clips = [self.project_in(clip) for clip in unmasked_frames(features, mask, by_clip=not self.training)]
            inside = join(clips)
            bounded = self._bound(inside)
            codes = self._codes(bounded)
            values = straight_through(bounded / self.half_width, self.values(codes))
            vectors = join([self.project_out(clip.clone()) for clip in values.split([len(clip) for clip in clips])])
        none = features.new_zeros((), dtype=torch.float32)
        return Quantized(
            quantized=spread(vectors.to(features.dtype), mask, features, 0),
            codes=spread(codes, mask, features, PADDING_CODE),
            loss=none,
            commitment_loss=none,
            codebook_loss=None,
            statistics=self._count(codes, inside) if self.training else self.usage.of_codes(codes),
        )

    def start_averages(self, frames_per_entry: float = 10.0) -> None:
        """Do nothing: a grid has no averages."""

    @torch.no_grad()
    def encode(
        self, features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Int[Tensor, "batch frames"]:
        """Return the codes as in evaluation mode, and change nothing; -1 where masked.

        Raises:
            ConfigError: as in `forward`.
        """
        check_features(features, mask, self.config.dim)
        with full_precision_products(features.device):
            clips = unmasked_frames(features, mask, by_clip=True)
            codes = join([self._codes(self._bound(self.project_in(clip))) for clip in clips])
        return spread(codes, mask, features, PADDING_CODE)

    def decode(self, codes: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch frames dim"]:
        """Return the values of codes, mapped out to `dim`, in float32; 0 where the code is -1.

        Raises:
            ConfigError: a code that is not on the grid.
        """
        if codes.numel() and not PADDING_CODE <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise ConfigError(
                f"The codes go from {int(codes.min())} to {int(codes.max())}, but the grid has "
                f"{self.config.codebook_size} points. Do they come from another tokenizer?"
            )
        real = codes != PADDING_CODE
        values = self.values(codes.clamp(min=0))
        with full_precision_products(codes.device):
            vectors = join([self.project_out(clip) for clip in unmasked_frames(values, real, by_clip=True)])
        return spread(vectors, real, values, 0)

    def _bound(self, inside: Float[Tensor, "frames coordinates"]) -> Float[Tensor, "frames coordinates"]:
        """Squash coordinates to where rounding leaves `levels` integers; of an even number, one more is negative.

        Source: arXiv:2309.15505, appendix A.1; the shift is to send 0 to (about) 0 where the number is even.
        """
        return torch.tanh(inside + self.shift) * self.half_range - self.offset

    @torch.no_grad()
    def _codes(self, bounded: Float[Tensor, "frames coordinates"]) -> Int[Tensor, " frames"]:
        """Round, and read the digits as one number."""
        digits = (bounded.nan_to_num().round() + self.half_width).long()  # NaN is found in training, by _count
        return (digits * self.places).sum(-1)

    def values(self, codes: Int[Tensor, "*frames"]) -> Float[Tensor, "*frames coordinates"]:
        """Return the rounded coordinates over their largest size."""
        digits = codes[..., None] // self.places % self.sizes
        return (digits - self.half_width) / self.half_width

    @torch.no_grad()
    def _count(self, codes: Tensor, inside: Tensor) -> CodeStatistics:
        """Add up the codes of all processes."""
        counts = torch.bincount(codes, minlength=self.config.codebook_size + 1)
        counts[-1] = (~inside.isfinite()).sum()
        counts = processes.add_up(counts)
        if counts[-1]:
            raise NumericsError(
                "The vectors to quantize hold NaN or infinite values. Lower the learning rate, or look at the features."
            )
        return self.usage.add(counts[:-1])
