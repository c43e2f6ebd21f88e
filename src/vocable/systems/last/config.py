"""Everything that a LAST recipe sets; defaults live here and in the configs that are named here."""

from dataclasses import dataclass, field
from typing import Literal

from vocable.errors import ConfigError
from vocable.features import EncoderConfig
from vocable.splits import check_valid_share
from vocable.systems.last.model import LastModelConfig
from vocable.training.config import AdamWTrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenLMConfig:
    """The text language model that units are trained through; nothing in it changes."""

    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """A folder, an asset name or a hub name of any causal LM."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of its weights, and of its arithmetic with training.precision 'fp32'. It is never updated, so bfloat16 costs
    little, halves its memory, and saves the cast of all its weights in every step."""
    attention: Literal["eager", "sdpa"] | None = None
    """How it computes attention. None: 'sdpa' where there is a GPU, else 'eager': torch's fused backward pass is slow
    on a CPU for crops this short (1.24 times the frames per second without it: benchmarks/last_training.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastTrainingConfig(AdamWTrainingConfig):
    """A run that trains a LAST tokenizer; its tokens are frames."""

    crop_frames: int = 1024
    """Longest crop of an utterance."""
    batch_frames: int = 4096
    """Most frames, padding included, that pass the language model at once."""

    def __post_init__(self) -> None:
        AdamWTrainingConfig.__post_init__(self)
        self.require_at_least(crop_frames=2, batch_frames=2)
        if self.crop_frames > self.batch_frames:
            raise ConfigError(
                f"training.crop_frames is {self.crop_frames}, more than a batch holds (training.batch_frames, "
                f"{self.batch_frames}). Make batches at least as large."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastConfig:
    """A LAST tokenizer and its training (Turetzky and Adi, 2024, arXiv:2409.03701)."""

    training: LastTrainingConfig
    system: Literal["last"] = "last"
    name: str = "last"
    """Name of the tokenizer."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The frozen speech encoder whose features are quantized."""
    model: LastModelConfig = field(default_factory=LastModelConfig)
    lm: FrozenLMConfig = field(default_factory=FrozenLMConfig)
    collapse: bool = True
    """Whether the tokenizer collapses runs of a unit, keeping their durations. Training always sees every frame."""
    cache_features: bool = True
    """Write the frozen features to disk first, 4 bytes a value (0.28 GB an hour for 384 dimensions at 50 Hz), and read
    them from there; False runs the frozen encoder on the crops of every batch, which hear `encoder.context_seconds` on
    both sides, so that features near the ends of a crop may differ a little from those of the whole utterance."""
    gradient_norms_every: int | None = 50
    """Steps between measurements of each loss term's gradient where the terms meet; one costs a further pass back
    through the language model. None: never."""
    valid_share: float = 0.02
    """Share of the utterances, chosen by the hash of their id, to validate on where neither a validation set is given
    nor the manifest says who is held out."""

    def __post_init__(self) -> None:
        check_valid_share(self.valid_share)
        if self.gradient_norms_every is not None and self.gradient_norms_every < 1:
            raise ConfigError(f"gradient_norms_every is {self.gradient_norms_every}; it must be at least 1, or null.")
        batches = self.model.quantizer.init_batches
        for name in ("max_steps", "validate_every", "checkpoint_every"):
            steps = getattr(self.training, name)
            if self.model.quantizer.init == "kmeans" and steps is not None and steps < batches:
                raise ConfigError(
                    f"training.{name} is {steps}, but the codebook is fitted after {batches} batches "
                    "(model.quantizer.init_batches); before that there is nothing to save. Raise the one or lower the "
                    "other."
                )
