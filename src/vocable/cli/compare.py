"""`vocable compare`: is the difference between two models' results more than chance?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def compare(
    results: list[Path],
    *,
    out: Path,
    names: list[str] | None = None,
    scores: list[str] | None = None,
    groups: list[str] | None = None,
    content: str | None = None,
    pairs: Path | None = None,
    manifest: Path | None = None,
    conventions: Literal["refuse", "allow"] = "refuse",
    num_examples: int = 12,
    num_permutations: int = 10_000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Compare results of one benchmark item by item: differences, 95 % intervals, paired tests, and a page with sound.

    Writes comparison.json and comparison.html. Items that only some results have are left out and counted.

    Args:
        results: Two or more JSON files that `vocable evaluate` wrote, with their .items.parquet beside them.
        out: Folder for the comparison.
        names: What to call the models, such as '[warm, cold]'. Without it, what differs in the folders' names.
        scores: Which scores to test. Without it, all that are sums over items; the first is the one shown by group.
        groups: Item columns to make tables of, such as '[phenomenon]'. Without it, the known ones that are there.
        content: Item column that tells which items say the same in several voices, and so count as one piece of
            evidence. Without it, word, sentence or story where there is one.
        pairs: Folder of the benchmark or pair set that was scored; puts both halves of the pairs on the page.
        manifest: Manifest of the recordings that were judged; puts them on the page.
        conventions: refuse or allow results that were not measured alike.
        num_examples: Items on the page for each pair of models.
        num_permutations: Arrangements drawn for the permutation test where there are too many to go through.
        seed: Of the draws.
        overwrite: Replace an earlier comparison in the same folder.
    """
    import json

    from rich.console import Console

    from vocable.errors import ConfigError
    from vocable.evaluation.comparison.compare import CompareConfig, compare_results
    from vocable.evaluation.comparison.examples import no_sounds, sounds_of_manifest, sounds_of_pairs
    from vocable.evaluation.comparison.page import write_comparison_page
    from vocable.evaluation.comparison.pairing import load_results
    from vocable.evaluation.pairs.benchmarks import read_benchmark
    from vocable.evaluation.results import check_output
    from vocable.files import write_text

    if pairs is not None and manifest is not None:
        raise ConfigError("Give --pairs for pair benchmarks or --manifest for recordings, not both.")
    config = CompareConfig(
        scores=tuple(scores) if scores else None,
        groups=tuple(groups) if groups is not None else None,
        content=content,
        conventions=conventions,
        num_permutations=num_permutations,
        seed=seed,
    )
    check_output(out, "comparison", overwrite)
    find_sounds = sounds_of_manifest(manifest) if manifest is not None else no_sounds
    console = Console()
    with console.status("Comparing"):
        comparison = compare_results(load_results(results, names), config)
        if pairs is not None:
            find_sounds = sounds_of_pairs(read_benchmark(comparison.benchmark, pairs))
        write_comparison_page(comparison, out / "comparison.html", find_sounds, num_examples)
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


COMMANDS = {"compare": compare}
