"""Two real processes train one quantizer, with unequal numbers of frames."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from vocable.tokens.quantizers import VectorQuantizer, VectorQuantizerConfig

CONFIGS = {
    "ema": VectorQuantizerConfig(dim=5, codebook_size=12, decay=0.6, dead_share=0.4, revive_every=3, init_iterations=4),
    "cosine": VectorQuantizerConfig(dim=5, codebook_size=12, decay=0.6, distance="cosine", init_batches=2),
    "gradient": VectorQuantizerConfig(
        dim=5, codebook_size=12, decay=0.5, update="gradient", init="random", dead_share=0.4, revive_every=2
    ),
}
NUM_BATCHES = 8


def make_batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of 80 and 30 frames; the second has none in the fifth batch. The frames wander, so that codes die."""
    generator = torch.Generator().manual_seed(index)
    features = torch.randn(2, 80, 5, generator=generator) + 0.5 * index
    return features, torch.arange(80) < torch.tensor([80, 0 if index == 4 else 30])[:, None]


def train(config: VectorQuantizerConfig, rows: slice) -> dict:
    """Train on these rows of every batch; return what is left."""
    quantizer = VectorQuantizer(config)
    revived = 0
    for index in range(NUM_BATCHES):
        features, mask = make_batch(index)
        output = quantizer(features[rows], mask[rows])
        revived = output.statistics.num_revived
    return {"state": quantizer.state_dict(), "statistics": tuple(output.statistics), "revived": revived}


def train_shares(rank: int, port: int, folder: str) -> None:
    """Train all kinds on this process's row, and once more with one process's features broken."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    results = {name: train(config, slice(rank, rank + 1)) for name, config in CONFIGS.items()}
    torch.save(results, Path(folder) / f"{rank}.pt")
    broken = VectorQuantizer(CONFIGS["gradient"])
    try:
        broken(torch.full((1, 4, 5), float("nan") if rank == 0 else 1.0))
    except Exception as error:
        (Path(folder) / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    # evaluation exchanges nothing: one process may have a batch more
    if rank == 0:
        broken.eval()(torch.randn(1, 4, 5))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    sys.path.insert(0, str(Path(__file__).parent))  # the new processes import this file by its name
    sys.modules.setdefault("test_vector_quantizer_processes", sys.modules[__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(train_shares, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_the_codebook_of_one(folder: Path, name: str):
    first, second = (torch.load(folder / f"{rank}.pt")[name] for rank in range(2))
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
    assert first["statistics"] == second["statistics"]
    single = train(CONFIGS[name], slice(0, 2))
    assert single["revived"] == first["revived"] and (single["revived"] > 0 or CONFIGS[name].dead_share == 0.1)
    assert single["statistics"] == pytest.approx(first["statistics"])
    for key, value in single["state"].items():
        # float64 sums in another order touch at most the last bit of float32, eight times over
        torch.testing.assert_close(first["state"][key], value, atol=2e-6, rtol=2e-6, msg=key)


def test_broken_numbers_of_one_process_reach_both(folder: Path):
    for rank in range(2):
        assert "NumericsError: The vectors to quantize hold NaN" in (folder / f"{rank}.txt").read_text()
