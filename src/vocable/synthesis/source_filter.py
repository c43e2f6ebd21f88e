"""Source-filter decoder: content, pitch and energy -> waveform. Small, differentiable, under every synthesizer of ours.

    content (128 numbers), F0, energy, 80 times a second -> ConvNeXt, turned by the speaker vector -> spectra of a frame
    spectra, pulses of F0, noise                         -> inverse STFT -> 24 kHz

Family: a harmonic-plus-noise source (Wang et al., 2019, arXiv:1904.12088; DDSP, Engel et al., 2020, arXiv:2001.04643)
before a filter whose spectra are predicted frame by frame and inverted (Vocos, Siuzdak, 2023, arXiv:2306.00814). The
architecture is that of the Apache-2.0 package hibari-tts 0.2.1, so its weights (asset `hibari`) can be the start; they
speak in one voice. Differs from it: a speaker vector may turn the features of every layer (FiLM, Perez et al., 2017,
arXiv:1709.07871); convolutions may see less of the future; noise is a fixed function of the frame's number, so that
streams and batches give the samples of the whole utterance alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.synthesis.layers import ConvNeXtBlock, overlap_add

VOICED_HZ = 40.0
"""F0 above this is voiced; pulses are made from there on."""
TOP_HARMONIC_HZ = 11_000.0
LARGEST_LOG = 7.0
"""Ceiling of the log magnitudes."""
INPUT_SCALE = 5.0
"""Divides log(1 + F0) and the energy where the decoder reads them."""
PITCH_STEP_HZ = 1 / 16
"""F0 is rounded to it: phase adds F0 up, and the rounding of float32, which differs with the length of the input, would
let a stream drift away from the whole utterance."""
NOISE_BLOCK = 32
"""Frames whose noise is drawn together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFilterConfig:
    """A source-filter decoder. The defaults are the sizes of the pretrained weights."""

    content_dim: int = 128
    """Numbers that say what is spoken in a frame."""
    dim: int = 256
    """Channels of the ConvNeXt blocks."""
    hidden_dim: int = 768
    """Channels inside a block."""
    num_layers: int = 8
    """ConvNeXt blocks."""
    kernel_size: int = 7
    """Frames that a convolution sees; odd."""
    speaker_dim: int | None = None
    """Length of the speaker vector; None: the decoder has one voice."""
    lookahead: int | None = None
    """Frames after its own that a frame's spectra may depend on, of those that symmetric convolutions would see
    (27 with the defaults); None: all of them. The first convolutions take them."""
    sample_rate: int = 24_000
    """Samples per second of the waveform, Hz."""
    hop_length: int = 300
    """Samples per frame."""
    n_fft: int = 1200
    """Samples per spectrum."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"decoder.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")
        if self.n_fft % self.hop_length or self.n_fft < 2 * self.hop_length:
            raise ConfigError(
                f"decoder.n_fft is {self.n_fft}; it must be a multiple of hop_length ({self.hop_length}), at least "
                "twice it. Common: n_fft = 4 * hop_length."
            )
        if self.lookahead is not None and self.lookahead < 0:
            raise ConfigError(f"decoder.lookahead is {self.lookahead}; it counts frames, 0 or more.")

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.n_fft // 2 + 1

    @property
    def futures(self) -> tuple[int, ...]:
        """Frames after its own that each convolution sees, from the first to the last."""
        return share_lookahead(self.lookahead, (self.kernel_size,) * (self.num_layers + 1))

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after its own that can change a frame's samples.

        Samples are added up from windows that reach over frames beside their own, and so were the pulses before.
        """
        overlap = -(-self.n_fft // (2 * self.hop_length))
        after = sum(self.futures)
        before = (self.kernel_size - 1) * (self.num_layers + 1) - after
        return max(before, overlap) + overlap, max(after, overlap) + overlap


def share_lookahead(lookahead: int | None, kernel_sizes: Sequence[int]) -> tuple[int, ...]:
    """Give each convolution its frames of the future, at most half its kernel, the first ones first."""
    futures = []
    for size in kernel_sizes:
        taken = size // 2 if lookahead is None else min(size // 2, lookahead - sum(futures))
        futures.append(taken)
    return tuple(futures)


class Spectra(NamedTuple):
    """Spectra of every frame, (batch, frames, bins) each."""

    harmonic_log: Tensor
    """Log magnitude by which the spectrum of the pulses is multiplied."""
    harmonic_phase: Tensor
    """Its turn: pi times the tanh of this."""
    noise_log: Tensor
    """Log magnitude of the noise."""
    free_log: Tensor
    """Log magnitude of the part without a source."""
    free_phase: Tensor
    """Phase of that part, radians."""


class SourceFilterDecoder(nn.Module):
    """Content, pitch and energy to spectra, and spectra to samples."""

    def __init__(self, config: SourceFilterConfig) -> None:
        super().__init__()
        self.config = config
        first, *rest = config.futures
        self.embed = nn.Conv1d(config.content_dim + 2, config.dim, config.kernel_size)
        self.pad = (config.kernel_size - 1 - first, first)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.hidden_dim, config.kernel_size, 1 / config.num_layers, future)
            for future in rest
        )
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, len(Spectra._fields) * config.bins)
        nn.init.constant_(self.head.bias, -2.0)  # quiet at first
        self.film = None
        if config.speaker_dim is not None:
            self.film = nn.Linear(config.speaker_dim, (2 * config.num_layers + 1) * config.dim)
            nn.init.zeros_(self.film.weight)  # at first the voice is that of the decoder
            nn.init.zeros_(self.film.bias)

    def hidden(
        self,
        content: Float[Tensor, "batch frames content_dim"],
        f0: Float[Tensor, "batch frames"],
        energy: Float[Tensor, "batch frames"],
        speaker: Float[Tensor, "batch speaker_dim"] | Float[Tensor, "batch frames speaker_dim"] | None = None,
    ) -> Float[Tensor, "batch frames dim"]:
        """Return what the spectra are read from.

        Args:
            content: what is spoken.
            f0: Hz; 0 where unvoiced.
            energy: about 2.9 per neper of amplitude; 2.5 +- 5.8 in speech.
            speaker: speaker vectors, where the decoder reads them; one for all frames, or one for each.
        """
        prosody = torch.stack([f0.clamp(min=0).log1p(), energy], -1) / INPUT_SCALE
        frames = torch.cat([content, prosody.to(content.dtype)], -1)
        frames = self.embed(functional.pad(frames.mT, self.pad)).mT
        shift, *turns = self._turns(speaker)
        if shift is not None:
            frames = frames + shift
        for block, turn in zip(self.blocks, turns, strict=True):
            if turn is not None:
                scale, shift = turn.chunk(2, -1)
                frames = frames * (1 + scale) + shift
            frames = block(frames)
        return self.norm(frames)

    def _turns(self, speaker: Tensor | None) -> list[Tensor | None]:
        """Shift after the first convolution, then scale and shift before each block."""
        config = self.config
        if self.film is None:
            return [None] * (config.num_layers + 1)
        if speaker is None:
            raise ConfigError("This decoder speaks with a speaker vector, and none was given.")
        sizes = [config.dim, *[2 * config.dim] * config.num_layers]
        turns = self.film(speaker)
        return list((turns[:, None] if turns.ndim == 2 else turns).split(sizes, -1))

    def spectra(self, hidden: Float[Tensor, "batch frames dim"]) -> Spectra:
        """Read the spectra."""
        return Spectra(*self.head(hidden).float().split(self.config.bins, -1))

    def forward(
        self,
        content: Float[Tensor, "batch frames content_dim"],
        f0: Float[Tensor, "batch frames"],
        energy: Float[Tensor, "batch frames"],
        speaker: Float[Tensor, "batch speaker_dim"] | Float[Tensor, "batch frames speaker_dim"] | None = None,
    ) -> Spectra:
        """Return spectra; see `hidden`."""
        return self.spectra(self.hidden(content, f0, energy, speaker))

    def synthesise(
        self,
        spectra: Spectra,
        f0: Float[Tensor, "batch frames"],
        start: int = 0,
        phase: float = 0.0,
    ) -> Float[Tensor, "batch samples"]:
        """Turn spectra and F0 into frames x hop_length samples; differentiable in the spectra.

        `start` (frames) chooses the stretch of noise, and `phase` (cycles) is added to that of the pulses: streams set
        both so that their chunks continue each other.
        """
        config = self.config
        source = self._harmonic_spectrum(f0, phase)
        total = _polar(spectra.harmonic_log, math.pi * spectra.harmonic_phase.tanh()) * source
        hiss = noise(start, f0.shape[1], config.bins, f0.device)
        total = total + spectra.noise_log.clamp(max=LARGEST_LOG).exp() * hiss
        total = total + _polar(spectra.free_log, spectra.free_phase)
        window = torch.hann_window(config.n_fft, device=f0.device)
        return overlap_add(total, window, config.hop_length, overhang=config.n_fft // 2)

    def cycles(self, f0: Float[Tensor, "batch frames"]) -> Float[Tensor, "batch samples"]:
        """Return the phase of the pulses after each sample, in cycles, float64."""
        return (self._line(f0).clamp(min=VOICED_HZ) / self.config.sample_rate).cumsum(1)

    def pulses(self, f0: Float[Tensor, "batch frames"], phase: float = 0.0) -> Float[Tensor, "batch samples"]:
        """Sum all cosines at multiples of F0 below 11 kHz, each of amplitude 1; silence where unvoiced.

        F0 is a line between the middles of frames. The sum is the closed form of the Dirichlet kernel.
        """
        line = self._line(f0)
        angle = 2 * math.pi * torch.frac(self.cycles(f0) + phase)
        count = torch.floor(min(TOP_HARMONIC_HZ, self.config.sample_rate / 2) / line.clamp(min=VOICED_HZ)) + 0.5
        below = 2 * torch.sin(angle / 2)
        near = below.abs() < 2e-3  # the limit there
        wave = torch.where(near, count, torch.sin(count * angle) / torch.where(near, 1.0, below)) - 0.5
        return (wave * (line > VOICED_HZ)).float()

    def _line(self, f0: Tensor) -> Tensor:
        hop = self.config.hop_length
        exact = (f0.double() / PITCH_STEP_HZ).round() * PITCH_STEP_HZ
        return functional.interpolate(exact[:, None], scale_factor=hop, mode="linear", align_corners=False)[:, 0]

    @torch.no_grad()
    def _harmonic_spectrum(self, f0: Tensor, phase: float) -> Complex[Tensor, "batch frames bins"]:
        """Spectra of the pulses, a window around the start of each frame; a cosine of amplitude 1 peaks at 1."""
        config = self.config
        window = torch.hann_window(config.n_fft, device=f0.device) / (config.n_fft / 4)
        mode = "reflect" if f0.shape[1] * config.hop_length > config.n_fft // 2 else "constant"
        samples = functional.pad(self.pulses(f0, phase), (config.n_fft // 2,) * 2, mode=mode)
        return torch.fft.rfft(samples.unfold(-1, config.n_fft, config.hop_length)[:, : f0.shape[1]] * window)


def noise(start: int, frames: int, bins: int, device: torch.device | str = "cpu") -> Complex[Tensor, "frames bins"]:
    """Complex white noise, real and imaginary part of unit power: a fixed function of the frame's number."""
    blocks = range(start // NOISE_BLOCK, -(-(start + frames) // NOISE_BLOCK))
    drawn = [torch.randn(NOISE_BLOCK, bins, 2, generator=torch.Generator().manual_seed(block)) for block in blocks] or [
        torch.zeros(0, bins, 2)
    ]
    first = start - start // NOISE_BLOCK * NOISE_BLOCK
    return torch.view_as_complex(torch.cat(drawn)[first : first + frames]).to(device)


def _polar(log_magnitude: Tensor, phase: Tensor) -> Tensor:
    return torch.polar(log_magnitude.clamp(max=LARGEST_LOG).exp(), phase)
