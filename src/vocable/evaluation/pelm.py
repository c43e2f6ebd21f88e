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

The model's columns and scores name the direction, those of an anchor the anchor too: `u2u_copy_rate` and
`u2u_true_copy_rate`, `copy_rate_u2u` and `copy_rate_u2u/true`.

Source: SUTLM (Chou et al., 2023, arXiv:2310.08715). How it samples is not known to us; settings are recorded.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vocable.assets.weights import weights_key
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.continuation import derangement
from vocable.evaluation.halves import (
    Cell,
    CutUtterance,
    HalfModel,
    HalvesBenchmark,
    HalvesConfig,
    Made,
    continue_halves,
    random_words,
)
from vocable.evaluation.keyed_store import Kept, in_blocks, open_kept, tokens_as_json, tokens_from_json
from vocable.evaluation.metrics.continuations import (
    MEANS,
    TEXT_CONVENTIONS,
    column_perplexity,
    is_below,
    nll_columns,
    score_name,
    text_measures,
)
from vocable.evaluation.metrics.perplexity import continuation_nll, text_nll
from vocable.evaluation.metrics.repetition import plain_words
from vocable.evaluation.results import Score, column_mean, column_ratio
from vocable.evaluation.runner import Items
from vocable.evaluation.units_to_text import SpokenUnitsToText, UnitsToText, load_joint_units_to_text
from vocable.evaluation.unusable import reasons
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import SpokenLM
from vocable.lm.text_lm import TextLM, load_text_lm, plain_case
from vocable.recognition.transcribe import load_transcriber
from vocable.registry import look_up
from vocable.synthesis.opening import load_synthesizer
from vocable.tokens.fingerprint import tensor_sha256
from vocable.types import SpeechTokens

ANCHORS = ("true", "transcribed", "shuffled", "copy", "random")
BLOCK_SPOKEN = 8
"""Units transcribed before they are kept."""
BLOCK_TEXTS = 32
"""Texts measured before they are kept."""
MADE = {
    "continuations": "continuations generated",
    "transcripts": "units transcribed",
    "measures": "texts measured",
}
"""Steps kept on disk, and the name in a result for the number that this run made."""
Empty = Literal["excluded", "prompt_alone"]
VIEWS = {
    "with_prompt": ("pelm", "prompt and continuation under the external model"),
    "given_prompt": ("pelm_continuation", "the continuation behind its prompt, prompt not scored"),
}
SUMMED_UP = ("copy_rate", "auto_bleu2_slam", "auto_bleu2_geometric", "empty", "num_words")


@dataclass(frozen=True, slots=True, kw_only=True)
class PelmConfig(HalvesConfig):
    """Which prompts are continued, by what, and what stands beside the model."""

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
    voice: str | Path | None = None
    """Voice of the vocoder, or a recording of one to copy; without it, its first."""
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

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or null for all.")
        if self.max_text_tokens < 1:
            raise ConfigError(f"max_text_tokens is {self.max_text_tokens}; it must be at least 1.")
        HalvesConfig.__post_init__(self)


