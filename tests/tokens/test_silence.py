"""Silence units are found by the energy of their frames."""

import torch

from vocable.tokens.silence import frame_levels, silence_units
from vocable.types import SpeechTokens


def quiet_units(waveform: torch.Tensor, tokens: SpeechTokens, size: int) -> tuple[int, ...]:
    return silence_units([(frame_levels(waveform, tokens.num_frames, 16_000, 50.0), tokens)], size)


def test_the_unit_of_quiet_frames_is_silence():
    # units 0 and 1 on loud frames of 20 ms, unit 2 on frames 40 dB below; unit 3 never occurs
    loudness = {0: 0.5, 1: 0.3, 2: 0.004}
    units = torch.tensor([2, 2, 0, 1, 1, 0, 0, 2])
    waveform = torch.cat([loudness[unit] * torch.sin(torch.arange(320) * 0.5) for unit in units.tolist()])
    frames = SpeechTokens(codes=units[None])
    assert quiet_units(waveform, frames, 4) == (2,)


def test_loudness_of_the_recording_does_not_matter_and_runs_are_expanded():
    runs = SpeechTokens(codes=torch.tensor([[1, 0]]), durations=torch.tensor([3, 5]))
    waveform = torch.cat([0.0002 * torch.ones(3 * 320), 0.02 * torch.ones(5 * 320)])
    assert quiet_units(waveform, runs, 2) == (1,)
    assert quiet_units(waveform * 30, runs, 2) == (1,)
