"""`vocable evaluate ...`: how good are tokens, and the speech made from them?"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocable.cli.command import Command
from vocable.cli.options import OverwriteOption
from vocable.cli.settings import class_summary, class_value, find_definition


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


@dataclass(frozen=True)
class BenchmarkCommand(Command):
    """The command of a benchmark, read from the source of its class, which is not imported before it runs."""

    name: str = ""
    module: str = ""
    kind: str = ""
    """Name of the class."""

    @property
    def usage(self) -> str:
        """The settings that the class wants by their place."""
        positional = class_value(self.module, self.kind, "positional")
        return " ".join(ast.literal_eval(positional)).upper() if positional else ""

    @property
    def summary(self) -> str:
        """The first line of the class's docstring."""
        return class_summary(self.module, self.kind)

    @property
    def explanation(self) -> str:
        """The class's docstring."""
        found = find_definition(self.module, self.kind)
        return (found and isinstance(found[1], ast.ClassDef) and ast.get_docstring(found[1])) or ""

    def config_of(self, parameter: str) -> tuple[str, str]:
        """Module and name of the benchmark's config, or of the one that says where results go."""
        if parameter == "output":
            return __name__, "OptionalOutputConfig" if self.name in WITHOUT_FOLDER else "OutputConfig"
        config = class_value(self.module, self.kind, "Config")
        assert isinstance(config, ast.Name), self.kind
        return self.module, config.id


def run(name: str, config: Any, output: OutputConfig) -> None:
    """Run a benchmark, save its result and print it."""
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


def benchmark_commands() -> dict[str, Command]:
    """Make a command of every benchmark that is registered."""
    found = find_definition("vocable.evaluation.runner", "BENCHMARKS")
    assert found is not None and isinstance(found[1], ast.expr)
    commands: dict[str, Command] = {}
    for name, place in ast.literal_eval(found[1]).items():
        module, _, kind = place.partition(":")
        function = functools.partial(run, name)
        commands[f"evaluate {name}"] = BenchmarkCommand(function, name=name, module=module, kind=kind)
    return commands


WITHOUT_FOLDER = ("units", "judge")
"""Benchmarks that need no --out: one that takes seconds, and one whose result goes beside what it rates."""
COMMANDS = benchmark_commands()
