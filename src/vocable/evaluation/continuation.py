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

from __future__ import annotations

import base64
import dataclasses
import hashlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.assets.weights import weights_key
from vocable.audio.io import audio_info, read_utterance
from vocable.audio.waveforms import resample
from vocable.audio.writing import encode_audio
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation import judges as judging
from vocable.evaluation.judges import JUDGE_RATE, check_judge, encoder_name
from vocable.evaluation.keyed_store import KeyedStore, tokens_as_json, tokens_from_json
from vocable.evaluation.metrics.continuations import (
    TEXT_CONVENTIONS,
    column,
    continuation_exclusions,
    continuation_notes,
    continuation_scores,
    measure_transcripts,
)
from vocable.evaluation.pages import page_template
from vocable.evaluation.results import EvaluationResult, Score
from vocable.evaluation.resynthesis import choose_utterances, same_language, vocoder_fingerprint
from vocable.evaluation.runner import Benchmark, BenchmarkConfig, Items, score_table, systems_of
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Segment, SpokenLM, load_lm
from vocable.lm.text_lm import TextLM, load_text_lm
from vocable.registry import look_up
from vocable.synthesis.opening import load_synthesizer
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens, Utterance

ANCHORS = ("true", "resynthesised", "shuffled", "copy", "random")
BLOCK_PROMPTS = 8
"""Made audible and transcribed together; what stays in memory."""
BLOCK_UTTERANCES = 16
"""Read and encoded together; what stays in memory."""
TITLES = {
    "prompt": "Prompt",
    "model": "Model",
    "true": "True continuation",
    "resynthesised": "True continuation, resynthesised",
    "copy": "Anchor: the prompt again",
    "random": "Anchor: random units",
}
"""Sounds that the page plays."""


class Continued(NamedTuple):
    """Units that the model generated after one prompt, their expected length, and why they end."""

    units: Tensor
    seconds: float
    stopped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationConfig(BenchmarkConfig):
    """Which prompts are continued, by what, and what stands beside the model."""

    model: Path
    """Folder of a language model, or of its training run."""
    manifest: Path
    """Recordings to take prompts from (JSONL)."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; without it, the one beside the model."""
    vocoder: Path | None = None
    """Folder of a vocoder for its units. Without it, the small one that comes with Vocable, where it fits."""
    num_prompts: int | None = 100
    """Prompts to draw from the recordings that are long enough; null takes all."""
    prompt_seconds: float = 3.0
    """Length of a prompt."""
    min_seconds: float = 6.0
    """Recordings must be longer than this, so that there is a true continuation."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Sampling; its `max_seconds` also bounds the true continuation. Its seed is not used: see `seed`."""
    anchors: tuple[str, ...] = ANCHORS
    """Which of true, resynthesised, shuffled, copy and random stand beside the model."""
    transcriber: str = "openai/whisper-base"
    """The recogniser that listens; a Whisper name or folder."""
    language: str = "en"
    """Language that is spoken. Utterances marked with another are left out, and counted."""
    text_model: str | None = "HuggingFaceTB/SmolLM2-135M"
    """The text model of the perplexities; null leaves them out."""
    text_opening: Literal["bos", "none"] = "bos"
    """Open texts with the start symbol (bos), or leave their first token unscored (none)."""
    mos: str | None = None
    """A predictor of opinion scores, such as distillmos; null leaves the score out."""
    voice: str | Path | None = None
    """Voice of the vocoder, or a recording of one to copy; without it, its first."""
    same_judge: Literal["refuse", "allow"] = "refuse"
    """Refuse or allow a recogniser that is the tokenizer's own encoder."""
    num_resamples: int = 2000
    """Resamples of the bootstrap."""
    num_examples: int = 8
    """Prompts on the page."""
    device: str | None = None
    """Where to compute, such as cpu or cuda. Without it, a GPU if there is one."""

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or None for all.")
        if not 0 < self.prompt_seconds < self.min_seconds:
            raise ConfigError(
                f"prompt_seconds is {self.prompt_seconds}, min_seconds {self.min_seconds}: the prompt must be above 0 "
                "and shorter than the shortest utterance, or there is nothing to continue."
            )
        if self.num_examples < 0 or self.num_resamples < 1:
            raise ConfigError("num_examples must not be negative, and num_resamples at least 1.")


