"""Jobs for test_local.py, in a module of their own so that other processes can import them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


def power(base: int, exponent: int = 1) -> int:
    return base**exponent


def describe_process(_job: int) -> tuple[int, str]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


@dataclass
class Touch:
    path: Path
    first: bool = False
    """Whether to touch the path before the error."""
    kill: bool = False
    error: Exception | None = None

    def __str__(self) -> str:
        return f"touch {self.path.name}"


def touch(job: Touch) -> None:
    if job.first:
        job.path.touch()
    if job.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.error is not None:
        raise job.error
    job.path.touch()


def make_lambda(_job: int):
    return lambda: None
