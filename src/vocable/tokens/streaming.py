"""Long recordings are read in blocks, so that hours of audio are never in memory at once."""

from collections.abc import Iterable, Iterator

from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import audio_info, iterate_audio, read_utterance
from vocable.audio.manifest import Rejections
from vocable.errors import AudioFormatError
from vocable.features import FeatureEncoder
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


def read_features(
    utterance: Utterance, encoder: FeatureEncoder, rejections: Rejections | None, strict: bool
) -> tuple[int, Iterable[Float[Tensor, "_frames dim"]]]:
    """Return number of samples and features of one recording; those of a long one come in pieces, as it is read.

    A long one is read twice: the first time only to know that it is whole, so that none is used in part. What cannot be
    read has no samples and is noted in `rejections`.

    Raises:
        AudioFormatError: the recording cannot be read, when `strict`.
    """
    try:
        if not is_long(utterance):
            waveform = read_utterance(utterance, encoder.sample_rate)
            return len(waveform), encoder.encode([waveform])
        num_samples = sum(len(block) for block in read_blocks(utterance, encoder.sample_rate))
        return num_samples, encoder.encode_stream(read_blocks(utterance, encoder.sample_rate))
    except AudioFormatError as error:
        if strict:
            raise
        if rejections is not None:
            rejections.add(utterance.id, str(utterance.audio), str(error))
        return 0, []
