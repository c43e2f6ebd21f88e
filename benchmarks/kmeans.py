"""k-means: ours against scikit-learn, which most unit tokenizers call, in one run.

    python benchmarks/kmeans.py --threads 1 --cpu-seconds --out kmeans.json

Assignment: one clip of ten seconds and a batch of twenty thousand frames, 500 entries, 768 dimensions. Fitting: five
Lloyd moves from the same start, and one epoch of MiniBatchKMeans (what published recipes use) for its quality. Frames
are random, drawn around 4,000 centres in a space of 64 dimensions, with noise.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from timing import benchmark_parser, conditions, ratio, read_options, run_in_turn, write_results

from vocable.tokens.kmeans import KMeans, KMeansConfig, fit_kmeans

DIM = 768
NUM_CLUSTERS = 500
MOVES = 5


def main() -> None:
    """Time the variants in turn, print and write the results."""
    parser = benchmark_parser(__doc__, rounds=5)
    parser.add_argument("--frames", type=int, default=50_000, help="to fit on")
    options = read_options(parser)
    warnings.filterwarnings("ignore")
    results = {
        "benchmark": "kmeans",
        "frames": options.frames,
        "clusters": NUM_CLUSTERS,
        "dim": DIM,
        **conditions(options),
        "parts": {},
    }
    with threadpool_limits(options.threads):
        frames = make_frames(options.frames)
        init = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(1))[:NUM_CLUSTERS]]
        for name, variants in {
            "assign 500 frames, 20 times": assignment(frames[:500], init, repeats=20),
            "assign 20,000 frames": assignment(frames[:20_000], init, repeats=1),
            f"fit, {MOVES} moves": fitting(frames, init),
        }.items():
            results["parts"][name] = measure(variants, options)
        results["mean_squared_distance"] = quality(frames, init)
    show(results)
    write_results(results, options.out)


def make_frames(num_frames: int) -> torch.Tensor:
    """Draw frames, (num_frames, DIM)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4000, 64, generator=generator) @ torch.randn(64, DIM, generator=generator) / 8
    chosen = torch.randint(len(centres), (num_frames,), generator=generator)
    return centres[chosen] + 0.7 * torch.randn(num_frames, DIM, generator=generator)


def assignment(frames: torch.Tensor, centroids: torch.Tensor, repeats: int) -> dict[str, Callable[[], Any]]:
    """The same assignment by scikit-learn, by torch.cdist, and by us; checks that all agree but for near ties."""
    reference = SklearnKMeans(NUM_CLUSTERS, init=centroids.numpy(), n_init=1, max_iter=1).fit(frames.numpy())
    reference.cluster_centers_ = centroids.numpy()
    ours = KMeans(centroids)
    array = frames.numpy()
    disagreeing = (ours.assign(frames).numpy() != reference.predict(array)).mean()
    assert disagreeing < 1e-3, disagreeing
    variants: dict[str, Callable[[], Any]] = {
        "scikit-learn": lambda: reference.predict(array),
        "torch.cdist": lambda: torch.cdist(frames, centroids).argmin(-1),
        "ours": lambda: ours.assign(frames),
    }
    return {name: lambda call=call: [call() for _ in range(repeats)] for name, call in variants.items()}


def fitting(frames: torch.Tensor, init: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Lloyd from the same start, and an epoch of mini-batches."""
    return {
        "scikit-learn": lambda: sklearn_lloyd(frames, init),
        "MiniBatchKMeans, 1 epoch": lambda: sklearn_mini_batch(frames, init),
        "ours": lambda: our_lloyd(frames, init),
    }


def sklearn_lloyd(frames: torch.Tensor, init: torch.Tensor) -> torch.Tensor:
    """scikit-learn's Lloyd; returns the codebook."""
    model = SklearnKMeans(NUM_CLUSTERS, init=init.numpy(), n_init=1, max_iter=MOVES, tol=0, algorithm="lloyd")
    return torch.from_numpy(model.fit(frames.numpy()).cluster_centers_)


def sklearn_mini_batch(frames: torch.Tensor, init: torch.Tensor) -> torch.Tensor:
    """One epoch of batches of 10,000 frames, as fairseq sets them; returns the codebook."""
    model = MiniBatchKMeans(NUM_CLUSTERS, init=init.numpy(), n_init=1, batch_size=10_000, random_state=0)
    for batch in frames.split(10_000):
        model.partial_fit(batch.numpy())
    return torch.from_numpy(model.cluster_centers_)


def our_lloyd(frames: torch.Tensor, init: torch.Tensor) -> torch.Tensor:
    """Our Lloyd; returns the codebook."""
    config = KMeansConfig(num_clusters=NUM_CLUSTERS, max_iterations=MOVES, tolerance=0.0)
    return fit_kmeans(frames, config, init=init).kmeans.centroids


def quality(frames: torch.Tensor, init: torch.Tensor) -> dict[str, float]:
    """Mean squared distance of the frames to each codebook."""
    codebooks = {
        "scikit-learn": sklearn_lloyd(frames, init),
        "MiniBatchKMeans, 1 epoch": sklearn_mini_batch(frames, init),
        "ours": our_lloyd(frames, init),
    }
    return {
        name: float((frames - codebook[KMeans(codebook).assign(frames)]).square().sum(-1).double().mean())
        for name, codebook in codebooks.items()
    }


def measure(variants: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Times and ratios to scikit-learn."""
    seconds = run_in_turn(variants, options.rounds, warmup=1, cpu_seconds=options.cpu_seconds)
    return {
        name: {
            "seconds": [round(value, 4) for value in values],
            "times_faster": ratio(seconds["scikit-learn"], values)._asdict(),
        }
        for name, values in seconds.items()
    }


def show(results: dict[str, Any]) -> None:
    """Print one line per variant."""
    print(f"{results['machine']['processor']}, {results['machine']['threads']} threads, {results['clock']}")
    for part, variants in results["parts"].items():
        print(part)
        for name, numbers in variants.items():
            faster = numbers["times_faster"]
            median = sorted(numbers["seconds"])[len(numbers["seconds"]) // 2]
            distance = results["mean_squared_distance"].get(name) if part.startswith("fit") else None
            note = "" if distance is None else f"  mean squared distance {distance:.2f}"
            spread = f"{faster['median']:.2f}x ({faster['low']:.2f}-{faster['high']:.2f})"
            print(f"  {name:26s} {median:8.3f} s  {spread}{note}")


if __name__ == "__main__":
    main()
