"""The aggregator: Whisper's decoder reads one vector per text token off two layers of Whisper's encoder.

    tokens of the text (batch, tokens), after Whisper's prompt
      -> embeddings and positions
      -> layers: causal self-attention; cross-attention with keys of the last encoder layer, values of a shallow one;
         feed-forward
      -> norm, the prompt's positions dropped -> (batch, tokens, dim) -> mean over each word's tokens

Keys of the last layer tell *where* a word is, values of a shallow layer *how* it sounds. The modules have the names of
transformers' WhisperDecoder, so that its weights load as they are.

Source: Tseng et al., 2025, arXiv:2504.07053, section 3.1, and appendix A.4 for the words. The paper describes the two
sources for the first layer, its code has them in all, as here. An end symbol after the text is left out: self-attention
is causal, so it changes no word; the research code gives it a vector of its own, the HF code drops that vector.
The residual stream also carries the tokens' embeddings: nothing keeps the text itself out of the vectors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.systems.taste.config import AggregatorConfig

NO_WORD = -1
"""Word id of padding, and token id of padding."""


class DecoderShape(NamedTuple):
    """Sizes of Whisper's decoder."""

    dim: int
    num_heads: int
    ffn_dim: int
    num_layers: int
    vocabulary_size: int
    num_positions: int

    @classmethod
    def of(cls, config: Any) -> "DecoderShape":
        """Read them from a WhisperConfig of transformers."""
        return cls(
            dim=config.d_model,
            num_heads=config.decoder_attention_heads,
            ffn_dim=config.decoder_ffn_dim,
            num_layers=config.decoder_layers,
            vocabulary_size=config.vocab_size,
            num_positions=config.max_target_positions,
        )


class Attention(nn.Module):
    """Attention over several heads whose keys and values may come from different states."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        queries: Float[Tensor, "batch tokens dim"],
        keys: Float[Tensor, "batch places dim"],
        values: Float[Tensor, "batch places dim"],
        mask: Bool[Tensor, "batch places"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend to the places where `mask` is True; None: to all of them, or with `causal` to none that follow."""
        mixed = functional.scaled_dot_product_attention(
            self._by_head(self.q_proj(queries)),
            self._by_head(self.k_proj(keys)),
            self._by_head(self.v_proj(values)),
            attn_mask=None if mask is None else mask[:, None, None, :],
            is_causal=causal,
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _by_head(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class AggregatorLayer(nn.Module):
    """A layer of Whisper's decoder, with two sources in cross-attention."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape.dim, shape.num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(shape.dim)
        self.encoder_attn = Attention(shape.dim, shape.num_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(shape.dim)
        self.fc1 = nn.Linear(shape.dim, shape.ffn_dim)
        self.fc2 = nn.Linear(shape.ffn_dim, shape.dim)
        self.final_layer_norm = nn.LayerNorm(shape.dim)

    def forward(
        self,
        hidden: Float[Tensor, "batch tokens dim"],
        keys: Float[Tensor, "batch frames dim"],
        values: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"] | None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Add what the layer finds."""
        normed = self.self_attn_layer_norm(hidden)
        hidden = hidden + self.self_attn(normed, normed, normed, causal=True)
        hidden = hidden + self.encoder_attn(self.encoder_attn_layer_norm(hidden), keys, values, frame_mask)
        return hidden + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(hidden))))


class Aggregator(nn.Module):
    """Whisper's decoder without its head."""

    prompt: Tensor

    def __init__(self, shape: DecoderShape, config: AggregatorConfig, prompt: Sequence[int]) -> None:
        """Make it with random weights.

        Args:
            shape: The decoder's, of which `config.layers` are kept.
            config: Layers and freezing.
            prompt: Token ids of Whisper's prompt, which come before every text.

        Raises:
            ConfigError: `config.layers` asks for layers that there are not.
        """
        super().__init__()
        self.shape, self.config = shape, config
        self.kept = tuple(range(shape.num_layers)) if config.layers is None else config.layers
        if not 0 <= self.kept[0] <= self.kept[-1] < shape.num_layers:
            raise ConfigError(
                f"aggregator.layers is {list(self.kept)}, but Whisper's decoder has layers 0 to {shape.num_layers - 1}."
            )
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.dim)
        self.embed_positions = nn.Embedding(shape.num_positions, shape.dim)
        self.layers = nn.ModuleList(AggregatorLayer(shape) for _ in self.kept)
        self.layer_norm = nn.LayerNorm(shape.dim)
        self.register_buffer("prompt", torch.tensor(list(prompt)), persistent=False)
        self._freeze()

    @property
    def most_tokens(self) -> int:
        """Most tokens of text that it has positions for."""
        return self.shape.num_positions - len(self.prompt)

    @torch.no_grad()
    def start_from(self, decoder: nn.Module) -> None:
        """Take the weights of transformers' WhisperDecoder; the value projections as `config.value_start` says."""
        weights = {key: value for key, value in decoder.state_dict().items() if not key.startswith("layers.")}
        for new, old in enumerate(self.kept):
            before = f"layers.{old}."
            for key, value in decoder.state_dict().items():
                if key.startswith(before):
                    weights[f"layers.{new}.{key.removeprefix(before)}"] = value
        self.load_state_dict(weights)
        if self.config.value_start == "identity":
            for layer in self.layers:
                projection: Any = layer.encoder_attn.v_proj  # type: ignore[union-attr]
                nn.init.eye_(projection.weight)
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        last: Float[Tensor, "batch frames dim"],
        shallow: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return a vector for every token of the text.

        Args:
            ids: Tokens of the text; padding behind it is -1, and what comes out there means nothing.
            last: States of the encoder's last layer, the keys.
            shallow: States of a shallow layer, the values.
            frame_mask: True for frames that may be attended to; None: all.
        """
        prompted = torch.cat([self.prompt.expand(len(ids), -1), ids.clamp(min=0)], dim=1)
        hidden = self.embed_tokens(prompted) + self.embed_positions.weight[: prompted.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, last, shallow, frame_mask)
        return self.layer_norm(hidden)[:, len(self.prompt) :]

    def trained_names(self) -> set[str]:
        """Return the names of the parameters that learn."""
        if self.config.trained == "nothing":
            return set()
        learning = ("",) if self.config.trained == "all" else (f"layers.{len(self.kept) - 1}.", "layer_norm.")
        return {name for name, _ in self.named_parameters() if name.startswith(learning)}

    def _freeze(self) -> None:
        trained = self.trained_names()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)


def average_words(
    vectors: Float[Tensor, "batch tokens dim"], word_ids: Int[Tensor, "batch tokens"], num_words: int
) -> Float[Tensor, "batch words dim"]:
    """Return the mean of each word's vectors; tokens of word -1 are left out, and a word without tokens is 0."""
    real = word_ids != NO_WORD
    rows = word_ids.clamp(min=0) + num_words * torch.arange(len(word_ids), device=word_ids.device)[:, None]
    total = vectors.new_zeros(len(word_ids) * num_words, vectors.shape[-1]).index_add(0, rows[real], vectors[real])
    counts = torch.bincount(rows[real], minlength=len(total)).clamp(min=1)
    return (total / counts[:, None]).unflatten(0, (len(word_ids), num_words))


def spread_words(
    words: Float[Tensor, "batch words dim"], word_ids: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens dim"]:
    """Return each token's word's vector; 0 for tokens of word -1."""
    rows = word_ids.clamp(min=0)[..., None].expand(-1, -1, words.shape[-1])
    return words.gather(1, rows) * (word_ids != NO_WORD)[..., None]
