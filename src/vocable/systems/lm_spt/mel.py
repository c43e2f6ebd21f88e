"""A codec's encoder that reads log-mel frames instead of samples: ten times the speech in the same hours of a CPU.

    waveform -> log-mel (100 Hz) -> ConvNeXt blocks -> strided convolution -> ConvNeXt blocks of tokens -> vectors

LM-SPT's own encoders are convolutions over samples (dac.py, conv_transformer.py); this one is ours.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.features.log_mel import LogMelConfig, log_mel
from vocable.synthesis.layers import ConvNeXtBlock

LOG_MEAN, LOG_DEVIATION = -7.0, 3.3
"""About the mean and the deviation of natural log mel power in speech at -27 dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MelEncoderConfig:
    """An encoder over log-mel frames."""

    kind: Literal["mel"] = "mel"
    num_mels: int = 80
    max_frequency: float = 7600.0
    """Upper edge of the highest mel filter, Hz: recordings of 16 kHz hold nothing above 8 kHz."""
    stride: int = 8
    """Log-mel frames per token."""
    dim: int = 192
    """Channels of the blocks."""
    hidden_dim: int = 576
    """Channels inside a block."""
    frame_layers: int = 3
    """Blocks at the rate of the log-mel frames."""
    token_layers: int = 2
    """Blocks at the token rate."""
    kernel_size: int = 7
    """Frames or tokens that a convolution sees; odd."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"encoder.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")
        if self.stride < 1:
            raise ConfigError(f"encoder.stride is {self.stride}; it counts log-mel frames per token, 1 or more.")


class MelEncoder(nn.Module):
    """Whole token frames of samples to one vector a token."""

    def __init__(self, config: MelEncoderConfig, sample_rate: int, hop_length: int, dim: int) -> None:
        """Make the network; `hop_length` counts samples per token, which `stride` log-mel frames share.

        Raises:
            ConfigError: the samples of a token are no whole number of log-mel hops.
        """
        super().__init__()
        if hop_length % config.stride:
            raise ConfigError(
                f"encoder.stride is {config.stride}, but a token has {hop_length} samples, which so many log-mel "
                "frames cannot share evenly. Choose a divisor."
            )
        self.config = config
        hop = hop_length // config.stride
        self.mel = LogMelConfig(
            sample_rate=sample_rate,
            num_mels=config.num_mels,
            hop_length=hop,
            n_fft=4 * hop,
            max_frequency=config.max_frequency,
            floor=1e-5,
            log_base="e",
        )
        width, size = config.dim, config.kernel_size

        def blocks(count: int) -> nn.Sequential:
            return nn.Sequential(*(ConvNeXtBlock(width, config.hidden_dim, size, 0.1) for _ in range(count)))

        self.embed = nn.Conv1d(config.num_mels, width, size, padding="same")
        self.frame_blocks, self.token_blocks = blocks(config.frame_layers), blocks(config.token_layers)
        self.down = nn.Conv1d(width, width, config.stride, config.stride)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, dim)

    @property
    def reach(self) -> tuple[int, int]:
        """Tokens before and after its own that can change a token's vector."""
        side, stride = self.config.kernel_size // 2, self.config.stride
        frames = 2 + side * (1 + self.config.frame_layers)  # a frame hears two hops on both sides
        tokens = math.ceil(frames / stride) + side * self.config.token_layers
        return tokens, tokens

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch tokens dim"]:
        """Return a vector for each token's worth of samples."""
        with torch.autocast(waveforms.device.type, enabled=False):
            # the mirrored ends of a recording would make its last frames depend on where a window is cut
            edge = 2 * self.mel.hop_length
            frames = log_mel(functional.pad(waveforms.float(), (edge, edge)), self.mel)
        frames = frames[:, 2 : 2 + waveforms.shape[1] // self.mel.hop_length]
        hidden = self.embed(((frames - LOG_MEAN) / LOG_DEVIATION).mT).mT
        hidden = self.down(self.frame_blocks(hidden).mT).mT
        return self.out(self.norm(self.token_blocks(hidden)))
