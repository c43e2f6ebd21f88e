"""`vocable compare`: is the difference between two models' results more than chance?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.cli.options import OverwriteOption

if TYPE_CHECKING:
    from vocable.evaluation.comparison.compare import CompareConfig


@dataclass(frozen=True, kw_only=True)
class ResultsConfig(OverwriteOption):
    """Results to compare, and what to show of them."""

    results: list[Path]
    """Two or more JSON files that `vocable evaluate` wrote, with their .items.parquet beside them."""
    out: Path
    """Folder for the comparison."""
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


COMMANDS = {"compare RESULTS...": compare}
