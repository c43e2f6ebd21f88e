"""Two real processes train one split quantizer, with unequal numbers of frames and each its own dropout."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from vocable.tokens.quantizers import (
    FiniteScalarConfig,
    ResidualQuantizerConfig,
    SplitQuantizer,
    SplitQuantizerConfig,
    VectorQuantizerConfig,
)

EMA = VectorQuantizerConfig(dim=5, codebook_size=8, decay=0.6, dead_share=0.4, revive_every=3, init_iterations=4)
GRADIENT = VectorQuantizerConfig(dim=5, codebook_size=8, code_dim=3, update="gradient", distance="cosine", decay=0.5)


def acoustic(level: VectorQuantizerConfig) -> ResidualQuantizerConfig:
    return ResidualQuantizerConfig(level=level, num_levels=3, dropout=0.5)


CONFIGS = {
    "ema": SplitQuantizerConfig(semantic=EMA, acoustic=acoustic(EMA), subtract=True),
    "gradient": SplitQuantizerConfig(semantic=GRADIENT, acoustic=acoustic(GRADIENT)),
    "grid": SplitQuantizerConfig(semantic=FiniteScalarConfig(dim=5, levels=(4, 3)), acoustic=acoustic(EMA)),
}
NUM_BATCHES = 7
Levels = list[list[int]]
"""Number of acoustic levels of each item of each batch."""


def make_batch(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four clips of 40, 12, 25 and 40 frames, half of them for each process; the frames wander, so that codes die."""
    generator = torch.Generator().manual_seed(index)
    semantic, acoustic = torch.randn(2, 4, 40, 5, generator=generator) + 0.5 * index
    return semantic, acoustic, torch.arange(40) < torch.tensor([40, 12, 25, 40])[:, None]


def train(config: SplitQuantizerConfig, rows: slice, levels: Levels) -> dict:
    """Train on these rows of every batch; return what is left."""
    torch.manual_seed(0)  # the maps
    quantizer = SplitQuantizer(config)
    for index in range(NUM_BATCHES):
        semantic, acoustic, mask = make_batch(index)
        output = quantizer(semantic[rows], acoustic[rows], mask[rows], torch.tensor(levels[index])[rows])
    return {
        "state": quantizer.state_dict(),
        "statistics": [output.semantic.statistics, *output.acoustic.statistics],
    }


def draw_levels() -> Levels:
    """All levels in the first batch, in which codebooks start; then as each process draws for its two items."""
    quantizer = SplitQuantizer(CONFIGS["ema"]).acoustic
    draws = []
    for process in range(2):
        generator = torch.Generator().manual_seed(10 + process)
        draws.append([[3, 3], *(quantizer.draw_num_levels(2, generator).tolist() for _ in range(NUM_BATCHES - 1))])
    return [first + second for first, second in zip(*draws)]


def train_shares(rank: int, port: int, folder: str) -> None:
    """Train all kinds on this process's rows."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    rows = slice(2 * rank, 2 * rank + 2)
    results = {name: train(config, rows, draw_levels()) for name, config in CONFIGS.items()}
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    sys.path.insert(0, str(Path(__file__).parent))  # the new processes import this file by its name
    sys.modules.setdefault("test_split_quantizer_processes", sys.modules[__name__])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(train_shares, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_train_the_codebooks_of_one(results: list[dict], name: str):
    first, second = (result[name] for result in results)
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
    assert first["statistics"] == second["statistics"]
    levels = draw_levels()
    assert any(min(numbers[::2]) < 3 for numbers in levels) and any(numbers[0] != numbers[2] for numbers in levels)
    single = train(CONFIGS[name], slice(0, 4), levels)
    assert name == "gradient" or any(entry.num_revived for entry in single["statistics"])
    for ours, theirs in zip(first["statistics"], single["statistics"]):
        assert ours == pytest.approx(theirs)
    for key, value in single["state"].items():
        # sums in another order, carried from level to level; codes are the same
        torch.testing.assert_close(first["state"][key], value, atol=2e-5, rtol=2e-5, msg=key)
