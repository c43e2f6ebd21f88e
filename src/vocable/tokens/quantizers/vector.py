"""One codebook inside a network: replace every vector by its nearest entry, and learn the entries meanwhile.

    features (batch, frames, dim)  ->  codes (batch, frames)  ->  entries (batch, frames, dim)

The codebook follows moving averages of the frames (EMA), as in VQ-VAE, or its own loss by gradient, as in DAC;
gradients pass by the choice of an entry (gradient_estimators.py). Unlike k-means (kmeans.py), it moves with the encoder
before it. Several of them in a row are a residual quantizer (residual.py).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.tokens import processes
from vocable.tokens.code_usage import CodeStatistics, CodeUsage
from vocable.tokens.codebook_training import (
    Distance,
    MovingAverages,
    draw_frames,
    fit_first_codebook,
    nearest_codes,
    total_codes,
)
from vocable.tokens.gradient_estimators import GradientEstimator, estimate_gradient
from vocable.tokens.kmeans import full_precision_products
from vocable.tokens.quantizers.frames import PADDING_CODE, check_features, join, spread, unmasked_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorQuantizerConfig:
    """A vector quantizer and how it learns (VQ-VAE, van den Oord et al., 2017, arXiv:1711.00937)."""

    dim: int
    """Width of the features."""
    codebook_size: int = 500
    """Number of entries."""
    code_dim: int | None = None
    """Width of the entries, with linear maps into and out of it (factorised codes: ViT-VQGAN, Yu et al., 2022,
    arXiv:2110.04627; DAC, Kumar et al., 2023, arXiv:2306.06546, has 8); None: as wide as the features, and no maps."""
    distance: Distance = "euclidean"
    """What nearest means. With 'cosine' only the search is by angle: entries and frames keep their lengths, as in DAC
    (ViT-VQGAN scales both to length 1)."""
    update: Literal["ema", "gradient"] = "ema"
    """How entries learn: moving averages of their frames, or the codebook loss."""
    decay: float = 0.99
    """Decay of the moving averages per training batch; of the counts also with update 'gradient'."""
    epsilon: float = 1e-5
    """Laplace smoothing of the averaged counts."""
    estimator: GradientEstimator = "straight_through"
    """How gradients pass the choice: unchanged, or by the rotation trick (Fifty et al., 2024, arXiv:2410.06424)."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss (beta) in `loss`; 0.25 in VQ-VAE and DAC."""
    codebook_weight: float = 1.0
    """Weight of the codebook loss in `loss`; used with update 'gradient'."""
    init: Literal["kmeans", "random"] = "kmeans"
    """The first codebook: k-means on the first training batches, or standard normal."""
    init_batches: int = 1
    """Training batches that k-means sees; before the last of them, codes are those of a random codebook."""
    init_iterations: int = 10
    """Most Lloyd moves of that k-means (SoundStream-like codecs run 50 without a stopping rule)."""
    dead_share: float | None = 0.1
    """A code is dead when its averaged count is below this fraction of a uniform share (Mimi, Défossez et al., 2024,
    arXiv:2410.00037, has 0.1); its entry becomes a random frame of the batch. None: codes are never revived."""
    revive_every: int = 5
    """Training batches between two looks for dead codes."""
    window_frames: int | None = None
    """Frames (of all processes) over which usage is counted; None: 100 per entry."""
    collapse_perplexity: float | None = 0.1
    """Alarm when a window's perplexity is below this fraction of codebook_size; None: never."""
    collapse_top_share: float | None = 0.2
    """Alarm when one code has more than this share of a window; None: never (much silence can be a reason)."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"dim": 1, "codebook_size": 2, "init_batches": 1, "init_iterations": 1, "revive_every": 1}
        least |= {"commitment_weight": 0, "codebook_weight": 0, "code_dim": 1, "window_frames": 1, "dead_share": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigError(f"quantizer.{name} is {value}; it must be at least {bound}.")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"quantizer.decay is {self.decay}; it must be at least 0 and below 1.")
        if self.epsilon <= 0:
            raise ConfigError(f"quantizer.epsilon is {self.epsilon}; it must be above 0.")
        if self.dead_share is not None and self.dead_share >= 1:
            raise ConfigError(
                f"quantizer.dead_share is {self.dead_share}; it is a fraction of a uniform share, below 1. "
                "Set it to null to revive nothing."
            )

    def build(self) -> "VectorQuantizer":
        """Make the quantizer."""
        return VectorQuantizer(self)


class Quantized(NamedTuple):
    """Output of a quantizer for a batch."""

    quantized: Float[Tensor, "batch frames dim"]
    """The entries, mapped out to `dim`, in the dtype of the features; 0 where masked."""
    codes: Int[Tensor, "batch frames"]
    """Their numbers; -1 where masked."""
    loss: Float[Tensor, ""]
    """Weighted sum of the two losses below. Each is a mean over this process's unmasked frames and code_dim."""
    commitment_loss: Float[Tensor, ""]
    """Squared difference between frames and entries, for the encoder to stay near its entries."""
    codebook_loss: Float[Tensor, ""] | None
    """The same number, for the entries to move to their frames; None with update 'ema'."""
    statistics: CodeStatistics
    """In training, the current window so far, over all processes; else this call on this process."""


