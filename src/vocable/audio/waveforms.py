"""Check waveforms once, where they come in, and change their sample rate.

Users import these functions from vocable.audio.io.
"""

import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import AudioFormatError


def check_waveform(waveform: Tensor, name: str) -> None:
    """Refuse what no later stage can use.

    Raises:
        AudioFormatError: the waveform is not one-dimensional, has fewer than two samples, or holds NaN or infinity.
    """
    if waveform.ndim != 1:
        raise AudioFormatError(
            f"{name}: the waveform has shape {tuple(waveform.shape)}; expected one axis, (samples,). "
            "Take the mean over channels first, and pass one waveform at a time."
        )
    check_length(len(waveform), name)
    check_finite(waveform, name)


def resample(waveform: Float[Tensor, " samples"], from_rate: int, to_rate: int) -> Float[Tensor, " resampled"]:
    """Change the sample rate (soxr, HQ); n samples become n * to_rate / from_rate, give or take one."""
    check_rate(from_rate)
    check_rate(to_rate)
    if from_rate == to_rate:
        return waveform
    samples = waveform.detach().to("cpu", torch.float32).numpy()
    return torch.from_numpy(soxr.resample(samples, from_rate, to_rate)).to(waveform.device)


def check_rate(sample_rate: int) -> None:
    """Refuse a sample rate below 1 Hz."""
    if sample_rate < 1:
        raise AudioFormatError(
            f"sample_rate is {sample_rate}; it is a positive number of samples per second, e.g. 16000."
        )


def check_length(num_samples: int, name: str) -> None:
    """Refuse fewer than two samples."""
    if num_samples < 2:
        raise AudioFormatError(
            f"{name}: {num_samples} sample{'s' if num_samples != 1 else ''}; speech needs at least 2. "
            "Leave it out, or correct start and duration."
        )


def check_finite(waveform: Tensor, name: str) -> None:
    """Refuse NaN and infinity; say how many there are and where the first one is."""
    finite = torch.isfinite(waveform)
    if not finite.all():
        bad = int((~finite).sum())
        first = int((~finite).nonzero()[0, 0])
        raise AudioFormatError(
            f"{name}: {bad} of {len(waveform)} samples are NaN or infinite, the first is sample {first} "
            f"({waveform[first].item()}). Export the file again, or leave it out."
        )
