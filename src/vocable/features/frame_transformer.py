"""A transformer over the frames of a clip: LAST's learnable encoder and decoder, the top of LM-SPT's encoders.

    frames (batch, frames, in_dim)  ->  frames (batch, frames, out_dim), at the same rate

What a frame may look at decides what its unit can give away: with a full view, a unit can carry units that come after
it, and predicting those then says little about language. So the default is causal.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vocable.errors import ConfigError

ROTARY_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTransformerConfig:
    """A transformer over frames. The defaults are our choices for LAST; the paper's sizes are not known to us."""

    num_layers: int = 2
    """0 leaves linear maps (and, in the encoder, norms)."""
    width: int = 512
    num_heads: int = 8
    feedforward_dim: int = 2048
    dropout: float = 0.1
    attention: Literal["causal", "lookahead", "full"] = "causal"
    """View of a frame: itself and earlier frames; also `lookahead_frames` later ones; or the whole clip."""
    lookahead_frames: int = 0
    """Later frames that a frame sees, through all layers together: the first layer looks ahead, the others do not."""
    reach_frames: int | None = 50
    """Earlier frames (with 'full', also later ones) that each layer sees at most, so that a recording of any length
    looks like the crops of the training; None: all there are."""

    def __post_init__(self) -> None:
        least = {"num_layers": 0, "width": 1, "num_heads": 1, "feedforward_dim": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}; it must be at least {bound}.")
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"encoder.width is {self.width}, which {self.num_heads} heads of even width cannot share: "
                f"use a multiple of {2 * self.num_heads}."
            )
        if self.reach_frames is not None and self.reach_frames < 0:
            raise ConfigError(f"encoder.reach_frames is {self.reach_frames}; it must not be negative, or null for all.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout is {self.dropout}; a probability below 1 is needed.")
        if (self.attention == "lookahead") != (self.lookahead_frames > 0) or self.lookahead_frames < 0:
            raise ConfigError(
                f"encoder.attention is {self.attention!r} with lookahead_frames {self.lookahead_frames}: set attention "
                "to 'lookahead' and lookahead_frames to 1 or more, or leave lookahead_frames out."
            )


