"""Which units stand for silence: those whose frames are quiet.

A generator that falls into such units speaks no more; the silence guard in lm/generation.py watches for them.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.tokens.runs import frames_of
from vocable.types import SpeechTokens


def frame_levels(
    waveform: Float[Tensor, " samples"], num_frames: int, sample_rate: int, frame_rate: float
) -> Float[Tensor, " frames"]:
    """Return how far each frame lies above or below the loud frames of its recording, in dB.

    The level of a recording is the 95th percentile of its frame energies, so that its loudness does not matter. Frames
    past the end of the waveform are left out.
    """
    hop = round(sample_rate / frame_rate)
    num_frames = min(num_frames, len(waveform) // hop)
    if num_frames == 0:
        return torch.zeros(0)
    energy = waveform[: num_frames * hop].view(num_frames, hop).square().mean(1)
    decibels = 10 * torch.log10(energy + 1e-10)
    return decibels - decibels.quantile(0.95)


def silence_units(
    examples: Iterable[tuple[Float[Tensor, " _"], SpeechTokens]], codebook_size: int, threshold_db: float = -35.0
) -> tuple[int, ...]:
    """Return the units whose frames lie, in the median, more than `threshold_db` below the level of loud frames.

    Args:
        examples: levels of frames (`frame_levels`) and their units.
        codebook_size: number of units.
        threshold_db: how far below the loud frames silence begins, dB.
    """
    levels: list[list[Tensor]] = [[] for _ in range(codebook_size)]
    for decibels, tokens in examples:
        (frames,) = frames_of(tokens)[:, : len(decibels)]
        for unit in frames.unique().tolist():
            levels[unit].append(decibels[frames == unit])
    return tuple(unit for unit, found in enumerate(levels) if found and float(torch.cat(found).median()) < threshold_db)
