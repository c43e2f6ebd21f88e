"""Everything that a TASTE recipe sets; defaults live here and in the configs that are named here."""

from dataclasses import dataclass, field
from typing import Literal

from vocable.errors import ConfigError
from vocable.splits import check_valid_share
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.prosody_decoder import ProsodyDecoderConfig
from vocable.systems.taste.taslm import TaslmConfig
from vocable.systems.taste.unit_decoder import UnitDecoderConfig
from vocable.training.config import AdamWTrainingConfig

DecoderChoice = ProsodyDecoderConfig | UnitDecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PartConfig(AdamWTrainingConfig):
    """One part of the training; its tokens are words."""

    batch_seconds: float = 60.0
    """Seconds of speech in a batch, padding included; batches_per_step of them make a step. Published: 160 to 186 for
    each of eight GPUs."""
    speaker: Literal["same", "other"] = "same"
    """Recording that the speaker vector is of: the one that is spoken, as published, or another one of the same speaker
    where there is one, so that the vector cannot say how this one is spoken."""
    validation_pieces: int = 64
    """Held-out pieces that are validated on, at most."""

    def __post_init__(self) -> None:
        AdamWTrainingConfig.__post_init__(self)
        self.require_above_zero("batch_seconds")
        self.require_at_least(validation_pieces=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteTrainingConfig:
    """The three parts of the tokenizer's training; each starts from the best model of the one before."""

    text_only: PartConfig | None
    """The decoder alone learns to speak the text; None: the part is left out."""
    continuous: PartConfig | None
    """Aggregator and decoder learn together, words are not quantized; None: the part is left out."""
    quantized: PartConfig
    """The quantizer joins them."""
    kmeans_words: int = 16_384
    """Words that the first codebooks are fitted to."""
    quantizer_start: Literal["principal", "random"] = "principal"
    """First maps into and out of the quantizer: the words' principal directions, centred and scaled, so that the
    decoder reads nearly what it read before; or random ones, as published."""

    def __post_init__(self) -> None:
        if self.kmeans_words < 1:
            raise ConfigError(f"training.kmeans_words is {self.kmeans_words}; it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteRecipe:
    """A tokenizer by word with its speech decoder, a language model of its tokens, and their training.

    Source: Tseng et al., 2025, arXiv:2504.07053.
    """

    training: TasteTrainingConfig | None = None
    """Training of the tokenizer; None: one is given (--tokenizer)."""
    decoder: DecoderChoice = field(default_factory=ProsodyDecoderConfig)
    """The speech decoder, by its `kind`."""
    system: Literal["taste"] = "taste"
    tokenizer: TasteConfig = field(default_factory=TasteConfig)
    speaker_encoder: str = "resemblyzer"
    """Speaker encoder of the vectors that the decoder reads: an asset or a folder. The paper has CAM++."""
    start: str | None = None
    """Folder of weights that the first part starts from: best or last of a part of another run; None: new ones."""
    features: str | None = None
    """Folder for what is computed once of each recording, which runs may share; None: `features` in the run's own."""
    valid_share: float = 0.02
    """Share of the utterances, chosen by the hash of their id, to validate on where neither a validation manifest is
    given nor the manifest says who is held out."""
    taslm: TaslmConfig | None = None
    """Language model of the tokens; None: there is none."""

    def __post_init__(self) -> None:
        check_valid_share(self.valid_share)

    @property
    def tokenizer_training(self) -> TasteTrainingConfig:
        """Training of the tokenizer.

        Raises:
            ConfigError: the recipe has none.
        """
        if self.training is None:
            raise ConfigError("The recipe says nothing of how a tokenizer is trained: it has no section training.")
        return self.training
