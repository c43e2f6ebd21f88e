"""Continuations: let a spoken language model go on after a prompt, and measure what it says.

    first seconds of a recording -> units -> language model -> new units -> vocoder -> speech
        -> recogniser -> text -> likelihood under a text LM, repetition, copying

A perplexity means nothing alone, so the same is measured of anchors:

    true            the recording's own continuation
    resynthesised   the same through units and vocoder: what a perfect model would get
    shuffled        the true continuation of another prompt
    copy            the prompt's units again
    random          units drawn by their frequency, as long as the true continuation

Source of the protocol: GSLM (Lakhotia et al., 2021, arXiv:2102.01192): 3 s prompts of utterances longer than 6 s;
TWIST (Hassid et al., 2023, arXiv:2305.13009). Differs: prompt and continuation are transcribed apart, the prompt from
the recording; the recogniser must not be the tokenizer's encoder.
"""

import dataclasses
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.assets.weights import weights_key
from vocable.audio.io import encode_audio, read_utterance, resample
from vocable.errors import ConfigError
from vocable.evaluation.continuation_config import ContinuationConfig
from vocable.evaluation.continuation_prompts import Prompt, choose_prompts, derangement, read_prompts
from vocable.evaluation.continuation_summary import (
    TEXT_CONVENTIONS,
    column,
    continuation_exclusions,
    continuation_notes,
    continuation_scores,
    measure_transcripts,
)
from vocable.evaluation.judges import JUDGE_RATE, Judges, check_judge, encoder_name
from vocable.evaluation.keyed_store import KeyedStore
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.resynthesis import vocoder_fingerprint
from vocable.lm.generation import Continuation
from vocable.lm.spoken import Segment, SpokenLM
from vocable.lm.text_lm import TextLM
from vocable.tokens.fingerprint import fingerprint
from vocable.types import SpeechTokens

BLOCK_PROMPTS = 8
"""Made audible and transcribed together; what stays in memory."""


class Example(NamedTuple):
    """A prompt as the page plays it: encoded sound by system, "prompt" among them."""

    id: str
    sounds: Mapping[str, bytes]


class ContinuationOutcome(NamedTuple):
    """The result, and sound for the page."""

    result: EvaluationResult
    examples: list[Example]


@dataclass(slots=True)
class _Sound:
    """Something that is listened to: tokens for the vocoder, or a stretch of a recording."""

    key: str
    tokens: SpeechTokens | None = None
    prompt: Prompt | None = None
    is_prompt: bool = False


@dataclass(slots=True)
class _Run:
    """What the steps share."""

    lm: SpokenLM
    lm_fingerprint: str
    """Names its weights: kept units belong to them."""
    judges: Judges
    config: ContinuationConfig
    units: KeyedStore
    heard: KeyedStore
    on_progress: Callable[[str, int, int], None]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_made: Counter[str] = field(default_factory=Counter)
    """Units generated and sounds transcribed in this run, rather than read from disk."""


