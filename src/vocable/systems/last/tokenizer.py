"""A trained LAST tokenizer: what is left of the training once the language model, adapter and decoder are gone.

    waveform -> frozen encoder -> learnable encoder -> nearest entry -> units, runs collapsed

The folder holds the learnable encoder and the codebook; the frozen encoder is named in it and must be the very same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.config import config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.features import EncoderConfig, FeatureEncoder
from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig
from vocable.systems.last.config import LastConfig
from vocable.systems.last.model import LastModel, LastQuantizerConfig
from vocable.tokens.fingerprint import tensor_sha256
from vocable.tokens.quantizers import VectorQuantizer
from vocable.tokens.tokenizer import register_tokenizer
from vocable.tokens.unit_tokenizer import FrameTokenizer, load_saved_encoder

LAST_VERSION = 1
"""Goes up when the same features and weights give other units than before; part of the fingerprint."""
TRAINING_ONLY = {"average_counts", "average_sums", "initialised", "num_batches"}
"""Buffers of the quantizer that encoding has no use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastTokenizerConfig:
    """A trained tokenizer."""

    encoder: EncoderConfig
    """The frozen speech encoder."""
    transformer: FrameTransformerConfig = field(default_factory=FrameTransformerConfig)
    """The learnable encoder."""
    quantizer: LastQuantizerConfig = field(default_factory=LastQuantizerConfig)
    collapse: bool = True
    """Whether `encode` collapses runs of a unit, keeping their durations."""
    name: str = "last"
    window_seconds: float = 60.0
    """Longest stretch of features that the learnable encoder sees at once; longer recordings are cut into windows."""
    context_seconds: float = 5.0
    """Context of a window on each side of the frames that are kept of it."""

    def __post_init__(self) -> None:
        if self.context_seconds < 0 or self.window_seconds <= 2 * self.context_seconds:
            raise ConfigError(
                f"window_seconds is {self.window_seconds} and context_seconds {self.context_seconds}: a window must be "
                "longer than the context on both sides, and the context not negative."
            )


@register_tokenizer("last")
class LastTokenizer(FrameTokenizer):
    """A frozen encoder, a learnable one and a codebook, all on the frozen encoder's device.

    A recording longer than `window_seconds` is encoded in windows at fixed places: the units are the same bits however
    it arrives. They are those of one pass over all, but for rounding, where `context_seconds` cover what the learnable
    encoder reaches (`reach_frames` a layer); the frozen encoder's windows are as features/windows.py says.
    """

    config: LastTokenizerConfig

    def __init__(
        self,
        encoder: FeatureEncoder,
        transformer: FrameTransformer,
        quantizer: VectorQuantizer,
        config: LastTokenizerConfig,
    ) -> None:
        if encoder.dim != transformer.in_dim:
            raise ConfigError(
                f"The learnable encoder reads {transformer.in_dim} dimensions, but {encoder.name!r} layer "
                f"{encoder.layer} gives {encoder.dim}: it was trained on other features."
            )
        self.transformer = transformer.requires_grad_(False).eval().to(encoder.device)
        self.quantizer = quantizer.requires_grad_(False).eval().to(encoder.device)
        self.window_frames = int(config.window_seconds * encoder.frame_rate)
        self.context_frames = int(config.context_seconds * encoder.frame_rate)
        identity = {
            "last_version": LAST_VERSION,
            "weights_sha256": tensor_sha256(self.saved_tensors()),
            "transformer": {**config_to_dict(config.transformer), "dropout": None},
            "distance": config.quantizer.distance,
            "windows": [self.window_frames, self.context_frames],
        }
        super().__init__(encoder, config, config.quantizer.codebook_size, identity)

    @classmethod
    def of_model(cls, model: LastModel, encoder: FeatureEncoder, config: LastConfig) -> "LastTokenizer":
        """Copy the speech side of a model, as it is at this point of the training."""
        settings = LastTokenizerConfig(
            encoder=config.encoder,
            transformer=config.model.encoder,
            quantizer=config.model.quantizer,
            collapse=config.collapse,
            name=config.name,
        )
        tensors = _speech_side(model.encoder, model.quantizer)
        return cls(encoder, *_rebuild(settings, encoder.dim, tensors, "the model"), settings)

    @torch.no_grad()
    def window_units(self, features: Float[Tensor, "frames dim"]) -> Int[Tensor, " frames"]:
        """Return the units of one window, through both encoders."""
        return self.quantizer.encode(self.transformer(features[None]))[0]

    def saved_config(self) -> dict[str, Any]:
        """Return the settings, and what the frozen encoder was."""
        return {"last": config_to_dict(self.config), "encoder": self.encoder.description()}

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the learnable encoder's weights and the codebook's."""
        return _speech_side(self.transformer, self.quantizer)

    @classmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "LastTokenizer":
        """Load the frozen encoder by its name, check that it is the one of old, and add the rest."""
        settings, encoder = load_saved_encoder(LastTokenizerConfig, config, "last", device, source)
        return cls(encoder, *_rebuild(settings, encoder.dim, tensors, source), settings)


def _speech_side(transformer: FrameTransformer, quantizer: VectorQuantizer) -> dict[str, Tensor]:
    """The weights that encoding needs, and the codebook's way out, for what listens to its entries."""
    parts = {"transformer": transformer, "quantizer": quantizer}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
        if name not in TRAINING_ONLY
    }


def _rebuild(
    config: LastTokenizerConfig, dim: int, tensors: Mapping[str, Tensor], source: str
) -> tuple[FrameTransformer, VectorQuantizer]:
    """Make both modules anew around copies of the tensors."""
    transformer = FrameTransformer(config.transformer, dim, config.quantizer.dim)
    quantizer = VectorQuantizer(config.quantizer)
    wanted = _speech_side(transformer, quantizer)
    wrong = sorted(wanted.keys() ^ tensors.keys())
    wrong += [name for name in sorted(wanted.keys() & tensors.keys()) if wanted[name].shape != tensors[name].shape]
    if wrong:
        raise AssetError(
            f"{source}: weights and settings of the tokenizer do not fit ({wrong[0]} and {len(wrong) - 1} others). "
            "Copy or download the folder again."
        )
    for name, tensor in tensors.items():
        wanted[name].copy_(tensor)
    quantizer.initialised.fill_(True)
    return transformer, quantizer
