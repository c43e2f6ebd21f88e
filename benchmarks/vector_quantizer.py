"""One training step of a vector quantizer: ours against the plain form, in one run.

    python benchmarks/vector_quantizer.py --threads 1 --cpu-seconds --out vector_quantizer.json

A step is the search for the nearest entries, the vectors with their straight-through gradient, the commitment loss, and
the update of the moving averages. Plain is what codecs commonly do: torch.cdist, and one-hot matrices times the frames;
it knows no masks, no other processes and no statistics, and checks nothing. Frames lie around 4,000 centres. Sizes: 500
entries of 768, as k-means units have, and a factorised codebook of 16,384 entries of 8.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results

from vocable.tokens.quantizers import VectorQuantizer, VectorQuantizerConfig

SIZES = {"500 entries of 768": (500, 768), "16,384 entries of 8": (16_384, 8)}
DECAY = 0.99
EPSILON = 1e-5


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--frames", type=int, default=4000, help="in a batch")
    parser.add_argument("--device", default="cpu")
    options = read_options(parser)
    results = {"benchmark": "vector_quantizer", "frames": options.frames, **conditions(options), "sizes": {}}
    for name, (codebook_size, dim) in SIZES.items():
        results["sizes"][name] = measure(codebook_size, dim, options)
    show(results)
    write_results(results, options.out)


class PlainQuantizer:
    """cdist, argmin, one-hot products."""

    def __init__(self, codebook: torch.Tensor, share: float):
        self.codebook = codebook.clone()
        self.counts = torch.full_like(codebook[:, 0], share)
        self.sums = share * codebook

    def step(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize and learn; return the vectors, the codes and the commitment loss."""
        codes = torch.cdist(frames, self.codebook).argmin(-1)
        entries = self.codebook[codes]
        loss = torch.nn.functional.mse_loss(frames, entries)
        vectors = frames + (entries - frames).detach()
        choices = torch.nn.functional.one_hot(codes, len(self.codebook)).to(frames.dtype)
        self.counts.mul_(DECAY).add_(choices.sum(0), alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(choices.T @ frames, alpha=1 - DECAY)
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
        self.codebook = self.sums / smoothed[:, None]
        return vectors, codes, loss


def make_variants(
    frames: torch.Tensor, codebook_size: int
) -> tuple[PlainQuantizer, VectorQuantizer, dict[str, Callable[[], Any]]]:
    """Both quantizers with the same first codebook, frames of the batch."""
    config = VectorQuantizerConfig(
        dim=frames.shape[1],
        codebook_size=codebook_size,
        init="random",
        decay=DECAY,
        epsilon=EPSILON,
        dead_share=None,
        collapse_perplexity=None,
        collapse_top_share=None,
    )
    ours = VectorQuantizer(config).to(frames.device)
    drawn = torch.randint(len(frames), (codebook_size,), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(codebook_size, frames.shape[1], generator=torch.Generator().manual_seed(2))
    ours.codebook.copy_(frames[drawn.to(frames.device)] + 0.1 * noise.to(frames))
    plain = PlainQuantizer(ours.codebook, len(frames) / codebook_size)
    return plain, ours, {"plain": lambda: plain.step(frames)[2].item(), "ours": lambda: ours(frames[None])}


def make_frames(num_frames: int, dim: int, device: str) -> torch.Tensor:
    """Draw frames, (num_frames, dim)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4000, dim, generator=generator)
    chosen = torch.randint(len(centres), (num_frames,), generator=generator)
    return (centres[chosen] + 0.5 * torch.randn(num_frames, dim, generator=generator)).to(device)


@torch.no_grad()
def measure(codebook_size: int, dim: int, options: argparse.Namespace) -> dict[str, Any]:
    """Compare one step of both, then time them."""
    frames = make_frames(options.frames, dim, options.device)
    plain, ours, variants = make_variants(frames, codebook_size)
    disagreeing = float((plain.step(frames)[1] != ours(frames[None]).codes[0]).double().mean())
    difference = float((plain.codebook - ours.codebook).abs().median())
    seconds = run_in_turn(variants, options.rounds, warmup=1, cpu_seconds=options.cpu_seconds)
    return {
        "share_of_codes_that_differ": disagreeing,
        "median_difference_of_entries": difference,
        "seconds": {name: [round(value, 5) for value in values] for name, values in seconds.items()},
        "times_faster": ratio(seconds["plain"], seconds["ours"])._asdict(),
    }


def show(results: dict[str, Any]) -> None:
    """Print one line per size."""
    machine = results["machine"]
    print(f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, {results['clock']}")
    for name, part in results["sizes"].items():
        medians = {kind: sorted(values)[len(values) // 2] for kind, values in part["seconds"].items()}
        faster = part["times_faster"]
        print(
            f"  {name:20s} plain {medians['plain']:.4f} s, ours {medians['ours']:.4f} s: {faster['median']:.2f}x "
            f"({faster['low']:.2f}-{faster['high']:.2f}); codes that differ {part['share_of_codes_that_differ']:.1e}"
        )


if __name__ == "__main__":
    main()
