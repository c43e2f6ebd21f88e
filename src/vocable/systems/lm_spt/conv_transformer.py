"""Encoder of LM-SPT's first version: convolutions over samples, then a transformer over frames.

    waveforms (batch, frames * hop) -> four blocks of convolutions -> transformer -> (batch, frames, dim)

Source: Jo et al., 2025, arXiv:2506.16738: four convolutional blocks, then eight layers of width 512. The rest is not
known to us and is our choice: the blocks are those of the released encoder (dac.py), positions are rotary as in Mimi
(Défossez et al., 2024, arXiv:2410.00037), heads, inner width and view are fields.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig
from vocable.systems.lm_spt.dac import DacEncoder, DacEncoderConfig, check_sizes


def _transformer() -> FrameTransformerConfig:
    return FrameTransformerConfig(num_layers=8, feedforward_dim=1024, dropout=0.0, attention="full")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvTransformerConfig:
    """Convolutions and a transformer. The defaults are for 25 frames a second at 16 kHz."""

    kind: Literal["conv_transformer"] = "conv_transformer"
    """Which encoder this is."""
    width: int = 32
    """Channels after the first convolution; every stride doubles them. Published: not known to us."""
    strides: tuple[int, ...] = (4, 4, 5, 8)
    """Samples that each block makes one, from the waveform on. Published: four blocks."""
    transformer: FrameTransformerConfig = field(default_factory=_transformer)
    """Published: 8 layers of width 512. Heads, inner width and view are not known to us."""

    def __post_init__(self) -> None:
        check_sizes("encoder", self.width, self.strides)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return DacEncoderConfig(width=self.width, strides=self.strides).hop_length


class ConvTransformer(nn.Module):
    """Waveforms to frames, in evaluation mode one clip after the other.

    The transformer of one network may be set as that of another, which then shares its weights.
    """

    def __init__(self, config: ConvTransformerConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.convolutions = DacEncoder(DacEncoderConfig(width=config.width, strides=config.strides), width)
        self.hop_length = self.convolutions.hop_length
        self.transformer = FrameTransformer(config.transformer, width, dim)

    @property
    def reach(self) -> tuple[int, int] | None:
        """Frames before and after its own whose samples can change a frame; None where there is no limit."""
        beyond = self.transformer.reach
        if beyond is None:
            return None
        before, after = self.convolutions.reach
        return before + beyond[0], after + beyond[1]

    def forward(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Encode whole frames.

        Raises:
            AudioFormatError: the last frame is incomplete, or there is none.
        """
        return self.transformer(self.convolutions(waveforms))
