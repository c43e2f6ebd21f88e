"""Losses of vocoder training: mel distance, adversarial terms, content, a frozen decoder, durations, prosody."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocable.features.base import FeatureEncoder
from vocable.synthesis.discriminators import Judgement
from vocable.synthesis.source_filter import LARGEST_LOG, VOICED_HZ, SourceFilterDecoder, Spectra
from vocable.synthesis.unit_frontend import ENERGY_DEVIATION, ENERGY_MEAN, LARGEST_DEVIATION, NeutralSpeech

AdversarialKind = Literal["hinge", "least_squares"]
Reduction = Literal["mean", "sum"]
FLOOR = 1e-4
"""Smallest mel magnitude that the logarithm sees: about 80 dB under a loud vowel."""


class MultiScaleMelLoss(nn.Module):
    """Mean absolute difference of log-mel magnitudes, over window sizes.

    Several scales as in DAC (Kumar et al., 2023, arXiv:2306.06546); one scale is HiFi-GAN's mel loss. The defaults are
    ours; `MultiScaleMelLoss.dac` is the loss as DAC and the release of LM-SPT have it.
    """

    def __init__(
        self,
        sample_rate: int,
        n_ffts: Sequence[int] = (512, 1024, 2048),
        num_mels: Sequence[int] = (40, 80, 120),
        top_hz: float | None = None,
        *,
        floor: float = FLOOR,
        normalised: bool = True,
        log_weight: float = 1.0,
        linear_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        """Make the filters.

        Args:
            sample_rate: Hz.
            n_ffts: Samples in a window, for each scale; the hop is a quarter.
            num_mels: Mel bands of each scale.
            top_hz: Nothing above it is compared; None: half the sample rate.
            floor: Smallest mel magnitude that the logarithm sees.
            normalised: Whether magnitudes are made comparable between windows, by the energy of the window and by
                filters of unit area in bins. Otherwise they grow with the window; filters have unit area in Hz.
            log_weight: Weight of the difference of natural logarithms.
            linear_weight: Weight of the difference of magnitudes themselves.
            reduction: How scales are put together.
        """
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.n_ffts, self.floor, self.normalised = tuple(n_ffts), floor, normalised
        self.reduction: Reduction = reduction
        self.log_weight, self.linear_weight = log_weight, linear_weight
        top = min(top_hz or sample_rate / 2, sample_rate / 2)
        for n_fft, bands in zip(n_ffts, num_mels, strict=True):
            with warnings.catch_warnings():  # in the lowest of many bands, which are narrower than a bin
                warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
                filters = mel_filter_bank(
                    n_fft // 2 + 1, bands, 0.0, top, sample_rate, norm="slaney", mel_scale="slaney"
                )
            scale = sample_rate / n_fft if normalised else 1.0
            self.register_buffer(f"filters_{n_fft}", torch.tensor(filters).float() * scale, persistent=False)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    @classmethod
    def dac(cls, sample_rate: int) -> "MultiScaleMelLoss":
        """Make the loss of DAC, with the four scales of the release of LM-SPT (arXiv:2506.16738).

        Each scale counts the difference of log10(max(mel, 1e-5)^2) and that of mel; scales are added up.
        """
        return cls(
            sample_rate,
            n_ffts=(256, 512, 1024, 2048),
            num_mels=(40, 80, 160, 320),
            floor=1e-5,
            normalised=False,
            log_weight=2 / math.log(10),
            linear_weight=1.0,
            reduction="sum",
        )

    def mel(self, waveforms: Tensor, n_fft: int) -> Tensor:
        """Mel magnitudes (batch, frames, bands) of waveforms (batch, samples); hop n_fft / 4."""
        window = self.get_buffer(f"window_{n_fft}")
        spectra = torch.stft(waveforms.float(), n_fft, n_fft // 4, window=window, return_complex=True).mT
        magnitude = (spectra.real.square() + spectra.imag.square() + 1e-10).sqrt()
        if self.normalised:
            magnitude = magnitude / window.square().sum().sqrt()
        return magnitude @ self.get_buffer(f"filters_{n_fft}")

    def log_mel(self, waveforms: Tensor, n_fft: int) -> Tensor:
        """Natural logarithms of `mel`, floored."""
        return self.mel(waveforms, n_fft).clamp(min=self.floor).log()

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Distance of two batches of waveforms (batch, samples)."""
        distances = []
        for n_fft in self.n_ffts:
            a, b = self.mel(made, n_fft), self.mel(real, n_fft)
            logs = functional.l1_loss(a.clamp(min=self.floor).log(), b.clamp(min=self.floor).log())
            linear = self.linear_weight * functional.l1_loss(a, b) if self.linear_weight else 0.0
            distances.append(self.log_weight * logs + linear)
        return _reduced(distances, self.reduction)


