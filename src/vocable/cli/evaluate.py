"""`vocable evaluate ...`: how good are tokens, and the speech made from them?"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vocable.cli.command import Command
from vocable.cli.options import DeviceOption, OverwriteOption
from vocable.cli.settings import class_value, find_definition

if TYPE_CHECKING:
    from vocable.evaluation.results import EvaluationResult, Score
    from vocable.evaluation.slue.prepare import SlueInputs
    from vocable.evaluation.slue.table import SlueConfig


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


@dataclass(frozen=True, kw_only=True)
class SlueCommandConfig(DeviceOption, OutputConfig):
    """A labelled set, and the recogniser of the baseline."""

    data: Path
    """A labelled set: of 'evaluate build labelled', 'evaluate build slue', or in the same layout."""
    manifest: Path | None = None
    """Another manifest of the set's utterances, such as one with word times from 'vocable align'."""
    transcriber: str = "openai/whisper-base"
    """Recogniser of the pipeline."""
    pipeline: bool = True
    """Run the pipeline: what the recogniser hears goes into the head trained on text."""
    undecided: Literal["neutral", "drop"] = "neutral"
    """What becomes of mixed sentiment and of disagreement: Neutral, or left out."""


def slue(config: SlueCommandConfig, table: SlueConfig, inputs: SlueInputs) -> None:
    """Fine-tune a model of speech and text on labels of one modality, and test it on both (SLUE-SA, SLUE-NER).

    Baselines beside it: the commonest sentiment or no entities, a recogniser whose text goes into the head trained on
    text, and a model of the same shape with random weights. The result holds every test utterance.

    vocable evaluate slue sets/labelled --model runs/sutlm --task sentiment --out results/slue
    """
    from vocable.devices import best_device
    from vocable.evaluation.results import check_output, save_result
    from vocable.evaluation.slue.labelled_set import read_labelled_set
    from vocable.evaluation.slue.prepare import prepare
    from vocable.evaluation.slue.table import run_slue
    from vocable.progress import progress_bars
    from vocable.training.logs import quiet_transformers

    quiet_transformers()
    check_output(config.out, f"slue-{table.task}", config.overwrite)
    labelled = read_labelled_set(config.data, config.undecided, config.manifest)
    transcriber = config.transcriber if config.pipeline else None
    inputs = replace(inputs, device=best_device(config.device), transcriber=transcriber)
    with progress_bars("Encoding speech", "Transcribing", "Fine-tuning") as (encoding, transcribing, tuning):
        ready = prepare(labelled, table.task, inputs, encoding, transcribing)
        result = run_slue(labelled, config=table, on_progress=tuning, **ready._asdict())
    path = save_result(result, config.out, overwrite=True)
    _print_cells(result)
    print(f"Results: {path}")


def _print_cells(result: EvaluationResult) -> None:
    """Print all scores of each cell, the mean over seeds with its interval, then notes and what was left out."""
    from rich.console import Console
    from rich.table import Table

    from vocable.evaluation.runner import print_notes

    means = {name: score for name, score in result.scores.items() if ".run" not in name}
    metrics = list(dict.fromkeys(name.partition(".")[0] for name in means))
    num_items = max(score.num_items for score in means.values())
    table = Table(title=f"{result.benchmark}: mean of seeds, 95 % intervals over {num_items} test utterances")
    for column in ("trained on", "tested on", *metrics):
        table.add_column(column, no_wrap=True)
    for cell in dict.fromkeys(name.partition(".")[2] for name in means):
        table.add_row(*_trained_and_tested(cell), *(_cell(means[f"{metric}.{cell}"]) for metric in metrics))
    console = Console(width=max(Console().width, 120))
    console.print(table)
    print_notes(console, result)


def _trained_and_tested(cell: str) -> tuple[str, str]:
    """The name of a cell, in words."""
    if cell == "asr_pipeline":
        return "text", "speech, as a recogniser heard it"
    if "->" not in cell:
        return cell.replace("_", " "), "both"
    trained, tested = cell.removeprefix("random_weights.").split("->")
    return f"{trained}, random weights" if cell.startswith("random_weights.") else trained, tested


def _cell(score: Score) -> str:
    value = "-" if score.value is None else f"{score.value:.3f}"
    return value if score.low is None else f"{value} [{score.low:.3f}, {score.high:.3f}]"


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
        benchmark = find_benchmark(name)
        out = output.out or (getattr(config, benchmark.default_out) if benchmark.default_out else None)
        with progress_steps() as advance:
            result = run_benchmark(benchmark(config, on_progress=advance), out, output.overwrite)
        print_result(result, out, benchmark.counted, benchmark.grouped)

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
COMMANDS = {**benchmark_commands(), "evaluate slue DATA": slue}
