"""How a k-means fit went, and how evenly a codebook is used: numbers to look at before training anything on it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vocable.files import write_json
from vocable.printing import print_table


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeansReport:
    """The course of a fit, and the use of its final codebook on the same frames."""

    num_frames: int
    inertia: tuple[float, ...]
    """Sum of squared distances of all frames, for the first codebook, after one move, and so on to the final one."""
    mean_squared_distance: float
    """Mean squared distance to the final codebook, per frame."""
    occupancy: tuple[int, ...]
    """Frames per entry of the final codebook."""
    entropy_bits: float
    """Entropy of the distribution over entries; log2(codebook_size) when all are used alike."""
    perplexity: float
    """2 ** entropy_bits: the number of entries in effective use."""
    dead_codes: tuple[int, ...]
    """Entries that no frame chose."""
    num_revived: int
    """Empty entries that were given half of another cluster during the fit."""
    iterations: int
    """Times that the codebook was moved."""
    converged: bool
    """Whether the last move changed the inertia by less than the tolerance."""
    seconds: float

    def print(self, num_clusters: int) -> None:
        """Print the report as a table."""
        rows = {
            "frames": f"{self.num_frames:,}",
            "iterations": f"{self.iterations} ({'converged' if self.converged else 'stopped at the limit'})",
            "mean squared distance": f"{self.mean_squared_distance:.5g}",
            "of the first codebook": f"{self.inertia[0] / self.num_frames:.5g}",
            "entropy": f"{self.entropy_bits:.3f} bits of {math.log2(num_clusters):.3f}",
            "perplexity": f"{self.perplexity:.1f} of {num_clusters}",
            "dead codes": str(len(self.dead_codes)),
            "revived": str(self.num_revived),
            "seconds": f"{self.seconds:.1f}",
        }
        print_table(("", ""), rows.items(), "k-means")

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_json(dataclasses.asdict(self), path, indent=1)


def make_report(
    counts: Tensor, inertia: Sequence[float], num_revived: int, converged: bool, seconds: float
) -> KMeansReport:
    """Sum up a fit from the frames per entry, (codebook_size,), and the inertia of every pass."""
    shares = counts.double() / counts.sum()
    entropy_nats = -(shares * shares.clamp(min=1e-300).log()).sum()
    return KMeansReport(
        num_frames=int(counts.sum()),
        inertia=tuple(inertia),
        mean_squared_distance=inertia[-1] / float(counts.sum()),
        occupancy=tuple(int(count) for count in counts.tolist()),
        entropy_bits=float(entropy_nats) / math.log(2),
        perplexity=float(entropy_nats.exp()),
        dead_codes=tuple((counts == 0).nonzero()[:, 0].tolist()),
        num_revived=num_revived,
        iterations=len(inertia) - 1,
        converged=converged,
        seconds=seconds,
    )
