"""Measure the pitch and the energy of recordings.

Source: YIN, de Cheveigne & Kawahara (2002). Synthesizers that take pitch and energy as values of their own learn from
these measurements (synthesis/source_filter.py); `evaluate signal` compares them.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

REFERENCE_HZ = 150.0
"""Pitch is given to networks as log(f0 / REFERENCE_HZ), so that speech lies around zero."""


BLOCK_FRAMES = 256
"""Frames that are measured at a time, which bounds the memory: the transform of one takes 30 kB."""


ENERGY_PER_NEPER = 2.0
"""Energy of a recording for each neper of amplitude."""
LOUD_ENERGY, LEAST_ENERGY = 7.5, -8.9
"""Energy at the level that 5 % of the recording exceed, and in silence: the scale of the source-filter decoder."""


BRIDGED_SECONDS, BRIDGED_NEPERS = 0.3, 30 / 8.686


class Pitch(NamedTuple):
    """Pitch of every frame."""

    log_f0: Float[Tensor, "batch frames"]
    """log(f0 / REFERENCE_HZ); in unvoiced frames, a line between the voiced neighbours."""
    voiced: Bool[Tensor, "batch frames"]


def measure_pitch(
    waveforms: Float[Tensor, "batch samples"],
    sample_rate: int,
    hop_length: int,
    lowest: float = 60.0,
    highest: float = 450.0,
    threshold: float = 0.15,
    voiced_below: float = 0.4,
) -> Pitch:
    """Measure the pitch in the middle of every hop, by the difference function of YIN.

    Source: de Cheveigne & Kawahara (2002), steps 1 to 5.
    Differs: a frame is voiced where the normalised difference is under `voiced_below` and the frame is within 50 dB of
    the loudest; a median over five frames removes single octave jumps.
    """
    longest, shortest = math.ceil(sample_rate / lowest), max(2, math.floor(sample_rate / highest))
    window = int(0.032 * sample_rate)
    span = window + longest + 1
    left = (span - hop_length) // 2
    frames = functional.pad(waveforms, (left, span)).unfold(-1, span, hop_length)
    frames = frames[:, : waveforms.shape[1] // hop_length]  # (batch, frames, span)
    blocks = [_yin_difference(block, window, longest) for block in frames.split(BLOCK_FRAMES, dim=1)]
    normalised, energy = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    inner = normalised[..., shortest:-1]
    is_dip = (inner <= normalised[..., shortest - 1 : -2]) & (inner < normalised[..., shortest + 1 :])
    first = (is_dip & (inner < threshold)).float()
    lag = torch.where(first.any(-1), first.argmax(-1), inner.argmin(-1)) + shortest
    depth = normalised.gather(-1, lag[..., None])[..., 0]
    voiced = (depth < voiced_below) & (energy > 1e-5 * energy.amax(-1, keepdim=True).clamp(min=1e-8))
    f0 = sample_rate / _refine(normalised, lag)
    log_f0 = _fill_unvoiced((f0 / REFERENCE_HZ).log(), voiced)
    return Pitch(_median(log_f0), voiced)


def bridge_voicing(
    voiced: Bool[Tensor, " frames"], energy: Float[Tensor, " frames"], frame_rate: float
) -> Bool[Tensor, " frames"]:
    """Close gaps of up to 0.3 s between voiced frames where speech is within 30 dB of its loudest.

    A tracker of pitch finds none in half of the frames that a source-filter decoder was taught to call voiced: of
    real speech 47 %, where a front end that had learned exact voicing calls 74 % voiced. One that learns the tracker's
    whispers. With gaps closed the two agree in 91 % of frames (without: 67 %).
    """
    loud = energy > LOUD_ENERGY - ENERGY_PER_NEPER * BRIDGED_NEPERS
    spoken = voiced | loud
    positions = torch.arange(len(voiced), device=voiced.device)
    last = torch.where(voiced, positions, -(10**9)).cummax(0).values
    following = torch.where(voiced, positions, 10**9).flip(0).cummin(0).values.flip(0)
    return voiced | ((following - last <= BRIDGED_SECONDS * frame_rate + 1) & spoken)


class Prosody(NamedTuple):
    """Pitch and energy of a recording, frame by frame."""

    f0: Float[Tensor, " frames"]
    """Hz; 0 where unvoiced."""
    energy: Float[Tensor, " frames"]
    """On the scale of the source-filter decoder; see `measure_energy`."""


def measure_energy(waveform: Float[Tensor, " samples"], sample_rate: int, hop_length: int) -> Float[Tensor, " frames"]:
    """Measure the energy in the middle of every hop, over windows of 50 ms, whatever the level of the recording.

    Logarithm of the amplitude against that of the loudest 5 %: `LOUD_ENERGY` there, `ENERGY_PER_NEPER` less for each
    neper below, and no less than `LEAST_ENERGY`.
    """
    window = sample_rate // 20
    left = (window - hop_length) // 2
    padded = functional.pad(waveform, (left, window))
    power = padded.unfold(0, window, hop_length)[: len(waveform) // hop_length].square().mean(-1)
    log_amplitude = 0.5 * (power + 1e-9).log()
    if not waveform.any():
        return torch.full_like(log_amplitude, LEAST_ENERGY)
    below = log_amplitude - log_amplitude.quantile(0.95)
    return (LOUD_ENERGY + ENERGY_PER_NEPER * below).clamp(min=LEAST_ENERGY)


def measure_prosody(waveform: Float[Tensor, " samples"], sample_rate: int, hop_length: int) -> Prosody:
    """Measure pitch and energy in the middle of every hop, with the voicing of `bridge_voicing`."""
    pitch = measure_pitch(waveform[None], sample_rate, hop_length)
    energy = measure_energy(waveform, sample_rate, hop_length)
    voiced = bridge_voicing(pitch.voiced[0], energy, sample_rate / hop_length)
    return Prosody(REFERENCE_HZ * pitch.log_f0[0].exp() * voiced, energy)


def _yin_difference(frames: Tensor, window: int, longest: int) -> tuple[Tensor, Tensor]:
    """Cumulative mean normalised difference for lags 0..longest, and the power of every frame."""
    size = 1 << (frames.shape[-1] + window).bit_length()
    product = torch.fft.rfft(frames[..., :window], n=size).conj() * torch.fft.rfft(frames, n=size)
    correlation = torch.fft.irfft(product, n=size)[..., : longest + 1]
    squares = functional.pad(frames.double().square().cumsum(-1), (1, 0))
    energies = (squares[..., window : window + longest + 1] - squares[..., : longest + 1]).float()
    difference = (energies[..., :1] + energies - 2 * correlation).clamp(min=0)
    lags = torch.arange(1, longest + 1, device=frames.device)
    normalised = difference[..., 1:] * lags / difference[..., 1:].cumsum(-1).clamp(min=1e-12)
    return functional.pad(normalised, (1, 0), value=1.0), energies[..., 0] / window


def _refine(normalised: Tensor, lag: Tensor) -> Tensor:
    """Move the lag to the bottom of the parabola through it and its neighbours."""
    before, here, after = (normalised.gather(-1, (lag + k)[..., None])[..., 0] for k in (-1, 0, 1))
    bend = before - 2 * here + after
    return lag + torch.where(bend > 1e-9, (0.5 * (before - after) / bend.clamp(min=1e-9)).clamp(-1, 1), 0.0)


def _fill_unvoiced(log_f0: Tensor, voiced: Tensor) -> Tensor:
    """Draw a line through unvoiced frames, from the last voiced one to the next; 0 where nothing is voiced."""
    positions = torch.arange(log_f0.shape[1], device=log_f0.device).expand_as(log_f0)
    last = torch.where(voiced, positions, -1).cummax(-1).values
    following = torch.where(voiced, positions, log_f0.shape[1]).flip(-1).cummin(-1).values.flip(-1)
    has_last, has_next = last >= 0, following < log_f0.shape[1]
    before = log_f0.gather(1, last.clamp(min=0))
    after = log_f0.gather(1, following.clamp(max=log_f0.shape[1] - 1))
    share = (positions - last) / (following - last).clamp(min=1)
    line = torch.where(has_last & has_next, before + share * (after - before), torch.where(has_last, before, after))
    return torch.where(has_last | has_next, line, 0.0)


def _median(values: Tensor, width: int = 5) -> Tensor:
    padded = functional.pad(values[:, None], (width // 2, width // 2), mode="replicate")[:, 0]
    return padded.unfold(-1, width, 1).median(-1).values