class VectorQuantizer(nn.Module):
    """A codebook that learns while the network around it does.

    Distances, losses and maps are float32 also under autocast; keep the module itself in float32. Every call in
    training mode counts as one step of the moving averages, so do not put it under activation checkpointing, which
    calls twice. With update 'ema' the codebook is a buffer, with 'gradient' a parameter, marked `no_decay`.

    In training mode all processes of a `torch.distributed` group must call together, with whatever number of frames:
    counts are added up over them, k-means and revival draw from the frames of all, and codebooks stay equal to the bit.

    In evaluation mode nothing is exchanged and nothing changes, and each clip is computed by itself: its codes and
    vectors are the same to the bit whatever shares its batch, and `decode` makes the very same vectors of the codes.
    """

    codebook: Tensor
    average_counts: Tensor
    average_sums: Tensor | None
    initialised: Tensor
    num_batches: Tensor

    def __init__(self, config: VectorQuantizerConfig):
        super().__init__()
        self.config = config
        code_dim = config.code_dim or config.dim
        factorised = config.code_dim is not None
        self.project_in = nn.Linear(config.dim, code_dim) if factorised else nn.Identity()
        self.project_out = nn.Linear(code_dim, config.dim) if factorised else nn.Identity()
        generator = torch.Generator().manual_seed(config.seed)
        codebook = torch.randn(config.codebook_size, code_dim, generator=generator)
        if config.update == "ema":
            self.register_buffer("codebook", codebook)
        else:
            self.codebook = nn.Parameter(codebook)
            self.codebook.no_decay = True  # type: ignore[attr-defined]  # for training/loop.py: entries must not shrink
        self.register_buffer("average_counts", torch.zeros(config.codebook_size))
        self.register_buffer("average_sums", torch.zeros_like(codebook) if config.update == "ema" else None)
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("num_batches", torch.tensor(0))
        self.usage = CodeUsage(
            config.codebook_size,
            config.window_frames or 100 * config.codebook_size,
            config.collapse_perplexity,
            config.collapse_top_share,
        )
        self._first_batches: list[Tensor] = []

    def forward(
        self, features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Quantized:
        """Quantize a batch; in training mode, learn from it.

        Args:
            features: Vectors of any floating dtype. What stands where `mask` is false is never looked at.
            mask: True for real frames; None when all are.

        Raises:
            ConfigError: features of another width, or a mask of another shape; in training also when the first batches
                are too small to fit the codebook on.
            NumericsError: NaN or infinite features, in training.
        """
        check_features(features, mask, self.config.dim)
        with full_precision_products(features.device):
            clips = self._clips(features, mask, by_clip=not self.training)
            frames = join(clips)
            if self.training:
                self._begin(frames.detach())
            codes = join([nearest_codes(clip, self.codebook, self.config.distance) for clip in clips])
            entries = nn.functional.embedding(codes, self.codebook)
            estimated = estimate_gradient(frames, entries, self.config.estimator)
            estimates = estimated.split([len(clip) for clip in clips])
            vectors = join([self.project_out(clip if self.training else clip.clone()) for clip in estimates])
            commitment_loss = _mean_square(frames - entries.detach())
            codebook_loss = None if self.config.update == "ema" else _mean_square(entries - frames.detach())
            loss = self.config.commitment_weight * commitment_loss
            if codebook_loss is not None:
                loss = loss + self.config.codebook_weight * codebook_loss
        return Quantized(
            quantized=spread(vectors.to(features.dtype), mask, features, 0),
            codes=spread(codes, mask, features, PADDING_CODE),
            loss=loss,
            commitment_loss=commitment_loss,
            codebook_loss=codebook_loss,
            statistics=self._learn(frames.detach(), codes) if self.training else self.usage.of_codes(codes),
        )

    @torch.no_grad()
    def encode(
        self, features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Int[Tensor, "batch frames"]:
        """Return the codes as in evaluation mode, and change nothing; -1 where masked.

        Raises:
            ConfigError: as in `forward`; also when no training batch has given the codebook its first values.
        """
        if self.config.init == "kmeans" and not self.initialised:
            raise ConfigError(
                "The quantizer's codebook is random as yet: k-means fits it on the first training batches. Train it, "
                "or load trained weights with load_state_dict."
            )
        check_features(features, mask, self.config.dim)
        with full_precision_products(features.device):
            clips = self._clips(features, mask, by_clip=True)
            codes = join([nearest_codes(clip, self.codebook, self.config.distance) for clip in clips])
        return spread(codes, mask, features, PADDING_CODE)

    def decode(self, codes: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch frames dim"]:
        """Return the entries of codes, mapped out to `dim`, in float32; 0 where the code is -1.

        Raises:
            ConfigError: a code outside the codebook.
        """
        if codes.numel() and not PADDING_CODE <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise ConfigError(
                f"The codes go from {int(codes.min())} to {int(codes.max())}, but the codebook has "
                f"{self.config.codebook_size} entries. Do they come from another tokenizer?"
            )
        real = codes != PADDING_CODE
        entries = nn.functional.embedding(codes.clamp(min=0), self.codebook.float())
        with full_precision_products(self.codebook.device):
            # clip by clip, as in `forward`: the same bits
            vectors = join([self.project_out(clip) for clip in unmasked_frames(entries, real, by_clip=True)])
        return spread(vectors, real, entries, 0)

    def _clips(self, features: Tensor, mask: Tensor | None, by_clip: bool) -> list[Tensor]:
        """The unmasked frames, mapped to the width of the codes."""
        return [self.project_in(clip) for clip in unmasked_frames(features, mask, by_clip)]

    @torch.no_grad()
    def start_averages(self, frames_per_entry: float = 10.0) -> None:
        """Begin the moving averages anew at the entries, as after so many frames of each: saved codecs lack them."""
        self._averages.start(self.codebook, frames_per_entry)

    @property
    def _averages(self) -> MovingAverages:
        return MovingAverages(self.average_counts, self.average_sums)

    @torch.no_grad()
    def _begin(self, frames: Tensor) -> None:
        """Fit the first codebook, once enough training batches have come."""
        if self.initialised:
            return
        self._first_batches.append(frames.clone())  # the caller's memory may change
        if self.config.init == "kmeans":
            if len(self._first_batches) < self.config.init_batches:
                return
            size, iterations = self.config.codebook_size, self.config.init_iterations
            self.codebook.copy_(
                fit_first_codebook(self._first_batches, size, self.config.distance, iterations, self.config.seed)
            )
        num_frames = float(processes.add_up(torch.tensor(float(len(frames)), device=frames.device)))
        self._averages.start(self.codebook, num_frames / self.config.codebook_size)
        self._first_batches.clear()
        self.initialised.fill_(True)

    @torch.no_grad()
    def _learn(self, frames: Tensor, codes: Tensor) -> CodeStatistics:
        """Move averages and entries, revive dead codes, and count usage."""
        totals = total_codes(frames, codes, self.config.codebook_size)
        num_revived = 0
        if self.initialised and bool(totals.counts.any()):
            self.num_batches += 1
            self._averages.update(totals, self.config.decay)
            if self.config.update == "ema":
                self.codebook.copy_(self._averages.entries(self.config.epsilon))
            num_revived = self._revive(frames)
        return self.usage.add(totals.counts.long(), num_revived)

    def _revive(self, frames: Tensor) -> int:
        """Replace dead entries by frames of the batch; returns how many."""
        num_batches = int(self.num_batches)
        if self.config.dead_share is None or num_batches % self.config.revive_every:
            return 0
        dead = self._averages.dead_rows(self.config.dead_share)
        if not len(dead):
            return 0
        drawn = draw_frames(frames, len(dead), self.config.seed + num_batches)
        rows = dead[: len(drawn)]
        self.codebook[rows] = drawn
        self._averages.restart(rows, drawn)
        return len(rows)


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().sum() / max(differences.numel(), 1)
