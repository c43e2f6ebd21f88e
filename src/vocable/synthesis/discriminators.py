"""Discriminators for adversarial vocoder training: of waveforms folded by a period, and of spectrograms.

Sizes are small by default, for training on a CPU; published ones are 4 to 16 times wider.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from vocable.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorConfig:
    """Which discriminators, and their size."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Of the multi-period discriminator, samples; empty for none."""
    period_channels: tuple[int, ...] = (16, 32, 64, 128)
    """Per layer of one period."""
    n_ffts: tuple[int, ...] = (512, 1024, 2048)
    """Of the multi-resolution discriminator, samples; empty for none. The hop is a quarter."""
    spectrogram_channels: int = 16
    """Of every layer of one resolution."""

    def __post_init__(self) -> None:
        if not self.periods and not self.n_ffts:
            raise ConfigError(
                "discriminator.periods and n_ffts are both empty: adversarial training needs one of them."
            )


class Judgement(NamedTuple):
    """What one sub-discriminator says of a batch."""

    scores: Tensor
    """Higher for real; (batch, places), one per stretch of signal."""
    features: list[Tensor]
    """Outputs of the inner layers, for feature matching."""


class PeriodDiscriminator(nn.Module):
    """Look at every p-th sample side by side.

    Source: HiFi-GAN (Kong et al., 2020, arXiv:2010.05646), section 2.3.
    """

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = (1, *channels)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (5, 1), (3, 1), padding=(2, 0)))
            for narrow, wide in zip(widths, channels)
        )
        self.layers.append(weight_norm(nn.Conv2d(channels[-1], channels[-1], (5, 1), padding=(2, 0))))
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Judgement:
        """Judge waveforms; the end is reflected up to a whole number of periods."""
        rest = -waveforms.shape[1] % self.period
        folded = functional.pad(waveforms[:, None], (0, rest), mode="reflect").unflatten(-1, (-1, self.period))
        return _judge(folded, self.layers, self.last)


class SpectrogramDiscriminator(nn.Module):
    """Look at the compressed magnitude spectrogram of one resolution.

    Source: UnivNet (Jang et al., 2021, arXiv:2106.07889), section 2.2, as Vocos uses it.
    Differs: magnitudes to the power 0.3 instead of linear ones, so that weak high frequencies count.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        widths = (1, channels, channels, channels)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, channels, (3, 7), (1, 2), padding=(1, 3))) for narrow in widths
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Judgement:
        """Judge waveforms of at least n_fft samples."""
        spectra = torch.stft(waveforms.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        magnitude = (spectra.real.square() + spectra.imag.square() + 1e-8).pow(0.15)
        return _judge(magnitude.mT[:, None], self.layers, self.last)


class Discriminators(nn.Module):
    """All sub-discriminators; their judgements come in a fixed order."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [SpectrogramDiscriminator(n_fft, config.spectrogram_channels) for n_fft in config.n_ffts]
        )

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge waveforms by every part."""
        return [part(waveforms) for part in self.parts]


def _judge(signal: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        signal = functional.leaky_relu(layer(signal), 0.1)
        features.append(signal)
    return Judgement(last(signal).flatten(1), features)
