"""Python processes that train together, as a launcher would start them on one machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
TIMEOUT_SECONDS = 300


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: the sources of this checkout, and nothing that a launcher set for another run."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    return {**kept, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1", **more}


def run_together(count: int, words: Sequence[str | Path]) -> None:
    """Run `python WORDS` in some processes of one group, and wait until all have ended well.

    accelerate and torch read these variables; `accelerate launch --cpu` would start one process unless told of MPI
    hosts, and torchrun is one more process that imports torch.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    running = []
    for index in range(count):
        place = {"RANK": str(index), "LOCAL_RANK": str(index), "NODE_RANK": "0"}
        running.append(subprocess.Popen([sys.executable, *map(str, words)], env=environment(**group, **place)))
    try:
        assert [process.wait(TIMEOUT_SECONDS) for process in running] == [0] * count
    finally:
        for process in running:
            process.kill()
            process.wait()
