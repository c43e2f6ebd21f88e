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

import dataclasses
import functools
import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from vocable.evaluation.judges import (
    JUDGE_RATE,
    ListeningBenchmark,
    ListeningConfig,
    transcribe_audible,
    vocoder_fingerprint,
)
from vocable.evaluation.keyed_store import in_blocks, open_kept, tokens_as_json, tokens_from_json
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
from vocable.evaluation.resynthesis import choose_utterances, same_language
from vocable.evaluation.runner import Items, score_table, systems_of
from vocable.evaluation.token_sources import encode_all
from vocable.evaluation.unusable import reasons
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Segment, SpokenLM, load_lm
from vocable.lm.text_lm import TextLM, load_text_lm
from vocable.registry import look_up
from vocable.synthesis.opening import load_synthesizer
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
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


MADE = {"continuations": "continuations generated", "transcripts": "sounds transcribed"}
"""Steps kept on disk, and the name in a result for the number that this run made."""


class Continued(NamedTuple):
    """Units that the model generated after one prompt, their expected length, and why they end."""

    units: Tensor
    seconds: float
    stopped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationConfig(ListeningConfig):
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
    text_model: str | None = "HuggingFaceTB/SmolLM2-135M"
    """The text model of the perplexities; null leaves them out."""
    text_opening: Literal["bos", "none"] = "bos"
    """Open texts with the start symbol (bos), or leave their first token unscored (none)."""
    mos: str | None = None
    """A predictor of opinion scores, such as distillmos; null leaves the score out."""
    num_examples: int = 8
    """Prompts on the page."""

    def __post_init__(self) -> None:
        ListeningConfig.__post_init__(self)
        for anchor in self.anchors:
            look_up("anchor", anchor, dict.fromkeys(ANCHORS))
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"num_prompts is {self.num_prompts}; continue at least 1, or None for all.")
        if not 0 < self.prompt_seconds < self.min_seconds:
            raise ConfigError(
                f"prompt_seconds is {self.prompt_seconds}, min_seconds {self.min_seconds}: the prompt must be above 0 "
                "and shorter than the shortest utterance, or there is nothing to continue."
            )


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


