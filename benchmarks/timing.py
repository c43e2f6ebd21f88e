"""Compare ways of doing the same, on a machine that others may use too.

All variants run in turn, round after round (A B C, C B A, A B C, ...), so that load hits all of them alike. A ratio is
formed within each round and reported as the median over rounds with the 10th and 90th percentile. Peak memory is that
of a fresh child process that does the work once, because within one process the highest peak hides the others.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """How many times faster than the base, round by round."""

    median: float
    low: float
    """10th percentile."""
    high: float
    """90th percentile."""

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f}-{self.high:.2f})"


def benchmark_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has; `rounds` is the default of --rounds."""
    import torch

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-seconds", action="store_true", help="processor time: for one thread on a busy machine")
    parser.add_argument("--out", type=Path, help="also write the results there, as JSON")
    return parser


def read_options(parser: argparse.ArgumentParser, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and set the number of threads."""
    import torch

    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    return options


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return what every result says about how it was measured."""
    return {"clock": "processor seconds" if options.cpu_seconds else "wall seconds", "machine": machine()}


def write_results(results: Mapping[str, Any], out: Path | None) -> None:
    """Write the results as JSON, where a file was named."""
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def run_in_turn(
    variants: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1, cpu_seconds: bool = False
) -> dict[str, list[float]]:
    """Time every variant once a round; return the seconds of each, one per round.

    With `cpu_seconds`, counts this process's processor time instead of the clock: for one thread on a busy machine.
    """
    clock = time.process_time if cpu_seconds else time.perf_counter
    for _ in range(warmup):
        for function in variants.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for index in range(rounds):
        names = list(variants) if index % 2 == 0 else list(variants)[::-1]
        for name in names:
            start = clock()
            variants[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return how many times faster `other` is than `base`, given seconds of the same rounds."""
    ratios = [before / after for before, after in zip(base, other, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    deciles = statistics.quantiles(ratios, n=10, method="inclusive")
    return Ratio(statistics.median(ratios), deciles[0], deciles[-1])


def run_child(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Run a script in a fresh process; return the JSON of its last line of output."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_megabytes() -> float:
    """Return the most memory that this process has held so far (resident set), in MB.

    Not by getrusage on Linux: there, a child begins with the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def machine() -> dict[str, Any]:
    """Return what a reader needs to compare numbers with those of another machine."""
    import torch
    import transformers

    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
