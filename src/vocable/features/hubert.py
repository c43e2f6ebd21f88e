"""HuBERT, WavLM and wav2vec 2.0, stopped at a layer.

    waveform -> convolutions -> projection -> positional convolution -> transformer layers -> (frames, dim)

The modules and weights are those of transformers; the way through them is written out here, because theirs lets padding
into the norm over time of the base models' first convolution, and runs and keeps every layer.
Sources: wav2vec 2.0 (Baevski et al., 2020, arXiv:2006.11477), HuBERT (Hsu et al., 2021, arXiv:2106.07447), WavLM (Chen
et al., 2021, arXiv:2110.13900). The 25 Hz HuBERT of TWIST (Hassid et al., 2023, arXiv:2305.13009) is the same
architecture with one more convolution of stride 2: rates and lengths follow from the checkpoint's strides.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from vocable.features.base import FeatureEncoder, weights_sha256
from vocable.features.config import EncoderConfig


class HubertEncoder(FeatureEncoder):
    """A model of the HuBERT family, from `transformers`, with only the layers that are used."""

    def __init__(
        self,
        model: nn.Module,
        settings: EncoderConfig,
        *,
        num_layers: int,
        normalise: bool,
        sample_rate: int = 16_000,
    ) -> None:
        """Take over the parts of `model` (HubertModel, WavLMModel or Wav2Vec2Model) up to the layer of the settings.

        `num_layers` is how many the published model has: the last one may carry a final layer norm.
        """
        config: Any = model.config
        hop_length, receptive_field = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            receptive_field += (kernel - 1) * hop_length
            hop_length *= stride
        super().__init__(
            name=settings.name,
            layer=settings.layer,
            sample_rate=sample_rate,
            hop_length=hop_length,
            dim=config.hidden_size,
            window_seconds=settings.window_seconds or 60.0,
            context_seconds=settings.context_seconds,
            batch_seconds=settings.batch_seconds,
            dtype=settings.dtype,
        )
        self.family: str = config.model_type
        self.receptive_field = receptive_field
        self.normalise = normalise
        self.norm_first: bool = config.do_stable_layer_norm
        encoder: Any = model.encoder
        self.convolutions: nn.Module = model.feature_extractor  # type: ignore[assignment]  # a module, not a tensor
        self.projection: nn.Module = model.feature_projection  # type: ignore[assignment]
        self.positions: nn.Module = encoder.pos_conv_embed
        self.layers = nn.ModuleList(encoder.layers[: self.layer])
        # norm after the positions, except in models that normalise first: there it follows the very last layer
        self.norm = encoder.layer_norm if not self.norm_first or self.layer == num_layers else nn.Identity()
        self.eval().requires_grad_(False)
        self.weights_sha256 = weights_sha256(self)
        if parametrize.is_parametrized(self.positions.conv):  # type: ignore[arg-type]
            # the weight norm is worked out once instead of in every call
            parametrize.remove_parametrizations(self.positions.conv, "weight")  # type: ignore[arg-type]

    def num_frames(self, num_samples: int) -> int:
        """Return the number of whole receptive fields, one every hop. Shorter clips are zero-padded to one frame."""
        return (max(num_samples, self.receptive_field) - self.receptive_field) // self.hop_length + 1

    def num_samples(self, num_frames: int) -> int:
        """Return the fewest samples that give `num_frames`."""
        return (num_frames - 1) * self.hop_length + self.receptive_field

    def description(self) -> dict[str, Any]:
        """Add the family, the normalisation of the input, and the hash of the weights up to the layer."""
        return {
            **super().description(),
            "family": self.family,
            "normalise": self.normalise,
            "weights_sha256": self.weights_sha256,
        }

    def condition(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, " conditioned"]:
        """Normalise where the checkpoint wants it, then zero-pad what is shorter than one frame."""
        if self.normalise:
            centred = waveform - waveform.mean()
            waveform = centred / torch.sqrt(centred.square().mean() + 1e-7)  # the constant of Wav2Vec2FeatureExtractor
        return functional.pad(waveform, (0, max(self.receptive_field - waveform.numel(), 0)))

    def front(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Run the convolutions, the projection and the positional convolution."""
        hidden = _first(self.projection(self.convolutions(waveforms).mT))
        hidden = hidden + self.positions(hidden)
        return hidden if self.norm_first else self.norm(hidden)

    def layers_up(
        self, hidden: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the transformer layers; padded frames are never attended to."""
        attended = None if mask is None else mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        for layer in self.layers:
            hidden = _first(layer(hidden, attention_mask=attended))
        return self.norm(hidden) if self.norm_first else hidden


class WavLMEncoder(HubertEncoder):
    """WavLM: attention with a gated bias for the distance between frames."""

    def layers_up(
        self, hidden: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the layers with fused attention; transformers' way builds the attention weights and drops them."""
        if len(self.layers) == 0:
            return self.norm(hidden) if self.norm_first else hidden
        bias = _distance_bias(self.layers[0], hidden.shape[1])
        for layer in self.layers:
            hidden = _wavlm_layer(layer, hidden, bias, mask, self.norm_first)
        return self.norm(hidden) if self.norm_first else hidden


def _distance_bias(first_layer: Any, num_frames: int) -> Float[Tensor, "heads frames frames"]:
    """Look up the bias of every query and key, which all layers share, once per distance rather than once per pair."""
    attention = first_layer.attention
    distances = torch.arange(1 - num_frames, num_frames, device=attention.rel_attn_embed.weight.device)
    by_distance = attention.rel_attn_embed(attention._relative_positions_bucket(distances)).T  # (heads, distances)
    return by_distance.unfold(-1, num_frames, 1).flip(1)


def _wavlm_layer(layer: Any, hidden: Tensor, bias: Tensor, mask: Tensor | None, norm_first: bool) -> Tensor:
    if norm_first:
        hidden = hidden + _gated_attention(layer.attention, layer.layer_norm(hidden), bias, mask)
        return hidden + layer.feed_forward(layer.final_layer_norm(hidden))
    hidden = layer.layer_norm(hidden + _gated_attention(layer.attention, hidden, bias, mask))
    return layer.final_layer_norm(hidden + layer.feed_forward(hidden))


def _gated_attention(
    attention: Any,
    hidden: Float[Tensor, "batch frames dim"],
    bias: Float[Tensor, "heads frames frames"],
    mask: Bool[Tensor, "batch frames"] | None,
) -> Float[Tensor, "batch frames dim"]:
    """Attend with a position bias that each query scales by a gate (WavLM, arXiv:2110.13900, section 3.2)."""
    heads = hidden.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (batch, heads, frames, head_dim)
    gates = attention.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid()
    gate_a, gate_b = gates.chunk(2, dim=-1)  # (batch, heads, frames, 1) each
    scores = (gate_a * (gate_b * attention.gru_rel_pos_const - 1.0) + 2.0) * bias
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    query, key, value = (
        projection(hidden).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores.to(query.dtype))
    return attention.out_proj(mixed.transpose(1, 2).flatten(-2))


def _first(output: Any) -> Tensor:
    """Some modules of the family return a tensor, others a tuple that begins with it."""
    return output[0] if isinstance(output, tuple) else output
