"""The resynthesis ceiling: what is lost between speech and speech when only tokens pass, before any language model.

    original ---------------------------> judge: words, quality     (topline)
        |                                                 |
        tokenizer -> tokens -> vocoder -> resynthesis -> judge: words, quality, voice

No language model on these tokens can speak more clearly than their resynthesis, so it is measured first. Each score
has a 95 % interval over utterances, and one over speakers. Source of the protocol: On Generative Spoken Language
Modeling from Raw Audio (Lakhotia et al., 2021, arXiv:2102.01192), section 4.2 (ASR on resynthesised speech).
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from vocable.audio.io import encode_audio, read_audio, read_utterance, resample
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.judges import JUDGE_RATE, Judges, check_judge, encoder_name
from vocable.evaluation.metrics.wer import LEVELS, NORMALISERS, ErrorCounts, count_errors
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.resynthesis_summary import (
    resynthesis_conventions,
    resynthesis_measurements,
    resynthesis_notes,
    resynthesis_scores,
    vocoder_fingerprint,
)
from vocable.evaluation.unit_metrics import UnitCounter
from vocable.features.speaker import SpeakerEncoder
from vocable.registry import look_up
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens, Utterance

BLOCK_UTTERANCES = 16
"""Read, encoded and judged together; what stays in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResynthesisConfig:
    """Which utterances are judged, and how."""

    num_utterances: int | None = 100
    """Drawn from the manifest without replacement; None takes all."""
    seed: int = 0
    """Of the draw and of the bootstrap."""
    language: str = "en"
    """Utterances marked with another language are left out, and counted."""
    normaliser: str = "english"
    """Of texts before they are compared: english, basic or none."""
    voice: str | None = None
    """Voice of the vocoder; None takes its first."""
    voice_reference: Path | None = None
    """A recording of the voice that the resynthesis should have; adds a similarity to it."""
    durations: Literal["true", "predicted"] = "true"
    """Durations of runs: those of the recording, or the vocoder's prediction, as when a language model speaks."""
    same_judge: Literal["refuse", "allow"] = "refuse"
    """What to do when the recogniser is the tokenizer's own encoder: its error rates are then too good to be true."""
    num_resamples: int = 2000
    """Of the bootstrap."""
    num_examples: int = 20
    """Utterances kept as sound for the report."""

    def __post_init__(self) -> None:
        look_up("text normaliser", self.normaliser, NORMALISERS)
        if self.num_utterances is not None and self.num_utterances < 1:
            raise ConfigError(f"num_utterances is {self.num_utterances}; judge at least 1, or None for all.")
        if self.num_examples < 0 or self.num_resamples < 1:
            raise ConfigError("num_examples must not be negative, and num_resamples at least 1.")


class Example(NamedTuple):
    """An utterance as the report plays it; `id` is that of its item."""

    id: str
    original: bytes
    resynthesis: bytes


class ResynthesisOutcome(NamedTuple):
    """The result, and sound for the report."""

    result: EvaluationResult
    examples: list[Example]


@dataclass(slots=True)
class _Heard:
    """One utterance on its way through."""

    utterance: Utterance
    original: Tensor
    """At the judges' rate."""
    tokens: SpeechTokens
    resynthesis: Tensor
    """At the judges' rate."""


