"""`vocable evaluate ...` measures tokens, models and speech; `vocable compare` tells differences from chance."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.cli.command import Command
from vocable.cli.options import OverwriteOption
from vocable.cli.settings import class_summary, class_value, find_definition

if TYPE_CHECKING:
    from vocable.evaluation.comparison.compare import CompareConfig


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


@dataclass(frozen=True, kw_only=True)
class ResultsConfig(OutputConfig):
    """Results to compare, and what to show of them."""

    results: list[Path]
    """Two or more JSON files that `vocable evaluate` wrote, with their .items.parquet beside them."""
    names: list[str] | None = None
    """Names of the models, such as warm,cold. Without them, what differs in the folders' names."""
    pairs: Path | None = None
    """Folder of the benchmark or pair set that was scored; puts both halves of the pairs on the page."""
    manifest: Path | None = None
    """Manifest of the recordings that were judged; puts them on the page."""
    num_examples: int = 12
    """Items on the page for each pair of models."""


def compare(config: ResultsConfig, testing: CompareConfig) -> None:
    """Compare results of one benchmark item by item: differences, 95 % intervals, paired tests, and a page with sound.

    Writes comparison.json and comparison.html. Items that only some results have are left out and counted.

    vocable compare runs/warm/sblimp.json runs/cold/sblimp.json --out runs/warm-or-cold --names warm,cold
    """
    import json

    from rich.console import Console

    from vocable.errors import ConfigError
    from vocable.evaluation.comparison.compare import compare_results
    from vocable.evaluation.comparison.page import (
        no_sounds,
        render_comparison_page,
        sounds_of_manifest,
        sounds_of_pairs,
    )
    from vocable.evaluation.comparison.pairing import load_results
    from vocable.evaluation.pairs.benchmark import read_benchmark
    from vocable.evaluation.results import check_output
    from vocable.files import write_text

    if config.pairs is not None and config.manifest is not None:
        raise ConfigError("Give --pairs for pair benchmarks or --manifest for recordings, not both.")
    out = config.out
    check_output(out, "comparison", config.overwrite)
    find_sounds = sounds_of_manifest(config.manifest) if config.manifest is not None else no_sounds
    console = Console()
    with console.status("Comparing"):
        comparison = compare_results(load_results(config.results, config.names), testing)
        if config.pairs is not None:
            find_sounds = sounds_of_pairs(read_benchmark(comparison.benchmark, config.pairs))
        page = render_comparison_page(comparison, find_sounds, config.num_examples)
        write_text(page, out / "comparison.html")
    write_text(json.dumps(comparison.record(), indent=2, ensure_ascii=False) + "\n", out / "comparison.json")
    _print_differences(comparison, console)
    print(f"Results: {out / 'comparison.json'}\nLook:    {out / 'comparison.html'}")


def _print_differences(comparison, console) -> None:
    from rich.table import Table

    from vocable.evaluation.comparison.page import interval, show

    pair = comparison.models if len(comparison.models) == 2 else None
    title = f"{comparison.benchmark}: {comparison.num_common} common items"
    table = Table(title=f"{title}, {pair[0]} - {pair[1]}" if pair else title)
    for column in ("score", *(pair or ("models", "first", "second")), "difference", "95 %", "p (Holm)", "better"):
        table.add_column(column, overflow="fold")
    for d in comparison.differences:
        models = () if pair else (f"{d.first} - {d.second}",)
        numbers = (*map(show, d.values), show(d.difference), interval(d.low, d.high), show(d.p_holm))
        table.add_row(d.measure, *models, *numbers, d.favours or "not shown")
    console.print(table, markup=False)
    for note in comparison.notes:
        console.print(f"Note: {note}", markup=False)
    for reason, count in comparison.excluded.items():
        console.print(f"Left out: {count} ({reason})", markup=False)


WITHOUT_FOLDER = ("units", "judge")
"""Benchmarks that need no --out: one that takes seconds, and one whose result goes beside what it rates."""
COMMANDS = {**benchmark_commands(), "compare RESULTS...": compare}
