"""Cut long recordings into pieces at quiet places, and find the ones with speech in them."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import audio_info, read_audio
from vocable.errors import AudioFormatError
from vocable.types import Utterance

WINDOW_SECONDS = 30.0
SEARCH_SECONDS = 5.0
"""A longer recording is cut at the quietest place in the last seconds of each window."""
SILENCE = 1e-3
"""Level (RMS over 20 ms, against full scale) that speech exceeds somewhere; -60 dB."""
QUIET = 0.05
"""Share of the highest level below which nobody speaks."""
RATE = 16_000


def cut_at_quiet(
    waveform: Float[Tensor, " samples"], sample_rate: int, longest_seconds: float = WINDOW_SECONDS
) -> list[Float[Tensor, " samples"]]:
    """Cut a recording into pieces of at most 30 s, each at the quietest 20 ms of its last 5 s; nothing is lost."""
    longest, search = int(longest_seconds * sample_rate), int(SEARCH_SECONDS * sample_rate)
    frame = sample_rate // 50
    pieces = []
    while waveform.numel() > longest:
        energy = waveform[longest - search : longest].unfold(0, frame, frame).square().sum(-1)
        cut = longest - search + int(energy.argmin()) * frame + frame // 2
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]


def speech_pieces(
    utterance: Utterance, longest_seconds: float, read_seconds: float, shortest_seconds: float = 1.0
) -> list[Utterance]:
    """Return a recording as it is or, where it is long, the pieces of its beginning that have speech, without a text.

    Args:
        utterance: the recording.
        longest_seconds: length from which on it is cut, and of the longest piece.
        read_seconds: the beginning that is looked at.
        shortest_seconds: length of the shortest recording, and of the shortest piece.

    Raises:
        AudioFormatError: it cannot be read, is shorter than `shortest_seconds`, or silent.
    """
    duration = utterance.duration or audio_info(utterance.audio).duration - utterance.start
    waveform = read_audio(utterance.audio, RATE, utterance.start, min(duration, read_seconds)).waveform
    if duration < shortest_seconds:
        raise AudioFormatError(
            f"{utterance.audio}: lasts {duration:.2f} s; it takes {shortest_seconds:g} s of speech at least."
        )
    levels = _level(waveform.unfold(0, RATE // 50, RATE // 50))
    if levels.max() < SILENCE:
        raise AudioFormatError(f"{utterance.audio}: nothing is to be heard in its first {len(waveform) / RATE:.0f} s.")
    if duration <= longest_seconds:
        return [utterance]
    spoken = levels > QUIET * levels.max()
    start = max(0, int(spoken.nonzero()[0]) - 10) * (RATE // 50)  # 0.2 s before the first sound
    pieces = []
    for sound in cut_at_quiet(waveform[start:], RATE, longest_seconds):
        if len(sound) >= shortest_seconds * RATE and _level(sound) > QUIET * levels.max():
            place = {"start": utterance.start + start / RATE, "duration": len(sound) / RATE}
            name = f"{utterance.id} from {start / RATE:.1f} s"
            pieces.append(replace(utterance, id=name, text=None, words=None, **place))
        start += len(sound)
    return pieces


def _level(sound: Float[Tensor, "*frames samples"]) -> Float[Tensor, "*frames"]:
    return sound.square().mean(-1).sqrt()