@dataclass(slots=True)
class _Run:
    """What builds up over the blocks."""

    items: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def evaluate_resynthesis(
    utterances: Sequence[Utterance],
    tokenizer: SpeechTokenizer,
    judges: Judges,
    config: ResynthesisConfig | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ResynthesisOutcome:
    """Encode, decode and judge utterances.

    The error rate is counted against the manifest's text. An utterance without text is counted against what the judge
    heard in the original, in a score of its own (`wer_resynthesis_to_asr`): the two are never pooled.

    Args:
        utterances: what to judge; `config` says how many of them.
        tokenizer: with a vocoder attached, or with a decoder of its own.
        judges: recogniser and, optionally, quality and voice judges.
        config: see `ResynthesisConfig`.
        on_progress: called with the number of utterances done, after each block.

    Raises:
        ConfigError: the recogniser is the tokenizer's encoder and `same_judge` is "refuse"; a setting does not fit.
        ManifestError: there are no utterances, or none could be judged; the reasons are counted in the message.
    """
    config = config or ResynthesisConfig()
    started = time.perf_counter()
    relation = check_judge(judges.transcriber.name, tokenizer, config.same_judge)
    chosen = choose_utterances(utterances, config.num_utterances, config.seed)
    target = _voice_target(judges.speaker, config.voice_reference)
    run, counter = _Run(), UnitCounter(tokenizer.codebook_size, tokenizer.num_codebooks)
    for start in range(0, len(chosen), BLOCK_UTTERANCES):
        block = chosen[start : start + BLOCK_UTTERANCES]
        heard = list(_pass_through_tokens(block, tokenizer, config, run))
        for one in heard:
            counter.add(one.tokens)
        run.items.extend(_judge(heard, judges, config, target, run))
        _keep_examples(heard, config.num_examples, run)
        if on_progress is not None:
            on_progress(len(block))
    if not run.items:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in run.excluded.items())
        raise ManifestError(f"None of {len(chosen)} utterances could be judged ({reasons}).")
    statistics = counter.statistics(tokenizer.frame_rate, sum(item["seconds"] for item in run.items))
    result = EvaluationResult(
        benchmark="resynthesis",
        scores=resynthesis_scores(run.items, judges, config),
        conventions=resynthesis_conventions(tokenizer, judges, config, relation),
        fingerprints={"tokenizer": tokenizer.fingerprint, **vocoder_fingerprint(tokenizer)},
        weights=judges.weights(),
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(run.excluded),
        notes=resynthesis_notes(run.items, relation, encoder_name(tokenizer), judges),
        measurements=resynthesis_measurements(run.items, run.seconds, statistics),
        items=run.items,
    )
    return ResynthesisOutcome(result, run.examples)


def choose_utterances(utterances: Sequence[Utterance], num_utterances: int | None, seed: int) -> list[Utterance]:
    """Draw utterances without replacement, kept in manifest order.

    Raises:
        ManifestError: there are none.
    """
    if not utterances:
        raise ManifestError("The manifest holds no utterance that can be read: there is nothing to evaluate.")
    if num_utterances is None or num_utterances >= len(utterances):
        return list(utterances)
    rows = random.Random(seed).sample(range(len(utterances)), num_utterances)
    return [utterances[row] for row in sorted(rows)]


def _pass_through_tokens(
    block: Sequence[Utterance], tokenizer: SpeechTokenizer, config: ResynthesisConfig, run: _Run
) -> Iterator[_Heard]:
    """Read, encode and decode; what cannot be used is counted in `run.excluded`."""
    readable: list[tuple[Utterance, Tensor]] = []
    for utterance in block:
        if utterance.language is not None and not same_language(utterance.language, config.language):
            run.excluded[f"language is not {config.language}"] += 1
            continue
        try:
            readable.append((utterance, read_utterance(utterance, tokenizer.sample_rate)))
        except AudioFormatError:
            run.excluded["unreadable audio"] += 1
    encoded = _timed(run, "encode", lambda: _encode(readable, tokenizer, run))
    spoken = [(utterance, waveform, tokens) for utterance, waveform, tokens in encoded if tokens.num_frames]
    if len(spoken) < len(encoded):
        run.excluded["no tokens: audio too short"] += len(encoded) - len(spoken)
    to_decode = [_without_durations(tokens) if config.durations == "predicted" else tokens for _, _, tokens in spoken]
    decoded = _timed(run, "decode", lambda: tokenizer.decode(to_decode, voice=config.voice)) if spoken else []
    for (utterance, waveform, tokens), resynthesis in zip(spoken, decoded, strict=True):
        if not resynthesis.numel() or not torch.isfinite(resynthesis).all():
            run.excluded["resynthesis is empty or not finite"] += 1
            continue
        original = waveform
        if tokenizer.sample_rate != JUDGE_RATE:  # not resampled twice
            original = read_utterance(utterance, JUDGE_RATE)
        yield _Heard(utterance, original, tokens, resample(resynthesis.cpu(), tokenizer.decode_rate, JUDGE_RATE))


def _encode(
    readable: Sequence[tuple[Utterance, Tensor]], tokenizer: SpeechTokenizer, run: _Run
) -> list[tuple[Utterance, Tensor, SpeechTokens]]:
    """Encode together; when one is refused (too short, say), one by one, so that the others go on."""
    try:
        tokens = tokenizer.encode([waveform for _, waveform in readable]) if readable else []
        return [(*pair, item) for pair, item in zip(readable, tokens, strict=True)]
    except AudioFormatError:
        if len(readable) == 1:
            run.excluded["the tokenizer refuses the audio"] += 1
            return []
        return [row for pair in readable for row in _encode([pair], tokenizer, run)]


