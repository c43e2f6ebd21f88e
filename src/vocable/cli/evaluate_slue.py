"""`vocable evaluate slue`, and the labelled sets that it reads: `evaluate build labelled`, `evaluate build slue`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vocable.evaluation.results import EvaluationResult, Score


def evaluate_slue(
    data: Path,
    *,
    model: Path,
    task: Literal["sentiment", "entities"],
    out: Path,
    tokenizer: Path | None = None,
    tokens: Path | None = None,
    manifest: Path | None = None,
    train: Literal["head", "all"] = "head",
    pooling: Literal["mean", "last"] = "mean",
    seeds: str = "0,1,2",
    epochs: int = 60,
    patience: int = 10,
    batch_utterances: int = 32,
    head_learning_rate: float = 3e-3,
    learning_rate: float = 2e-5,
    max_train: int | None = None,
    text_case: Literal["as_is", "lower"] = "as_is",
    transcriber: str = "openai/whisper-base",
    pipeline: bool = True,
    random_control: bool = True,
    undecided: Literal["neutral", "drop"] = "neutral",
    dtype: Literal["float32", "bfloat16"] | None = None,
    device: str | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Fine-tune a model of speech and text on labels of one modality, and test it on both (SLUE-SA, SLUE-NER).

    Baselines beside it: the commonest sentiment or no entities, a recogniser whose text goes into the head trained on
    text, and a model of the same shape with random weights. The result holds every test utterance.

    Args:
        data: A labelled set: of 'evaluate build labelled', 'evaluate build slue', or in the same layout.
        model: Folder of a language model, or of its training run. A model of units only is tested on speech alone.
        task: sentiment, or entities.
        out: Folder for the result.
        tokenizer: Folder of the tokenizer; without it, the one beside the model.
        tokens: Token shards of the set's manifest, instead of encoding it now.
        manifest: Another manifest of the set's utterances, such as one with word times from 'vocable align'.
        train: The head alone (hidden states are computed once), or all weights.
        pooling: Of sentiment: the mean of a row's states, or the last one.
        seeds: Of fine-tuning, with commas between them.
        epochs: At most.
        patience: Epochs without a better dev score after which to stop.
        batch_utterances: In one update.
        head_learning_rate: Of the head.
        learning_rate: Of the model's weights, with --train all.
        max_train: At most so many train utterances.
        text_case: lower: write all texts in lower case, so that capitals do not give names away.
        transcriber: The recogniser of the pipeline.
        pipeline: Whether to run the pipeline; --pipeline false needs no recogniser.
        random_control: Whether to run the model with random weights.
        undecided: What becomes of mixed sentiment and of disagreement: Neutral, or left out.
        dtype: Type of the model's weights. Without it, as saved.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        cache: Folder for tokens and transcripts. Without it, that of the assets.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.devices import best_device
    from vocable.evaluation.results import check_output, save_result
    from vocable.evaluation.slue.finetune import FineTuneConfig
    from vocable.evaluation.slue.labelled_set import read_labelled_set
    from vocable.evaluation.slue.prepare import SlueInputs, prepare
    from vocable.evaluation.slue.table import SlueConfig, run_slue
    from vocable.progress import progress_bars
    from vocable.training.logs import quiet_transformers

    quiet_transformers()
    tune = FineTuneConfig(
        train=train,
        pooling=pooling,
        epochs=epochs,
        patience=patience,
        batch_utterances=batch_utterances,
        head_learning_rate=head_learning_rate,
        learning_rate=learning_rate,
    )
    config = SlueConfig(
        task=task,
        tune=tune,
        seeds=_seeds(seeds),
        random_control=random_control,
        text_case=text_case,
        max_train=max_train,
    )
    check_output(out, f"slue-{task}", overwrite)
    labelled = read_labelled_set(data, undecided, manifest)
    inputs = SlueInputs(
        model=model,
        tokenizer=tokenizer,
        tokens=tokens,
        transcriber=transcriber if pipeline else None,
        dtype=dtype,
        device=best_device(device),
        **({} if cache is None else {"cache": cache}),
    )
    with progress_bars("Encoding speech", "Transcribing", "Fine-tuning") as (encoding, transcribing, tuning):
        ready = prepare(labelled, task, inputs, encoding, transcribing)
        result = run_slue(labelled, config=config, on_progress=tuning, **ready._asdict())
    path = save_result(result, out, overwrite=True)
    print_table(result)
    print(f"Results: {path}")


def print_table(result: EvaluationResult) -> None:
    """Print all scores of each cell, the mean over seeds with its interval, then notes and what was left out."""
    from rich.console import Console
    from rich.table import Table

    from vocable.cli.showing import print_notes

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


def _seeds(listed: str) -> tuple[int, ...]:
    from vocable.errors import ConfigError

    try:
        return tuple(int(seed) for seed in str(listed).split(","))
    except ValueError as error:
        raise ConfigError(f"seeds is {listed!r}; write whole numbers with commas between them: 0,1,2") from error


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


COMMANDS = {
    "evaluate slue": evaluate_slue,
}
