"""Predict pitch from units, and make the harmonic sound and the noise that a vocoder filters.

Units of a speech encoder say little about pitch. A vocoder trained only on units must guess it inside its spectra, and
a guess trained with a spectral loss comes out as a blur: a hoarse voice. Here pitch is a value of its own, measured
while training (features/pitch.py) and predicted while synthesising; it drives harmonics and noise, which the vocoder
filters.

Sources: F0 as a separate input of a unit vocoder: Polyak et al., 2021, arXiv:2104.00355. Harmonic plus noise
excitation: Wang et al., 2019, arXiv:1904.12088, and DDSP (Engel et al., 2020, arXiv:2001.04643).
"""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.features.pitch import REFERENCE_HZ, Pitch
from vocable.synthesis.layers import ConvNeXtStack

NOISE_PERIOD = 1 << 16
"""Samples after which the noise repeats (4 s at 16 kHz)."""


class HarmonicPhase(NamedTuple):
    """The lowest harmonic, sample by sample; float64, for long utterances."""

    phase: Float[Tensor, "batch samples"]
    """Radians; 0 at the first sample."""
    steps: Float[Tensor, "batch samples"]
    """Radians from this sample to the next."""
    loudness: Float[Tensor, "batch samples"]
    """1 where voiced, 0 where not, with ramps between."""


class PitchPredictor(nn.Module):
    """Predict pitch and voicing from the embeddings of units (and voice) at the token frame rate."""

    def __init__(self, dim: int, num_layers: int, kernel_size: int) -> None:
        super().__init__()
        self.stack = ConvNeXtStack(dim, 3 * dim, num_layers, kernel_size)
        self.head = nn.Linear(dim, 2)
        self.reach = self.stack.reach

    def forward(
        self, frames: Float[Tensor, "batch frames dim"]
    ) -> tuple[Float[Tensor, "batch frames"], Float[Tensor, "batch frames"]]:
        """Return log(f0 / REFERENCE_HZ), and the logit of being voiced."""
        outputs = self.head(self.stack(frames))
        log_f0, voiced = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).unbind(-1)
        return log_f0, voiced

    def pitch(self, frames: Float[Tensor, "batch frames dim"]) -> Pitch:
        """Return the predicted pitch, within 40 to 500 Hz.

        Computed in float64: phase is the sum of pitch over the utterance, so float32 rounding, which differs with the
        length of the input, would let streaming drift away from whole-utterance synthesis.
        """
        log_f0, voiced = copy.deepcopy(self).double()(frames.double())
        return Pitch(log_f0.clamp(math.log(40 / REFERENCE_HZ), math.log(500 / REFERENCE_HZ)), voiced > 0)


def harmonics(pitch: Pitch, sample_rate: int, hop_length: int) -> Float[Tensor, "batch samples"]:
    """Sum all cosines at multiples of the pitch below the Nyquist frequency, at unit power; silence where unvoiced.

    Pitch and voicing are interpolated between the middles of frames. The sum is the closed form of the Dirichlet
    kernel, sum_k cos(k x) = sin((K + 1/2) x) / (2 sin(x / 2)) - 1/2. The phase starts at 0.
    """
    return harmonics_from_phase(harmonic_phase(pitch, sample_rate, hop_length))


def harmonic_phase(pitch: Pitch, sample_rate: int, hop_length: int) -> HarmonicPhase:
    """Interpolate pitch and voicing to samples, and add the pitch up to a phase, in float64."""
    frequency = REFERENCE_HZ * _between_frames(pitch.log_f0.double(), hop_length).exp()
    steps = 2 * math.pi / sample_rate * frequency
    before = functional.pad(steps.cumsum(-1)[:, :-1], (1, 0))
    return HarmonicPhase(before, steps, _between_frames(pitch.voiced.double(), hop_length))


def harmonics_from_phase(moving: HarmonicPhase, phase: float = 0.0) -> Float[Tensor, "batch samples"]:
    """Turn a phase into sound; `phase` (radians) is added to all of it."""
    count = (math.pi / moving.steps).floor()
    folded = torch.remainder(moving.phase + phase + math.pi, 2 * math.pi) - math.pi
    half_sine = 2 * (folded / 2).sin()
    near_zero = half_sine.abs() < 1e-6
    total = ((count + 0.5) * folded).sin() / half_sine.masked_fill(near_zero, 1.0) - 0.5
    total = torch.where(near_zero, count, total)
    return (moving.loudness * total * (2 / count).sqrt()).float()


def noise(num_samples: int, start: int, device: torch.device | str = "cpu") -> Float[Tensor, " samples"]:
    """White noise of unit power, a fixed function of the sample's position, so that chunks fit together."""
    table = torch.randn(NOISE_PERIOD, generator=torch.Generator().manual_seed(0))
    return table[torch.arange(start, start + num_samples) % NOISE_PERIOD].to(device)


def _between_frames(values: Tensor, hop_length: int) -> Tensor:
    """Interpolate linearly between the middles of frames; flat before the first and after the last."""
    padded = torch.cat([values[:, :1], values, values[:, -1:]], 1)
    position = (torch.arange(hop_length, device=values.device, dtype=values.dtype) + 0.5) / hop_length
    early = position < 0.5  # first half of a hop: between the frame before and this one
    share = torch.where(early, position + 0.5, position - 0.5)
    here, before, after = padded[:, 1:-1, None], padded[:, :-2, None], padded[:, 2:, None]
    mixed = torch.where(early, before + share * (here - before), here + share * (after - here))
    return mixed.flatten(1)
