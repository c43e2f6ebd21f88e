"""Discriminators for adversarial training: of waveforms folded by a period, and of spectrograms, whole or in bands.

Sizes are small by default, for training on a CPU; published ones are 4 to 16 times wider (`DAC_DISCRIMINATORS`).
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from vocable.errors import AudioFormatError, ConfigError


def _edge_bins(n_fft: int, band_edges: tuple[float, ...]) -> list[int]:
    """First frequency of each band, and the one after the last."""
    return [int(edge * (n_fft // 2 + 1)) for edge in band_edges]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorConfig:
    """Which discriminators, and their size."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Periods of the multi-period discriminator, samples; empty for none."""
    period_channels: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each layer of one period."""
    n_ffts: tuple[int, ...] = (512, 1024, 2048)
    """Windows of the multi-resolution discriminator, samples; empty for none. The hop is a quarter."""
    spectrogram_channels: int = 16
    """Channels of every layer of one resolution."""
    band_edges: tuple[float, ...] = ()
    """Edges of frequency bands, as rising shares of half the sample rate: real and imaginary parts of each band are
    judged apart, as in DAC. Empty: magnitudes of all frequencies together."""
    normalise_input: bool = False
    """Remove the mean of every waveform and bring its peak to 0.8 first, as DAC does: loudness is then not judged."""

    def __post_init__(self) -> None:
        if not self.periods and not self.n_ffts:
            raise ConfigError(
                "discriminator.periods and n_ffts are both empty: adversarial training needs one of them."
            )
        edges = self.band_edges
        rising = all(low < high for low, high in itertools.pairwise(edges))
        if edges and (len(edges) < 2 or not rising or edges[0] < 0 or edges[-1] > 1):
            raise ConfigError(
                f"discriminator.band_edges is {list(edges)}; it needs at least two edges that rise, from 0 to 1."
            )
        for n_fft in self.n_ffts:
            for low, high in itertools.pairwise(_edge_bins(n_fft, edges)):
                if low == high:
                    raise ConfigError(
                        f"discriminator.band_edges is {list(edges)}, but a window of {n_fft} samples has no frequency "
                        f"in one of the bands. Make bands wider, or windows longer."
                    )


DAC_BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""The bands of DAC (Kumar et al., 2023, arXiv:2306.06546)."""
DAC_DISCRIMINATORS = DiscriminatorConfig(
    period_channels=(32, 128, 512, 1024),
    n_ffts=(2048, 1024, 512),
    spectrogram_channels=64,
    band_edges=DAC_BANDS,
    normalise_input=True,
)
"""The discriminators of DAC with the 64 channels of the release of LM-SPT (DAC's own code has 32)."""


class Judgement(NamedTuple):
    """Output of one sub-discriminator for a batch."""

    scores: Tensor
    """Higher for real; (batch, places), one per stretch of signal."""
    features: list[Tensor]
    """Outputs of the inner layers, for feature matching."""


class PeriodDiscriminator(nn.Module):
    """Look at every p-th sample side by side.

    Source: HiFi-GAN (Kong et al., 2020, arXiv:2010.05646), section 2.3.
    Differs from DAC's code: a whole number of periods is not lengthened by one more.
    """

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        self.fewest_samples = period // 2 + 1  # what is reflected must be shorter than the waveform
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
        self.fewest_samples = n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        widths = (1, channels, channels, channels)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, channels, (3, 7), (1, 2), padding=(1, 3))) for narrow in widths
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Judgement:
        """Judge waveforms of at least `fewest_samples`."""
        spectra = torch.stft(waveforms.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        magnitude = (spectra.real.square() + spectra.imag.square() + 1e-8).pow(0.15)
        return _judge(magnitude.mT[:, None], self.layers, self.last)


class BandSplitDiscriminator(nn.Module):
    """Look at the complex spectrogram of one resolution, in frequency bands, each with layers of its own.

    Source: DAC (Kumar et al., 2023, arXiv:2306.06546), section 3.3, and its code, for what the paper does not say.
    Frames are centred half a hop past every hop, so that there are as many as hops.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int, band_edges: tuple[float, ...]) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, n_fft // 4
        self.fewest_samples = 5 * n_fft // 8 + 1  # what is reflected, and up to a hop more, must be shorter
        self.edges = _edge_bins(n_fft, band_edges)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.bands = nn.ModuleList(self._band(channels) for _ in self.edges[1:])
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Judgement:
        """Judge waveforms of at least `fewest_samples`."""
        spectra = self.spectra(waveforms)
        features, ends = [], []
        for layers, (low, high) in zip(self.bands, itertools.pairwise(self.edges), strict=True):
            made = _layer_outputs(spectra[..., low:high], layers)  # type: ignore[arg-type]  # a list of modules
            features.extend(made)
            ends.append(made[-1])
        return Judgement(self.last(torch.cat(ends, dim=-1)).flatten(1), features)

    def spectra(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 2 frames bins"]:
        """Real and imaginary parts; the end is reflected up to a whole number of hops."""
        reach, rest = (self.n_fft - self.hop_length) // 2, -waveforms.shape[1] % self.hop_length
        padded = functional.pad(waveforms.float()[:, None], (reach, reach + rest), mode="reflect")[:, 0]
        spectra = torch.stft(padded, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True)
        return torch.view_as_real(spectra).permute(0, 3, 2, 1)

    @staticmethod
    def _band(channels: int) -> nn.ModuleList:
        return nn.ModuleList(
            [weight_norm(nn.Conv2d(2, channels, (3, 9), padding=(1, 4)))]
            + [weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4))) for _ in range(3)]
            + [weight_norm(nn.Conv2d(channels, channels, 3, padding=1))]
        )


class Discriminators(nn.Module):
    """All sub-discriminators; their judgements come in a fixed order."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.normalise_input = config.normalise_input
        channels, edges = config.spectrogram_channels, config.band_edges
        self.parts = nn.ModuleList(
            [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
            + [
                BandSplitDiscriminator(n_fft, channels, edges) if edges else SpectrogramDiscriminator(n_fft, channels)
                for n_fft in config.n_ffts
            ]
        )
        self.fewest_samples = max(int(part.fewest_samples) for part in self.parts)  # type: ignore[arg-type]
        """Samples that every part needs at least."""

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> list[Judgement]:
        """Judge waveforms by every part.

        Raises:
            AudioFormatError: they are too short for one of the parts.
        """
        if waveforms.shape[1] < self.fewest_samples:
            raise AudioFormatError(
                f"The discriminators cannot judge {waveforms.shape[1]} samples; they need {self.fewest_samples}. Make "
                "crops longer, or the longest window or period shorter."
            )
        if self.normalise_input:
            waveforms = waveforms - waveforms.mean(1, keepdim=True)
            waveforms = 0.8 * waveforms / (waveforms.abs().amax(1, keepdim=True) + 1e-9)
        return [part(waveforms) for part in self.parts]


def _judge(signal: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
    features = _layer_outputs(signal, layers)
    return Judgement(last(features[-1]).flatten(1), features)


def _layer_outputs(signal: Tensor, layers: Iterable[nn.Module]) -> list[Tensor]:
    features = []
    for layer in layers:
        signal = functional.leaky_relu(layer(signal), 0.1)
        features.append(signal)
    return features
