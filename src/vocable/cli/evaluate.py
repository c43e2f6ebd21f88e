"""`vocable evaluate ...` measures tokens, models and speech; `vocable compare` tells differences from chance."""

from __future__ import annotations

import ast
import dataclasses
import functools
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.cli.command import Command
from vocable.cli.settings import Setting, class_value, find_definition, read_parameters
from vocable.errors import ConfigError
from vocable.printing import print_table
from vocable.progress import progress_steps

if TYPE_CHECKING:
    from vocable.evaluation.comparison.compare import CompareConfig, Comparison


class BenchmarkCommand(Command):
    """The command of a benchmark, read from the source of its class, which is not imported before it runs."""

    @property
    def usage(self) -> str:
        """The settings that the class wants by their place."""
        positional = class_value(*self.home, "positional")
        return " ".join(ast.literal_eval(positional)).upper() if positional else ""

    @functools.cached_property
    def parameters(self) -> list[Setting]:
        """The benchmark's config, and where results go; most need a folder."""
        config = class_value(*self.home, "Config")
        assert isinstance(config, ast.Name), self.home
        out, *others = read_parameters(__name__, "run")
        if class_value(*self.home, "name").value not in WITHOUT_FOLDER:  # type: ignore[union-attr]
            out = dataclasses.replace(out, default=None, doc="Folder for the results.")
        return [Setting("config", config=(self.home[0], config.id)), out, *others]


def run(benchmark: type, config: Any, out: Path | None = None, overwrite: bool = False) -> None:
    """Run a benchmark, save its result and print it.

    Args:
        benchmark: the class.
        config: its settings.
        out: folder for the results. Without it, they are only printed.
        overwrite: replace an earlier result in the same place.
    """
    from vocable.evaluation.runner import print_result, run_benchmark
    from vocable.training.logs import quiet_transformers

    quiet_transformers()
    out = out or (getattr(config, benchmark.default_out) if benchmark.default_out else None)
    with progress_steps() as advance:
        running = benchmark(config, on_progress=advance)
        result = run_benchmark(running, out, overwrite)
    print_result(result, out, running.counted, running.grouped, running.table(result))


def benchmark_commands() -> dict[str, Command]:
    """Make a command of every benchmark that is registered."""
    found = find_definition("vocable.evaluation.runner", "BENCHMARKS")
    assert found is not None and isinstance(found[1], ast.expr)
    return {
        f"evaluate {name}": BenchmarkCommand(home, through=run) for name, home in ast.literal_eval(found[1]).items()
    }


def compare(
    results: list[Path],
    out: Path,
    testing: CompareConfig,
    names: list[str] | None = None,
    pairs: Path | None = None,
    manifest: Path | None = None,
    num_examples: int = 12,
    overwrite: bool = False,
) -> None:
    """Compare results of one benchmark item by item: differences, 95 % intervals, paired tests, and a page with sound.

    Writes comparison.json and comparison.html. Items that only some results have are left out and counted. Scores that
    come from all items together, such as PNMI, are put side by side without a test; the first line says so.

    vocable compare runs/warm/sblimp.json runs/cold/sblimp.json --out runs/warm-or-cold --names warm,cold

    Args:
        results: two or more JSON files that `vocable evaluate` wrote, with their .items.parquet beside them.
        out: folder for the results.
        testing: how differences are tested.
        names: names of the models, such as warm,cold. Without them, the part of the folders' names that differs,
            which is the name of the run as a rule.
        pairs: folder of the benchmark or pair set that was scored; puts both halves of the pairs on the page.
        manifest: manifest of the recordings that were judged; puts them on the page.
        num_examples: items on the page for each pair of models.
        overwrite: replace an earlier result in the same place.
    """
    from rich.console import Console

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
    from vocable.files import write_json, write_text

    if pairs is not None and manifest is not None:
        raise ConfigError("Give --pairs for pair benchmarks or --manifest for recordings, not both.")
    check_output(out, "comparison", overwrite)
    find_sounds = sounds_of_manifest(manifest) if manifest is not None else no_sounds
    with Console().status("Comparing"):
        comparison = compare_results(load_results(results, names), testing)
        if pairs is not None:
            find_sounds = sounds_of_pairs(read_benchmark(comparison.benchmark, pairs))
        page = render_comparison_page(comparison, find_sounds, num_examples)
        write_text(page, out / "comparison.html")
    write_json(comparison.record(), out / "comparison.json")
    _print_differences(comparison)
    print(f"Results: {out / 'comparison.json'}\nLook:    {out / 'comparison.html'}")


def _print_differences(comparison: Comparison) -> None:
    from vocable.evaluation.comparison.tables import difference_rows, reported_rows

    if comparison.untested:
        print(comparison.untested)
    pair = f", {' - '.join(comparison.models)}" if len(comparison.models) == 2 and comparison.differences else ""
    print(textwrap.fill(f"{comparison.benchmark}: {comparison.num_common} common items{pair}", 80))
    for columns, rows in (difference_rows(comparison), reported_rows(comparison)):
        if rows:
            print_table(columns, rows, width=80)
    for note in comparison.notes:
        print(f"Note: {note}")
    for reason, count in comparison.excluded.items():
        print(f"Left out: {count} ({reason})")


WITHOUT_FOLDER = ("units", "judge")
"""Benchmarks that need no --out: one that takes seconds, and one whose result goes beside what it rates."""
COMMANDS = {**benchmark_commands(), "compare RESULTS...": compare}
