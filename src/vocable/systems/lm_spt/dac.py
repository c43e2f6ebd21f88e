"""Encoder and decoder of the Descript Audio Codec, with which the released LM-SPT hears and speaks.

    waveforms (batch, frames * hop) -> conv, blocks that halve time and double channels -> (batch, frames, dim)
    vectors   (batch, frames, dim)  -> conv, blocks that stretch time and halve channels -> (batch, frames * hop)

Source: Kumar et al., 2023, arXiv:2306.06546, sections 3.1 and A; sizes are those of the release of LM-SPT
(arXiv:2506.16738). Names of modules are names in the files of both (see release.py).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import cached

from vocable.errors import AudioFormatError, ConfigError
from vocable.systems.lm_spt.convolutions import one_by_one, span_before
from vocable.systems.lm_spt.decoders import CodecDecoder

DILATIONS = (1, 3, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DacEncoderConfig:
    """A waveform encoder. The defaults are the sizes of the release, at 24 kHz."""

    kind: Literal["dac"] = "dac"
    """Which encoder this is."""
    width: int = 32
    """Channels after the first convolution; every stride doubles them."""
    strides: tuple[int, ...] = (4, 5, 6, 8, 2)
    """Samples that each block makes one, from the waveform on; their product is the number of samples per frame."""

    def __post_init__(self) -> None:
        check_sizes("encoder", self.width, self.strides)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)


@dataclass(frozen=True, slots=True, kw_only=True)
class DacDecoderConfig:
    """A waveform decoder. The defaults are the sizes of the release's main decoder."""

    kind: Literal["dac"] = "dac"
    """Which decoder this is."""
    width: int = 1536
    """Channels after the first convolution; every stride halves them."""
    strides: tuple[int, ...] = (2, 8, 6, 5, 4)
    """Samples that each block makes of one, from the frames on; their product is the number of samples per frame."""
    sample_rate: int = 24_000
    """Samples per second of the waveform, Hz."""

    def __post_init__(self) -> None:
        check_sizes("decoder", self.width, self.strides)
        if self.width % 2 ** len(self.strides):
            raise ConfigError(
                f"decoder.width is {self.width}, which cannot be halved {len(self.strides)} times, once for each "
                f"stride: use a multiple of {2 ** len(self.strides)}."
            )
        if self.sample_rate < 1:
            raise ConfigError(f"decoder.sample_rate is {self.sample_rate}; it must be at least 1.")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)


def check_sizes(part: str, width: int, strides: tuple[int, ...]) -> None:
    """Refuse a width below 1, and strides below 2.

    Raises:
        ConfigError: naming the setting of `part`.
    """
    if width < 1:
        raise ConfigError(f"{part}.width is {width}; it must be at least 1.")
    if not strides or min(strides) < 2:
        raise ConfigError(f"{part}.strides is {list(strides)}; it needs at least one stride, each of at least 2.")


class Snake(nn.Module):
    """x + sin(a x)^2 / a, with one learned a per channel (Ziyin et al., 2020, arXiv:2006.08195)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch channels samples"]:
        """Return the signal, bent."""
        inverse = (self.alpha + 1e-9).reciprocal()  # as published, for an a of 0
        return signal + inverse * (self.alpha * signal).sin().square()


class ResidualUnit(nn.Module):
    """Two convolutions, the first one dilated, beside the signal itself."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            _conv(channels, channels, 7, dilation=dilation),
            Snake(channels),
            _conv(channels, channels, 1),
        )

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch channels samples"]:
        """Return the signal, changed."""
        return signal + self.block(signal)


class EncoderBlock(nn.Module):
    """Three residual units, then a convolution that makes one sample of `stride` and doubles the channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(channels, dilation) for dilation in DILATIONS),
            Snake(channels),
            weight_norm(nn.Conv1d(channels, 2 * channels, 2 * stride, stride, padding=math.ceil(stride / 2))),
        )

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch wider shorter"]:
        """Return samples / stride positions."""
        return self.block(signal)


class DecoderBlock(nn.Module):
    """A transposed convolution that makes `stride` samples of one and halves the channels, then three residual units.

    With an odd stride the result lacks the last sample.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        padding = math.ceil(stride / 2)
        self.block = nn.Sequential(
            Snake(channels),
            weight_norm(nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride, padding=padding)),
            *(ResidualUnit(channels // 2, dilation) for dilation in DILATIONS),
        )

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch narrower longer"]:
        """Return samples * stride positions, or one less."""
        return self.block(signal)


class DacEncoder(nn.Module):
    """Waveforms to frames, in evaluation mode one clip after the other."""

    def __init__(self, config: DacEncoderConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.hop_length = config.hop_length
        widths = [config.width << index for index in range(len(config.strides) + 1)]
        self.block = nn.Sequential(
            _conv(1, config.width, 7),
            *(EncoderBlock(width, stride) for width, stride in zip(widths, config.strides)),
            Snake(widths[-1]),
            _conv(widths[-1], dim, 3),
        )

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after its own whose samples can change a frame."""
        first, last = span_before(self.block, 0, 0)
        return -(first // self.hop_length), last // self.hop_length

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Encode whole frames.

        Raises:
            AudioFormatError: the last frame is incomplete, or there is none.
        """
        if waveforms.shape[1] % self.hop_length or not waveforms.shape[1]:
            raise AudioFormatError(
                f"The encoder reads whole frames of {self.hop_length} samples, not {waveforms.shape[1]} samples: "
                "add silence at the end."
            )
        if self.training:
            return self._encode(waveforms)
        with cached():  # one computation of the normed weights for all clips
            return one_by_one(self._encode, waveforms)

    def _encode(self, waveforms: Tensor) -> Tensor:
        return self.block(waveforms[:, None]).mT


class DacDecoder(CodecDecoder):
    """Vectors of frames to waveforms, in evaluation mode one clip after the other."""

    def __init__(self, config: DacDecoderConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.hop_length = config.hop_length
        widths = [config.width >> index for index in range(len(config.strides) + 1)]
        self.model = nn.Sequential(
            _conv(dim, config.width, 7),
            *(DecoderBlock(width, stride) for width, stride in zip(widths, config.strides)),
            Snake(widths[-1]),
            _conv(widths[-1], 1, 7),
            nn.Tanh(),
        )

    @property
    def reach(self) -> tuple[int, int]:  # type: ignore[override]  # decided by the sizes
        """Frames before and after its own that can change a frame's samples."""
        first, last = span_before(self.model, 0, self.hop_length - 1)
        return -first, last

    def forward(self, vectors: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch samples"]:
        """Decode; zeros stand for the last samples, which odd strides do not give (4 with the release's)."""
        if self.training:
            return self._decode(vectors)
        with cached():
            return one_by_one(self._decode, vectors)

    def _decode(self, vectors: Tensor) -> Tensor:
        waveforms = self.model(vectors.mT)[:, 0]
        return functional.pad(waveforms, (0, vectors.shape[1] * self.hop_length - waveforms.shape[1]))


def _conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Module:
    padding = dilation * (kernel_size // 2)
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding))