class FrameTransformer(nn.Module):
    """A pre-norm transformer with rotary positions (Su et al., 2021, arXiv:2104.09864), between two linear maps.

    With `normalise`, frames are normalised first, since features of different encoders have different scales, and again
    before the last map. Padding is never looked at.
    In evaluation mode each clip is computed by itself, so that its result is the same to the bit in every batch.
    """

    def __init__(self, config: FrameTransformerConfig, in_dim: int, out_dim: int, *, normalise: bool = True):
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.normalise = normalise
        self.norm_in = nn.LayerNorm(in_dim) if normalise else nn.Identity()
        self.project_in = nn.Linear(in_dim, config.width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(config.width) if normalise else nn.Identity()
        self.project_out = nn.Linear(config.width, out_dim)

    @property
    def reach(self) -> tuple[int, int] | None:
        """Frames before and after its own that can change a frame; None where there is no limit."""
        config = self.config
        if config.reach_frames is None and config.num_layers:
            return None
        layers = config.num_layers * (config.reach_frames or 0)
        ahead = config.lookahead_frames if config.num_layers else 0
        return layers, layers if config.attention == "full" else ahead

    def start_linear(self) -> None:
        """Begin as an orthogonal map of the frames, once normalised: layers add nothing until training makes them.

        All distances are kept, as far as there is room: `width` and `out_dim` of at least `in_dim`. (Up to the mean
        that the inner norm takes away; how far that norm stretches is undone.)
        """
        self._start_as(nn.init.orthogonal_(torch.empty(self.project_out.out_features, self.in_dim)))

    def start_inverse(self, other: "FrameTransformer") -> None:
        """Begin as the way back from `other`, which began linear: exact where all are as wide as what they map."""
        there = other.project_out.weight.detach() @ other.project_in.weight.detach() * other._stretch()
        self._start_as(there.T)

    @torch.no_grad()
    def _start_as(self, linear_map: Float[Tensor, "out_dim in_dim"]) -> None:
        first = nn.init.orthogonal_(self.project_in.weight)
        self.project_out.weight.copy_(linear_map @ first.T / self._stretch())
        for linear in (self.project_in, self.project_out):
            linear.bias.zero_()
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            layer.add_nothing()

    def _stretch(self) -> float:
        """How much longer the inner norm makes a frame that the first map has let through as it was."""
        return (self.config.width / min(self.in_dim, self.config.width)) ** 0.5 if self.normalise else 1.0

    def forward(
        self, frames: Float[Tensor, "batch frames in_dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Float[Tensor, "batch frames out_dim"]:
        """Transform a batch of clips.

        Args:
            frames: Any floating dtype.
            mask: True for real frames, which come first in every clip; None when all are. Padding comes out as 0.

        Raises:
            ConfigError: frames of another width.
        """
        if frames.shape[-1] != self.in_dim:
            raise ConfigError(
                f"The frames have {frames.shape[-1]} dimensions, but this network was made for {self.in_dim}: use the "
                "encoder and layer that it was trained on."
            )
        if self.training:
            return self._transform(frames, mask)
        out = frames.new_zeros((*frames.shape[:2], self.project_out.out_features), dtype=self.project_out.weight.dtype)
        for row, clip in enumerate(frames):
            clip = clip.clone() if mask is None else clip[mask[row]]  # fresh memory: some kernels round by alignment
            if len(clip):
                out[row, : len(clip)] = self._transform(clip[None], None)[0]
        return out

    def _transform(self, frames: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            frames = torch.where(mask[..., None], frames, 0)  # padding may hold NaN
        hidden = self.project_in(self.norm_in(frames.to(self.project_in.weight.dtype)))
        turns = _turns(frames.shape[1], self.config.width // self.config.num_heads, frames.device)
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, turns, self._view(index, frames.shape[1], mask, frames.device))
        out = self.project_out(self.norm_out(hidden))
        return out if mask is None else torch.where(mask[..., None], out, 0)

    def _view(self, layer: int, num_frames: int, mask: Tensor | None, device: torch.device) -> Tensor | None:
        """Which frames each frame sees, (1 or batch, 1, frames, frames); None for all."""
        positions = torch.arange(num_frames, device=device)
        ahead = positions[None, :] - positions[:, None]
        full, reach = self.config.attention == "full", self.config.reach_frames
        if full and (reach is None or reach >= num_frames - 1) and mask is None:
            return None
        farthest = num_frames if reach is None else reach
        view = (ahead >= -farthest) & (
            ahead <= (farthest if full else self.config.lookahead_frames if layer == 0 else 0)
        )
        if mask is None:
            return view[None, None]
        return (view & mask[:, None, None, :]) | (ahead == 0)  # padding sees itself, for a softmax needs something


class _Layer(nn.Module):
    def __init__(self, config: FrameTransformerConfig):
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.feedforward_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward_dim, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def add_nothing(self) -> None:
        """Let what both branches add be 0 until they are trained."""
        for parameter in (*self.mix.parameters(), *self.feedforward[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, turns: Tensor, view: Tensor | None) -> Tensor:
        batch, num_frames, width = hidden.shape
        together = self.queries_keys_values(self.attention_norm(hidden))
        # (3, batch, heads, frames, width of a head)
        split = together.view(batch, num_frames, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys = _turn(split[:2], turns)
        seen = nn.functional.scaled_dot_product_attention(queries, keys, split[2], attn_mask=view)
        hidden = hidden + self.dropout(self.mix(seen.transpose(1, 2).reshape(batch, num_frames, width)))
        return hidden + self.dropout(self.feedforward(hidden))


def _turns(num_frames: int, head_width: int, device: torch.device) -> Tensor:
    """Cosine and sine of every position's rotation, (2, frames, head_width / 2)."""
    rates = ROTARY_BASE ** (-torch.arange(0, head_width, 2, device=device).double() / head_width)
    angles = torch.arange(num_frames, device=device).double()[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()]).float()


def _turn(vectors: Tensor, turns: Tensor) -> Tensor:
    """Rotate each pair of dimensions (i, i + half) by its position's angle."""
    first, second = vectors.float().chunk(2, dim=-1)
    cosine, sine = turns
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1).to(vectors.dtype)
