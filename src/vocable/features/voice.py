"""Who speaks: a voice is a name, a recording, or a speaker vector, and here it becomes what a synthesizer reads.

Synthesizers with a table of voices know names; those that copy a voice want its speaker vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import Audio, read_audio
from vocable.audio.waveforms import resample
from vocable.errors import ConfigError
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.registry import look_up

Voice: TypeAlias = str | Path | Audio | Tensor
"""A name, a recording (an audio file, or audio in memory), or a speaker vector (dim,)."""


def voice_row(voice: Voice | None, names: Sequence[str]) -> int | None:
    """Find a voice among the names that a synthesizer knows; None means the first, and is None where it has no names.

    Raises:
        ConfigError: the voice is a recording or a vector, which such a synthesizer cannot copy.
        UnknownNameError: there is no voice of that name; the message names the nearest.
    """
    if voice is None:
        return 0 if names else None
    if not isinstance(voice, str):
        kind = "a speaker vector" if isinstance(voice, Tensor) else "a recording"
        known = f"knows its voices by name ({', '.join(names)})" if names else "has one voice, without a name"
        raise ConfigError(f"The voice is {kind}, but this synthesizer {known} and cannot copy another.")
    return look_up("voice", voice, {name: row for row, name in enumerate(names)})


def voice_vector(voice: Voice, encoder: SpeakerEncoder | None = None) -> Float[Tensor, " dim"]:
    """Return the speaker vector of a recording; a vector is returned as it is.

    Args:
        voice: A recording or a vector.
        encoder: The speaker encoder for recordings; None loads the default one.

    Raises:
        ConfigError: the voice is a name, which says nothing about its sound.
        AudioFormatError: the recording cannot be read, or is silent.
    """
    if isinstance(voice, Tensor):
        return voice
    if isinstance(voice, str):
        raise ConfigError(f"The voice is the name {voice!r}, but this synthesizer copies a recording: give its path.")
    encoder = encoder or load_speaker_encoder()
    if isinstance(voice, Path):
        return encoder.embed(read_audio(voice, encoder.sample_rate).waveform)
    return encoder.embed(resample(voice.waveform, voice.sample_rate, encoder.sample_rate))
