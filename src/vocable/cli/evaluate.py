"""`vocable evaluate ...`: how good are tokens, and the speech made from them?"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocable.cli.command import Command
from vocable.cli.options import OverwriteOption
from vocable.cli.settings import class_value, find_definition


@dataclass(frozen=True, kw_only=True)
class OutputConfig(OverwriteOption):
    """Where results go."""

    out: Path
    """Folder for the results."""


@dataclass(frozen=True, kw_only=True)
class OptionalOutputConfig(OverwriteOption):
    """Where results go, of a benchmark that can do without a folder."""

    out: Path | None = None
    """Folder for the results. Without it, they are only printed."""


def benchmark_command(name: str, place: str) -> Command:
    """Make the command of a benchmark from its class, which is not imported before it runs."""
    module, _, kind = place.partition(":")
    definition = find_definition(module, kind)
    config = class_value(module, kind, "Config")
    places = class_value(module, kind, "positional")
    assert definition and isinstance(definition[1], ast.ClassDef) and isinstance(config, ast.Name), place

    def run(config: Any, output: OutputConfig) -> None:
        from vocable.evaluation.runner import find_benchmark, print_result, run_benchmark
        from vocable.progress import progress_steps
        from vocable.training.logs import quiet_transformers

        quiet_transformers()
        kind = find_benchmark(name)
        out = output.out or (getattr(config, kind.default_out) if kind.default_out else None)
        with progress_steps() as advance:
            benchmark = kind(config, on_progress=advance)
            result = run_benchmark(benchmark, out, output.overwrite)
        print_result(result, out, benchmark.counted, benchmark.grouped, benchmark.table(result))

    output = (__name__, "OptionalOutputConfig" if name in WITHOUT_FOLDER else "OutputConfig")
    words = " ".join(field.upper() for field in (ast.literal_eval(places) if places else ()))
    return Command(run, words, kinds={"output": output, "config": (definition[0], config.id)},
                   doc=ast.get_docstring(definition[1]) or "")  # fmt: skip


def benchmark_commands() -> dict[str, Command]:
    """Make a command of every benchmark that is registered."""
    found = find_definition("vocable.evaluation.runner", "BENCHMARKS")
    assert found is not None and isinstance(found[1], ast.expr)
    return {f"evaluate {name}": benchmark_command(name, place) for name, place in ast.literal_eval(found[1]).items()}


WITHOUT_FOLDER = ("units", "judge")
"""Benchmarks that need no --out: one that takes seconds, and one whose result goes beside what it rates."""
COMMANDS = benchmark_commands()