def discriminator_loss(
    real: Sequence[Judgement], made: Sequence[Judgement], kind: AdversarialKind, reduction: Reduction = "mean"
) -> Tensor:
    """How badly the discriminators tell real from made, averaged or added up over them (DAC adds up)."""
    terms = []
    for a, b in zip(real, made, strict=True):
        if kind == "hinge":
            terms.append((1 - a.scores.float()).relu().mean() + (1 + b.scores.float()).relu().mean())
        else:
            terms.append((1 - a.scores.float()).square().mean() + b.scores.float().square().mean())
    return _reduced(terms, reduction)


def adversarial_loss(made: Sequence[Judgement], kind: AdversarialKind, reduction: Reduction = "mean") -> Tensor:
    """How well the discriminators see through the generator, averaged or added up over them (DAC adds up)."""
    if kind == "hinge":
        return _reduced([(1 - item.scores.float()).relu().mean() for item in made], reduction)
    return _reduced([(1 - item.scores.float()).square().mean() for item in made], reduction)


def feature_matching_loss(
    real: Sequence[Judgement], made: Sequence[Judgement], relative: bool = True, reduction: Reduction = "mean"
) -> Tensor:
    """Mean absolute difference of inner features, averaged or added up over the layers.

    Each layer's counts relative to the mean size of the real features; not so in DAC, which adds up plain differences
    (`relative=False, reduction="sum"`). No gradient goes through the real side.
    """
    terms = []
    for a, b in zip(real, made, strict=True):
        for target, found in zip(a.features, b.features, strict=True):
            target = target.detach().float()
            size = target.abs().mean().clamp(min=1e-4) if relative else 1.0
            terms.append(functional.l1_loss(found.float(), target) / size)
    return _reduced(terms, reduction)


def _reduced(terms: Sequence[Tensor], reduction: Reduction) -> Tensor:
    return torch.stack(tuple(terms)).mean() if reduction == "mean" else torch.stack(tuple(terms)).sum()


