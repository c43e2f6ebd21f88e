"""The codec: encoders, quantizer, decoder and auxiliary decoder, and the arithmetic of lengths between them.

samples (any number) -> whole tokens, zeros at the end -> vectors twice -> codes -> vectors -> tokens x hop samples
                                                                                          -> cut to the input
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.systems.lm_spt.config import CodecConfig
from vocable.systems.lm_spt.decoders import CodecDecoder, Crops, Taught
from vocable.systems.lm_spt.networks import make_decoder, make_encoder
from vocable.tokens.quantizers import SplitQuantized, SplitQuantizer


class CodecOutput(NamedTuple):
    """One pass of training."""

    semantic_features: Float[Tensor, "batch tokens dim"]
    """Output of the semantic encoder."""
    semantic_vectors: Float[Tensor, "batch tokens dim"]
    """Their entries, or they themselves while nothing is quantized yet."""
    quantized: SplitQuantized | None
    """None while nothing is quantized yet."""
    taught: Taught
    """Speech of the main decoder."""


class LmSptCodec(nn.Module):
    """A codec with a semantic and an acoustic stream."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder, config.sample_rate, config.hop_length, config.dim
        self.semantic_encoder = make_encoder(*shape)
        self.acoustic_encoder = None if config.shared == "encoder" else make_encoder(*shape)
        if config.shared == "transformer":
            self.acoustic_encoder.transformer = self.semantic_encoder.transformer  # type: ignore[union-attr]
        self.quantizer = SplitQuantizer(config.quantizer)
        self.decoder: CodecDecoder = make_decoder(config.decoder, config.dim, config.frame_rate)
        self.auxiliary: CodecDecoder = make_decoder(config.auxiliary, config.dim, config.frame_rate)

    def num_tokens(self, num_samples: int) -> int:
        """Count the tokens of so many samples, a last broken one included; at least 1."""
        return max(1, -(-num_samples // self.config.hop_length))

    def features(
        self, waveforms: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch tokens dim"]]:
        """Return the vectors of both encoders; zeros fill up the last token."""
        waveforms = functional.pad(waveforms, (0, -waveforms.shape[1] % self.config.hop_length))
        semantic = self.semantic_encoder(waveforms)
        return semantic, semantic if self.acoustic_encoder is None else self.acoustic_encoder(waveforms)

    @property
    def has_codebooks(self) -> bool:
        """Whether every level has its first codebook."""
        levels = [self.quantizer.semantic, *self.quantizer.acoustic.levels]
        return all(bool(getattr(level, "initialised", True)) for level in levels)

    def forward(self, crops: Crops, quantize: bool = True, speak: bool = True) -> CodecOutput:
        """Pass crops through the codec, in training; `speak` as in CodecDecoder.taught.

        Vectors go straight to the decoder without `quantize`, and also until k-means has fitted every codebook.
        """
        semantic, acoustic = self.features(crops.waveforms)
        quantized = self.quantizer(semantic, acoustic) if quantize else None
        if quantized is None or not self.has_codebooks:
            return CodecOutput(semantic, semantic, None, self.decoder.taught(semantic + acoustic, crops, speak))
        taught = self.decoder.taught(quantized.quantized, crops, speak)
        return CodecOutput(semantic, quantized.semantic.quantized, quantized, taught)

    @torch.no_grad()
    def encode(
        self, waveform: Float[Tensor, " samples"]
    ) -> tuple[Int[Tensor, "1 tokens"], Int[Tensor, "levels tokens"]]:
        """Return the semantic and the acoustic codes of one waveform of any length, at least one sample."""
        semantic, acoustic = self.quantizer.encode(*self.features(waveform[None]))
        return semantic[0], acoustic[0]

    @torch.no_grad()
    def decode(
        self, semantic: Int[Tensor, "1 tokens"], acoustic: Int[Tensor, "levels tokens"] | None
    ) -> Float[Tensor, " samples"]:
        """Return tokens x hop_length samples; of semantic codes alone, by the auxiliary decoder, at its own rate.

        The main decoder never heard semantic vectors without acoustic ones in training. Recordings of over a minute are
        decoded in windows (CodecDecoder.stretches).

        Raises:
            ConfigError: a code outside its codebook, or too many levels.
        """
        vectors = self.quantizer.decode(semantic[None], None if acoustic is None else acoustic[None])
        decoder = self.auxiliary if acoustic is None else self.decoder
        return torch.cat(list(decoder.stretches(vectors)))

    @property
    def reach(self) -> tuple[int, int] | None:
        """Tokens before and after its own that can change a token's codes; None where there is no limit."""
        encoders = [one for one in (self.semantic_encoder, self.acoustic_encoder) if one is not None]
        reaches = [one.reach for one in encoders]
        if None in reaches:
            return None
        before, after = (max(sides) for sides in zip(*reaches))
        return before, after