class Pelm(HalvesBenchmark[PelmConfig]):
    """Measure the perplexity of continuations under another language model (PELM), in and across modalities.

    True first halves of utterances -> sampled continuations -> text -> perplexity of prompt and continuation together
    (the paper's PELM), and of the continuation given the prompt. Beside it: copy rate, auto-BLEU, and the same numbers
    for the true sentence, its transcript, another's continuation, the prompt again, and random words.

    Writes pelm.json and pelm.items.parquet (every text and its likelihoods). What was generated, transcribed and
    measured is kept in OUT/kept: a run that was stopped goes on from there, and one with another external model only
    measures. Sampling is set after the command, for example: temperature=0.8 top_k=50 max_seconds=10

    vocable evaluate pelm dev.jsonl --model runs/sutlm --out results temperature=0.8 top_k=50
    """

    name, Config, counted = "pelm", PelmConfig, "prompts"

    def items(self) -> Items:
        """Continue prompts in every direction, and measure what was said."""
        config, run = self.config, self.run
        self.model = self.open_model(config.control_model)
        self.directions = directions_of(self.model, config)
        self.units_to_text: UnitsToText | None = run.open("units_to_text", self._load_units_to_text)
        if self.units_to_text is None and any("u" in direction for direction in self.directions):
            raise ConfigError(f"{', '.join(self.directions)}: directions with units need a way from units to text.")
        self.text_lm = run.open("text_lm", self._load_text_lm)
        run.weights["text_lm"] = dict(self.text_lm.weights)
        if self.units_to_text is not None:
            run.weights["units_to_text"] = dict(self.units_to_text.weights)
        self.chosen = _choose(self.cut_utterances(self.model), config, run.excluded)
        self.kept = self._open_kept()
        self.heard: dict[str, list[str]] = {}
        items: list[dict[str, Any]] = [_item(one) for one in self.chosen]
        for direction in self.directions:
            made = self._continue(direction)
            said = self._as_text(made, f"Transcribing {direction}")
            for item, new in zip(items, made, strict=True):
                item[f"{direction}_num_tokens"], item[f"{direction}_stopped"] = new.num_tokens, new.stopped
            for system, (prompts, texts) in self._texts(direction, said).items():
                rows = self._measure(direction, prompts, texts)
                for item, prompt, text, row in zip(items, prompts, texts, rows, strict=True):
                    _add(item, direction, system, prompt, text, row)
        return items

    def _open_kept(self) -> dict[str, Kept]:
        """Finished work on disk, under what it was made from: one file for each step."""
        config = self.config
        settings: dict[str, Mapping[str, Any]] = {}
        if self.model.lm is not None:
            settings["continuations"] = _generation_settings(self.model, config)
        if self.units_to_text is not None:
            settings["transcripts"] = {
                "tokenizer": self.model.fingerprints.get("tokenizer"),
                "weights": weights_key(self.units_to_text.weights),
                "conventions": dict(self.units_to_text.conventions),
            }
        settings["measures"] = {
            "weights": weights_key(self.text_lm.weights),
            "conventions": {**self.text_lm.conventions, **TEXT_CONVENTIONS},
            "empty": config.empty,
        }
        return open_kept(self.run.folder, settings)

    def _continue(self, direction: Cell) -> list[Made]:
        """Continuation of the model after each prompt."""
        config, model, chosen = self.config, self.model, self.chosen
        if model.lm is None:
            return [Made(text, None, len(text.split()), "random") for text in random_words(chosen, config.seed + 1)]

        def make(places: list[int]) -> Iterator[dict[int, Any]]:
            limits: dict[str, int] = {"max_text_tokens": config.max_text_tokens, "seed": config.seed}
            wanted = [chosen[place] for place in places]
            for batch in continue_halves(model, wanted, direction, config.generation, **limits):
                yield {places[index]: _made_as_json(one) for index, one in batch.items()}

        prompts = [model.prompt(one.prompt, direction).tolist() for one in chosen]
        described = [{"prompt": ids, "cell": direction, "id": one.id} for ids, one in zip(prompts, chosen)]
        watch = functools.partial(self.run.advance, f"Continuing {direction}", total=len(chosen))
        return [_made_from_json(value) for value in self.kept["continuations"].get(described, make, watch)]

    def _as_text(self, made: Sequence[Made], step: str) -> list[str]:
        """Return the continuations as text."""

        def make(block: Sequence[int]) -> list[str]:
            assert self.units_to_text is not None
            return self.units_to_text([spoken[place] for place in block])

        spoken: list[SpeechTokens] = [one.tokens for one in made if one.text is None and one.tokens is not None]
        heard: list[str] = []
        if spoken:
            described = [{"units": tokens_as_json(tokens)} for tokens in spoken]
            watch = functools.partial(self.run.advance, step, total=len(spoken))
            heard = self.kept["transcripts"].get(described, lambda places: in_blocks(places, BLOCK_SPOKEN, make), watch)
        remaining = iter(heard)
        return [plain_case(next(remaining) if one.text is None else one.text).strip() for one in made]

    def _measure(self, direction: Cell, prompts: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Measures of what one system said; see `measure`."""

        def make(block: Sequence[int]) -> list[dict[str, Any]]:
            before, after = [prompts[place] for place in block], [texts[place] for place in block]
            return measure(before, after, self.text_lm, self.config.empty)

        described = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        total = len(texts) * len(self._systems(direction))
        watch = functools.partial(self.run.advance, f"Scoring {direction}", total=total)
        return self.kept["measures"].get(described, lambda places: in_blocks(places, BLOCK_TEXTS, make), watch)

    def _systems(self, direction: Cell) -> list[str]:
        """The model and the anchors of a direction: in t2t, `transcribed` is `true`; with one utterance, no other."""
        absent = {"transcribed"} if "u" not in direction else set()
        absent |= {"shuffled"} if len(self.chosen) < 2 else set()
        return ["model", *(anchor for anchor in self.config.anchors if anchor not in absent)]

    def _texts(self, direction: Cell, said: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
        """Prompts and continuations, by system; `said` is what the model made."""
        seed = self.config.seed
        true_prompts = [plain_case(one.prompt.text) for one in self.chosen]
        written = [plain_case(one.continuation.text).strip() for one in self.chosen]
        prompts = true_prompts
        if direction[0] == "u" and self.config.prompt_text == "transcribed":
            prompts = self._true_half("prompt")
        own = self._true_half("continuation") if direction[2] == "u" else written
        others = derangement(len(own), seed) or [0]
        texts = {
            "model": (prompts, list(said)),
            "true": (true_prompts, written),
            "transcribed": (prompts, own),
            "shuffled": (prompts, [own[other] for other in others]),
            "copy": (prompts, prompts),
            "random": (prompts, [plain_case(text) for text in random_words(self.chosen, seed)]),
        }
        return {system: texts[system] for system in self._systems(direction)}

    def _true_half(self, half: Literal["prompt", "continuation"]) -> list[str]:
        """Transcripts of the units of each half, made once for all directions."""
        if half not in self.heard:
            made = [Made(None, getattr(one, half).tokens, 0, "") for one in self.chosen]
            self.heard[half] = self._as_text(made, f"Transcribing true {half}s")
        return self.heard[half]

    def scores(self, items: Items) -> dict[str, Score]:
        """See `Benchmark`."""
        systems = ("model", *self.config.anchors)
        self.run.excluded.update(pelm_exclusions(items, self.directions, systems))
        self.scored = pelm_scores(items, self.directions, systems, self.draws)
        return self.scored

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        config, units_to_text = self.config, self.units_to_text
        return {
            **(units_to_text.conventions if units_to_text is not None else {"units_to_text": None}),
            **self.text_lm.conventions,
            **{name: TEXT_CONVENTIONS[name] for name in ("words", "auto_bleu")},
            "directions": list(self.directions),
            "cut": config.cut_conventions(),
            "num_prompts": config.num_prompts,
            "sampling": config.generation.sampling() if self.model.lm is not None else None,
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
        directions = self.directions
        return {
            "made_in_this_run": {MADE[name]: kept.num_made for name, kept in self.kept.items()},
            "num_prompts": len(items),
            "stopped": {one: dict(Counter(item[f"{one}_stopped"] for item in items)) for one in directions},
            "new_tokens": {one: sum(item[f"{one}_num_tokens"] for item in items) for one in directions},
        }

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        name = None if self.units_to_text is None else self.units_to_text.name
        return pelm_notes(items, self.directions, self.scored, name)

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


def _choose(utterances: Sequence[CutUtterance], config: PelmConfig, excluded: Counter[str]) -> list[CutUtterance]:
    if not utterances:
        raise ManifestError(f"No utterance is left to take a prompt from ({reasons(excluded)}).")
    count = min(config.num_prompts or len(utterances), len(utterances))
    picked = np.random.default_rng(config.seed).choice(len(utterances), count, replace=False)
    if count < len(utterances):
        excluded["not drawn"] = len(utterances) - count
    return [utterances[place] for place in sorted(picked)]


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


def _generation_settings(model: HalfModel, config: PelmConfig) -> dict[str, Any]:
    """What decides a continuation beside its prompt. The name of a folder does not: a model may move."""
    assert model.lm is not None
    card = getattr(model.lm, "card", None)
    return {
        "lm": tensor_sha256(model.lm.model.state_dict()),
        "rows": model.description(),
        "unit_seconds": None if card is None else card.unit_seconds,
        "silence_units": None if card is None else card.silence_units,
        "fingerprints": dict(model.fingerprints),
        "sampling": config.generation.sampling(),
        "max_text_tokens": config.max_text_tokens,
        "seed": config.seed,
    }


def _made_as_json(made: Made) -> dict[str, Any]:
    return {**made._asdict(), "tokens": None if made.tokens is None else tokens_as_json(made.tokens)}


def _made_from_json(value: Mapping[str, Any]) -> Made:
    tokens = value["tokens"]
    return Made(**{**value, "tokens": None if tokens is None else tokens_from_json(tokens)})


def measure(prompts: Sequence[str], texts: Sequence[str], text_lm: TextLM, empty: Empty) -> list[dict[str, Any]]:
    """Measure what one system said; a value is None where a text, or its prompt, holds no word.

    Where both together are longer than the external model's context, likelihoods are None, and `too_long` is 1.

    Args:
        empty: whether a continuation without a word is left out, or scored as its prompt alone.
    """
    rows = [
        {
            **{name: value for name, value in text_measures(prompt, text).items() if name in SUMMED_UP},
            "prompt_empty": int(not plain_words(prompt)),
            "too_long": int(_is_too_long(text_lm, prompt, text)),
        }
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    asked = [not (row["prompt_empty"] or row["too_long"]) for row in rows]
    both = [fits and not row["empty"] for fits, row in zip(asked, rows)]
    alone = [fits and bool(row["empty"]) and empty == "prompt_alone" for fits, row in zip(asked, rows)]
    behind = continuation_nll(text_lm, _only(prompts, both), _only(texts, both))
    for row, found, bare in zip(rows, behind, text_nll(text_lm, _only(prompts, alone)), strict=True):
        given, whole = found or (None, bare)
        row |= {**nll_columns("with_prompt", whole), **nll_columns("given_prompt", given)}
    return rows


def _only(texts: Sequence[str], wanted: Sequence[bool]) -> list[str]:
    """The texts that are wanted, and "" in the place of others."""
    return [text if kept else "" for text, kept in zip(texts, wanted)]


def pelm_scores(
    items: Items, directions: Sequence[str], systems: Sequence[str], settings: Mapping[str, int]
) -> dict[str, Score]:
    """All scores: PELM of every direction first, each for the model and then for the anchors."""
    found: dict[str, dict[str, Score]] = {}
    for direction in directions:
        for system in systems:
            stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
            if f"{stem}transcript" not in items[0]:
                continue
            for name, score in _scores(items, stem, direction, settings).items():
                found.setdefault(name, {})[score_name(system, f"{name}_{direction}")] = score
    return {name: score for group in found.values() for name, score in group.items()}


def pelm_exclusions(items: Items, directions: Sequence[str], systems: Sequence[str]) -> dict[str, int]:
    """Return the counts of texts without a perplexity, by direction and system."""
    counts: dict[str, int] = {}
    for direction in directions:
        silent = sum(item[f"{direction}_prompt_empty"] for item in items)
        counts[f"{direction}: no word in the prompt, no perplexity"] = silent
        for system in systems:
            stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
            for column, what in (
                ("empty", "no word in the continuation"),
                ("too_long", "longer than the text LM reads"),
            ):
                counts[f"{direction}, {system}: {what}"] = sum(item.get(f"{stem}{column}", 0) for item in items)
    return {reason: count for reason, count in counts.items() if count}


def pelm_notes(
    items: Items, directions: Sequence[str], scores: Mapping[str, Score], units_to_text: str | None
) -> list[str]:
    """Return notes that a reader needs before using the numbers."""
    notes = []
    if units_to_text is not None and any("u" in direction for direction in directions):
        notes.append(f"Units became text by: {units_to_text}. Its errors are in every direction with units.")
    for direction in directions:
        empty = scores[f"empty_{direction}"].value or 0.0
        if empty > 0.1:
            notes.append(f"{direction}: {empty:.0%} of the model's continuations hold no word.")
        if is_below(scores.get(f"pelm_{direction}/copy"), scores.get(f"pelm_{direction}")):
            notes.append(
                f"{direction}: repeating the prompt gets a lower PELM than the model; the score rewards copies."
            )
        name = f"pelm_continuation_{direction}"
        if not is_below(scores.get(name), scores.get(f"{name}/random")):
            notes.append(f"{direction}: the model's continuations are no likelier than random words.")
    if len(items) < 30:
        notes.append(f"Only {len(items)} prompts: intervals are rough.")
    return notes


def _is_too_long(text_lm: TextLM, prompt: str, text: str) -> bool:
    """Whether prompt and text with a start symbol do not fit into the external model's context."""
    context = text_lm.context_tokens
    return context is not None and len(text_lm.token_ids(f"{prompt} {text}")) + 1 > context


def _scores(items: Items, stem: str, direction: str, settings: Mapping[str, int]) -> dict[str, Score]:
    """The scores of one system in one direction, without the direction in their names."""
    scores: dict[str, Score] = {}
    for view, (name, meaning) in VIEWS.items():
        said = f"{meaning}; {direction}"
        averages = column_perplexity(items, stem, view, f"perplexity of {said}", settings)
        none = Score(value=None, num_items=0, better="lower", meaning=f"perplexity of {said}")
        scores[name] = averages.get("token_weighted", none)
        scores |= {f"{name}_{way}": averages[way] for way in ("geometric", "arithmetic") if way in averages}
        kept = [item for item in items if item[f"{stem}nll_{view}"] is not None]
        scores[f"log_{name}"] = column_ratio(
            kept,
            f"{stem}nll_{view}",
            f"{stem}tokens_{view}",
            better="lower",
            meaning=f"nats per token of {said}",
            **settings,
        )
    for name in SUMMED_UP:
        better, meaning = MEANS[name]
        said = f"{meaning}; {direction}"
        scores[name] = column_mean(items, f"{stem}{name}", better=better, meaning=said, **settings)
    return scores
