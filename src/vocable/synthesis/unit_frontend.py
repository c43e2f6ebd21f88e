"""From units to what the source-filter decoder reads: content, and the pitch, voicing and energy of a neutral speaker.

    units -> embeddings (vectors of the codebook) -> ConvNeXt at the token rate -> linear interpolation to 80 Hz
          -> ConvNeXt -> content (128), pitch, voiced, energy of every frame

Pitch and energy are in standard deviations of the speaker, so that they fit any voice; a voice gives them its mean and
spread (`Speaker`).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.synthesis.layers import ConvNeXtBlock
from vocable.synthesis.source_filter import share_lookahead

ENERGY_MEAN, ENERGY_DEVIATION = 2.5, 5.8
"""Energy in speech, on the decoder's scale."""
LARGEST_DEVIATION = 3.5
"""Pitch is kept within so many standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendConfig:
    """The network between units and decoder."""

    dim: int = 256
    """Channels of its ConvNeXt blocks."""
    hidden_dim: int = 512
    """Channels inside a block."""
    token_layers: int = 4
    """Blocks at the token rate."""
    frame_layers: int = 3
    """Blocks at the decoder's rate."""
    kernel_size: int = 7
    """Tokens or frames that a convolution sees; odd."""
    lookahead: int | None = None
    """Tokens after its own that may change a frame, of those that symmetric convolutions would see; blocks at the
    decoder's rate then see no frames after theirs. None: all of them."""
    num_symbols: int = 0
    """Phoneme symbols that a further output tells apart, for alignment and as a help in training; 0: none."""
    noise: float = 0.2
    """Spread of the noise that is added to embedded codebook vectors in training, against their spread of 1."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"frontend.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")

    @property
    def token_futures(self) -> tuple[int, ...]:
        """Tokens after its own that each convolution at the token rate sees."""
        return share_lookahead(self.lookahead, (self.kernel_size,) * self.token_layers)

    @property
    def frame_futures(self) -> tuple[int, ...]:
        """Frames after its own that each convolution at the decoder's rate sees."""
        return share_lookahead(None if self.lookahead is None else 0, (self.kernel_size,) * self.frame_layers)

    def reach(self, tokens_per_frame: float) -> tuple[int, int]:
        """Frames of the decoder before and after its own that can change a frame."""
        spans = (self.kernel_size - 1) * self.token_layers, (self.kernel_size - 1) * self.frame_layers
        token_after, frame_after = sum(self.token_futures), sum(self.frame_futures)
        before = spans[1] - frame_after + math.ceil((spans[0] - token_after + 1) / tokens_per_frame)
        return before, frame_after + math.ceil((token_after + 1) / tokens_per_frame)


class NeutralSpeech(NamedTuple):
    """Frames of speech without a speaker."""

    content: Float[Tensor, "batch frames content_dim"]
    pitch: Float[Tensor, "batch frames"]
    """Log F0 in standard deviations of the speaker's."""
    voiced: Float[Tensor, "batch frames"]
    """Logit."""
    energy: Float[Tensor, "batch frames"]
    """In standard deviations of speech."""
    symbols: Float[Tensor, "batch frames num_symbols"]
    """Logits of phoneme symbols."""


class UnitFrontend(nn.Module):
    """Embedded tokens to frames of content and prosody."""

    content_mean: Tensor
    content_deviation: Tensor

    def __init__(self, config: FrontendConfig, content_dim: int) -> None:
        super().__init__()
        self.config = config

        def blocks(futures: tuple[int, ...]) -> nn.Sequential:
            return nn.Sequential(
                *(ConvNeXtBlock(config.dim, config.hidden_dim, config.kernel_size, 0.1, future) for future in futures)
            )

        self.token_blocks, self.frame_blocks = blocks(config.token_futures), blocks(config.frame_futures)
        self.norm = nn.LayerNorm(config.dim)
        self.content = nn.Linear(config.dim, content_dim)
        self.prosody = nn.Linear(config.dim, 3)
        self.symbols = nn.Linear(config.dim, config.num_symbols) if config.num_symbols else None
        self.register_buffer("content_mean", torch.zeros(content_dim))
        self.register_buffer("content_deviation", torch.ones(content_dim))

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], positions: Float[Tensor, "batch frames"]
    ) -> NeutralSpeech:
        """Return frames at `positions`, in tokens: 0 is the middle of the first; see `frame_positions`."""
        frames = between(self.token_blocks(tokens), positions)
        frames = self.norm(self.frame_blocks(frames))
        pitch, voiced, energy = self.prosody(frames).float().unbind(-1)
        content = self.content(frames) * self.content_deviation + self.content_mean
        symbols = frames[..., :0] if self.symbols is None else self.symbols(frames)
        return NeutralSpeech(content, pitch, voiced, energy, symbols)


def frame_positions(first: int, count: int, tokens_per_frame: float, first_token: int = 0) -> Float[Tensor, " frames"]:
    """Return where the middles of `count` frames from `first` on lie among tokens from `first_token` on; float64."""
    middles = (torch.arange(first, first + count, dtype=torch.float64) + 0.5) * tokens_per_frame - 0.5
    return middles - first_token


def between(
    values: Float[Tensor, "batch tokens dim"], positions: Float[Tensor, "batch frames"]
) -> Float[Tensor, "batch frames dim"]:
    """Interpolate linearly between tokens; flat before the first and after the last."""
    positions = positions.clamp(0, values.shape[1] - 1)
    left = positions.floor().long()
    right = (left + 1).clamp(max=values.shape[1] - 1)
    share = (positions - left).to(values.dtype)[..., None]
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, left] * (1 - share) + values[rows, right] * share