def _without_durations(tokens: SpeechTokens) -> SpeechTokens:
    streams = [tokens] if tokens.streams is None else list(tokens.streams.values())
    if all(one.durations is None for one in streams):
        raise ConfigError("durations is 'predicted', but this tokenizer does not collapse runs: nothing to predict.")
    return tokens.without_durations()


def _judge(
    heard: Sequence[_Heard], judges: Judges, config: ResynthesisConfig, target: Tensor | None, run: _Run
) -> Iterator[dict[str, Any]]:
    """One item per utterance: texts, counted errors, quality, similarity."""
    originals, copies = [one.original for one in heard], [one.resynthesis for one in heard]
    texts = _timed(run, "transcribe", lambda: judges.transcriber.transcribe(originals + copies)) if heard else []
    mos = judges.mos
    qualities = _timed(run, "mos", lambda: mos.predict(originals + copies)) if mos is not None else []
    for index, one in enumerate(heard):
        said, again = texts[index], texts[len(heard) + index]
        item = {
            "id": one.utterance.id,
            "speaker": one.utterance.speaker,
            "seconds": one.original.numel() / JUDGE_RATE,
            "resynthesis_seconds": one.resynthesis.numel() / JUDGE_RATE,
            "num_frames": one.tokens.num_frames,
            "num_positions": one.tokens.codes.shape[1],
            **_compare_texts(one.utterance.text, said, again, config.normaliser, run),
        }
        if qualities:
            item |= {"mos_original": qualities[index], "mos_resynthesis": qualities[len(heard) + index]}
        if judges.speaker is not None:
            item |= _timed(run, "speaker", lambda one=one: _compare_voices(one, judges.speaker, target, run))
        yield item


def _compare_texts(text: str | None, said: str, again: str, normaliser: str, run: _Run) -> dict[str, Any]:
    """Texts and errors; the reference is the manifest's text, else what was heard in the original."""
    source = "manifest" if text is not None else "asr of the original"
    reference = said if text is None else text
    usable = bool(NORMALISERS[normaliser](reference))
    if not usable:
        run.excluded[f"error rate: empty reference ({source})"] += 1
    item: dict[str, Any] = {
        "reference": reference,
        "reference_source": source if usable else "none",
        "transcript_original": said,
        "transcript_resynthesis": again,
    }
    for name, heard in (("original", said), ("resynthesis", again)):
        for level in LEVELS:
            counts = count_errors(reference, heard, level, normaliser) if usable else None
            for part in ErrorCounts._fields:
                item[f"{name}_{level}_{part}"] = getattr(counts, part) if counts else None
    return item


def _compare_voices(one: _Heard, encoder: SpeakerEncoder | None, target: Tensor | None, run: _Run) -> dict[str, Any]:
    assert encoder is not None
    similarity = to_target = None
    try:
        copy = encoder.embed(one.resynthesis)
        similarity = float(encoder.embed(one.original) @ copy)
        to_target = float(target @ copy) if target is not None else None
    except AudioFormatError:
        run.excluded["speaker similarity: silence"] += 1
    return {"speaker_similarity": similarity, "voice_similarity": to_target}


def _voice_target(encoder: SpeakerEncoder | None, reference: Path | None) -> Tensor | None:
    if reference is None:
        return None
    if encoder is None:
        raise ConfigError(f"voice_reference is {reference}, but there is no speaker encoder to compare with.")
    return encoder.embed(read_audio(reference, JUDGE_RATE).waveform)


def _keep_examples(heard: Sequence[_Heard], num_examples: int, run: _Run) -> None:
    for one in heard[: max(num_examples - len(run.examples), 0)]:
        sounds = [encode_audio(waveform, JUDGE_RATE, format="opus") for waveform in (one.original, one.resynthesis)]
        run.examples.append(Example(one.utterance.id, *sounds))


def same_language(found: str, wanted: str) -> bool:
    """Whether two marks of a language mean the same; regions do not count: en-GB is en."""
    names = {"english": "en", "eng": "en"}
    found, wanted = (name.lower().replace("_", "-").split("-")[0] for name in (found, wanted))
    return names.get(found, found) == names.get(wanted, wanted)


def _timed(run: _Run, what: str, function: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    value = function()
    run.seconds[what] += time.perf_counter() - started
    return value
