"""LAST as one module: encoder, quantizer, adapter around a frozen language model, decoder, and the loss.

    features, mask  ->  LastModel  ->  LastOutput: loss and its parts, units, what to log

Gradients pass through the language model to what feeds it, and change nothing in it. Training: the loop of training/.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocable.errors import ConfigError
from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig
from vocable.systems.last.adapter import LastAdapter, LastAdapterConfig
from vocable.tokens.quantizers import Quantized, VectorQuantizer, VectorQuantizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLossConfig:
    """How the two terms are weighed, over training steps. The paper's lambda is not known to us."""

    reconstruction_weight: float = 0.1
    """lambda, on the squared length of a frame's error, as the paper writes it: summed over dimensions, averaged over
    frames. Averaged over dimensions as well, the language model's gradient is hundreds of times the larger one. Lower:
    units that are easier to predict and know less of phones (recipes/last/README.md)."""
    final_reconstruction_weight: float | None = None
    """lambda after `reconstruction_steps`, reached along a line; None: it stays."""
    reconstruction_steps: int = 0
    """Steps from the first lambda to the final one."""
    nll_start_step: int = 100
    """Steps of reconstruction alone, before the language model's loss counts (as in NAST, Messica and Adi, 2024,
    arXiv:2406.11037, which adds its later terms once reconstruction works). The language model is not run in them."""
    nll_ramp_steps: int = 100
    """Steps over which the weight of the language model's loss then rises from 0 to 1."""
    normalise_features: bool = True
    """Reconstruct features that are normalised frame by frame, so that lambda means the same for every encoder: their
    squared length is then their width."""

    def __post_init__(self) -> None:
        for name in ("reconstruction_weight", "reconstruction_steps", "nll_start_step", "nll_ramp_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; it must not be negative.")
        if (self.final_reconstruction_weight is None) != (self.reconstruction_steps == 0):
            raise ConfigError(
                f"loss.final_reconstruction_weight is {self.final_reconstruction_weight} and reconstruction_steps is "
                f"{self.reconstruction_steps}: a schedule needs both, a constant weight neither."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastQuantizerConfig(VectorQuantizerConfig):
    """The quantizer of LAST. Its update rule, width and first codebook are not known to us."""

    dim: int = 256
    """Width between encoder and quantizer."""
    codebook_size: int = 500
    """The paper's best of 100, 200, 500 and 1000."""
    commitment_weight: float = 1.0
    """beta, on the scale of reconstruction: both are squared lengths, and lambda weighs both. At the start the
    straight-through gradient of reconstruction pushes a vector away from its entry as hard as a beta of 1 draws it
    back; with less, vectors ran away from the codebook, and units lost phones (recipes/last/README.md)."""
    decay: float = 0.9
    """Decay of the moving averages that entries are. It must be low enough for entries to follow the encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastDecoderConfig(FrameTransformerConfig):
    """The network back to the features, used in training only."""

    num_layers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LastModelConfig:
    """The learnable parts of LAST."""

    feature_dim: int | None = None
    """Width of the frozen encoder's features; None: as wide as those are (768 for HuBERT-base)."""
    encoder: FrameTransformerConfig = field(default_factory=FrameTransformerConfig)
    quantizer: LastQuantizerConfig = field(default_factory=LastQuantizerConfig)
    decoder: LastDecoderConfig = field(default_factory=LastDecoderConfig)
    decoder_input: Literal["quantized", "encoded"] = "quantized"
    """Input of the decoder: the entries, so that the units themselves must tell the features (our choice), or the
    vectors before quantization, with which units lost the phones (recipes/last/README.md). The paper's choice is not
    known to us."""
    adapter: LastAdapterConfig = field(default_factory=LastAdapterConfig)
    loss: LastLossConfig = field(default_factory=LastLossConfig)


class LossWeights(NamedTuple):
    """Factors of the two terms at one step."""

    nll: float
    reconstruction: float


class LastOutput(NamedTuple):
    """Results of one batch. Losses are means over the unmasked frames of this process."""

    loss: Float[Tensor, ""]
    """Weighted sum, with the quantizer's own loss; times `num_frames` it is a sum over frames."""
    nll: Float[Tensor, ""]
    """-log p(unit | units before it), in nats per frame; 0 in training while its weight is 0: then `lm` is not run."""
    change_nll: Float[Tensor, ""]
    """The same where the unit differs from the one before: repeats are easy, and most frames repeat. Without gradient;
    NaN when there are none, or the language model was not run."""
    reconstruction: Float[Tensor, ""]
    """Squared error of the decoded features, summed over dimensions."""
    lm_was_run: bool
    """Whether there is an NLL at all."""
    num_frames: int
    quantized: Quantized
    encoded: Float[Tensor, "batch frames dim"]
    """Input of the quantizer, where the gradients of all terms meet."""
    weights: LossWeights

    @property
    def commitment(self) -> Float[Tensor, ""]:
        """Squared distance from what went in to its entry, summed over dimensions as reconstruction is.

        (The quantizer's mean over its dimensions, times `dim`, also where it works in fewer.)
        """
        return self.quantized.commitment_loss * self.encoded.shape[-1]


class LastModel(nn.Module):
    """LAST's learnable parts around a frozen language model.

    The language model stays in evaluation mode, and its parameters never want a gradient. It moves between devices
    with the rest, but is no submodule: it is in no state dict, no checkpoint and no optimiser.
    Source: Turetzky and Adi, 2024, arXiv:2409.03701.
    Differs, where we know of it: a learnt vector stands before the first unit, so that this one is predicted too.
    """

    lm: PreTrainedModel

    def __init__(self, config: LastModelConfig, lm: PreTrainedModel):
        super().__init__()
        if config.feature_dim is None:
            raise ConfigError("model.feature_dim is null: give the width of the features, the encoder's `dim`.")
        self.config = config
        dim, size = config.quantizer.dim, config.quantizer.codebook_size
        self.encoder = FrameTransformer(config.encoder, config.feature_dim, dim)
        self.quantizer = VectorQuantizer(config.quantizer)
        self.decoder = FrameTransformer(config.decoder, dim, config.feature_dim, normalise=False)
        self.encoder.start_linear()
        self.decoder.start_inverse(self.encoder)
        self.adapter = LastAdapter(config.adapter, dim, size, lm)
        self.__dict__["lm"] = lm.requires_grad_(False).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LastModel":
        """Move the language model along; torch calls this from `to`, `cuda` and the like."""
        super()._apply(fn, recurse)
        self.lm._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> "LastModel":
        """Set the mode of everything but the language model, whose dropout stays off."""
        super().train(mode)
        self.lm.eval()
        return self

    def forward(
        self,
        features: Float[Tensor, "batch frames feature_dim"],
        mask: Bool[Tensor, "batch frames"] | None = None,
        step: int = 0,
    ) -> LastOutput:
        """Compute the loss of a batch.

        Args:
            features: From the frozen encoder.
            mask: True for real frames, which come first in every clip; None when all are.
            step: Optimiser steps so far, for the weights' schedule.
        """
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        targets = self._targets(features[mask])
        encoded = self.encoder(features, mask)
        quantized = self.quantizer(encoded, mask)
        weights = loss_weights(self.config.loss, step)
        reading = weights.nll > 0 or not self.training
        nlls = self._nlls(quantized, mask) if reading else self._no_nlls(int(mask.sum()))
        num_frames = len(nlls)
        decoded = self.decoder(quantized.quantized if self.config.decoder_input == "quantized" else encoded, mask)
        reconstruction = (decoded[mask].float() - targets).square().sum(-1)
        nll, reconstruction = (part.sum() / max(num_frames, 1) for part in (nlls, reconstruction))
        return LastOutput(
            loss=weights.nll * nll + weights.reconstruction * (reconstruction + _summed(quantized)),
            nll=nll,
            change_nll=nlls.detach()[_changes(quantized.codes)[mask]].mean() if reading else nlls.new_tensor(math.nan),
            reconstruction=reconstruction,
            lm_was_run=reading,
            num_frames=num_frames,
            quantized=quantized,
            encoded=encoded,
            weights=weights,
        )

    def unit_logits(self, entries: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames codebook_size"]:
        """Score each frame's unit from the entries of the frames before it, through the language model.

        No mask is needed: padding stands behind the real frames of its clip, where a causal model does not look.
        """
        lm: Any = self.lm
        states = lm.base_model(inputs_embeds=self.adapter.embed(entries).to(lm.dtype), use_cache=False)
        return self.adapter.score(states.last_hidden_state.to(self.adapter.start.dtype))

    def _nlls(self, quantized: Quantized, mask: Tensor) -> Tensor:
        """-log p of every unmasked unit, (real frames,)."""
        logits = self.unit_logits(quantized.quantized)
        return nn.functional.cross_entropy(logits[mask].float(), quantized.codes[mask], reduction="none")

    def _no_nlls(self, num_frames: int) -> Tensor:
        """Zeros that give the adapter gradients of 0: processes that train together expect a gradient of all parts."""
        return sum(parameter.sum() for parameter in self.adapter.parameters()) * torch.zeros(
            num_frames, device=self.adapter.start.device
        )

    @torch.no_grad()
    def encode(
        self, features: Float[Tensor, "batch frames feature_dim"], mask: Bool[Tensor, "batch frames"] | None = None
    ) -> Int[Tensor, "batch frames"]:
        """Return the units, -1 where masked: as in evaluation mode, the same to the bit in every batch."""
        training = self.encoder.training
        self.encoder.eval()
        try:
            return self.quantizer.encode(self.encoder(features, mask), mask)
        finally:
            self.encoder.train(training)

    def _targets(self, features: Tensor) -> Tensor:
        features = features.float()
        return (
            nn.functional.layer_norm(features, features.shape[-1:]) if self.config.loss.normalise_features else features
        )


def loss_weights(config: LastLossConfig, step: int) -> LossWeights:
    """Return the factors of both terms after `step` optimiser steps."""
    since = step - config.nll_start_step
    nll = float(since >= 0) if config.nll_ramp_steps == 0 else min(max(since / config.nll_ramp_steps, 0.0), 1.0)
    reconstruction = config.reconstruction_weight
    if config.final_reconstruction_weight is not None:
        share = min(step / config.reconstruction_steps, 1.0)
        reconstruction += share * (config.final_reconstruction_weight - reconstruction)
    return LossWeights(nll, reconstruction)


def gradient_norms(output: LastOutput) -> dict[str, float]:
    """Return the norm of each weighted term's gradient at the quantizer's input; call it before `backward`.

    They say which term moves the encoder: through the language model (`nll`), through the decoder (`reconstruction`),
    or towards the entries (`quantizer`). It costs one more pass back through the language model.
    """
    parts = {
        "nll": output.weights.nll * output.nll,
        "reconstruction": output.weights.reconstruction * output.reconstruction,
        "quantizer": output.weights.reconstruction * _summed(output.quantized),
    }
    norms = {}
    for name, part in parts.items():
        (gradient,) = torch.autograd.grad(part, output.encoded, retain_graph=True, allow_unused=True)
        norms[name] = 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient.float()))
    return norms


def _summed(quantized: Quantized) -> Tensor:
    """The quantizer's own loss, summed over dimensions as reconstruction is; it stays a mean over frames."""
    return quantized.loss * quantized.quantized.shape[-1]


def _changes(codes: Tensor) -> Tensor:
    """True where a unit differs from the one before it in its clip."""
    changed = torch.zeros_like(codes, dtype=torch.bool)
    changed[:, 1:] = codes[:, 1:] != codes[:, :-1]
    return changed