class ContinuationBenchmark(ListeningBenchmark[ContinuationConfig]):
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
        self.text_lm = run.open("text_lm", self._load_text_lm)
        tokenizer = self.lm.tokenizer
        self.open_judges(tokenizer, config.mos)
        if tokenizer.num_codebooks != 1:
            raise ConfigError(f"{tokenizer.name!r} has {tokenizer.num_codebooks} codebooks; units have one.")
        if self.lm.card.unit_seconds is None:
            raise ConfigError(f"{self.lm.name}: its card has no unit durations, so lengths in seconds cannot be kept.")
        run.fingerprints["lm"] = self.lm.fingerprint[:16]
        if self.text_lm is not None:
            run.weights["text_lm"] = dict(self.text_lm.weights)
        judge = self.judges.transcriber
        settings = {
            "tokens": {"tokenizer": tokenizer.fingerprint},
            "continuations": {"lm": run.fingerprints["lm"], "sampling": config.generation.sampling()},
            "transcripts": {"weights": weights_key(judge.weights), "conventions": dict(judge.conventions)},
            "mos": {"mos": weights_key(self.judges.mos.weights) if self.judges.mos else None},
        }
        self.kept = open_kept(run.folder, settings)
        chosen, left_out = choose_prompts(
            run.utterances(), config.num_prompts, config.min_seconds, config.language, config.seed
        )
        run.excluded.update(left_out)
        with run.timed("encode"):
            prompts = self._read(chosen)
        with run.timed("generate"):
            made = self._continue(prompts)
        with run.timed("listen"):
            items = self._listen(prompts, made)
        self.systems = [s for s in ("model", *config.anchors) if column(s, "transcript") in items[0]]
        texts = [item["prompt_transcript"] for item in items]
        for system in self.systems:
            with run.timed("score"):
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
        config = self.config
        return {
            **self.judge_conventions(self.lm.tokenizer),
            **(self.text_lm.conventions if self.text_lm else {"text_lm": None}),
            **TEXT_CONVENTIONS,
            "lm": self.lm.name,
            "prompt_seconds": config.prompt_seconds,
            "min_seconds": config.min_seconds,
            "num_prompts": config.num_prompts,
            "sampling": config.generation.sampling(),
            "durations": "predicted by the vocoder",
            "anchors": list(config.anchors),
            "intervals": f"percentile bootstrap, 95 %, {config.num_resamples} draws, over prompts and over speakers",
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """See `Benchmark`."""
        return {
            "made_in_this_run": {MADE[name]: self.kept[name].num_made for name in MADE},
            "stopped": dict(Counter(item["stopped"] for item in items)),
            "generated_seconds": sum(item["seconds"] for item in items),
            "compute_seconds": {name: round(value, 3) for name, value in self.run.seconds.items()},
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
        )

    def _load_lm(self) -> SpokenLM:
        config = self.config
        lm = load_lm(config.model, tokenizer=config.tokenizer, device=self.run.device)
        lm.tokenizer.synthesizer = load_synthesizer(config.vocoder, lm.tokenizer, self.run.device)
        return lm

    def _load_text_lm(self) -> TextLM | None:
        name, opening = self.config.text_model, self.config.text_opening
        return None if name is None else load_text_lm(name, opening=opening, device=self.run.device)

    def _read(self, chosen: Sequence[Utterance]) -> list[Prompt]:
        """Read, cut and encode; what cannot be read or encoded is counted.

        Raises:
            ManifestError: nothing is left.
        """
        config, run, tokenizer = self.config, self.run, self.lm.tokenizer
        samples = round(config.prompt_seconds * tokenizer.sample_rate)
        longest = config.prompt_seconds + config.generation.max_seconds
        prompts = []
        for start in range(0, len(chosen), BLOCK_UTTERANCES):
            readable: list[Utterance] = []
            halves: list[Tensor] = []
            for utterance in chosen[start : start + BLOCK_UTTERANCES]:
                utterance = dataclasses.replace(utterance, duration=min(utterance.duration or longest, longest))
                try:
                    halves += read_utterance(utterance, tokenizer.sample_rate).tensor_split([samples])
                    readable.append(utterance)
                except AudioFormatError:
                    run.excluded["unreadable audio"] += 1
            tokens, keys = self._encode(halves)
            for place, utterance in enumerate(readable):
                first, rest = tokens[2 * place : 2 * place + 2]
                if first is None or rest is None or not first.num_frames or not rest.num_frames:
                    run.excluded["no tokens: audio too short or refused"] += 1
                    continue
                prompts.append(Prompt(utterance, first, rest, *keys[2 * place : 2 * place + 2]))
            run.advance("Encoding prompts", min(BLOCK_UTTERANCES, len(chosen) - start), len(chosen))
        if not prompts:
            raise ManifestError(f"No prompt could be read ({reasons(run.excluded)}).")
        return prompts

    def _encode(self, waveforms: Sequence[Tensor]) -> tuple[list[SpeechTokens | None], list[str]]:
        """Tokens of each waveform (None where the tokenizer refuses), and the name of its samples."""

        def make(places: list[int]) -> Iterator[dict[int, Any]]:
            made = encode_all(self.lm.tokenizer, [waveforms[place] for place in places])
            yield {place: tokens and tokens_as_json(tokens) for place, tokens in zip(places, made, strict=True)}

        keys = [tensor_sha256(waveform)[:16] for waveform in waveforms]
        found = self.kept["tokens"].get([{"samples": key} for key in keys], make)
        return [value and tokens_from_json(value) for value in found], keys

    def _continue(self, prompts: Sequence[Prompt]) -> list[Continued]:
        """The model's continuations, from disk where they were made before."""
        config, lm = self.config.generation, self.lm
        seeds = [stable_seed(self.config.seed, prompt.utterance.id) for prompt in prompts]

        def generate(block: Sequence[int]) -> list[list[Any]]:
            starts = [[Segment(tokens=prompts[place].prompt)] for place in block]
            replies = lm.continue_(starts, config, seeds=[seeds[place] for place in block])
            return [[reply.tokens.units.tolist(), reply.seconds, reply.stopped] for reply in replies]

        def make(places: list[int]) -> Iterator[dict[int, Any]]:
            by_length = sorted(places, key=lambda place: len(prompts[place].prompt.units))  # wastes least in a batch
            return in_blocks(by_length, config.batch_size, generate)

        described = [{"prompt": p.prompt.units.tolist(), "seed": seed} for p, seed in zip(prompts, seeds)]
        watch = functools.partial(self.run.advance, "Generating", total=len(prompts))
        found = self.kept["continuations"].get(described, make, watch)
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
        judges, names = self.judges, list(sounds)
        waveform = functools.cache(lambda place: self._waveform(sounds[names[place]]))
        described = [{"sound": sound.key} for sound in sounds.values()]

        def transcribe(places: Sequence[int]) -> list[list[Any]]:
            texts = transcribe_audible(judges.transcriber, [waveform(place) for place in places])
            return [[text, waveform(place).numel() / JUDGE_RATE] for place, text in zip(places, texts, strict=True)]

        def rate(places: Sequence[int]) -> list[float | None]:
            assert judges.mos is not None
            return [judges.mos.predict([waveform(p)])[0] if waveform(p).numel() else None for p in places]

        found = self.kept["transcripts"].get(described, lambda places: in_blocks(places, len(names), transcribe))
        heard = {name: {"transcript": text, "seconds": seconds} for name, (text, seconds) in zip(names, found)}
        if judges.mos is not None:
            scores = self.kept["mos"].get(described, lambda places: in_blocks(places, 1, rate))
            for name, score in zip(names, scores, strict=True):
                heard[name]["mos"] = score
        waveforms = {name: waveform(place) for place, name in enumerate(names) if name in played}
        return heard, {name: sound for name, sound in waveforms.items() if sound.numel()}

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
        seconds: length wanted; at least one unit comes back.
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
        raise ManifestError(
            f"None of {len(utterances)} utterances can be a prompt ({reasons(left_out)}). Give longer "
            "recordings, or a smaller min_seconds."
        )
    return choose_utterances(kept, num_prompts, seed), left_out


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
                "sound": item["_sounds"].get(system, b""),
                "mos": item.get(column(system, "mos")) if system != "prompt" else None,
            }
            for system, title in TITLES.items()
            if texts[system] is not None
        ],
    }
