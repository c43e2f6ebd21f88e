"""Every setting of the tokenizer by word."""

from dataclasses import dataclass, field, fields
from math import prod
from typing import ClassVar, Literal, get_args, get_origin

from vocable.errors import ConfigError
from vocable.features import EncoderConfig
from vocable.registry import unknown_name_message
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """Whisper's decoder as the reader of its encoder's states."""

    layers: tuple[int, ...] | None = None
    """Layers of the decoder that are kept, from 0, in rising order; None: all. The paper's, distilled, has two."""
    value_start: Literal["identity", "whisper"] = "identity"
    """First weights of the value projections in cross-attention: the identity, since Whisper's own are made for states
    of the last layer and not for shallow ones; or those."""
    trained: Literal["last_layer", "all", "nothing"] = "last_layer"
    """Weights that learn: the last layer and the final norm (published research code), all (published HF code), or
    none. With `last_layer` the value projections of the layers below stay what `value_start` says."""
    attend_padding: bool = False
    """Whether it attends to the silence that `encoder.padding: 30s` adds, as published."""

    def __post_init__(self) -> None:
        _check_choices(self, "aggregator")
        if self.layers is not None and (not self.layers or list(self.layers) != sorted({*self.layers})):
            raise ConfigError(f"aggregator.layers is {list(self.layers)}; give layer numbers in rising order.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridConfig:
    """Finite scalars instead of codebooks: groups of coordinates, each group one code.

    As many bits as 4 x 512 by default. A known remedy for the quality that is lost to residual quantization
    (DD-TASTE, 2025, arXiv:2509.20060).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # else settings of codebooks, one missing, would pass as these

    kind: Literal["finite_scalar"] = "finite_scalar"
    levels: tuple[int, ...] = (8, 8, 8)
    """Number of values of each coordinate of a group."""
    num_groups: int = 4
    """Number of codes a word."""

    def __post_init__(self) -> None:
        if self.num_groups < 1:
            raise ConfigError(f"quantizer.num_groups is {self.num_groups}; it must be at least 1.")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Distinct codes of each group."""
        return (prod(self.levels),) * self.num_groups


def published_quantizer() -> ResidualQuantizerConfig:
    """Return 4 codebooks of 512 entries of width 256, as published: dropout always, nothing revived.

    Differs in dropout: the number of levels is drawn for every item of a batch, in the published code once a batch.
    """
    level = VectorQuantizerConfig(
        dim=256, codebook_size=512, decay=0.99, commitment_weight=1.0, init_iterations=10, dead_share=None
    )
    return ResidualQuantizerConfig(level=level, num_levels=4, dropout=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TasteConfig:
    """A tokenizer by word."""

    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(name="openai/whisper-base", layer=6))
    """The frozen Whisper encoder, up to its last layer; its checkpoint also gives decoder and text tokenizer.
    The paper's is distil-whisper/distil-large-v3, layer 32, with padding `30s`."""
    shallow_layer: int = 2
    """Layer whose states are the values in cross-attention; the paper has 6 of 32."""
    language: str = "en"
    """Language in Whisper's prompt; English-only checkpoints have no other, and no place for it."""
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    standardize: bool = True
    """Whether each number of the words' vectors is brought to mean 0 and variance 1, as the training's words have it
    when the aggregator begins to learn. Whisper's decoder gives all words nearly the same long vector (whisper-base:
    the common part is 4 to 50 times as long as what tells words apart), and neither a decoder nor a quantizer can learn
    from the rest in reasonable time. Published: no."""
    quantizer: ResidualQuantizerConfig | GridConfig = field(default_factory=published_quantizer)
    """Quantizer of the words' vectors. `level.dim` is the width of the entries; linear maps lead there and back."""
    name: str = "taste"

    def __post_init__(self) -> None:
        if not 0 <= self.shallow_layer <= self.encoder.layer:
            raise ConfigError(
                f"shallow_layer is {self.shallow_layer}; it goes from 0 to encoder.layer, {self.encoder.layer}."
            )
        if self.encoder.positions != "keep":
            raise ConfigError(
                "encoder.positions is 'remove', which is known for one layer alone; keys and values come from two. "
                "Set it to 'keep'."
            )


def _check_choices(config: object, name: str) -> None:
    for one in fields(config):  # type: ignore[arg-type]
        if get_origin(one.type) is Literal and getattr(config, one.name) not in get_args(one.type):
            value = str(getattr(config, one.name))
            raise ConfigError(unknown_name_message(f"{name}.{one.name}", value, get_args(one.type)))
