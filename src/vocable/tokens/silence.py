"""Which units stand for silence: those whose frames are quiet.

A generator that falls into such units speaks no more; the silence guard in lm/generation.py watches for them.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.tokens.runs import Runs, expand_runs
from vocable.types import SpeechTokens


def silence_units(
    examples: Iterable[tuple[Float[Tensor, " _"], SpeechTokens]],
    codebook_size: int,
    sample_rate: int,
    frame_rate: float,
    threshold_db: float = -35.0,
) -> tuple[int, ...]:
    """Return the units whose frames lie, in the median, more than `threshold_db` below the level of loud frames.

    The level of a recording is the 95th percentile of its frame energies, so that its loudness does not matter.

    Args:
        examples: waveforms (samples,) and their units.
        codebook_size: number of units.
        sample_rate: of the waveforms, Hz.
        frame_rate: of the units before run collapsing, Hz.
        threshold_db: how far below the loud frames silence begins, dB.
    """
    levels: list[list[Tensor]] = [[] for _ in range(codebook_size)]
    hop = round(sample_rate / frame_rate)
    for waveform, tokens in examples:
        frames = tokens.units
        if tokens.durations is not None:
            frames = expand_runs(Runs(tokens.units, tokens.durations))
        num_frames = min(len(frames), len(waveform) // hop)
        if num_frames == 0:
            continue
        energy = waveform[: num_frames * hop].view(num_frames, hop).square().mean(1)
        decibels = 10 * torch.log10(energy + 1e-10)
        decibels = decibels - decibels.quantile(0.95)
        for unit in frames[:num_frames].unique().tolist():
            levels[unit].append(decibels[frames[:num_frames] == unit])
    return tuple(unit for unit, found in enumerate(levels) if found and float(torch.cat(found).median()) < threshold_db)
