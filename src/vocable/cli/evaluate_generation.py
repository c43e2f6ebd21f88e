"""`vocable evaluate continuation | judge | retention`: what does a model say, and what has it forgotten?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal


def evaluate_continuation_command(
    *,
    model: Path,
    manifest: Path,
    out: Path,
    tokenizer: Path | None = None,
    vocoder: Path | None = None,
    num_prompts: int | None = 100,
    prompt_seconds: float = 3.0,
    min_seconds: float = 6.0,
    anchors: list[str] | None = None,
    transcriber: str = "openai/whisper-base",
    language: str = "en",
    text_model: str | None = "HuggingFaceTB/SmolLM2-135M",
    text_opening: Literal["bos", "none"] = "bos",
    mos: str | None = None,
    voice: str | None = None,
    same_judge: Literal["refuse", "allow"] = "refuse",
    seed: int = 0,
    num_examples: int = 8,
    device: str | None = None,
    overwrite: bool = False,
    overrides: tuple[str, ...] = (),
) -> None:
    """Let a language model continue recordings, and measure what it says beside what others would say.

    Prompt -> units -> language model -> new units -> vocoder -> recogniser -> text. Of the texts: generative
    perplexity (alone, given the prompt, with the prompt; three averages), auto-BLEU in both published forms, self-BLEU,
    VERT, copy rate, share of empty ones. The same for anchors: the true continuation, as recorded and resynthesised,
    that of another prompt, the prompt again, random units.

    Writes continuation.json, continuation.items.parquet and continuation.html (a page to listen to). Units and
    transcripts are kept in OUT/kept: the same command goes on after a stop, and one with other metrics (and
    --overwrite) generates nothing again.

    Sampling is set behind the command, for example: temperature=0.8 top_k=50 max_seconds=10 repetition_penalty=1.1

    Args:
        model: Folder of a language model, or of its training run.
        manifest: Recordings to take prompts from (JSONL).
        out: Folder for the results.
        tokenizer: Folder of the tokenizer; without it, the one beside the model.
        vocoder: Folder of a vocoder for its units. Without it, the small one that comes with Vocable, where it fits.
        num_prompts: How many to draw from the recordings that are long enough; null takes all.
        prompt_seconds: Length of a prompt.
        min_seconds: Recordings must be longer than this, so that there is a true continuation.
        anchors: Which of true, resynthesised, shuffled, copy and random; without it, all.
        transcriber: The recogniser that listens; a Whisper name or folder.
        language: What is spoken. Utterances marked with another language are left out.
        text_model: The text model of the perplexities; null leaves them out.
        text_opening: Open texts with the start symbol (bos), or leave their first token unscored (none).
        mos: A predictor of opinion scores, such as distillmos; null leaves the score out.
        voice: Voice of the vocoder; without it, its first.
        same_judge: refuse or allow a recogniser that is the tokenizer's own encoder.
        seed: Of the draw of prompts, of sampling and of the bootstrap.
        num_examples: Prompts on the page.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder; what is kept stays.
    """
    from vocable.audio.manifest import read_manifest
    from vocable.config import load_config
    from vocable.devices import best_device
    from vocable.evaluation.continuation import evaluate_continuation
    from vocable.evaluation.continuation_config import ANCHORS, ContinuationConfig
    from vocable.evaluation.continuation_report import write_continuation_page
    from vocable.evaluation.judges import load_judges
    from vocable.evaluation.results import check_output, save_result
    from vocable.lm.generation import GenerationConfig
    from vocable.lm.text_lm import load_text_lm
    from vocable.progress import progress_steps
    from vocable.training.logs import quiet_transformers

    config = ContinuationConfig(
        num_prompts=num_prompts,
        prompt_seconds=prompt_seconds,
        min_seconds=min_seconds,
        generation=load_config(GenerationConfig, None, overrides),
        anchors=ANCHORS if anchors is None else tuple(anchors),
        voice=voice,
        language=language,
        same_judge=same_judge,
        seed=seed,
        num_examples=num_examples,
    )
    check_output(out, "continuation", overwrite)
    quiet_transformers()
    device = best_device(device)
    utterances = read_manifest(manifest)
    spoken_lm = _load_spoken_lm(model, tokenizer, vocoder, device)
    judges = load_judges(transcriber, language, mos, None, device)
    scorer = load_text_lm(text_model, opening=text_opening, device=device) if text_model is not None else None
    with progress_steps() as advance:
        outcome = evaluate_continuation(utterances, spoken_lm, judges, scorer, out, config, on_progress=advance)
    path = save_result(outcome.result, out, overwrite=True)
    write_continuation_page(outcome, path.with_suffix(".html"))
    _print_beside_anchors(outcome.result)
    print(f"Results: {path}\nListen:  {path.with_suffix('.html')}")


def evaluate_retention_command(
    *,
    model: str,
    out: Path,
    before: str | None = None,
    text: Path | None = None,
    questions: Path | None = None,
    tokenizer: str | None = None,
    opening: Literal["bos", "none"] = "bos",
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Measure what a language model still knows of text after training on speech, against what it knew before.

    Plain text gives nats per token, perplexity and bits per byte; questions give the accuracy of the likeliest answer,
    by summed log-likelihood, per token and per byte. With --before, differences are paired and have intervals. A model
    whose text vocabulary was replaced by units has no text left, and is refused. Writes retention.json and
    retention.items.parquet.

    Args:
        model: The model after training: a folder, or that of its run, or a hub or asset name.
        out: Folder for the result.
        before: The model before training; null measures `model` alone.
        text: A plain text file, UTF-8; blank lines divide it into documents.
        questions: Questions, one JSON a line: question, choices, answer (the right choice, or its place from 0).
        tokenizer: Where the text tokenizer of `model` is, when it is not in its folder.
        opening: Open texts with the start symbol (bos), or leave their first token unscored (none).
        seed: Of the bootstrap.
        device: Where to compute, such as cpu or cuda. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.cli.showing import print_scores
    from vocable.devices import best_device
    from vocable.evaluation.results import check_output, save_result
    from vocable.evaluation.text_retention import evaluate_retention, read_plain_text, read_questions
    from vocable.lm.text_lm import load_text_lm
    from vocable.progress import progress
    from vocable.training.logs import quiet_transformers

    check_output(out, "retention", overwrite)
    documents = read_plain_text(text) if text is not None else []
    asked = read_questions(questions) if questions is not None else []
    quiet_transformers()
    device = best_device(device)
    after = load_text_lm(_model_of_run(model), opening=opening, tokenizer=tokenizer, device=device)
    earlier = load_text_lm(before, opening=opening, device=device) if before is not None else None
    total = (len(documents) + len(asked)) * (1 if earlier is None else 2)
    with progress("Reading text", total) as advance:
        result = evaluate_retention(
            after, earlier, documents=documents, questions=asked, seed=seed, on_progress=advance
        )
    path = save_result(result, out, overwrite=True)
    print_scores(result, "items")
    print(f"Results: {path}")


def _model_of_run(name: str) -> str:
    """The folder of the model where `name` is that of a run; any other name as it is."""
    from vocable.lm.spoken import find_lm

    folder = Path(name)
    return str(find_lm(folder)) if folder.is_dir() and not (folder / "config.json").is_file() else name


def _load_spoken_lm(model: Path, tokenizer: Path | None, vocoder: Path | None, device: str) -> Any:
    """The language model, with a vocoder for its tokens."""
    from vocable.lm.spoken import load_lm
    from vocable.synthesis.opening import load_synthesizer

    lm = load_lm(model, tokenizer=tokenizer, device=device)
    lm.tokenizer.synthesizer = load_synthesizer(vocoder, lm.tokenizer, device)
    return lm


def _print_beside_anchors(result: Any) -> None:
    """One line per score: the model's value with its interval, and the anchors' values."""
    from rich.console import Console
    from rich.table import Table

    from vocable.cli.showing import print_notes
    from vocable.evaluation.continuation_report import score_table, systems_of

    systems = systems_of(result)
    table = Table(title="continuation: the model with its 95 % interval over prompts, and anchors")
    for name in ("score", "model", "interval", *systems[1:]):
        table.add_column(name, no_wrap=True)
    for row in score_table(result):
        model = row["scores"][0]
        values = ["-" if score is None or score.value is None else f"{score.value:.4g}" for score in row["scores"]]
        interval = "-" if model is None or model.low is None else f"{model.low:.3g} to {model.high:.3g}"
        table.add_row(row["name"], values[0], interval, *values[1:])
    console = Console(width=max(Console().width, 136))
    console.print(table)
    print_notes(console, result)


COMMANDS = {
    "evaluate continuation": evaluate_continuation_command,
    "evaluate retention": evaluate_retention_command,
}