class Prompt(NamedTuple):
    """A recording cut in two."""

    utterance: Utterance
    """Up to the end of the true continuation."""
    prompt: SpeechTokens
    rest: SpeechTokens
    prompt_key: str
    """Names the samples of the prompt."""
    rest_key: str


@dataclass(slots=True)
class _Sound:
    """Something that is listened to: tokens for the vocoder, or a stretch of a recording."""

    key: str
    tokens: SpeechTokens | None = None
    prompt: Prompt | None = None
    is_prompt: bool = False


class ContinuationBenchmark(Benchmark[ContinuationConfig]):
    """Let a language model continue recordings, and measure what it says beside what others would say.

    Prompt -> units -> language model -> new units -> vocoder -> recogniser -> text. Of the texts: generative
    perplexity (alone, given the prompt, with the prompt; three averages), auto-BLEU in both published forms, self-BLEU,
    VERT, copy rate, share of empty ones. The same for anchors: the true continuation, as recorded and resynthesised,
    that of another prompt, the prompt again, random units.

    Writes continuation.json, continuation.items.parquet and continuation.html (a page to listen to). Units and
    transcripts are kept in OUT/kept: the same command goes on after a stop, and one with other metrics (and
    --overwrite) generates nothing again.

    Sampling is set after the command, for example: temperature=0.8 top_k=50 max_seconds=10 repetition_penalty=1.1

    vocable evaluate continuation --model runs/twist --manifest dev.jsonl --out results temperature=0.8 top_k=50
    """

    name, Config, counted = "continuation", ContinuationConfig, "prompts"

    def items(self) -> Items:
        """Continue the prompts, listen to all systems, and measure the texts."""
        config, run = self.config, self.run
        self.lm = run.open("lm", self._load_lm)
        self.judges = run.open("judges", self._load_judges)
        self.text_lm = run.open("text_lm", self._load_text_lm)
        tokenizer = self.lm.tokenizer
        self.relation = check_judge(self.judges.transcriber.name, tokenizer, config.same_judge)
        if tokenizer.num_codebooks != 1:
            raise ConfigError(f"{tokenizer.name!r} has {tokenizer.num_codebooks} codebooks; units have one.")
        if self.lm.card.unit_seconds is None:
            raise ConfigError(f"{self.lm.name}: its card has no unit durations, so lengths in seconds cannot be kept.")
        self.lm_fingerprint = self.lm.fingerprint[:16]
        run.fingerprints |= {"tokenizer": tokenizer.fingerprint, "lm": self.lm_fingerprint}
        run.fingerprints |= vocoder_fingerprint(tokenizer)
        run.weights |= {**self.judges.weights(), **({"text_lm": dict(self.text_lm.weights)} if self.text_lm else {})}
        kept = None if run.folder is None else run.folder / "kept"
        self.units = KeyedStore(None if kept is None else kept / "units.jsonl")
        self.heard = KeyedStore(None if kept is None else kept / "heard.jsonl")
        self.seconds: dict[str, float] = defaultdict(float)
        self.num_made = Counter[str]()
        chosen, left_out = choose_prompts(
            run.utterances(), config.num_prompts, config.min_seconds, config.language, config.seed
        )
        run.excluded.update(left_out)
        with self._timed("encode"):
            prompts = self._read(chosen)
        with self._timed("generate"):
            made = self._continue(prompts)
        with self._timed("listen"):
            items = self._listen(prompts, made)
        self.systems = [s for s in ("model", *config.anchors) if column(s, "transcript") in items[0]]
        texts = [item["prompt_transcript"] for item in items]
        for system in self.systems:
            with self._timed("score"):
                found = [item[column(system, "transcript")] for item in items]
                rows = measure_transcripts(texts, found, self.text_lm)
            for item, row in zip(items, rows, strict=True):
                item |= {column(system, name): value for name, value in row.items()}
        return items

    def scores(self, items: Items) -> dict[str, Score]:
        """See `Benchmark`."""
        self.run.excluded.update(continuation_exclusions(items, self.systems))
        self.scored = continuation_scores(items, self.systems, self.draws)
        return self.scored

    def conventions(self) -> dict[str, Any]:
        """See `Benchmark`."""
        config, judges = self.config, self.judges
        sampling = dataclasses.asdict(config.generation)
        del sampling["seed"], sampling["batch_size"], sampling["cache"]
        return {
            **judges.transcriber.conventions,
            **(self.text_lm.conventions if self.text_lm else {"text_lm": None}),
            **TEXT_CONVENTIONS,
            "lm": self.lm.name,
            "judge_and_tokenizer_encoder": self.relation,
            "tokenizer_encoder": encoder_name(self.lm.tokenizer),
            "prompt_seconds": config.prompt_seconds,
            "min_seconds": config.min_seconds,
            "num_prompts": config.num_prompts,
            "sampling": sampling,
            "durations": "predicted by the vocoder",
            "voice": config.voice and str(config.voice),
            "anchors": list(config.anchors),
            "mos": judges.mos.name if judges.mos else None,
            "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over prompts and over speakers",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        return {
            "made_in_this_run": dict(self.num_made),
            "stopped": dict(Counter(item["stopped"] for item in items)),
            "generated_seconds": sum(item["seconds"] for item in items),
            "compute_seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def notes(self, items: Items) -> list[str]:
        """See `Benchmark`."""
        return continuation_notes(items, self.systems, self.scored)

    def page(self, result: EvaluationResult, items: Items) -> str:
        """Make a page to listen to; its sound is inside, and all text from outside is escaped.

        Raises:
            MissingDependencyError: jinja2 is not installed.
        """
        return page_template("continuation.html.jinja").render(
            result=result,
            systems=systems_of(result),
            table=score_table(result),
            items=[_shown(item) for item in items if "_sounds" in item],
            show=_show,
            interval=lambda low, high: "-" if low is None or high is None else f"{low:.3g} to {high:.3g}",
        )

    def _load_lm(self) -> SpokenLM:
        config = self.config
        lm = load_lm(config.model, tokenizer=config.tokenizer, device=self.run.device)
        lm.tokenizer.synthesizer = load_synthesizer(config.vocoder, lm.tokenizer, self.run.device)
        return lm

    def _load_judges(self) -> judging.Judges:
        config = self.config
        return judging.load_judges(config.transcriber, config.language, config.mos, None, self.run.device)

    def _load_text_lm(self) -> TextLM | None:
        name, opening = self.config.text_model, self.config.text_opening
        return None if name is None else load_text_lm(name, opening=opening, device=self.run.device)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - started

    def _read(self, chosen: Sequence[Utterance]) -> list[Prompt]:
        config = self.config

        def advance(count: int) -> None:
            self.run.advance("Encoding prompts", count, len(chosen))

        longest = config.generation.max_seconds
        return read_prompts(
            chosen, self.lm.tokenizer, config.prompt_seconds, longest, self.units, self.run.excluded, advance
        )

    def _continue(self, prompts: Sequence[Prompt]) -> list[Continued]:
        """The model's continuations, from disk where they were made before."""
        settings = dataclasses.asdict(self.config.generation)
        for not_of_the_units in ("batch_size", "cache", "seed"):
            del settings[not_of_the_units]
        seeds = [stable_seed(self.config.seed, prompt.utterance.id) for prompt in prompts]
        keys = [
            fingerprint(
                {"lm": self.lm_fingerprint, "prompt": p.prompt.units.tolist(), "sampling": settings, "seed": seed}
            )
            for p, seed in zip(prompts, seeds)
        ]
        missing = [index for index, key in enumerate(keys) if key not in self.units]
        self.run.advance("Generating", len(prompts) - len(missing), len(prompts))
        missing.sort(key=lambda index: len(prompts[index].prompt.units))  # like lengths waste least in a batch
        size = self.config.generation.batch_size
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            made = self.lm.continue_(
                [[Segment(tokens=prompts[index].prompt)] for index in batch],
                self.config.generation,
                seeds=[seeds[index] for index in batch],
            )
            for index, one in zip(batch, made, strict=True):
                self.units.put(keys[index], [one.tokens.units.tolist(), one.seconds, one.stopped])
                self.num_made["continuations generated"] += 1
            self.run.advance("Generating", len(batch), len(prompts))
        found = [self.units[key] for key in keys]
        return [Continued(torch.tensor(units, dtype=torch.long), *rest) for units, *rest in found]

    def _listen(self, prompts: Sequence[Prompt], made: Sequence[Continued]) -> list[dict[str, Any]]:
        """One row per prompt: what was heard in the prompt and in every continuation."""
        counts = torch.zeros(self.lm.tokenizer.codebook_size, dtype=torch.long)
        for prompt in prompts:
            counts += torch.bincount(torch.cat([prompt.prompt.units, prompt.rest.units]).long(), minlength=len(counts))
        items: list[dict[str, Any]] = []
        for start in range(0, len(prompts), BLOCK_PROMPTS):
            block = range(start, min(start + BLOCK_PROMPTS, len(prompts)))
            sounds = {(i, s): sound for i in block for s, sound in self._sounds(prompts[i], made[i], counts).items()}
            played = {place for place in sounds if place[0] < self.config.num_examples}
            heard, waveforms = self._hear(sounds, played)
            for i in block:
                items.append(_row(prompts[i], made[i], {s: heard[i, s] for j, s in sounds if j == i}))
            for i in block[: max(self.config.num_examples - start, 0)]:
                encoded = {s: encode_audio(w, JUDGE_RATE, format="opus") for (j, s), w in waveforms.items() if j == i}
                items[i]["_sounds"] = encoded
            self.run.advance("Listening", len(block), len(prompts))
        if "shuffled" in self.config.anchors:
            others = derangement(len(items), self.config.seed)
            for item, other in zip(items, others):
                item["shuffled_transcript"] = items[other]["true_transcript"]
                item["shuffled_from"] = items[other]["id"]
        return items

    def _sounds(self, prompt: Prompt, made: Continued, counts: Tensor) -> dict[str, _Sound]:
        """What is listened to for one prompt. The recorded continuation also serves the shuffled anchor."""
        tokenizer, config = self.lm.tokenizer, self.config
        sounds = {
            "prompt": _Sound(prompt.prompt_key, prompt=prompt, is_prompt=True),
            "model": self._spoken(made.units),
        }
        if {"true", "shuffled"} & set(config.anchors):
            sounds["true"] = _Sound(prompt.rest_key, prompt=prompt)
        if "resynthesised" in config.anchors:
            sounds["resynthesised"] = self._spoken(prompt.rest.units)
        if "copy" in config.anchors:
            sounds["copy"] = self._spoken(prompt.prompt.units)
        if "random" in config.anchors:
            generator = torch.Generator().manual_seed(stable_seed("random", config.seed, prompt.utterance.id))
            seconds = prompt.rest.num_frames / (tokenizer.frame_rate or 1.0)
            collapsed = prompt.rest.durations is not None
            units = random_units(counts, torch.tensor(self.lm.card.unit_seconds), seconds, collapsed, generator)
            sounds["random"] = self._spoken(units)
        return sounds

    def _spoken(self, units: Tensor) -> _Sound:
        """Units for the vocoder, which predicts durations: the recording's are not a language model's to know."""
        vocoder = vocoder_fingerprint(self.lm.tokenizer).get("vocoder", type(self.lm.tokenizer).__name__)
        key = {"units": units.tolist(), "vocoder": vocoder, "tokenizer": self.lm.tokenizer.fingerprint}
        voice = self.config.voice and str(self.config.voice)
        return _Sound(fingerprint({**key, "voice": voice}), tokens=SpeechTokens(codes=units[None].long()))

    def _hear(
        self, sounds: Mapping[Any, _Sound], played: set[Any]
    ) -> tuple[dict[Any, dict[str, Any]], dict[Any, Tensor]]:
        """Text, length and opinion score of each sound; waveforms of those that are to be played."""
        judge = self.judges.transcriber
        by_text = {"transcriber": weights_key(judge.weights), "conventions": dict(judge.conventions)}
        text_keys = {place: fingerprint({"text of": sound.key, **by_text}) for place, sound in sounds.items()}
        waveforms = {place: self._waveform(sounds[place]) for place in played}
        missing = [place for place in sounds if text_keys[place] not in self.heard]
        new = {place: waveforms[place] if place in waveforms else self._waveform(sounds[place]) for place in missing}
        audible = [place for place in missing if new[place].numel()]
        texts = dict(zip(audible, judge.transcribe([new[place] for place in audible]) if audible else [], strict=True))
        self.num_made["sounds transcribed"] += len(audible)
        for place in missing:
            self.heard.put(text_keys[place], [texts.get(place, ""), new[place].numel() / JUDGE_RATE])
        heard: dict[Any, dict[str, Any]] = {}
        for place, key in text_keys.items():
            text, seconds = self.heard[key]
            heard[place] = {"transcript": text, "seconds": seconds}
        if self.judges.mos is not None:
            for place, sound in sounds.items():
                key = fingerprint({"mos of": sound.key, "mos": weights_key(self.judges.mos.weights)})
                if key not in self.heard:
                    waveform = new.get(place, waveforms.get(place))
                    waveform = self._waveform(sound) if waveform is None else waveform
                    self.heard.put(key, self.judges.mos.predict([waveform])[0] if waveform.numel() else None)
                heard[place]["mos"] = self.heard[key]
        return heard, {place: waveform for place, waveform in waveforms.items() if waveform.numel()}

    def _waveform(self, sound: _Sound) -> Float[Tensor, " samples"]:
        """The sound at the judges' rate; nothing where there are no units."""
        tokenizer = self.lm.tokenizer
        if sound.prompt is not None:
            whole = read_utterance(sound.prompt.utterance, JUDGE_RATE)
            samples = round(self.config.prompt_seconds * JUDGE_RATE)
            return whole[:samples] if sound.is_prompt else whole[samples:]
        assert sound.tokens is not None
        if not sound.tokens.codes.shape[1]:
            return torch.zeros(0)
        (waveform,) = tokenizer.decode([sound.tokens], voice=self.config.voice)
        rate = tokenizer.decode_rate
        return resample(waveform.cpu(), rate, JUDGE_RATE)


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


def choose_prompts(
    utterances: Sequence[Utterance], num_prompts: int | None, min_seconds: float, language: str, seed: int
) -> tuple[list[Utterance], Counter[str]]:
    """Draw utterances longer than `min_seconds`; return them with what was left out, counted by reason.

    Raises:
        ManifestError: none is long enough.
    """
    left_out, kept = Counter[str](), []
    for utterance in utterances:
        if utterance.language is not None and not same_language(utterance.language, language):
            left_out[f"language is not {language}"] += 1
            continue
        try:
            seconds = utterance.duration or audio_info(utterance.audio).duration - utterance.start
        except (AudioFormatError, OSError):
            left_out["unreadable audio"] += 1
            continue
        if seconds <= min_seconds:
            left_out[f"not longer than {min_seconds:g} s"] += 1
        else:
            kept.append(dataclasses.replace(utterance, duration=seconds))
    if not kept:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise ManifestError(
            f"None of {len(utterances)} utterances can be a prompt ({reasons or 'there are none'}). Give longer "
            "recordings, or a smaller min_seconds."
        )
    return choose_utterances(kept, num_prompts, seed), left_out


def read_prompts(
    utterances: Sequence[Utterance],
    tokenizer: SpeechTokenizer,
    prompt_seconds: float,
    max_seconds: float,
    store: KeyedStore,
    left_out: Counter[str],
    on_progress: Callable[[int], None],
) -> list[Prompt]:
    """Read, cut and encode; what cannot be read or encoded is counted in `left_out`.

    Raises:
        ManifestError: nothing is left.
    """
    prompts = []
    for start in range(0, len(utterances), BLOCK_UTTERANCES):
        block = utterances[start : start + BLOCK_UTTERANCES]
        cut: list[tuple[Utterance, Tensor, Tensor]] = []
        for utterance in block:
            longest = min(utterance.duration or prompt_seconds, prompt_seconds + max_seconds)
            short = dataclasses.replace(utterance, duration=longest)
            try:
                cut.append(
                    (short, *cut_prompt(read_utterance(short, tokenizer.sample_rate), tokenizer, prompt_seconds))
                )
            except AudioFormatError:
                left_out["unreadable audio"] += 1
        tokens = _encode([part for _, *parts in cut for part in parts], tokenizer, store)
        for index, (utterance, first, rest) in enumerate(cut):
            halves = tokens[2 * index], tokens[2 * index + 1]
            if None in halves or not all(half.num_frames for half in halves if half):
                left_out["no tokens: audio too short or refused"] += 1
                continue
            prompts.append(Prompt(utterance, *halves, _sound_key(first), _sound_key(rest)))  # type: ignore[arg-type]
        on_progress(len(block))
    if not prompts:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise ManifestError(f"No prompt could be read ({reasons}).")
    return prompts


def cut_prompt(waveform: Tensor, tokenizer: SpeechTokenizer, prompt_seconds: float) -> tuple[Tensor, Tensor]:
    """Cut a waveform at `tokenizer.sample_rate` into prompt and rest."""
    samples = round(prompt_seconds * tokenizer.sample_rate)
    return waveform[:samples], waveform[samples:]


def derangement(count: int, seed: int) -> list[int]:
    """For each of `count` places another place, each taken once and none its own; for fewer than two, nothing."""
    if count < 2:
        return []
    order = random.Random(seed).sample(range(count), count)
    following = dict(zip(order, [*order[1:], order[0]]))
    return [following[place] for place in range(count)]


def _row(prompt: Prompt, made: Continued, heard: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


def _encode(waveforms: Sequence[Tensor], tokenizer: SpeechTokenizer, store: KeyedStore) -> list[SpeechTokens | None]:
    """Tokens of each waveform, from disk where they are known; None where the tokenizer refuses."""
    keys = [fingerprint({"tokens of": _sound_key(w), "tokenizer": tokenizer.fingerprint}) for w in waveforms]
    missing = [index for index, key in enumerate(keys) if key not in store]
    try:
        made = tokenizer.encode([waveforms[index] for index in missing]) if missing else []
    except AudioFormatError:
        made = [_encode_one(waveforms[index], tokenizer) for index in missing]
    for index, tokens in zip(missing, made):
        if tokens is not None:
            store.put(keys[index], tokens_as_json(tokens))
    return [tokens_from_json(store[key]) if key in store else None for key in keys]


def _encode_one(waveform: Tensor, tokenizer: SpeechTokenizer) -> SpeechTokens | None:
    try:
        return tokenizer.encode([waveform])[0]
    except AudioFormatError:
        return None


def _sound_key(waveform: Tensor) -> str:
    return tensor_sha256(waveform)[:16]


def _shown(item: Mapping[str, Any]) -> dict[str, Any]:
    texts = {"prompt": item["prompt_transcript"]}
    texts |= {s: item.get(column(s, "transcript")) for s in TITLES if s != "prompt"}
    return {
        "id": item["id"],
        "speaker": item["speaker"],
        "sides": [
            {
                "title": title,
                "text": texts[system],
                "sound": base64.b64encode(item["_sounds"].get(system, b"")).decode("ascii"),
                "mos": item.get(column(system, "mos")) if system != "prompt" else None,
            }
            for system, title in TITLES.items()
            if texts[system] is not None
        ],
    }


def _show(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
