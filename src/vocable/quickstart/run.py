"""`vocable quickstart`, step by step: speech -> units -> tokens -> two language models -> continuations -> a page.

Every step writes files under the run's folder and is passed over when they are there: a run that was stopped goes on.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from vocable.audio.io import read_utterance
from vocable.audio.manifest import Rejections, write_manifest
from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.evaluation.results import EvaluationResult, save_result
from vocable.evaluation.resynthesis import Resynthesis, ResynthesisConfig
from vocable.evaluation.runner import run_benchmark
from vocable.features import EncoderConfig
from vocable.files import claim_folder
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Reply, Segment, SpokenLM, load_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.progress import progress
from vocable.quickstart.data import Splits, choose_prompts, load_own_speech, load_stories
from vocable.quickstart.measure import HeldOutLoss, held_out_losses
from vocable.synthesis.opening import load_synthesizer
from vocable.systems import twist
from vocable.systems.from_speech import tokenize_manifest
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.language_model import LMTrainingConfig
from vocable.training.logs import quiet_transformers
from vocable.training.loop import TrainingResult
from vocable.types import SpeechTokens, Utterance

STARTS = {"warm": True, "cold": False}
RECOGNISER = "openai/whisper-base"
"""Judges the resynthesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartConfig:
    """What the quickstart does. The defaults fit ten minutes of two CPU cores."""

    audio: Path | None = None
    """A folder of recordings (wav, FLAC, Ogg, Opus, MP3), or a manifest (.jsonl), in place of the stories that come
    with Vocable."""
    out: Path = Path("runs/quickstart")
    """Folder of the run; report.html in it is the page."""
    encoder: str = "openai/whisper-tiny.en"
    """Encoder of the units: folder, asset or hub name."""
    layer: int = 2
    """Layer of the encoder."""
    num_clusters: int = 100
    """Distinct units."""
    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """Text model that the language models start from, or whose shape they take."""
    steps: int = 120
    """Optimiser steps of each language model, of one packed row of 1024 units; fewer where these take too long."""
    minutes_per_model: float = 2.7
    """The warm model stops after this time if not after `steps`; the cold one makes as many steps as the warm did."""
    warm_learning_rate: float = 3e-4
    """Learning rate of the model that starts from the text model. Each start has its own rate, as in the paper; one
    rate for both would favour one of them."""
    cold_learning_rate: float = 1e-3
    """Learning rate of the model that starts from random weights."""
    num_prompts: int = 6
    """Held-out utterances that the models continue."""
    prompt_seconds: float = 3.0
    """Length of a prompt."""
    max_seconds: float = 6.0
    """Longest continuation; the shortest is a third of it."""
    num_judged: int = 8
    """Utterances that the recogniser hears, original and resynthesised; 0 leaves the judging out."""
    voice: str | Path | None = None
    """Voice of the shipped vocoder, or a recording to copy; None takes the speaker's own where it is known,
    else the first."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        if self.steps < 10 or self.num_prompts < 1 or self.num_judged < 0:
            raise ConfigError(
                f"steps is {self.steps} (at least 10), num_prompts {self.num_prompts} (at least 1), num_judged "
                f"{self.num_judged} (at least 0)."
            )


@dataclass(slots=True)
class Heard:
    """A held-out prompt and what the models made of it."""

    utterance: Utterance
    prompt: SpeechTokens
    whole: SpeechTokens
    continuations: dict[str, Reply]


@dataclass(slots=True)
class QuickstartResult:
    """Everything that the report shows."""

    config: QuickstartConfig
    splits: Splits
    tokenizer: UnitTokenizer
    shards: TokenShards
    lms: dict[str, SpokenLM]
    training: dict[str, TrainingResult]
    losses: list[HeldOutLoss]
    heard: list[Heard]
    resynthesis: EvaluationResult | None
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step in this run; 0 for steps that an earlier run had done."""


def run_quickstart(config: QuickstartConfig, console: Console | None = None) -> QuickstartResult:
    """Run all steps but the report.

    Raises:
        OutputError: `config.out` holds a run with other settings.
        AssetError: a pretrained model is not at hand; the message says how to get it.
        ManifestError: the user's folder holds too little speech.
    """
    console = console or Console(highlight=False)
    quiet_transformers()
    out, seconds = Path(config.out), {}
    _claim(config)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        console.print(f"[bold]{name}[/bold] ...")
        yield
        seconds[name] = time.perf_counter() - started
        console.print(f"[bold]{name}[/bold] took {seconds[name]:.1f} s")

    with step("Reading speech"):
        splits = _prepare_speech(config)
    with step("Fitting units"):
        tokenizer = _fit_units(config, splits.train)
    with step("Tokenizing"):
        shards = _tokenize(out, tokenizer)
    tokenizer.synthesizer = load_synthesizer(tokenizer=tokenizer)
    resynthesis = None
    if config.num_judged:
        with step("Measuring the resynthesis ceiling"):
            resynthesis = _judge_resynthesis(config, tokenizer, splits.test)
    training, lms = {}, {}
    for start in STARTS:
        with step(f"Training, {start} start"):
            recipe = _with_budget(twist_config(config, start), config, training.get("warm"))
            training[start] = twist.train(recipe, shards["train"], out / start, shards["valid"], tokenizer)
            lms[start] = load_lm(training[start].last, tokenizer=tokenizer)
    with step("Scoring held-out speech"):
        losses = held_out_losses(lms, shards["train"], shards["test"], splits.is_new_voice, config.seed)
    with step("Continuing prompts"):
        heard = _continue_prompts(config, tokenizer, lms, splits)
    return QuickstartResult(
        config, splits, tokenizer, shards["train"], lms, training, losses, heard, resynthesis, seconds
    )