def evaluate_continuation(
    utterances: Sequence[Any],
    lm: SpokenLM,
    judges: Judges,
    text_lm: TextLM | None,
    folder: Path,
    config: ContinuationConfig | None = None,
    on_progress: Callable[[str, int, int], None] = lambda step, count, total: None,
) -> ContinuationOutcome:
    """Continue prompts and measure what is heard.

    Args:
        utterances: of a manifest; `config` says how many of them.
        lm: the model; its tokenizer has a vocoder.
        judges: the recogniser and, optionally, a predictor of opinion scores.
        text_lm: scores transcripts; None leaves perplexities out.
        folder: tokens, units and transcripts are kept in its `kept/`, each under what it was made from, so that a run
            that was stopped, or one with other metrics, goes on from them.
        config: see `ContinuationConfig`.
        on_progress: called with the step, prompts done since the last call, and their total.

    Raises:
        ConfigError: the recogniser is the tokenizer's encoder; the tokenizer has several codebooks.
        ManifestError: there is no utterance to take a prompt from.
    """
    config, started = config or ContinuationConfig(), time.perf_counter()
    relation = check_judge(judges.transcriber.name, lm.tokenizer, config.same_judge)
    if lm.tokenizer.num_codebooks != 1:
        raise ConfigError(f"{lm.tokenizer.name!r} has {lm.tokenizer.num_codebooks} codebooks; units have one.")
    kept = Path(folder) / "kept"
    if lm.card.unit_seconds is None:
        raise ConfigError(f"{lm.name}: its card has no unit durations, so lengths in seconds cannot be kept.")
    stores = KeyedStore(kept / "units.jsonl"), KeyedStore(kept / "heard.jsonl")
    run = _Run(lm, lm.fingerprint[:16], judges, config, *stores, on_progress)
    chosen, left_out = choose_prompts(utterances, config.num_prompts, config.min_seconds, config.language, config.seed)
    prompts = _timed(run, "encode", lambda: _read(run, chosen, left_out))
    made = _timed(run, "generate", lambda: _continue(run, prompts))
    items, examples = _timed(run, "listen", lambda: _listen(run, prompts, made))
    systems = _measure(run, items, text_lm)
    scores = continuation_scores(items, systems, {"seed": config.seed, "num_resamples": config.num_resamples})
    result = EvaluationResult(
        benchmark="continuation",
        scores=scores,
        conventions=_conventions(run, text_lm, relation),
        fingerprints={
            "tokenizer": lm.tokenizer.fingerprint,
            "lm": run.lm_fingerprint,
            **vocoder_fingerprint(lm.tokenizer),
        },
        weights={**judges.weights(), **({"text_lm": dict(text_lm.weights)} if text_lm else {})},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded={**left_out, **continuation_exclusions(items, systems)},
        notes=continuation_notes(items, systems, scores),
        measurements=_measurements(run, items),
        items=items,
    )
    return ContinuationOutcome(result, examples)


def random_units(
    counts: Int[Tensor, " codebook_size"],
    unit_seconds: Float[Tensor, " codebook_size"],
    seconds: float,
    collapsed: bool,
    generator: torch.Generator,
) -> Int[Tensor, " units"]:
    """Draw units by their frequency until they last `seconds`; of equal neighbours one stays where runs are collapsed.

    Args:
        counts: how often each unit occurs.
        unit_seconds: how long each lasts.
        seconds: length wanted; at least one unit comes back.
        collapsed: whether the tokenizer collapses runs.
        generator: of the draws.
    """
    if int((counts > 0).sum()) < 2:  # collapsing would leave one unit however many are drawn
        collapsed = False
    units = torch.empty(0, dtype=torch.long)
    while not len(units) or float(unit_seconds[units].sum()) < seconds:
        drawn = torch.multinomial(counts.double(), 64, replacement=True, generator=generator)
        units = torch.cat([units, drawn])
        units = torch.unique_consecutive(units) if collapsed else units
    ends = unit_seconds[units].cumsum(0)
    return units[: int((ends < seconds).sum()) + 1]


def stable_seed(*parts: object) -> int:
    """A seed from names, the same on every machine and whatever else is in the run."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8")).digest()[:6], "big")


def _read(run: _Run, chosen: Sequence[Any], left_out: Counter[str]) -> list[Prompt]:
    config = run.config

    def advance(count: int) -> None:
        run.on_progress("Encoding prompts", count, len(chosen))

    longest = config.generation.max_seconds
    return read_prompts(chosen, run.lm.tokenizer, config.prompt_seconds, longest, run.units, left_out, advance)


def _continue(run: _Run, prompts: Sequence[Prompt]) -> list[Continuation]:
    """The model's continuations, from disk where they were made before."""
    settings = dataclasses.asdict(run.config.generation)
    for not_of_the_units in ("batch_size", "cache", "seed"):
        del settings[not_of_the_units]
    seeds = [stable_seed(run.config.seed, prompt.utterance.id) for prompt in prompts]
    keys = [
        fingerprint({"lm": run.lm_fingerprint, "prompt": p.prompt.units.tolist(), "sampling": settings, "seed": seed})
        for p, seed in zip(prompts, seeds)
    ]
    missing = [index for index, key in enumerate(keys) if key not in run.units]
    run.on_progress("Generating", len(prompts) - len(missing), len(prompts))
    missing.sort(key=lambda index: len(prompts[index].prompt.units))  # prompts of like length waste least in a batch
    size = run.config.generation.batch_size
    for start in range(0, len(missing), size):
        batch = missing[start : start + size]
        made = run.lm.continue_(
            [[Segment(tokens=prompts[index].prompt)] for index in batch],
            run.config.generation,
            seeds=[seeds[index] for index in batch],
        )
        for index, one in zip(batch, made, strict=True):
            run.units.put(keys[index], [one.tokens.units.tolist(), one.seconds, one.stopped])
            run.num_made["continuations generated"] += 1
        run.on_progress("Generating", len(batch), len(prompts))
    found = [run.units[key] for key in keys]
    return [Continuation(torch.tensor(units, dtype=torch.long), *rest) for units, *rest in found]


