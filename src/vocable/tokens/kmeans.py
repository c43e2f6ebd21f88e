"""k-means: turn continuous features into units, and fit the codebook that does it.

    features (frames, dim)  --KMeans.assign-->  units (frames,)

`fit_kmeans` runs Lloyd's algorithm in blocks: features may be one tensor, a list of tensors, or a callable that gives a
fresh pass over blocks, so a corpus never has to fit in memory. Under `torch.distributed` every process passes its own
share of the features and all of them end with the same codebook. Previous stage: features/. Next: runs.py.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.tokens import processes
from vocable.tokens.kmeans_init import kmeans_plus_plus, sample_frames
from vocable.tokens.kmeans_report import KMeansReport, make_report

FeatureBlocks = Tensor | Sequence[Tensor] | Callable[[], Iterable[Tensor]]
"""Features to fit on: (frames, dim) each. A callable is called once per pass and gives the same blocks every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeansConfig:
    """How to fit a codebook (Lloyd, 1982; k-means++ by Arthur and Vassilvitskii, 2007)."""

    num_clusters: int = 500
    """Entries of the codebook."""
    max_iterations: int = 30
    """Most passes over the features that move the codebook."""
    tolerance: float = 1e-4
    """Stop when a pass lowers the inertia by less than this fraction; 0 goes on until nothing changes."""
    init_frames: int = 20_000
    """Frames in the random sample on which k-means++ chooses the first codebook."""
    block_frames: int = 2048
    """Frames compared with the codebook at a time: bounds memory; larger is faster on a GPU."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_clusters", 2), ("max_iterations", 1), ("block_frames", 1), ("tolerance", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"kmeans.{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.init_frames < self.num_clusters:
            raise ConfigError(
                f"kmeans.init_frames is {self.init_frames}, but num_clusters is {self.num_clusters}: the sample "
                "must hold at least one frame per cluster."
            )


class KMeans(nn.Module):
    """A codebook that assigns every frame to its nearest entry, in float32 on the device it lives on.

    Assign clip by clip. Matrix products may round differently when a row sits in a batch of another size, and frames
    near a border between two entries could then move; called with one clip's own frames, the units of that clip depend
    on nothing else.
    """

    centroids: Tensor
    half_squared_norms: Tensor

    def __init__(self, centroids: Float[Tensor, "codebook_size dim"], block_frames: int = KMeansConfig().block_frames):
        super().__init__()
        if not torch.isfinite(centroids).all():
            raise ConfigError("The codebook holds NaN or infinite values.")
        self.block_frames = block_frames
        self.register_buffer("centroids", centroids.detach().to(torch.float32).contiguous().clone())
        squared_norms = self.centroids.double().square().sum(-1)
        self.register_buffer("half_squared_norms", (squared_norms / 2).float(), persistent=False)

    @property
    def codebook_size(self) -> int:
        """Number of entries."""
        return self.centroids.shape[0]

    @property
    def dim(self) -> int:
        """Width of the features it reads."""
        return self.centroids.shape[1]

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "frames dim"]) -> Int[Tensor, " frames"]:
        """Find the closest entry, by Euclidean distance, for every frame; of equally close ones, the first.

        Source: argmin |x - c|^2 = argmax x.c - |c|^2 / 2: one matrix product per block of frames.

        Raises:
            ConfigError: the features have another width than the codebook.
        """
        if features.shape[1] != self.dim:
            raise ConfigError(
                f"Features have {features.shape[1]} dimensions, but the codebook was fitted on {self.dim}: "
                "use the encoder and layer that it was fitted on."
            )
        units = torch.empty(features.shape[0], dtype=torch.int64, device=self.centroids.device)
        with full_precision_products(self.centroids.device):
            for start in range(0, features.shape[0], self.block_frames):
                # a copy: fresh memory has a fixed alignment, by which some kernels round
                block = features[start : start + self.block_frames].to(self.centroids, copy=True)
                units[start : start + self.block_frames] = self._nearest(block)
        return units

    def _nearest(self, block: Tensor) -> Tensor:
        scores = torch.addmm(-self.half_squared_norms, block, self.centroids.T)  # (frames, codebook_size)
        return scores.argmax(-1)


class FittedKMeans(NamedTuple):
    """A codebook, and how the fit went."""

    kmeans: KMeans
    report: KMeansReport


def fit_kmeans(
    features: FeatureBlocks,
    config: KMeansConfig = KMeansConfig(),  # frozen
    device: str | torch.device = "cpu",
    init: Float[Tensor, "codebook_size dim"] | None = None,
    on_pass: Callable[[int, float], None] | None = None,
) -> FittedKMeans:
    """Fit a codebook by k-means++ and Lloyd's algorithm; the seed and the set of frames decide the result.

    Distances are float32; sums, counts and inertia are added up in float64, so that blocks and processes may be cut
    differently and the codebook stays the same but for the last bits. An entry that no frame chose is revived: it takes
    half of the cluster with the largest inertia.

    Args:
        features: (frames, dim) each; under `torch.distributed`, this process's share.
        config: The settings.
        device: Where the products run.
        init: A first codebook to use instead of k-means++.
        on_pass: Called after every pass with its number and the mean squared distance, to show progress.

    Raises:
        ConfigError: fewer (different) frames than clusters, NaN features, or `init` of the wrong shape.
    """
    started = time.perf_counter()
    passes = _as_passes(features)
    centroids = _first_centroids(passes, config, torch.device(device), init)
    inertia: list[float] = []
    num_revived = 0
    converged = False
    for iteration in range(config.max_iterations + 1):
        statistics = _pass_over(passes(), centroids, config.block_frames)
        inertia.append(float(statistics.inertias.sum()))
        num_frames = int(statistics.counts.sum())
        if on_pass is not None:
            on_pass(iteration, inertia[-1] / num_frames)
        num_dead = int((statistics.counts == 0).sum())
        if len(inertia) > 1 and not num_dead and inertia[-2] - inertia[-1] <= config.tolerance * inertia[-2]:
            converged = True
            break
        if iteration < config.max_iterations:
            centroids, revived = _updated(statistics, centroids, config.seed + iteration)
            centroids = processes.from_first(centroids)
            num_revived += revived
    report = make_report(statistics.counts, inertia, num_revived, converged, time.perf_counter() - started)
    return FittedKMeans(KMeans(centroids, config.block_frames), report)


class full_precision_products:  # reads as a verb phrase: `with full_precision_products(device)`
    """Keep products in float32 under autocast and on GPUs set to TF32, where units would differ from run to run."""

    def __init__(self, device: torch.device):
        self._autocast = torch.autocast(device.type, enabled=False)

    def __enter__(self) -> None:
        self._precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        self._autocast.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._autocast.__exit__(None, None, None)
        torch.set_float32_matmul_precision(self._precision)


class _Statistics(NamedTuple):
    """Sums of one pass over all frames, in float64 (counts stay exact up to 2^53 frames)."""

    sums: Float[Tensor, "codebook_size dim"]
    counts: Float[Tensor, " codebook_size"]
    inertias: Float[Tensor, " codebook_size"]
    """Squared distance of each entry's frames to it, added up."""


