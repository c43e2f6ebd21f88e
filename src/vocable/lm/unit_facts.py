"""What a language model's card says of its units: how long each lasts, and which stand for silence.

Both are counted while the training speech is tokenized, and serve lengths in seconds and the silence guard
(generation.py).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AudioFormatError
from vocable.tokens.shard_facts import NUM_HEARD
from vocable.tokens.shards import TokenShards
from vocable.tokens.silence import frame_levels, silence_units
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.types import SpeechTokens


class UnitFacts(NamedTuple):
    """Fields of `LMCard`."""

    unit_seconds: tuple[float, ...] | None
    """None where tokens follow words: nothing says how long they last."""
    silence_units: tuple[int, ...]


def measure_units(shards: TokenShards, tokenizer: SpeechTokenizer | None = None) -> UnitFacts:
    """Add up the durations of all shards; find silence in the first 200 recordings.

    Shards of earlier versions, which lack these facts, are counted and listened to now, one utterance at a time.

    Args:
        tokenizer: that made them; None, and no unit counts as silence.
    """
    (stream,) = shards.streams
    if stream.rate is None:
        return UnitFacts(None, ())
    frame_rate, size = stream.rate, stream.codebook_size
    seconds = shards.unit_counts().mean_seconds(frame_rate)
    quiet: tuple[int, ...] = ()
    if tokenizer is not None:
        quiet = silence_units(_levels(shards, tokenizer.sample_rate, frame_rate), size)
    return UnitFacts(tuple(round(value, 4) for value in seconds.tolist()), quiet)


def _levels(shards: TokenShards, sample_rate: int, frame_rate: float) -> Iterator[tuple[Tensor, SpeechTokens]]:
    """Loudness of frames with their tokens; where it is not stored, the recording is read, if it is still there."""
    first = shards[:NUM_HEARD]
    for levels, (utterance, tokens) in zip(first.values("levels"), first, strict=True):
        if levels is not None:
            yield torch.tensor(levels), tokens
            continue
        try:
            waveform = read_utterance(utterance, sample_rate)
        except AudioFormatError:
            continue
        yield frame_levels(waveform, tokens.num_frames, sample_rate, frame_rate), tokens
