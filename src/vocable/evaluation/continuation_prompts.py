"""Prompts for continuations: the first seconds of recordings that go on, and the true rest of them, both as tokens.

    |--- prompt_seconds ---|--- the true continuation, up to max_seconds ---|

Prompt and rest are encoded apart, so that the prompt's tokens know nothing of what follows. Tokens are kept on disk
under the hash of the samples.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from vocable.audio.io import audio_info, read_utterance
from vocable.errors import AudioFormatError, ManifestError
from vocable.evaluation.keyed_store import KeyedStore, tokens_as_json, tokens_from_json
from vocable.evaluation.resynthesis import choose_utterances, same_language
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens, Utterance

BLOCK_UTTERANCES = 16
"""Read and encoded together; what stays in memory."""


class Prompt(NamedTuple):
    """A recording cut in two."""

    utterance: Utterance
    """Up to the end of the true continuation."""
    prompt: SpeechTokens
    rest: SpeechTokens
    prompt_key: str
    """Names the samples of the prompt."""
    rest_key: str


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
