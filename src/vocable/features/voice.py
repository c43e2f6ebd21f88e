"""Who speaks: a voice is a name, a recording, or a speaker vector, and here it becomes what a synthesizer reads.

Synthesizers with a table of voices know names; those that copy a voice want its speaker vector, and its pitch.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import Audio, read_audio
from vocable.audio.waveforms import resample
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.pitch import REFERENCE_HZ, Pitch, measure_pitch
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.registry import look_up

logger = logging.getLogger(__name__)


class Speaker(NamedTuple):
    """A voice as synthesizers read it."""

    vector: Float[Tensor, " dim"]
    pitch: Float[Tensor, "2"] | None
    """Mean (a median) and standard deviation of log F0 in Hz, where voiced; None where only the vector is known."""


Voice: TypeAlias = str | Path | Audio | Tensor | Speaker
"""A name, a recording (an audio file, or audio in memory), a speaker vector (dim,), or one with its pitch."""
SHORTEST_SECONDS = 1.0
"""Length of a recording that a voice can be taken from."""
LONGEST_SECONDS = 30.0
"""A voice is taken from the start of longer recordings."""
ALIKE = 0.55
"""Cosine similarity of the two halves of a recording below which they are hardly one speaker."""
LEAST_SPREAD = 0.08
"""Smallest standard deviation of log F0 that a speaker is taken to have."""


def voice_row(voice: Voice | None, names: Sequence[str]) -> int | None:
    """Find a voice among the names that a synthesizer knows; None means the first, and is None where it has no names.

    Raises:
        ConfigError: the voice is a recording or a vector, which such a synthesizer cannot copy.
        UnknownNameError: there is no voice of that name; the message names the nearest.
    """
    if voice is None:
        return 0 if names else None
    if not isinstance(voice, str):
        kind = "a speaker vector" if isinstance(voice, Tensor | Speaker) else "a recording"
        known = f"knows its voices by name ({', '.join(names)})" if names else "has one voice, without a name"
        raise ConfigError(f"The voice is {kind}, but this synthesizer {known} and cannot copy another.")
    return look_up("voice", voice, {name: row for row, name in enumerate(names)})


def voice_vector(voice: Voice, encoder: SpeakerEncoder | None = None) -> Float[Tensor, " dim"]:
    """Return the speaker vector of a recording; a vector is returned as it is.

    Args:
        voice: A recording, a vector, or a vector with its pitch.
        encoder: The speaker encoder for recordings; None loads the default one.

    Raises:
        ConfigError: the voice is a name, which says nothing about its sound.
        AudioFormatError: the recording cannot be read, or is silent.
    """
    if isinstance(voice, Tensor | Speaker):
        return voice.vector if isinstance(voice, Speaker) else voice
    if isinstance(voice, str):
        raise ConfigError(f"The voice is the name {voice!r}, but this synthesizer copies a recording: give its path.")
    encoder = encoder or load_speaker_encoder()
    return encoder.embed(_recording(voice, encoder.sample_rate))


def find_speaker(voice: Path | Audio | Tensor | Speaker, encoder: SpeakerEncoder | None = None) -> Speaker:
    """Measure the speaker vector and the pitch of a recording; a vector alone says nothing of pitch.

    Warns where the two halves of a recording hardly sound like one speaker: the voice is then a mixture.

    Raises:
        AudioFormatError: the recording cannot be read, is silent, or shorter than a second.
    """
    if isinstance(voice, Speaker):
        return voice
    if isinstance(voice, Tensor):
        return Speaker(voice, None)
    encoder = encoder or load_speaker_encoder()
    rate = encoder.sample_rate
    waveform = _recording(voice, rate)[: round(LONGEST_SECONDS * rate)]
    seconds = len(waveform) / rate
    if seconds < SHORTEST_SECONDS:
        raise AudioFormatError(
            f"The recording of the voice lasts {seconds:.2f} s; a voice needs at least {SHORTEST_SECONDS:g} s of "
            "speech, better five."
        )
    vector = encoder.embed(waveform)
    if seconds >= 4:
        halves = [part for part in waveform.chunk(2) if part.any()]
        if len(halves) == 2:
            alike = float(encoder.embed(halves[0]) @ encoder.embed(halves[1]))
            if alike < ALIKE:
                logger.warning(
                    "The two halves of the voice's recording hardly sound like one speaker (similarity %.2f); the "
                    "voice will be a mixture. Cut out one speaker.",
                    alike,
                )
    return Speaker(vector, pitch_of(measure_pitch(waveform[None], rate, rate // 100)))


def pitch_of(pitch: Pitch) -> Float[Tensor, "2"] | None:
    """Return median and standard deviation of log F0 in Hz of one recording; None where nothing is voiced."""
    known = pitch.log_f0[0][pitch.voiced[0]].float() + math.log(REFERENCE_HZ)
    if len(known) < 2:
        return None
    return torch.stack([known.median(), known.std().clamp(min=LEAST_SPREAD)])


def _recording(voice: Path | Audio, sample_rate: int) -> Float[Tensor, " samples"]:
    if isinstance(voice, Path):
        return read_audio(voice, sample_rate).waveform
    return resample(voice.waveform, voice.sample_rate, sample_rate)