def duration_loss(predicted: Tensor, durations: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of log(1 + duration) over the runs that `mask` marks True."""
    return (predicted.float() - durations.float().log1p())[mask].square().mean()


def prosody_loss(
    made: NeutralSpeech, pitch: Tensor, has_pitch: Tensor, voiced: Tensor, energy: Tensor
) -> dict[str, Tensor]:
    """Squared errors of pitch where it was measured, and of energy; cross entropy of voicing; all (batch, frames)."""
    known = has_pitch.float()
    error = (made.pitch - pitch).clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION).square()  # octave errors do not rule
    return {
        "pitch": (error * known).sum() / known.sum().clamp(min=1),
        "voiced": functional.binary_cross_entropy_with_logits(made.voiced, voiced.float()),
        "energy": functional.mse_loss(made.energy, (energy - ENERGY_MEAN) / ENERGY_DEVIATION),
    }


def content_loss(made: Tensor, content: Tensor, known: Tensor, deviation: Tensor) -> Tensor:
    """Squared error of content (batch, frames, dim) where it is known, in standard deviations."""
    error = ((made - content) / deviation).square().mean(-1)
    return (error * known).sum() / known.sum().clamp(min=1)


class SpectralLoss(nn.Module):
    """Spectral convergence and mean absolute difference of log magnitudes, averaged over window sizes.

    Source: Parallel WaveGAN (Yamamoto et al., 2020, arXiv:1910.11480), section 3.2. Differs: 0.01 is added before the
    logarithm, and nothing above `top_hz` is compared.
    """

    def __init__(
        self, sample_rate: int, n_ffts: Sequence[int] = (512, 1200, 2048), top_hz: float | None = None
    ) -> None:
        super().__init__()
        self.n_ffts, self.share = tuple(n_ffts), min(1.0, (top_hz or sample_rate) / (sample_rate / 2))

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Distance of two batches of waveforms (batch, samples)."""
        total = made.new_zeros(())
        for n_fft in self.n_ffts:
            window = torch.hann_window(n_fft, device=made.device)
            kept = int(self.share * (n_fft // 2)) + 1
            a, b = (
                torch.stft(one.float(), n_fft, n_fft // 4, window=window, return_complex=True)[:, :kept].abs()
                for one in (made, real)
            )
            total = (
                total + (b - a).norm() / b.norm().clamp(min=1e-6) + ((a + 1e-2).log() - (b + 1e-2).log()).abs().mean()
            )
        return total / len(self.n_ffts)


class ListenerLoss(nn.Module):
    """Difference of what a frozen speech encoder hears in two batches of waveforms.

    Outputs of its last layers, each frame normalised; mean absolute difference over the mean size of the recording's.
    """

    def __init__(self, encoder: FeatureEncoder, sample_rate: int, num_layers: int = 3) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.sample_rate = sample_rate
        self.heard: list[Tensor] = []
        layers = list(encoder.layers)[-num_layers:]  # type: ignore[arg-type]  # pretrained encoders have a list of them
        for layer in layers:
            layer.register_forward_hook(self._hear)

    def _hear(self, layer: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        self.heard.append(functional.layer_norm(hidden.float(), hidden.shape[-1:]))

    def features(self, waveforms: Tensor) -> list[Tensor]:
        """Return (batch, frames, dim) of each of the layers; differentiable."""
        encoder, self.heard = self.encoder, []
        low = resample_differentiably(waveforms, self.sample_rate, encoder.sample_rate)
        low = low[:, : low.shape[1] // encoder.hop_length * encoder.hop_length]
        encoder.layers_up(encoder.front(low), None)
        heard, self.heard = self.heard, []
        return heard

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Compare waveforms (batch, samples); gradients reach `made`."""
        with torch.no_grad():
            wanted = self.features(real)
        found = self.features(made)
        terms = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(terms).mean()


def resample_differentiably(waveforms: Tensor, from_rate: int, to_rate: int, half_width: int = 20) -> Tensor:
    """Change the sample rate of (batch, samples) by a windowed sinc, as a strided convolution."""
    if from_rate == to_rate:
        return waveforms
    common = math.gcd(from_rate, to_rate)
    up, down = to_rate // common, from_rate // common
    cutoff = 0.97 * min(1.0, up / down)
    reach = math.ceil(half_width / cutoff)
    taps = torch.arange(-reach, reach + down, dtype=torch.float64)
    offsets = torch.arange(up, dtype=torch.float64) * down / up  # of the output samples between two input strides
    time = taps - offsets[:, None]
    window = torch.cos(math.pi * time / (2 * reach)).clamp(min=0) ** 2 * (time.abs() <= reach)
    kernels = (cutoff * torch.sinc(cutoff * time) * window).to(waveforms)
    padded = functional.pad(waveforms[:, None], (reach, reach + down))
    made = functional.conv1d(padded, kernels[:, None], stride=down).mT.flatten(1)
    return made[:, : waveforms.shape[1] * up // down]


class TeacherLoss(nn.Module):
    """Distance between the sounds that a frozen decoder would make of two contents, without making them.

    Squared error of the decoder's last hidden layer, and absolute error of the log-mel envelope of its spectra. The
    teacher is the decoder itself with the true content, so recordings of any speaker teach, in the decoder's own voice.
    """

    filters: Tensor

    def __init__(self, decoder: SourceFilterDecoder, bands: int = 80) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        config = decoder.config
        filters = torch.tensor(
            mel_filter_bank(config.bins, bands, 0.0, config.sample_rate / 2, config.sample_rate, mel_scale="slaney")
        ).float()
        self.register_buffer("filters", filters / filters.sum(0).clamp(min=1e-6), persistent=False)

    def forward(
        self, decoder: SourceFilterDecoder, made: Tensor, content: Tensor, known: Tensor, f0: Tensor, energy: Tensor
    ) -> Tensor:
        """Compare contents (batch, frames, dim) in frames that `known` marks; gradients reach `made` only."""
        frozen = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        speaker = None if decoder.film is None else f0.new_zeros(len(f0), decoder.film.in_features)
        hidden = [decoder.hidden(values, f0, energy, speaker) for values in (made, content)]
        envelopes = [self._envelope(decoder.spectra(values), f0 > VOICED_HZ) for values in hidden]
        for parameter in frozen:
            parameter.requires_grad_(True)
        error = (hidden[0] - hidden[1]).square().mean(-1) + (envelopes[0] - envelopes[1]).abs().mean(-1)
        return (error * known).sum() / known.sum().clamp(min=1)

    def _envelope(self, spectra: Spectra, voiced: Tensor) -> Tensor:
        """Log-mel power of the spectra, without harmonics or phase: (batch, frames, bands)."""
        tones, hiss, free = (
            (2 * part.clamp(max=LARGEST_LOG)).exp()
            for part in (spectra.harmonic_log, spectra.noise_log, spectra.free_log)
        )
        return ((tones * voiced[..., None] + 2 * hiss + free) @ self.filters + 1e-5).log()
