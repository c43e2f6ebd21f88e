"""A causal transformer that knows how far back a position lies, and goes on from a cache: the unit decoder's blocks.

    inputs (batch, positions, in_dim) -> linear, norm -> blocks: attention, feed-forward -> norm -> (batch, ..., width)

Attention scores of query i and key j <= i, per head (Transformer-XL, Dai et al., 2019, arXiv:1901.02860, section 3.3,
in the form of ESPnet): (q_i + u) . k_j + (q_i + v) . W s(i - j), with sinusoids s of the distance. Weights have the
names that they have in ESPnet and in transformers' Wav2Vec2Conformer, whose attention gives the same under a causal
mask (a test compares them), but computes both sides and has no cache. Blocks have no convolution and one feed-forward
layer: CosyVoice's (Du et al., 2024, arXiv:2407.05407) with `static_chunk_size: 1`, where each position sees itself and
those before it.

Batches are padded behind: what comes later changes nothing, so no mask is needed.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError

ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockConfig:
    """Blocks of equal shape."""

    num_blocks: int
    width: int = 1024
    num_heads: int = 8
    feedforward_dim: int = 2048
    dropout: float = 0.1
    """Dropout everywhere but in attention weights."""

    def __post_init__(self) -> None:
        for name in ("num_blocks", "width", "num_heads", "feedforward_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.num_heads or self.width % 2:
            raise ConfigError(f"width is {self.width}; it must be even, and a multiple of {self.num_heads} heads.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; a probability below 1 is needed.")


def distance_codes(count: int, width: int, like: Tensor) -> Float[Tensor, "count width"]:
    """Return sinusoids of the distances count - 1 down to 0, sines and cosines in turn, on the device of `like`."""
    distances = torch.arange(count - 1, -1, -1, device=like.device, dtype=torch.float32)
    rates = torch.exp(
        torch.arange(0, width, 2, device=like.device, dtype=torch.float32) * (-math.log(10_000.0) / width)
    )
    angles = distances[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class LayerCache:
    """Keys and values of one layer so far, and what it makes of distances; room for a fixed number of positions."""

    def __init__(self, distances: Float[Tensor, "heads room head_dim"], batch: int) -> None:
        self.distances = distances
        self.keys = distances.new_empty((batch, *distances.shape))
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add positions, (batch, heads, new, head_dim); return keys, values and distances of all so far."""
        start, self.length = self.length, self.length + keys.shape[2]
        self.keys[:, :, start : self.length], self.values[:, :, start : self.length] = keys, values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length], self.distances[:, -self.length :]


class RelativeAttention(nn.Module):
    """Causal attention over several heads, by content and by distance."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q, self.linear_k = nn.Linear(width, width), nn.Linear(width, width)
        self.linear_v, self.linear_out = nn.Linear(width, width), nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, width // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, width // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(
        self,
        hidden: Float[Tensor, "batch new width"],
        distances: Float[Tensor, "positions width"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch new width"]:
        """Attend to each position itself and all before it.

        Args:
            hidden: The sequence, or with a cache what is new of it.
            distances: Codes of distances, the largest first; with a cache they are in there.
            cache: What came before; it is extended.
        """
        queries, keys, values = map(
            self._by_head, (self.linear_q(hidden), self.linear_k(hidden), self.linear_v(hidden))
        )
        if cache is None:
            assert distances is not None
            places = self.project(distances)
        else:
            keys, values, places = cache.extend(keys, values)
        scores = shift_to_keys((queries + self.pos_bias_v[:, None]) @ places.mT)
        new, positions = scores.shape[-2:]
        if new > 1:
            unseen = torch.ones(new, positions, dtype=torch.bool, device=scores.device).triu(positions - new + 1)
            scores = scores.masked_fill(unseen, -torch.inf)
        mixed = functional.scaled_dot_product_attention(
            queries + self.pos_bias_u[:, None], keys, values, attn_mask=scores / math.sqrt(queries.shape[-1])
        )
        return self.linear_out(mixed.transpose(1, 2).flatten(2))

    def project(self, distances: Float[Tensor, "positions width"]) -> Float[Tensor, "heads positions head_dim"]:
        """Return what the heads compare queries with, for codes of distances."""
        return self._by_head(self.linear_pos(distances))

    def _by_head(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)


def shift_to_keys(
    by_distance: Float[Tensor, "batch heads new positions"],
) -> Float[Tensor, "batch heads new positions"]:
    """Turn scores by distance, the largest first, into scores by key, for queries at the end of the positions.

    Scores of keys after the query mean nothing. Row i moves left by new - 1 - i columns: a column of padding in front
    makes that a matter of reading the rows in another length (Transformer-XL, appendix B).
    """
    new = by_distance.shape[-2]
    padded = functional.pad(by_distance, (1, 0)).flatten(-2)
    return padded[..., new:].unflatten(-1, by_distance.shape[-2:])


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm."""

    def __init__(self, config: BlockConfig, activation: nn.Module) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = RelativeAttention(config.width, config.num_heads)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, config.feedforward_dim),
            activation,
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward_dim, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, distances: Tensor | None, cache: LayerCache | None) -> Tensor:
        """See RelativeAttention."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), distances, cache))
        return hidden + self.dropout(self.feedforward(self.feedforward_norm(hidden)))


class RelativeTransformer(nn.Module):
    """Blocks between a map of the inputs and a norm.

    As published, the encoders have swish and the language model ReLU, there also after the first map; inputs are scaled
    by the root of the width, and the codes of distances have dropout too.
    """

    def __init__(self, config: BlockConfig, in_dim: int, activation: Literal["swish", "relu"]) -> None:
        super().__init__()
        self.config = config
        self.project_in = nn.Sequential(nn.Linear(in_dim, config.width), nn.LayerNorm(config.width))
        self.first_activation = nn.ReLU() if activation == "relu" else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, ACTIVATIONS[activation]()) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, inputs: Float[Tensor, "batch new in_dim"], cache: list[LayerCache] | None = None
    ) -> Float[Tensor, "batch new width"]:
        """Return the states of inputs; with a cache, of those that follow what is in it, and it is extended."""
        hidden = self.first_activation(self.dropout(self.project_in(inputs))) * math.sqrt(self.config.width)
        hidden, distances = self.dropout(hidden), None
        if cache is None:
            distances = self.dropout(distance_codes(inputs.shape[1], self.config.width, inputs))
        for index, block in enumerate(self.blocks):
            hidden = block(hidden, distances, None if cache is None else cache[index])
        return self.norm(hidden)

    def new_cache(self, room: int, batch: int = 1) -> list[LayerCache]:
        """Return an empty cache for sequences of up to `room` positions."""
        codes = distance_codes(room, self.config.width, self.norm.weight)
        blocks = cast("list[Block]", list(self.blocks))
        return [LayerCache(block.attention.project(codes), batch) for block in blocks]