def twist_config(config: QuickstartConfig, start: str) -> twist.TwistConfig:
    """The TWIST settings of this quickstart; those of `recipes/twist/cpu.yaml`, but for how often it reports."""
    return twist.TwistConfig(
        tokenizer=UnitTokenizerConfig(
            name=f"{config.encoder.rsplit('/', 1)[-1]}-l{config.layer}-km{config.num_clusters}",
            encoder=EncoderConfig(name=config.encoder, layer=config.layer),
            kmeans=KMeansConfig(num_clusters=config.num_clusters, seed=config.seed),
        ),
        lm=UnitLMConfig(text_model=config.text_model, warm=STARTS[start], dropout=0.0, seed=config.seed),
        training=LMTrainingConfig(
            max_steps=config.steps,
            learning_rate=config.warm_learning_rate if STARTS[start] else config.cold_learning_rate,
            context_tokens=1024,
            tokens_per_batch=1024,
            warmup_steps=10,
            log_every=5,
            validate_every=10,
            checkpoint_every=None,
            seed=config.seed,
        ),
        generation=GenerationConfig(
            top_k=50, min_seconds=config.max_seconds / 3, max_seconds=config.max_seconds, seed=config.seed
        ),
        max_utterance_seconds=None,
    )


def _with_budget(
    recipe: twist.TwistConfig, config: QuickstartConfig, before: TrainingResult | None
) -> twist.TwistConfig:
    """Bound the first run by steps and time; the second makes as many steps, in the same precision."""
    if before is None:
        training = replace(recipe.training, max_minutes=config.minutes_per_model)
    else:
        steps, precision = before.train_curve[-1]["step"], before.precision
        training = replace(recipe.training, max_steps=steps, precision=precision)
    return replace(recipe, training=training)


def _claim(config: QuickstartConfig) -> None:
    """Make the folder this run's, or check that it is."""
    settings = {key: value for key, value in config_to_dict(config).items() if key != "out"}
    settings["audio"] = str(Path(config.audio).resolve()) if config.audio is not None else None
    claim_folder(Path(config.out), settings, record="quickstart.json", is_foreign=lambda _: False)


def _prepare_speech(config: QuickstartConfig) -> Splits:
    """Write train.jsonl, valid.jsonl and test.jsonl."""
    out = Path(config.out)
    splits = load_stories() if config.audio is None else load_own_speech(config.audio, Rejections(out))
    for name, utterances in splits._asdict().items():
        if not (out / f"{name}.jsonl").is_file():
            write_manifest(utterances, out / f"{name}.jsonl")
    return splits


def _fit_units(config: QuickstartConfig, utterances: Sequence[Utterance]) -> UnitTokenizer:
    folder = Path(config.out) / "tokenizer"
    if not (folder / "config.json").is_file():
        with progress("Features", len(utterances)) as advance:
            fitted = twist.build_tokenizer(twist_config(config, "warm"), utterances, on_utterance=lambda _: advance(1))
        fitted.save_pretrained(folder)
    return UnitTokenizer.from_pretrained(folder)


def _tokenize(out: Path, tokenizer: UnitTokenizer) -> dict[str, TokenShards]:
    for name in Splits._fields:
        tokenize_manifest(out / f"{name}.jsonl", out / "tokens" / name, str(out / "tokenizer"))
    return {name: TokenShards(out / "tokens" / name) for name in Splits._fields}


def _judge_resynthesis(
    config: QuickstartConfig, tokenizer: UnitTokenizer, utterances: Sequence[Utterance]
) -> EvaluationResult | None:
    """Judge with the models that are at hand; none, when the recogniser is not."""
    from vocable.assets import is_available
    from vocable.evaluation.judges import load_judges

    if not is_available(RECOGNISER):
        return None
    judges = load_judges(
        RECOGNISER,
        mos="distillmos" if is_available("distillmos") else None,
        speaker="resemblyzer" if is_available("resemblyzer") else None,
    )
    out = Path(config.out)
    settings = ResynthesisConfig(
        manifest=out / "test.jsonl",
        tokenizer=out / "tokenizer",
        num_utterances=config.num_judged,
        seed=config.seed,
        voice=config.voice,
        num_examples=0,
    )
    opened = {"utterances": utterances, "tokenizer": tokenizer, "judges": judges}
    with progress("Judging") as advance:
        benchmark = Resynthesis(settings, opened, lambda _, count, total: advance(count, total))
        result = run_benchmark(benchmark)
    save_result(result, out / "resynthesis", overwrite=True)
    return result


def _continue_prompts(
    config: QuickstartConfig, tokenizer: UnitTokenizer, lms: dict[str, SpokenLM], splits: Splits
) -> list[Heard]:
    """Let every model continue the first seconds of the same held-out utterances, with the same seeds."""
    chosen = choose_prompts(splits.test, config.num_prompts, config.prompt_seconds + 1.5, splits.is_new_voice)
    whole = tokenizer.encode([read_utterance(utterance, tokenizer.sample_rate) for utterance in chosen])
    short = [replace(u, duration=min(config.prompt_seconds, u.duration or config.prompt_seconds)) for u in chosen]
    prompts = tokenizer.encode([read_utterance(utterance, tokenizer.sample_rate) for utterance in short])
    settings = twist_config(config, "warm").generation
    made = {start: lm.continue_([[Segment(tokens=one)] for one in prompts], settings) for start, lm in lms.items()}
    return [
        Heard(utterance, prompts[i], whole[i], {start: made[start][i] for start in lms})
        for i, utterance in enumerate(chosen)
    ]
