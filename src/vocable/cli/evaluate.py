"""`vocable evaluate ...`: how good are tokens, and the speech made from them?"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vocable.cli.command import Command
from vocable.cli.options import OverwriteOption
from vocable.cli.settings import class_value, find_definition

if TYPE_CHECKING:
    from vocable.evaluation.resynthesis import ResynthesisConfig
    from vocable.tokens.tokenizer import SpeechTokenizer


def evaluate_resynthesis_command(
    *,
    manifest: Path,
    tokenizer: Path,
    out: Path,
    vocoder: Path | None = None,
    num_utterances: int | None = 100,
    seed: int = 0,
    transcriber: str = "openai/whisper-base",
    language: str = "en",
    normaliser: str = "english",
    voice: str | None = None,
    voice_reference: Path | None = None,
    durations: Literal["true", "predicted"] = "true",
    same_judge: Literal["refuse", "allow"] = "refuse",
    mos: str | None = "distillmos",
    speaker_encoder: str | None = "resemblyzer",
    num_examples: int = 20,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Measure the resynthesis ceiling: words, quality and voice that survive speech -> tokens -> speech.

    Writes resynthesis.json (scores with 95 % intervals), resynthesis.items.parquet (one row per utterance) and
    resynthesis.html (a page to listen to). Run it before any language model is trained on the tokens.

    Args:
        manifest: The utterances to judge (JSONL), with text where there is some.
        tokenizer: Folder of a saved tokenizer.
        out: Folder for the results.
        vocoder: Folder of the vocoder trained for that tokenizer. Without it: the tokenizer's own decoder, or the small
            vocoder that comes with Vocable where that reads its units.
        num_utterances: How many to draw from the manifest; null takes all.
        seed: Of the draw and of the bootstrap.
        transcriber: The recogniser that judges; a Whisper name or folder.
        language: What is spoken. Utterances marked with another language are left out.
        normaliser: What is done to texts before they are compared: english, basic or none.
        voice: Voice of the vocoder; without it, its first.
        voice_reference: A recording of the voice that the resynthesis should have.
        durations: Use the durations of the recording (true), or the vocoder's (predicted) as for generated tokens.
        same_judge: refuse or allow a recogniser that is the tokenizer's own encoder; error rates are then too good.
        mos: The predictor of opinion scores; null leaves the score out.
        speaker_encoder: The judge of voices; null leaves the score out.
        num_examples: Utterances on the page.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.devices import best_device
    from vocable.evaluation.results import check_output
    from vocable.evaluation.resynthesis import ResynthesisConfig

    config = ResynthesisConfig(
        num_utterances=num_utterances,
        seed=seed,
        language=language,
        normaliser=normaliser,
        voice=voice,
        voice_reference=voice_reference,
        durations=durations,
        same_judge=same_judge,
        num_examples=num_examples,
    )
    check_output(out, "resynthesis", overwrite)
    device = best_device(device)
    loaded = _load_speaking_tokenizer(tokenizer, vocoder, device)
    _judge_manifest(manifest, loaded, out, config, (transcriber, language, mos, speaker_encoder, device))


def _judge_manifest(
    manifest: Path,
    tokenizer: SpeechTokenizer,
    out: Path,
    config: ResynthesisConfig,
    judges: tuple[str, str, str | None, str | None, str],
) -> None:
    """Judge with a progress bar, and write and print what was found; `judges` are the arguments of `load_judges`."""
    from vocable.audio.manifest import read_manifest
    from vocable.cli.showing import print_scores
    from vocable.evaluation.judges import load_judges
    from vocable.evaluation.resynthesis import evaluate_resynthesis
    from vocable.evaluation.resynthesis_report import save_resynthesis
    from vocable.progress import progress

    utterances = read_manifest(manifest)
    loaded = load_judges(*judges)
    total = len(utterances) if config.num_utterances is None else min(config.num_utterances, len(utterances))
    with progress("Judging resynthesis", total) as advance:
        outcome = evaluate_resynthesis(utterances, tokenizer, loaded, config, on_progress=advance)
    path = save_resynthesis(outcome, out)
    print_scores(outcome.result)
    print(f"Results: {path}\nListen:  {path.with_suffix('.html')}")


def _load_speaking_tokenizer(tokenizer: Path, vocoder: Path | None, device: str):
    """Load a tokenizer that can decode: by itself, or with a synthesizer attached after comparing fingerprints."""
    from vocable.synthesis.opening import attach_synthesizer
    from vocable.tokens import load_tokenizer

    return attach_synthesizer(load_tokenizer(tokenizer, device=device), vocoder, device)


@dataclass(frozen=True, kw_only=True)
class OutputConfig(OverwriteOption):
    """Where results go."""

    out: Path
    """Folder for the results."""


@dataclass(frozen=True, kw_only=True)
class OptionalOutputConfig(OverwriteOption):
    """Where results go, of a benchmark that takes seconds."""

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
        benchmark = find_benchmark(name)
        with progress_steps() as advance:
            result = run_benchmark(benchmark(config, on_progress=advance), output.out, output.overwrite)
        print_result(result, output.out, benchmark.counted, benchmark.grouped)

    output = (__name__, "OptionalOutputConfig" if name in QUICK else "OutputConfig")
    words = " ".join(field.upper() for field in (ast.literal_eval(places) if places else ()))
    return Command(run, words, kinds={"output": output, "config": (definition[0], config.id)},
                   doc=ast.get_docstring(definition[1]) or "")  # fmt: skip


def benchmark_commands() -> dict[str, Command]:
    """Make a command of every benchmark that is registered."""
    found = find_definition("vocable.evaluation.runner", "BENCHMARKS")
    assert found is not None and isinstance(found[1], ast.expr)
    return {f"evaluate {name}": benchmark_command(name, place) for name, place in ast.literal_eval(found[1]).items()}


QUICK = ("units",)
"""Benchmarks that take seconds, and need no folder for their results."""
COMMANDS = {
    **benchmark_commands(),
    "evaluate resynthesis": evaluate_resynthesis_command,
}
