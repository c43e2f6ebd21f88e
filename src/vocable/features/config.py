"""Settings of a feature encoder: which checkpoint, which layer, how its input is cut and padded."""

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

from vocable.errors import ConfigError
from vocable.features.log_mel import LogMelConfig
from vocable.registry import unknown_name_message

LOG_MEL = "log-mel"
"""The encoder name that needs no checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A pretrained encoder, stopped at one layer."""

    name: str = "openai/whisper-tiny.en"
    """A checkpoint: local folder, asset or hub name of a HuBERT, WavLM, wav2vec 2.0 or Whisper model; or `log-mel`."""
    layer: int = 2
    """0 is the input of the first transformer layer, n the output of the n-th: transformers' `hidden_states[layer]`.
    Where the published model ends in one more layer norm (Whisper; HuBERT, WavLM and wav2vec 2.0 with
    `do_stable_layer_norm`), that norm belongs to the last layer, which is thus `last_hidden_state`; transformers 4 put
    the same under `hidden_states[-1]`, transformers 5 does so for Whisper only. `log-mel` has layer 0 only."""
    padding: Literal["none", "30s"] = "none"
    """Whisper only. `30s` pads every clip with silence to 30 s, as the model was trained; `none` cuts the positional
    embeddings to the clip: different features, several times cheaper on short clips."""
    positions: Literal["keep", "remove"] = "keep"
    """Whisper only. Its features carry their place in the clip, so that the same sound has other units elsewhere.
    `remove` subtracts what the place alone puts there, measured on noise when the encoder is loaded (seconds); what it
    gains differs by layer (experiments/whisper-positions). `keep` is the model as it is, and what older tokenizers were
    made with."""
    normalise: bool | None = None
    """HuBERT family only: zero mean and unit variance for every clip. None: as the checkpoint's preprocessor config
    says, and no normalisation where it has none."""
    window_seconds: float | None = None
    """Longest stretch run at once, context included; longer recordings are cut into windows that overlap. None: 30 s
    for Whisper, which cannot take more, 60 s for the others."""
    context_seconds: float = 2.0
    """Context of a window on each side of the frames that are kept of it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` runs the matrix products in that type (autocast): faster, and some units change."""
    batch_seconds: float = 240.0
    """Most audio in one batch, padding included, where clips are batched at all."""
    log_mel: LogMelConfig | None = None
    """The frames of `log-mel`; None: the defaults of LogMelConfig."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if get_origin(field.type) is Literal and getattr(self, field.name) not in get_args(field.type):
                value, allowed = getattr(self, field.name), get_args(field.type)
                raise ConfigError(unknown_name_message(f"encoder.{field.name}", str(value), allowed))
        if self.layer < 0:
            raise ConfigError(f"encoder.layer is {self.layer}; layers count from 0, the input of the first layer.")
        if self.context_seconds < 0:
            raise ConfigError(f"encoder.context_seconds is {self.context_seconds}; it cannot be negative.")
        if self.window_seconds is not None and self.window_seconds <= 2 * self.context_seconds:
            raise ConfigError(
                f"encoder.window_seconds is {self.window_seconds}, but the context on both sides takes "
                f"{2 * self.context_seconds} s of it. Make the window longer or the context shorter."
            )
        if self.batch_seconds <= 0:
            raise ConfigError(f"encoder.batch_seconds is {self.batch_seconds}; it must be positive.")
