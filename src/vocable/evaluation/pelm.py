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

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.continuation import derangement
from vocable.evaluation.half_generation import Made, random_words
from vocable.evaluation.halves import (
    Cell,
    CutConfig,
    CutUtterance,
    HalfModel,
    cut_for,
    load_half_model,
    readable,
    reasons,
)
from vocable.evaluation.metrics.continuations import TEXT_CONVENTIONS
from vocable.evaluation.once import default_cache
from vocable.evaluation.pelm_kept import KeptContinuations, KeptMeasures, KeptTranscripts, count_made
from vocable.evaluation.pelm_summary import Empty, pelm_exclusions, pelm_notes, pelm_scores
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, BenchmarkConfig, Items
from vocable.evaluation.units_to_text import SpokenUnitsToText, UnitsToText, load_joint_units_to_text
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import SpokenLM
from vocable.lm.text_lm import TextLM, load_text_lm, plain_case
from vocable.recognition.transcribe_ctc import load_transcriber
from vocable.registry import look_up
from vocable.synthesis.opening import load_synthesizer
from vocable.types import SpeechTokens

ANCHORS = ("true", "transcribed", "shuffled", "copy", "random")

Progress = Callable[[str, int, int], None]
"""Called with the step, what was done since the last call (or kept from an earlier run), and the step's total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PelmConfig(BenchmarkConfig):
    """Which prompts are continued, by what, and what stands beside the model."""

    manifest: Path
    """Recordings with texts and word times (JSONL); see 'vocable align'."""
    model: str
    """Folder of a language model, or of its training run; or a control: text (a text model, t2t), random."""
    tokenizer: Path | None = None
    """Folder of the speech tokenizer; without it, the one beside the model."""
    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """The external text model that gives perplexities."""
    control_model: str = "HuggingFaceTB/SmolLM2-135M"
    """The text model of the control text; another than the external one, or it judges itself."""
    text_opening: Literal["bos", "none"] = "bos"
    """Open texts with its start symbol (bos), or leave their first token unscored (none)."""
    units_to_text: str = "own"
    """How units become text: own (the model's own transcription), asr (vocoder and recogniser), or the folder of
    another joint model that reads the same units."""
    vocoder: Path | None = None
    """Folder of the vocoder of asr. Without it, the small one that comes with Vocable, where it fits."""
    voice: str | None = None
    """Voice of the vocoder; without it, its first."""
    transcriber: str = "openai/whisper-base"
    """The recogniser of asr."""
    language: str = "en"
    """Language that is spoken, for the recogniser."""
    same_judge: Literal["refuse", "allow"] = "refuse"
    """Refuse or allow a recogniser that is the tokenizer's own encoder."""
    num_prompts: int | None = 100
    """Prompts to draw from the utterances that can be cut; null takes all."""
    directions: tuple[Cell, ...] | None = None
    """Which of u2u, t2t, u2t, t2u; without it, all that the model can read."""
    share: float = 0.5
    """Share of the words that the prompt gets."""
    min_words: int = 2
    """Fewest words of each half; shorter utterances are left out."""
    pause: Literal["middle", "before", "after"] = "middle"
    """Which half gets the pause at the cut: both (middle), the prompt (before) or the continuation (after)."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Sampling; `max_seconds` bounds spoken continuations. Its seed is not used: see `seed`."""
    max_text_tokens: int = 64
    """Longest written continuation."""
    prompt_text: Literal["transcribed", "true"] = "transcribed"
    """Spoken prompts before the external model: as transcribed (the paper's formula), or as written (true)."""
    empty: Empty = "excluded"
    """Continuations without a word: left out and counted, or scored as the prompt alone (in PELM with the prompt; what
    is not there has no likelihood of its own)."""
    anchors: tuple[str, ...] = ANCHORS
    """Which of true, transcribed, shuffled, copy and random stand beside the model."""
    num_resamples: int = 2000
    """Resamples of the bootstrap."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the model's weights. Without it, as saved."""
    device: str | None = None
    """Where to compute, such as cpu or cuda. Without it, a GPU if there is one."""
    cache: Path = field(default_factory=default_cache)
    """Folder for tokens. Without it, that of the assets."""

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or null for all.")
        if self.max_text_tokens < 1 or self.num_resamples < 1:
            raise ConfigError(
                f"max_text_tokens is {self.max_text_tokens}, num_resamples {self.num_resamples}; at least 1 each."
            )
        self.cut  # noqa: B018  # checks its settings

    @property
    def cut(self) -> CutConfig:
        """Where utterances are cut."""
        return CutConfig(share=self.share, min_words=self.min_words, pause=self.pause)


class Pelm(Benchmark[PelmConfig]):
    """Measure the perplexity of continuations under another language model (PELM), in and across modalities.

    True first halves of utterances -> sampled continuations -> text -> perplexity of prompt and continuation together
    (the paper's PELM), and of the continuation given the prompt. Beside it: copy rate, auto-BLEU, and the same numbers
    for the true sentence, its transcript, another's continuation, the prompt again, and random words.

    Writes pelm.json and pelm.items.parquet (every text and its likelihoods). What was generated, transcribed and
    measured is kept in OUT/kept: a run that was stopped goes on from there, and one with another external model only
    measures. Sampling is set after the command, for example: temperature=0.8 top_k=50 max_seconds=10

    vocable evaluate pelm dev.jsonl --model runs/sutlm --out results temperature=0.8 top_k=50
    """

    name, Config, positional, counted = "pelm", PelmConfig, ("manifest",), "prompts"

    def items(self) -> Items:
        """Continue prompts in every direction, and measure what was said."""
        config, run = self.config, self.run
        self.model = model = run.open("model", self._load)
        self.directions = directions_of(model, config)
        units_to_text = run.open("units_to_text", self._load_units_to_text)
        if units_to_text is None and any("u" in direction for direction in self.directions):
            raise ConfigError(f"{', '.join(self.directions)}: directions with units need a way from units to text.")
        text_lm = run.open("text_lm", self._load_text_lm)
        run.fingerprints |= model.fingerprints
        run.weights |= {**model.weights, "text_lm": dict(text_lm.weights)}
        run.weights |= {} if units_to_text is None else {"units_to_text": dict(units_to_text.weights)}
        cut = run.open("cut", self._cut)
        chosen = _choose(readable(model, cut, run.excluded), config, run.excluded)
        self.parts = parts = _start(model, text_lm, units_to_text, run.folder, config, run.advance)
        texts = _TrueTexts(parts, chosen)
        items: list[dict[str, Any]] = [_item(one) for one in chosen]
        for direction in self.directions:
            made = _continue(parts, chosen, direction)
            said = _written(parts, made, f"Transcribing {direction}")
            for item, new in zip(items, made, strict=True):
                item[f"{direction}_num_tokens"], item[f"{direction}_stopped"] = new.num_tokens, new.stopped
            total = len(chosen) * len(texts.names(direction))
            watch = functools.partial(run.advance, f"Scoring {direction}", total=total)
            for system, (prompts, found) in texts.systems(direction, said).items():
                rows = parts.measures(prompts, found, watch)
                for item, prompt, text, row in zip(items, prompts, found, rows, strict=True):
                    _add(item, direction, system, prompt, text, row)
        return items

    def scores(self, items: Items) -> dict[str, Score]:
        """See `Benchmark`."""
        systems = ("model", *self.config.anchors)
        self.run.excluded.update(pelm_exclusions(items, self.directions, systems))
        self.scored = pelm_scores(items, self.directions, systems, self.draws)
        return self.scored

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        config, units_to_text = self.config, self._units_to_text
        sampling = asdict(config.generation)
        del sampling["seed"], sampling["batch_size"], sampling["cache"]
        return {
            **(units_to_text.conventions if units_to_text is not None else {"units_to_text": None}),
            **self.parts.measures.text_lm.conventions,
            **{name: TEXT_CONVENTIONS[name] for name in ("words", "auto_bleu")},
            "directions": list(self.directions),
            "cut": asdict(config.cut),
            "num_prompts": config.num_prompts,
            "sampling": sampling if self.model.lm is not None else None,
            "max_text_tokens_sampled": config.max_text_tokens,
            "seeds": "of the seed, the utterance's id and the direction",
            "prompt_text": config.prompt_text,
            "texts": "prompt and continuation joined by a space; text in capitals alone is lowercased",
            "empty_continuations": config.empty,
            "anchors": list(config.anchors),
            "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over prompts and over speakers",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        parts, directions = self.parts, self.directions
        return {
            "made_in_this_run": count_made(parts.continuations, parts.transcripts, parts.measures),
            "num_prompts": len(items),
            "stopped": {one: dict(Counter(item[f"{one}_stopped"] for item in items)) for one in directions},
            "new_tokens": {one: sum(item[f"{one}_num_tokens"] for item in items) for one in directions},
        }

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        name = None if self._units_to_text is None else self._units_to_text.name
        return pelm_notes(items, self.directions, self.scored, name)

    @property
    def _units_to_text(self) -> UnitsToText | None:
        return None if self.parts.transcripts is None else self.parts.transcripts.units_to_text

    def _load(self) -> HalfModel:
        config = self.config
        return load_half_model(
            config.model,
            tokenizer=config.tokenizer,
            text_model=config.control_model,
            dtype=config.dtype,
            device=self.run.device,
        )

    def _load_text_lm(self) -> TextLM:
        return load_text_lm(self.config.text_model, opening=self.config.text_opening, device=self.run.device)

    def _load_units_to_text(self) -> UnitsToText | None:
        config, lm, device = self.config, self.model.lm, self.run.device
        if not any("u" in direction for direction in self.directions):
            return None
        if config.units_to_text != "asr":
            return load_joint_units_to_text(config.units_to_text, self.model, device=device)
        assert isinstance(lm, SpokenLM), "a direction has units"
        lm.tokenizer.synthesizer = load_synthesizer(config.vocoder, lm.tokenizer, device)
        recogniser = load_transcriber(config.transcriber, language=config.language, device=device)
        return SpokenUnitsToText(lm.tokenizer, recogniser, lm.collapsed, config.voice, config.same_judge)

    def _cut(self) -> list[CutUtterance]:
        watch = lambda count, total: self.run.advance("Encoding speech", count, total)  # noqa: E731
        config, excluded = self.config, self.run.excluded
        return cut_for(self.model, self.run.utterances(), config.cut, config.cache, excluded, watch)


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


def _start(
    model: HalfModel,
    text_lm: TextLM,
    units_to_text: UnitsToText | None,
    folder: Path | None,
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
