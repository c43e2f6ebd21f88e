"""Two real processes fit one codebook."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from vocable.tokens.kmeans import KMeansConfig, fit_kmeans

CONFIG = KMeansConfig(num_clusters=10, init_frames=200, max_iterations=6, block_frames=64)


def make_features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(900, 6, generator=generator) * torch.linspace(0.5, 2, 6)


def fit_shares(rank: int, port: int, folder: str) -> None:
    """Fit on this process's share, and once more on a share in which one process's features are broken."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    features = make_features().split([350, 550])[rank]
    kmeans, report = fit_kmeans(list(features.split(100)), CONFIG)
    torch.save({"centroids": kmeans.centroids, "inertia": report.inertia}, Path(folder) / f"{rank}.pt")
    if rank == 0:
        features[3, 2] = torch.inf
    try:
        fit_kmeans(features, CONFIG)
    except Exception as error:
        (Path(folder) / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    sys.path.insert(0, str(Path(__file__).parent))  # the new processes import this file by its name
    sys.modules.setdefault("test_kmeans_processes", sys.modules[__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(fit_shares, (port, str(folder)), nprocs=2)
    return folder


def test_two_processes_give_the_codebook_of_one(folder: Path):
    ours = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert torch.equal(ours[0]["centroids"], ours[1]["centroids"])
    assert ours[0]["inertia"] == ours[1]["inertia"]
    single, report = fit_kmeans(make_features(), CONFIG)
    # the same sample and start; float64 sums in another order touch at most the last bit of float32
    torch.testing.assert_close(ours[0]["centroids"], single.centroids, atol=1e-6, rtol=1e-6)
    assert ours[0]["inertia"] == pytest.approx(report.inertia, rel=1e-9)


def test_an_error_of_one_process_reaches_both(folder: Path):
    for rank in range(2):
        assert "ConfigError: Feature block 0 holds NaN" in (folder / f"{rank}.txt").read_text()