def _listen(
    run: _Run, prompts: Sequence[Prompt], made: Sequence[Continuation]
) -> tuple[list[dict[str, Any]], list[Example]]:
    """One row per prompt: what was heard in the prompt and in every continuation."""
    counts = torch.zeros(run.lm.tokenizer.codebook_size, dtype=torch.long)
    for prompt in prompts:
        counts += torch.bincount(torch.cat([prompt.prompt.units, prompt.rest.units]).long(), minlength=len(counts))
    items, examples = [], []
    for start in range(0, len(prompts), BLOCK_PROMPTS):
        block = range(start, min(start + BLOCK_PROMPTS, len(prompts)))
        sounds = {(i, s): sound for i in block for s, sound in _sounds(run, prompts[i], made[i], counts).items()}
        played = {place for place in sounds if place[0] < run.config.num_examples}
        heard, waveforms = _hear(run, sounds, played)
        for i in block:
            items.append(_row(prompts[i], made[i], {s: heard[i, s] for j, s in sounds if j == i}))
        for i in block[: max(run.config.num_examples - start, 0)]:
            encoded = {s: encode_audio(w, JUDGE_RATE, format="opus") for (j, s), w in waveforms.items() if j == i}
            examples.append(Example(prompts[i].utterance.id, encoded))
        run.on_progress("Listening", len(block), len(prompts))
    if "shuffled" in run.config.anchors:
        others = derangement(len(items), run.config.seed)
        for item, other in zip(items, others):
            item["shuffled_transcript"] = items[other]["true_transcript"]
            item["shuffled_from"] = items[other]["id"]
    return items, examples


def _sounds(run: _Run, prompt: Prompt, made: Continuation, counts: Tensor) -> dict[str, _Sound]:
    """What is listened to for one prompt. The recorded continuation also serves the shuffled anchor."""
    tokenizer, config = run.lm.tokenizer, run.config
    sounds = {
        "prompt": _Sound(prompt.prompt_key, prompt=prompt, is_prompt=True),
        "model": _spoken(run, made.units),
    }
    if {"true", "shuffled"} & set(config.anchors):
        sounds["true"] = _Sound(prompt.rest_key, prompt=prompt)
    if "resynthesised" in config.anchors:
        sounds["resynthesised"] = _spoken(run, prompt.rest.units)
    if "copy" in config.anchors:
        sounds["copy"] = _spoken(run, prompt.prompt.units)
    if "random" in config.anchors:
        generator = torch.Generator().manual_seed(stable_seed("random", config.seed, prompt.utterance.id))
        seconds = prompt.rest.num_frames / (tokenizer.frame_rate or 1.0)
        collapsed = prompt.rest.durations is not None
        units = random_units(counts, torch.tensor(run.lm.card.unit_seconds), seconds, collapsed, generator)
        sounds["random"] = _spoken(run, units)
    return sounds


def _spoken(run: _Run, units: Tensor) -> _Sound:
    """Units for the vocoder, which predicts durations: the recording's are not a language model's to know."""
    vocoder = vocoder_fingerprint(run.lm.tokenizer).get("vocoder", type(run.lm.tokenizer).__name__)
    key = {"units": units.tolist(), "vocoder": vocoder, "tokenizer": run.lm.tokenizer.fingerprint}
    return _Sound(fingerprint({**key, "voice": run.config.voice}), tokens=SpeechTokens(codes=units[None].long()))


