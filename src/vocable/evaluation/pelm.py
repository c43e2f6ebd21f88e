"""PELM: how likely does another language model find what a model says after a prompt?

    x_i true prompt -> y'_i sampled -> T(x_i) T(y'_i) as text -> exp(- sum of log p / number of tokens), over all i

T is the identity for text; for units it is a transcription (units_to_text.py), named in the result. Four directions:
u2u, t2t, u2t, t2u. With the prompt inside, PELM mixes how hard the prompt is, and what T gets wrong, with how good the
continuation is, and repeating the prompt lowers it. So beside it stand the perplexity of the continuation given the
prompt, the copy rate, auto-BLEU, and anchors that are measured in the same way:

    true          the sentence as written: what is good
    transcribed   the true continuation in the direction's modality, through T: what a perfect model would get
    shuffled      the true continuation of another prompt, through T
    copy          the prompt again
    random        words drawn by their frequency, as many as the true continuation has

Source: SUTLM (Chou et al., 2023, arXiv:2310.08715). How it samples is not known to us; settings are recorded.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.continuation import derangement
from vocable.evaluation.half_generation import Made, random_words
from vocable.evaluation.halves import Cell, CutConfig, CutUtterance, HalfModel, readable, reasons
from vocable.evaluation.metrics.continuations import TEXT_CONVENTIONS
from vocable.evaluation.pelm_kept import KeptContinuations, KeptMeasures, KeptTranscripts, count_made
from vocable.evaluation.pelm_summary import Empty, pelm_exclusions, pelm_notes, pelm_scores
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.units_to_text import UnitsToText
from vocable.lm.generation import GenerationConfig
from vocable.lm.text_lm import TextLM, plain_case
from vocable.registry import look_up
from vocable.types import SpeechTokens

ANCHORS = ("true", "transcribed", "shuffled", "copy", "random")

Progress = Callable[[str, int, int], None]
"""Called with the step, what was done since the last call (or kept from an earlier run), and the step's total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PelmConfig:
    """Which prompts are continued, how, and what stands beside the model."""

    num_prompts: int | None = 100
    """Drawn from the utterances that can be cut; None takes all."""
    directions: tuple[Cell, ...] | None = None
    """None: all that the model can read."""
    cut: CutConfig = field(default_factory=CutConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Sampling; `max_seconds` bounds spoken continuations. Its seed is not used: see `seed`."""
    max_text_tokens: int = 64
    """Bounds written continuations."""
    prompt_text: Literal["transcribed", "true"] = "transcribed"
    """Spoken prompts before the external model: through T, as in the paper's formula, or as written."""
    empty: Empty = "excluded"
    """A continuation that says nothing: left out and counted, or scored as the prompt alone (in PELM with the prompt;
    what is not there has no likelihood of its own)."""
    anchors: tuple[str, ...] = ANCHORS
    seed: int = 0
    """Of the draw of prompts, of sampling (with the utterance's id and the direction) and of the bootstrap."""
    num_resamples: int = 2000

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or null for all.")
        if self.max_text_tokens < 1 or self.num_resamples < 1:
            raise ConfigError(
                f"max_text_tokens is {self.max_text_tokens}, num_resamples {self.num_resamples}; at least 1 each."
            )


class _Run(NamedTuple):
    """What the steps share."""

    model: HalfModel
    config: PelmConfig
    continuations: KeptContinuations | None
    """None for the random control."""
    transcripts: KeptTranscripts | None
    """None where no direction has units."""
    measures: KeptMeasures
    watch: Progress


def directions_of(model: HalfModel, config: PelmConfig) -> tuple[Cell, ...]:
    """Return the directions that will be measured; the random control writes only.

    Raises:
        ConfigError: the model cannot go in a direction that was asked for.
    """
    known: tuple[Cell, ...] = ("t2t",) if model.lm is None else model.cells
    wanted = known if config.directions is None else config.directions
    for direction in wanted:
        if direction not in known:
            raise ConfigError(f"The model cannot go {direction!r}; it knows {', '.join(known)}.")
    return wanted


def pelm_steps(directions: Sequence[Cell]) -> list[str]:
    """Name the steps that report progress."""
    each = [f"{what} {direction}" for direction in directions for what in ("Continuing", "Transcribing", "Scoring")]
    return ["Transcribing true prompts", "Transcribing true continuations", *each]


def evaluate_pelm(
    model: HalfModel,
    utterances: Sequence[CutUtterance],
    left_out: Mapping[str, int],
    text_lm: TextLM,
    units_to_text: UnitsToText | None,
    folder: Path,
    config: PelmConfig | None = None,
    on_progress: Progress = lambda step, count, total: None,
) -> EvaluationResult:
    """Continue prompts in every direction, and measure what was said.

    Args:
        model: of `load_half_model`.
        utterances: of `cut_for`.
        left_out: utterances that could not be cut, by reason.
        text_lm: the external model.
        units_to_text: T; needed where a direction has units.
        folder: continuations, transcripts and measures are kept in its `kept/`, each under what it was made from, so
            that a run that was stopped, or one with another external model, goes on from them.
        config: see `PelmConfig`.
        on_progress: see `Progress`.

    Raises:
        ConfigError: a direction is not the model's, or needs T.
        ManifestError: no utterance is left.
        OutputError: what is kept in `folder` cannot be read or written.
    """
    config, started, excluded = config or PelmConfig(), time.perf_counter(), Counter(left_out)
    directions = directions_of(model, config)
    if units_to_text is None and any("u" in direction for direction in directions):
        raise ConfigError(f"{', '.join(directions)}: directions with units need a way from units to text.")
    chosen = _choose(readable(model, utterances, excluded), config, excluded)
    run = _start(model, text_lm, units_to_text, folder, config, on_progress)
    texts = _TrueTexts(run, chosen)
    items: list[dict[str, Any]] = [_item(one) for one in chosen]
    for direction in directions:
        made = _continue(run, chosen, direction)
        said = _written(run, made, f"Transcribing {direction}")
        for item, new in zip(items, made, strict=True):
            item[f"{direction}_num_tokens"], item[f"{direction}_stopped"] = new.num_tokens, new.stopped
        step, total = f"Scoring {direction}", len(chosen) * len(texts.names(direction))
        for system, (prompts, found) in texts.systems(direction, said).items():
            rows = run.measures(prompts, found, lambda count, step=step, total=total: on_progress(step, count, total))
            for item, prompt, text, row in zip(items, prompts, found, rows, strict=True):
                _add(item, direction, system, prompt, text, row)
    return _result(run, items, directions, excluded, time.perf_counter() - started)


def _start(
    model: HalfModel,
    text_lm: TextLM,
    units_to_text: UnitsToText | None,
    folder: Path,
    config: PelmConfig,
    watch: Progress,
) -> _Run:
    written = None
    if units_to_text is not None:
        written = KeptTranscripts(folder, units_to_text, model.fingerprints.get("tokenizer"))
    continued = None
    if model.lm is not None:
        continued = KeptContinuations(folder, model, config.generation, config.max_text_tokens, config.seed)
    return _Run(model, config, continued, written, KeptMeasures(folder, text_lm, config.empty), watch)


def _result(
    run: _Run, items: list[dict[str, Any]], directions: Sequence[Cell], excluded: Mapping[str, int], seconds: float
) -> EvaluationResult:
    model, config, text_lm = run.model, run.config, run.measures.text_lm
    units_to_text = None if run.transcripts is None else run.transcripts.units_to_text
    settings = {"seed": config.seed, "num_resamples": config.num_resamples}
    scores = pelm_scores(items, directions, ("model", *config.anchors), settings)
    return EvaluationResult(
        benchmark="pelm",
        scores=scores,
        conventions=_conventions(model, directions, text_lm, units_to_text, config),
        fingerprints=model.fingerprints,
        weights={
            **model.weights,
            "text_lm": dict(text_lm.weights),
            **({"units_to_text": dict(units_to_text.weights)} if units_to_text is not None else {}),
        },
        seed=config.seed,
        seconds=seconds,
        excluded={**excluded, **pelm_exclusions(items, directions, ("model", *config.anchors))},
        notes=pelm_notes(items, directions, scores, units_to_text.name if units_to_text else None),
        measurements={
            "made_in_this_run": count_made(run.continuations, run.transcripts, run.measures),
            **_measurements(items, directions),
        },
        items=items,
    )


class _TrueTexts:
    """What the halves of the utterances say, as written and through T, and what each anchor is made of."""

    def __init__(self, run: _Run, chosen: Sequence[CutUtterance]) -> None:
        self.run, self.config, self.chosen = run, run.config, chosen
        self.heard: dict[str, list[str]] = {}

    def prompts(self, modality: str) -> list[str]:
        """Prompts as the external model reads them."""
        if modality == "u" and self.config.prompt_text == "transcribed":
            return self._transcribed("prompt")
        return [plain_case(one.prompt.text) for one in self.chosen]

    def systems(self, direction: Cell, said: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
        """Prompts and continuations, by system; `said` is what the model made."""
        prompts = self.prompts(direction[0])
        written = [plain_case(one.continuation.text).strip() for one in self.chosen]
        own = self._transcribed("continuation") if direction[2] == "u" else written
        others = derangement(len(own), self.config.seed) or [0]
        found = {
            "true": ([plain_case(one.prompt.text) for one in self.chosen], written),
            "transcribed": (prompts, own),
            "shuffled": (prompts, [own[other] for other in others]),
            "copy": (prompts, prompts),
            "random": (prompts, [plain_case(text) for text in random_words(self.chosen, self.config.seed)]),
        }
        return {name: (prompts, list(said)) if name == "model" else found[name] for name in self.names(direction)}

    def names(self, direction: Cell) -> list[str]:
        """The model and the anchors of a direction: in t2t, `transcribed` is `true`; with one utterance, no other."""
        absent = {"transcribed"} if "u" not in direction else set()
        absent |= {"shuffled"} if len(self.chosen) < 2 else set()
        return ["model", *(anchor for anchor in self.config.anchors if anchor not in absent)]

    def _transcribed(self, half: Literal["prompt", "continuation"]) -> list[str]:
        if half not in self.heard:
            made = [Made(None, getattr(one, half).tokens, 0, "") for one in self.chosen]
            self.heard[half] = _written(self.run, made, f"Transcribing true {half}s")
        return self.heard[half]


def _choose(utterances: Sequence[CutUtterance], config: PelmConfig, excluded: Counter[str]) -> list[CutUtterance]:
    if not utterances:
        raise ManifestError(f"No utterance is left to take a prompt from ({reasons(excluded)}).")
    count = min(config.num_prompts or len(utterances), len(utterances))
    picked = np.random.default_rng(config.seed).choice(len(utterances), count, replace=False)
    if count < len(utterances):
        excluded["not drawn"] = len(utterances) - count
    return [utterances[place] for place in sorted(picked)]


def _continue(run: _Run, chosen: Sequence[CutUtterance], direction: Cell) -> list[Made]:
    if run.continuations is None:
        return [Made(text, None, len(text.split()), "random") for text in random_words(chosen, run.config.seed + 1)]
    return run.continuations(chosen, direction, lambda count: run.watch(f"Continuing {direction}", count, len(chosen)))


def _written(run: _Run, made: Sequence[Made], step: str) -> list[str]:
    """What was made, as text."""
    spoken: list[SpeechTokens] = [one.tokens for one in made if one.text is None and one.tokens is not None]
    heard = iter(())
    if spoken:
        assert run.transcripts is not None
        heard = iter(run.transcripts(spoken, lambda count: run.watch(step, count, len(spoken))))
    texts = [next(heard) if one.text is None else one.text for one in made]
    return [plain_case(text).strip() for text in texts]


def _item(one: CutUtterance) -> dict[str, Any]:
    return {
        "id": one.id,
        "speaker": one.speaker,
        "prompt_text": one.prompt.text,
        "continuation_text": one.continuation.text.strip(),
        "words_prompt": one.prompt.num_words,
        "words_continuation": one.continuation.num_words,
    }


def _add(item: dict[str, Any], direction: str, system: str, prompt: str, text: str, row: Mapping[str, Any]) -> None:
    """Add what a system said in a direction, and its measures, to an utterance's row."""
    stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
    if system == "model":
        item[f"{direction}_prompt_transcript"] = prompt
    item |= {f"{stem}{name}": value for name, value in {"transcript": text, **row}.items()}


def _conventions(
    model: HalfModel,
    directions: Sequence[Cell],
    text_lm: TextLM,
    map_units: UnitsToText | None,
    config: PelmConfig,
) -> dict[str, Any]:
    sampling = asdict(config.generation)
    del sampling["seed"], sampling["batch_size"], sampling["cache"]
    return {
        **(map_units.conventions if map_units is not None else {"units_to_text": None}),
        **text_lm.conventions,
        **{name: TEXT_CONVENTIONS[name] for name in ("words", "auto_bleu")},
        "directions": list(directions),
        "cut": asdict(config.cut),
        "num_prompts": config.num_prompts,
        "sampling": sampling if model.lm is not None else None,
        "max_text_tokens_sampled": config.max_text_tokens,
        "seeds": "of the seed, the utterance's id and the direction",
        "prompt_text": config.prompt_text,
        "texts": "prompt and continuation joined by a space; text in capitals alone is lowercased",
        "empty_continuations": config.empty,
        "anchors": list(config.anchors),
        "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over prompts and over speakers",
    }


def _measurements(items: Sequence[Mapping[str, Any]], directions: Sequence[Cell]) -> dict[str, Any]:
    return {
        "num_prompts": len(items),
        "stopped": {
            direction: dict(Counter(item[f"{direction}_stopped"] for item in items)) for direction in directions
        },
        "new_tokens": {direction: sum(item[f"{direction}_num_tokens"] for item in items) for direction in directions},
    }