def _as_passes(features: Any) -> Callable[[], Iterable[Tensor]]:
    if isinstance(features, Tensor):
        return lambda: [features]
    if not callable(features) and not isinstance(features, Sequence):
        raise TypeError(
            f"features is a {type(features).__name__}, which can be read only once; k-means needs many passes. "
            "Give a tensor, a list of tensors, or a callable that returns a new iterator every time."
        )
    passes: Any = features if callable(features) else lambda: features
    return passes


def _first_centroids(
    passes: Callable[[], Iterable[Tensor]], config: KMeansConfig, device: torch.device, init: Tensor | None
) -> Tensor:
    if init is not None:
        if init.ndim != 2 or init.shape[0] != config.num_clusters:
            raise ConfigError(f"init has shape {tuple(init.shape)}; expected ({config.num_clusters}, dim).")
        return init.to(device=device, dtype=torch.float32)

    def choose(samples: list[Tensor]) -> Tensor:
        sample = sample_frames([sample for sample in samples if len(sample)], config.init_frames, config.seed)
        return kmeans_plus_plus(sample.to(device), config.num_clusters, config.seed).cpu()

    share = processes.attempt(lambda: sample_frames(passes(), config.init_frames, config.seed).cpu())
    return processes.decide(share, choose).to(device)


