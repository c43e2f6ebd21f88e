"""Long recordings are read in blocks, so that hours of audio are never in memory at once."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import audio_info, iterate_audio
from vocable.types import Utterance

STREAM_SECONDS = 600.0
"""Recordings longer than this are read and encoded in blocks."""
BLOCK_SECONDS = 60.0


def is_long(utterance: Utterance) -> bool:
    """Whether the utterance is to be streamed; asks the file where the manifest does not give its duration.

    Raises:
        AudioFormatError: the file is not readable audio.
    """
    duration = utterance.duration or audio_info(utterance.audio).duration - utterance.start
    return duration > STREAM_SECONDS


def read_blocks(utterance: Utterance, sample_rate: int) -> Iterator[Float[Tensor, " _samples"]]:
    """Read the utterance in blocks; joined, they are what `read_utterance` returns.

    Raises:
        AudioFormatError: as `iterate_audio`.
    """
    return iterate_audio(utterance.audio, sample_rate, BLOCK_SECONDS, utterance.start, utterance.duration)
