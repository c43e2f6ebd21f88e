"""How many tokens a second of speech costs: frames, runs, unit subwords, and the text that was spoken."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from vocable.errors import ConfigError
from vocable.sequences.subwords import UnitSubwords, units_over
from vocable.types import SpeechTokens, Utterance


class SubwordRate(NamedTuple):
    """Tokens per second of audio, before and after, and those of the text that was spoken."""

    num_utterances: int
    seconds: float
    """Audio: frames / frame rate."""
    frames_per_second: float
    runs_per_second: float
    subwords_per_second: float
    text_tokens_per_second: float | None
    """Over the utterances that have text; None without a text tokenizer, or without text."""
    subwords_per_text_token: float | None
    """Over the utterances that have text."""
    num_with_text: int
    units_per_subword: float
    """Mean over the tokens of the data, in runs or frames as the subwords are."""
    seconds_per_subword: float
    num_subwords_used: int
    """Different subwords in the data."""


def measure_rate(
    subwords: UnitSubwords,
    utterances: Iterable[tuple[Utterance, SpeechTokens]],
    frame_rate: float | None,
    count_text_tokens: Callable[[str], int] | None = None,
    *,
    on_utterance: Callable[[Utterance], None] | None = None,
) -> SubwordRate:
    """Compare the rate of frames, runs, subwords and text tokens on the same audio.

    Raises:
        ConfigError: there is no audio, or the tokens follow words.
    """
    if frame_rate is None:
        raise ConfigError("These tokens follow words, which have no rate: give tokens of frames.")
    total = np.zeros(5)  # frames, runs, subwords, units, utterances
    text = np.zeros(4)  # frames, subwords, text tokens, utterances
    used: set[int] = set()
    for utterance, tokens in utterances:
        if on_utterance is not None:
            on_utterance(utterance)
        found = subwords.encode(tokens)
        runs = len(units_over(tokens, "runs").units)
        total += tokens.num_frames, runs, len(found.ids), int(found.num_units.sum()), 1
        used.update(found.ids.tolist())
        if count_text_tokens is not None and utterance.text:
            text += tokens.num_frames, len(found.ids), count_text_tokens(utterance.text), 1
    if not total[0]:
        raise ConfigError("The tokens hold no audio, so there is no rate.")
    seconds = total[0] / frame_rate
    return SubwordRate(
        num_utterances=int(total[4]),
        seconds=float(seconds),
        frames_per_second=frame_rate,
        runs_per_second=float(total[1] / seconds),
        subwords_per_second=float(total[2] / seconds),
        text_tokens_per_second=float(text[2] / text[0] * frame_rate) if text[0] else None,
        subwords_per_text_token=float(text[1] / text[2]) if text[2] else None,
        num_with_text=int(text[3]),
        units_per_subword=float(total[3] / total[2]),
        seconds_per_subword=float(seconds / total[2]),
        num_subwords_used=len(used),
    )