@torch.no_grad()
def _pass_over(blocks: Iterable[Tensor], centroids: Tensor, block_frames: int) -> _Statistics:
    """Assign all frames, and add up what the next codebook and the report need."""
    kmeans = KMeans(centroids, block_frames)
    codebook_size, dim = centroids.shape
    sums = torch.zeros(codebook_size, dim, dtype=torch.float64, device=centroids.device)
    counts, squared_norms = torch.zeros_like(sums[:, :1]), torch.zeros_like(sums[:, :1])
    with full_precision_products(centroids.device):
        for whole in blocks:
            for block in whole.split(block_frames):
                block = block.to(centroids)
                units = kmeans._nearest(block)
                rows = block.double()
                add_rows(sums, units, rows)
                add_rows(squared_norms, units, torch.linalg.vector_norm(rows, dim=-1, keepdim=True).square())
                counts += torch.bincount(units, minlength=codebook_size)[:, None]
    totals = processes.add_up(torch.cat([sums, counts, squared_norms], dim=-1))
    if not bool(torch.isfinite(totals).all()):
        raise ConfigError("The features hold NaN or infinite values. Look at the encoder's dtype and its input.")
    sums, counts, squared_norms = totals[:, :dim], totals[:, dim], totals[:, dim + 1]
    # sum of |x - c|^2 = sum of |x|^2 - 2 c.(sum of x) + n |c|^2: exact enough in float64, and no pass over the frames
    exact = centroids.double()
    inertias = squared_norms - 2 * (exact * sums).sum(-1) + counts * exact.square().sum(-1)
    return _Statistics(sums, counts, torch.where(inertias > 1e-12 * squared_norms, inertias, 0.0))


def add_rows(totals: Tensor, units: Tensor, rows: Tensor) -> None:
    """totals[units] += rows, in the same order on every run: on a GPU, index_add_ would add in any order."""
    if totals.device.type == "cpu":
        totals.index_add_(0, units, rows)
    else:
        _add_rows_in_order(totals, units, rows)


def _add_rows_in_order(totals: Tensor, units: Tensor, rows: Tensor) -> None:
    order = units.argsort(stable=True)
    lengths = torch.bincount(units, minlength=len(totals))
    totals += torch.segment_reduce(rows[order], "sum", lengths=lengths, axis=0, initial=0)


def _updated(statistics: _Statistics, centroids: Tensor, seed: int) -> tuple[Tensor, int]:
    """Move every entry to the mean of its frames, and revive empty ones; returns how many."""
    sums, counts, inertias = statistics
    moved = (sums / counts.clamp(min=1)[:, None]).float()
    moved[counts == 0] = centroids[counts == 0]
    empty = (counts == 0).nonzero()[:, 0]
    donors = inertias.argsort(descending=True, stable=True)[: len(empty)]
    donors = donors[(counts[donors] > 1) & (inertias[donors] > 0)]
    generator = torch.Generator().manual_seed(seed)
    for target, donor in zip(empty.tolist(), donors.tolist()):
        # A random plane through the middle of the donor splits it; the next passes find the better split.
        direction = nn.functional.normalize(torch.randn(centroids.shape[1], generator=generator), dim=0)
        spread = (inertias[donor] / counts[donor]).sqrt().item()
        offset = (0.1 * spread * direction).to(moved)
        moved[target] = moved[donor] + offset
        moved[donor] = moved[donor] - offset
    return moved, len(donors)