def _hear(
    run: _Run, sounds: Mapping[Any, _Sound], played: set[Any]
) -> tuple[dict[Any, dict[str, Any]], dict[Any, Tensor]]:
    """Text, length and opinion score of each sound; waveforms of those that are to be played."""
    judge = run.judges.transcriber
    by_text = {"transcriber": weights_key(judge.weights), "conventions": dict(judge.conventions)}
    text_keys = {place: fingerprint({"text of": sound.key, **by_text}) for place, sound in sounds.items()}
    waveforms = {place: _waveform(run, sounds[place]) for place in played}
    missing = [place for place in sounds if text_keys[place] not in run.heard]
    new = {place: waveforms[place] if place in waveforms else _waveform(run, sounds[place]) for place in missing}
    audible = [place for place in missing if new[place].numel()]
    texts = dict(zip(audible, judge.transcribe([new[place] for place in audible]) if audible else [], strict=True))
    run.num_made["sounds transcribed"] += len(audible)
    for place in missing:
        run.heard.put(text_keys[place], [texts.get(place, ""), new[place].numel() / JUDGE_RATE])
    heard: dict[Any, dict[str, Any]] = {}
    for place, key in text_keys.items():
        text, seconds = run.heard[key]
        heard[place] = {"transcript": text, "seconds": seconds}
    if run.judges.mos is not None:
        for place, sound in sounds.items():
            key = fingerprint({"mos of": sound.key, "mos": weights_key(run.judges.mos.weights)})
            if key not in run.heard:
                waveform = new.get(place, waveforms.get(place))
                waveform = _waveform(run, sound) if waveform is None else waveform
                run.heard.put(key, run.judges.mos.predict([waveform])[0] if waveform.numel() else None)
            heard[place]["mos"] = run.heard[key]
    return heard, {place: waveform for place, waveform in waveforms.items() if waveform.numel()}


def _waveform(run: _Run, sound: _Sound) -> Float[Tensor, " samples"]:
    """The sound at the judges' rate; nothing where there are no units."""
    tokenizer = run.lm.tokenizer
    if sound.prompt is not None:
        whole = read_utterance(sound.prompt.utterance, JUDGE_RATE)
        samples = round(run.config.prompt_seconds * JUDGE_RATE)
        return whole[:samples] if sound.is_prompt else whole[samples:]
    assert sound.tokens is not None
    if not sound.tokens.codes.shape[1]:
        return torch.zeros(0)
    (waveform,) = tokenizer.decode([sound.tokens], voice=run.config.voice)
    rate = tokenizer.decode_rate
    return resample(waveform.cpu(), rate, JUDGE_RATE)


def _row(prompt: Prompt, made: Continuation, heard: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": prompt.utterance.id,
        "speaker": prompt.utterance.speaker,
        "prompt_transcript": heard["prompt"]["transcript"],
        "num_units": len(made.units),
        "expected_seconds": made.seconds,
        "stopped": made.stopped,
    }
    for system, values in heard.items():
        if system != "prompt":
            row |= {column(system, name): value for name, value in values.items()}
    return row


def _measure(run: _Run, items: list[dict[str, Any]], text_lm: TextLM | None) -> list[str]:
    """Add the measures of texts to the items, system by system; return the systems that there are."""
    systems = [s for s in ("model", *run.config.anchors) if column(s, "transcript") in items[0]]
    prompts = [item["prompt_transcript"] for item in items]
    for system in systems:
        texts = [item[column(system, "transcript")] for item in items]
        rows = _timed(run, "score", lambda texts=texts: measure_transcripts(prompts, texts, text_lm))
        for item, row in zip(items, rows, strict=True):
            item |= {column(system, name): value for name, value in row.items()}
    return systems


def _conventions(run: _Run, text_lm: TextLM | None, relation: str) -> dict[str, Any]:
    config = run.config
    sampling = dataclasses.asdict(config.generation)
    del sampling["seed"], sampling["batch_size"], sampling["cache"]
    return {
        **run.judges.transcriber.conventions,
        **(text_lm.conventions if text_lm else {"text_lm": None}),
        **TEXT_CONVENTIONS,
        "lm": run.lm.name,
        "judge_and_tokenizer_encoder": relation,
        "tokenizer_encoder": encoder_name(run.lm.tokenizer),
        "prompt_seconds": config.prompt_seconds,
        "min_seconds": config.min_seconds,
        "num_prompts": config.num_prompts,
        "sampling": sampling,
        "durations": "predicted by the vocoder",
        "voice": config.voice,
        "anchors": list(config.anchors),
        "mos": run.judges.mos.name if run.judges.mos else None,
        "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over prompts and over speakers",
    }


def _measurements(run: _Run, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "made_in_this_run": dict(run.num_made),
        "stopped": dict(Counter(item["stopped"] for item in items)),
        "generated_seconds": sum(item["seconds"] for item in items),
        "compute_seconds": {name: round(value, 3) for name, value in run.seconds.items()},
    }


def _timed(run: _Run, what: str, function: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    value = function()
    run.seconds[what] += time.perf_counter() - started
    return value
