"""Vocos decoder: ConvNeXt blocks over frames, and the inverse short-time Fourier transform. LM-SPT's first version.

    vectors (batch, frames, dim) -> conv, ConvNeXt blocks -> spectra of frames -> (batch, frames * hop)

Source: Siuzdak, 2023, arXiv:2306.00814. The first version of LM-SPT (arXiv:2506.16738) has 12 blocks of width 768; the
inner width of 2304 and spectra of four hops are those of WavTokenizer (Ji et al., 2024, arXiv:2408.16532), with which
the number of parameters agrees. Differs: frames may be made finer before the spectra, since a spectrum of a frame at
12.5 Hz spans 320 ms.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.synthesis.layers import ConvNeXtBlock, overlap_add
from vocable.systems.lm_spt.convolutions import one_by_one, span_before
from vocable.systems.lm_spt.decoders import CodecDecoder

LARGEST_MAGNITUDE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VocosDecoderConfig:
    """A Vocos decoder. The defaults are the sizes of LM-SPT's first version."""

    kind: Literal["vocos"] = "vocos"
    """Which decoder this is."""
    dim: int = 768
    """Channels of the ConvNeXt blocks."""
    hidden_dim: int = 2304
    """Channels inside a block."""
    num_layers: int = 12
    """ConvNeXt blocks at the rate of the tokens."""
    kernel_size: int = 7
    """Frames that a convolution sees; odd."""
    sample_rate: int = 16_000
    """Samples per second of the waveform, Hz."""
    n_fft_hops: int = 4
    """Length of a spectrum's window, in hops between spectra."""
    upsample: tuple[int, ...] = ()
    """Finer frames that are made of one, after the blocks, one learned step after the other: (2, 2, 2) for eight
    spectra per token frame; empty for one."""
    fine_layers: int = 2
    """ConvNeXt blocks after each step of `upsample`."""

    def __post_init__(self) -> None:
        least = {"dim": 1, "hidden_dim": 1, "num_layers": 0, "kernel_size": 1, "sample_rate": 1, "n_fft_hops": 2}
        for name, bound in {**least, "fine_layers": 0}.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"decoder.{name} is {getattr(self, name)}; it must be at least {bound}.")
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"decoder.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")
        if any(factor < 2 for factor in self.upsample):
            raise ConfigError(f"decoder.upsample is {list(self.upsample)}; each factor must be at least 2.")

    @property
    def spectra_per_frame(self) -> int:
        """Spectra per token frame."""
        return math.prod(self.upsample)


class VocosDecoder(CodecDecoder):
    """Vectors of frames to waveforms, in evaluation mode one clip after the other."""

    def __init__(self, config: VocosDecoderConfig, dim: int, frame_rate: float) -> None:
        """Make a decoder of `dim` numbers per frame, `frame_rate` frames per second.

        Raises:
            ConfigError: the samples between two spectra are not a whole number.
        """
        super().__init__()
        self.config = config
        spectrum_rate = frame_rate * config.spectra_per_frame
        self.spectrum_hop = round(config.sample_rate / spectrum_rate)
        if not math.isclose(self.spectrum_hop * spectrum_rate, config.sample_rate):
            raise ConfigError(
                f"decoder.sample_rate is {config.sample_rate}, which {spectrum_rate:g} spectra a second do not divide: "
                "change decoder.upsample or the rates."
            )
        self.sample_rate = config.sample_rate
        self.hop_length = self.spectrum_hop * config.spectra_per_frame
        self.n_fft = config.n_fft_hops * self.spectrum_hop
        self.embed = nn.Conv1d(dim, config.dim, config.kernel_size, padding=config.kernel_size // 2)
        self.norm_in = nn.LayerNorm(config.dim)
        self.blocks = nn.Sequential(*self._blocks(config.num_layers))
        self.finer = nn.Sequential(
            *(nn.Sequential(Upsample(config.dim, by), *self._blocks(config.fine_layers)) for by in config.upsample)
        )
        self.norm_out = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, 2 * (self.n_fft // 2 + 1))
        self.apply(_initialise)

    def _blocks(self, num_layers: int) -> list[ConvNeXtBlock]:
        config = self.config
        scale = 1 / max(1, config.num_layers + config.fine_layers * len(config.upsample))
        return [ConvNeXtBlock(config.dim, config.hidden_dim, config.kernel_size, scale) for _ in range(num_layers)]

    @property
    def reach(self) -> tuple[int, int]:  # type: ignore[override]  # decided by the sizes
        """Frames before and after its own that can change a frame's samples."""
        overhang = (self.n_fft - self.spectrum_hop) // 2  # of a window, before its frame
        first = -((self.n_fft - 1 - overhang) // self.spectrum_hop)
        last = (self.hop_length - 1 + overhang) // self.spectrum_hop
        first, last = span_before(self, first, last)
        return -first, last

    def forward(self, vectors: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch samples"]:
        """Decode frames x hop_length samples."""
        return self._decode(vectors) if self.training else one_by_one(self._decode, vectors)

    def _decode(self, vectors: Tensor) -> Tensor:
        frames = self.blocks(self.norm_in(self.embed(vectors.mT).mT))
        spectra = self.head(self.norm_out(self.finer(frames)))
        spectra = spectra.to(torch.promote_types(spectra.dtype, torch.float32))  # there is no transform of bfloat16
        log_magnitude, phase = spectra.chunk(2, -1)
        spectra = torch.polar(log_magnitude.clamp(max=math.log(LARGEST_MAGNITUDE)).exp(), phase)
        window = torch.hann_window(self.n_fft, dtype=phase.dtype, device=phase.device)
        return overlap_add(spectra, window, self.spectrum_hop)


class Upsample(nn.Module):
    """A transposed convolution that makes `factor` frames of one, each from the two nearest ones."""

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        padding, missing = math.ceil(factor / 2), factor % 2
        self.conv = nn.ConvTranspose1d(dim, dim, 2 * factor, factor, padding=padding, output_padding=missing)

    def forward(self, frames: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch finer dim"]:
        """Return frames x factor frames."""
        return self.conv(frames.mT).mT


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
