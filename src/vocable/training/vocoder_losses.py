"""Losses of vocoder training: multi-scale mel distance, adversarial terms, feature matching, durations, pitch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocable.synthesis.discriminators import Judgement

AdversarialKind = Literal["hinge", "least_squares"]
FLOOR = 1e-4
"""Smallest mel magnitude that the logarithm sees: about 80 dB under a loud vowel."""


class MultiScaleMelLoss(nn.Module):
    """Mean absolute difference of log-mel magnitudes, averaged over window sizes.

    Several scales as in DAC (Kumar et al., 2023, arXiv:2306.06546); one scale is HiFi-GAN's mel loss.
    """

    def __init__(
        self, sample_rate: int, n_ffts: Sequence[int] = (512, 1024, 2048), num_mels: Sequence[int] = (40, 80, 120)
    ) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.n_ffts = tuple(n_ffts)
        for n_fft, bands in zip(n_ffts, num_mels, strict=True):
            filters = mel_filter_bank(
                n_fft // 2 + 1, bands, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
            )
            scale = sample_rate / n_fft  # slaney filters have unit area in Hz; make it unit area in bins
            self.register_buffer(f"filters_{n_fft}", torch.tensor(filters).float() * scale, persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def log_mel(self, waveforms: Tensor, n_fft: int) -> Tensor:
        """Log-mel magnitudes (batch, frames, bands) of waveforms (batch, samples); hop n_fft / 4."""
        window = self.get_buffer(f"window_{n_fft}")
        spectra = torch.stft(waveforms.float(), n_fft, n_fft // 4, window=window, return_complex=True).mT
        magnitude = (spectra.real.square() + spectra.imag.square() + 1e-10).sqrt() / window.square().sum().sqrt()
        return (magnitude @ self.get_buffer(f"filters_{n_fft}")).clamp(min=FLOOR).log()

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Distance of two batches of waveforms (batch, samples), in natural-log units."""
        distances = [functional.l1_loss(self.log_mel(made, n), self.log_mel(real, n)) for n in self.n_ffts]
        return torch.stack(distances).mean()


def discriminator_loss(real: Sequence[Judgement], made: Sequence[Judgement], kind: AdversarialKind) -> Tensor:
    """Mean over the discriminators of how badly they tell real from made."""
    terms = []
    for a, b in zip(real, made, strict=True):
        if kind == "hinge":
            terms.append((1 - a.scores.float()).relu().mean() + (1 + b.scores.float()).relu().mean())
        else:
            terms.append((1 - a.scores.float()).square().mean() + b.scores.float().square().mean())
    return torch.stack(terms).mean()


def adversarial_loss(made: Sequence[Judgement], kind: AdversarialKind) -> Tensor:
    """Mean over the discriminators of how well they see through the generator."""
    if kind == "hinge":
        return torch.stack([(1 - item.scores.float()).relu().mean() for item in made]).mean()
    return torch.stack([(1 - item.scores.float()).square().mean() for item in made]).mean()


def feature_matching_loss(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """Mean absolute difference of inner features, each layer relative to the mean size of the real ones."""
    terms = []
    for a, b in zip(real, made, strict=True):
        for target, found in zip(a.features, b.features, strict=True):
            target = target.detach().float()
            terms.append(functional.l1_loss(found.float(), target) / target.abs().mean().clamp(min=1e-4))
    return torch.stack(terms).mean()


def duration_loss(predicted: Tensor, durations: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of log(1 + duration) over the runs that `mask` marks True."""
    return (predicted.float() - durations.float().log1p())[mask].square().mean()


def pitch_loss(log_f0: Tensor, voiced_logit: Tensor, target_log_f0: Tensor, voiced: Tensor, mask: Tensor) -> Tensor:
    """Absolute error of log f0 where voiced (in octaves), plus cross entropy of voicing, over frames in `mask`."""
    spoken = voiced & mask
    height = (log_f0 - target_log_f0)[spoken].abs().sum() / spoken.sum().clamp(min=1) / math.log(2)
    return height + functional.binary_cross_entropy_with_logits(voiced_logit[mask], voiced[mask].float())
