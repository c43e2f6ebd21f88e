"""The networks that a codec can be made of, by the settings that name them."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vocable.errors import ConfigError
from vocable.systems.lm_spt.conv_transformer import ConvTransformer, ConvTransformerConfig
from vocable.systems.lm_spt.dac import DacDecoder, DacDecoderConfig, DacEncoder, DacEncoderConfig
from vocable.systems.lm_spt.decoders import CodecDecoder, SourceFilterCodecConfig, SourceFilterCodecDecoder
from vocable.systems.lm_spt.mel import MelEncoder, MelEncoderConfig
from vocable.systems.lm_spt.vocos import VocosDecoder, VocosDecoderConfig

EncoderChoice = MelEncoderConfig | DacEncoderConfig | ConvTransformerConfig
DecoderChoice = SourceFilterCodecConfig | VocosDecoderConfig | DacDecoderConfig

_ENCODERS: dict[type, Callable[[Any, int, int, int], nn.Module]] = {
    MelEncoderConfig: MelEncoder,
    DacEncoderConfig: lambda config, sample_rate, hop_length, dim: DacEncoder(config, dim),
    ConvTransformerConfig: lambda config, sample_rate, hop_length, dim: ConvTransformer(config, dim),
}
_DECODERS: dict[type, Callable[[Any, int, float], CodecDecoder]] = {
    SourceFilterCodecConfig: SourceFilterCodecDecoder,
    VocosDecoderConfig: VocosDecoder,
    DacDecoderConfig: lambda config, dim, frame_rate: DacDecoder(config, dim),
}


def make_encoder(config: EncoderChoice, sample_rate: int, hop_length: int, dim: int) -> nn.Module:
    """Make an encoder: waveforms of whole tokens to (batch, tokens, dim).

    Raises:
        ConfigError: its strides do not make one token of `hop_length` samples.
    """
    encoder = _ENCODERS[type(config)](config, sample_rate, hop_length, dim)
    _check_hop(getattr(encoder, "hop_length", hop_length), hop_length, "encoder")
    return encoder


def make_decoder(config: DecoderChoice, dim: int, frame_rate: float) -> CodecDecoder:
    """Make a decoder: (batch, tokens, dim) to waveforms.

    Raises:
        ConfigError: its strides do not make of a token the samples that it lasts.
    """
    decoder = _DECODERS[type(config)](config, dim, frame_rate)
    _check_hop(decoder.hop_length, round(decoder.sample_rate / frame_rate), "decoder")
    return decoder


def _check_hop(found: int, wanted: int, part: str) -> None:
    if found != wanted:
        raise ConfigError(
            f"codec.{part}: its strides take {found} samples for a token, but the rates ask for {wanted}. Change the "
            "strides, or codec.frame_rate and the sample rate."
        )
