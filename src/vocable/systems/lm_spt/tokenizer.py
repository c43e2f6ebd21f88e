"""A trained codec as a tokenizer: a semantic stream, an acoustic stream, and its own voice.

waveform -> both encoders -> codes        codes of both -> main decoder -> waveform
                                          semantic codes alone -> auxiliary decoder -> waveform
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.waveforms import check_finite, resample
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.voice import Voice
from vocable.systems.lm_spt.config import CodecConfig
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.tokens.runs import frames_of
from vocable.tokens.streams import stream_fingerprint
from vocable.tokens.tokenizer import SpeechTokenizer, Synthesizer, register_tokenizer
from vocable.types import Clip, SpeechTokens, Stream, Word

LM_SPT_VERSION = 1
"""Goes up when the same waveform and weights give other codes than before; part of the fingerprint."""
SEMANTIC, ACOUSTIC = "semantic", "acoustic"
TRAINING_ONLY = ("average_counts", "average_sums", "num_batches")
"""Buffers of the quantizers that neither encoding nor decoding has a use for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LmSptTokenizerConfig:
    """A trained codec."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    name: str = "lm-spt"
    teacher: str | None = None
    """Name of the model that the codec was distilled from: no judge of its speech."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which weights are stored; bfloat16 rounds them, in half the bytes. The codec computes in float32."""
    window_seconds: float = 60.0
    """Longest stretch of a recording that is encoded at once, or four times the context where that is longer; longer
    recordings are cut into windows."""
    context_seconds: float = 5.0
    """Speech that a window hears on each side of the tokens that are kept of it, where the encoders' reach has no limit
    (attention); where it has one, that is the context."""

    def __post_init__(self) -> None:
        if self.context_seconds < 0 or self.window_seconds <= 2 * self.context_seconds:
            raise ConfigError(
                f"window_seconds is {self.window_seconds} and context_seconds {self.context_seconds}: a window must be "
                "longer than the context on both sides, and the context not negative."
            )


@register_tokenizer("lm-spt")
class LmSptTokenizer(SpeechTokenizer):
    """A codec with a semantic and an acoustic stream.

    A recording longer than `window_seconds` is encoded in windows at fixed places: the codes are the same bits however
    it arrives, and whatever is encoded beside it. They are those of one pass over all, but for rounding, where the
    reach of the encoders has a limit; with attention over everything, windows are an approximation.
    """

    def __init__(self, codec: LmSptCodec, config: LmSptTokenizerConfig, device: str = "cpu") -> None:
        self.codec, self.config = codec.requires_grad_(False).eval().to(device), config
        if config.dtype == "bfloat16":
            _round_weights(self.codec)
        rate, reach = config.codec.frame_rate, self.codec.reach
        self.context_tokens = math.ceil(config.context_seconds * rate) if reach is None else max(reach)
        self.window_tokens = max(int(config.window_seconds * rate), 4 * self.context_tokens)
        identity: dict[str, Any] = {
            "lm_spt_version": LM_SPT_VERSION,
            "weights_sha256": tensor_sha256(_weights(codec)),  # the values, whatever type they are stored in
            "codec": config_to_dict(config.codec),
            "frozen_sha256": tensor_sha256(_frozen(codec)),
        }
        if reach is None:
            identity["windows"] = [self.window_tokens, self.context_tokens]
        self._fingerprint = fingerprint(identity)
        self._synthesizer = CodecSynthesizer(self, self._fingerprint)

    @classmethod
    def of_codec(cls, codec: LmSptCodec, name: str, teacher: str | None = None) -> "LmSptTokenizer":
        """Copy a codec, as it is at this point of its training."""
        config = LmSptTokenizerConfig(codec=codec.config, name=name, teacher=teacher)
        tensors = {key: value.detach().cpu().clone() for key, value in _weights(codec).items()}
        return cls(_rebuild(config, tensors), config)

    @property
    def name(self) -> str:
        """See SpeechTokenizer."""
        return self.config.name

    @property
    def sample_rate(self) -> int:
        """See SpeechTokenizer."""
        return self.config.codec.sample_rate

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The semantic stream, and the acoustic one with its levels."""
        quantizer, rate = self.config.codec.quantizer, self.config.codec.frame_rate
        acoustic = tuple(level.codebook_size for level in quantizer.acoustic.levels())
        return (
            Stream(name=SEMANTIC, codebook_sizes=(quantizer.semantic.codebook_size,), rate=rate),
            Stream(name=ACOUSTIC, codebook_sizes=acoustic, rate=rate),
        )

    @property
    def fingerprint(self) -> str:
        """See SpeechTokenizer."""
        return self._fingerprint

    def synthesizer_of(self, stream: str) -> Synthesizer | None:
        """Return the auxiliary decoder for the semantic stream; acoustic levels alone are no speech."""
        return CodecSynthesizer(self, stream_fingerprint(self.fingerprint, stream)) if stream == SEMANTIC else None

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        """Return the codes of both streams, clip by clip, window by window."""
        return [self.encode_stream([clip.waveform]) for clip in clips]

    @torch.inference_mode()
    def encode_stream(
        self,
        blocks: Iterable[Float[Tensor, " _samples"]],
        text: str | None = None,
        words: tuple[Word, ...] | None = None,
    ) -> SpeechTokens:
        """Return the codes of one recording that arrives in blocks: the same bits as `encode`, in little memory."""
        codes = [
            [codes[:, keep].cpu() for codes in self.codec.encode(waveform.to(self.device, torch.float32, copy=True))]
            for waveform, keep in self._windows(blocks)
        ]
        semantic, acoustic = (SpeechTokens(codes=torch.cat(pieces, 1)) for pieces in zip(*codes))
        return SpeechTokens(streams={SEMANTIC: semantic, ACOUSTIC: acoustic})

    def _windows(self, blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, slice]]:
        """Yield the windows of plan_windows, and which of their tokens to keep, as the recording arrives."""
        hop, size, context = self.config.codec.hop_length, self.window_tokens, self.context_tokens
        waiting: list[Tensor] = []
        num_waiting, first = 0, 0
        for block in blocks:
            if not len(block):
                continue
            check_finite(block, "the recording")
            waiting.append(block)
            num_waiting += len(block)
            if num_waiting <= size * hop:
                continue
            joined, start = torch.cat(waiting) if len(waiting) > 1 else block, 0
            while num_waiting - start > size * hop:
                yield joined[start : start + size * hop], slice(first, size - context)
                start, first = start + (size - 2 * context) * hop, context
            waiting, num_waiting = [joined[start:]], num_waiting - start
        if not num_waiting:
            raise AudioFormatError("the recording: there is no sample in it.")
        yield torch.cat(waiting), slice(first, None)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.codec.parameters()).device

    def card(self) -> dict[str, Any]:
        """See SpeechTokenizer; names the teacher, where there was one."""
        return {**super().card(), **({"teacher": self.config.teacher} if self.config.teacher else {})}

    def saved_config(self) -> dict[str, Any]:
        """See SpeechTokenizer."""
        return {"lm_spt": config_to_dict(self.config)}

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the weights of encoders, quantizers and decoders, in the type in which they are stored."""
        weights, kept = _weights(self.codec), getattr(torch, self.config.dtype)
        return {key: value.to(kept) if value.is_floating_point() else value for key, value in weights.items()}

    def in_bfloat16(self) -> "LmSptTokenizer | None":
        """Return a copy whose weights are rounded to bfloat16, for shipping; None where they are.

        Rounded weights give a few other codes, so the copy has a fingerprint of its own.
        """
        if self.config.dtype == "bfloat16":
            return None
        config = replace(self.config, dtype="bfloat16")
        return LmSptTokenizer(_rebuild(config, _weights(self.codec)), config, str(self.device))

    @classmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "LmSptTokenizer":
        """Build the codec again."""
        settings = config_from_dict(LmSptTokenizerConfig, config["lm_spt"], source=source)
        return cls(_rebuild(settings, tensors), settings, device)


class CodecSynthesizer:
    """The decoders of a codec, as a synthesizer of its tokens: of both streams, or of the semantic one."""

    def __init__(self, tokenizer: LmSptTokenizer, tokenizer_fingerprint: str) -> None:
        self.tokenizer, self.tokenizer_fingerprint = tokenizer, tokenizer_fingerprint
        self.sample_rate = tokenizer.sample_rate
        self.voices: list[str] = []

    @torch.inference_mode()
    def synthesize(
        self, tokens: Sequence[SpeechTokens], voice: Voice | None = None
    ) -> list[Float[Tensor, " _samples"]]:
        """Turn tokens into waveforms, each by itself.

        Acoustic codes may have fewer levels than the codec; without them the auxiliary decoder speaks. No tokens give
        no samples. Over a minute of tokens is decoded in windows (CodecDecoder.stretches).

        Raises:
            ConfigError: a voice is asked for, codes are outside their codebooks, or there are too many levels.
        """
        if voice is not None:
            raise ConfigError(
                f"The codec {self.tokenizer.name!r} speaks in the voice that its codes hold; it takes no other one."
            )
        return [self._decode(item) for item in tokens]

    def _decode(self, tokens: SpeechTokens) -> Tensor:
        codec, device = self.tokenizer.codec, self.tokenizer.device
        semantic, acoustic = tokens.stream(SEMANTIC), None
        if tokens.streams is not None and ACOUSTIC in tokens.streams:
            acoustic = tokens.stream(ACOUSTIC).codes.to(device)
        codes = frames_of(semantic)
        if not codes.shape[1]:
            return torch.zeros(0)
        if acoustic is not None and acoustic.shape[1] != codes.shape[1]:
            raise ConfigError(
                f"There are {codes.shape[1]} semantic and {acoustic.shape[1]} acoustic tokens: they must be as many."
            )
        for given in (codes, acoustic):
            if given is not None and given.numel() and int(given.min()) < 0:
                raise ConfigError(f"There is a code {int(given.min())}, and every codebook has codes from 0 on.")
        waveform = codec.decode(codes.to(device), acoustic).cpu()
        own_rate = codec.auxiliary.sample_rate if acoustic is None else codec.decoder.sample_rate
        return resample(waveform, own_rate, self.sample_rate).clamp(-1, 1)


def _weights(codec: LmSptCodec) -> dict[str, Tensor]:
    """What is stored with the codec."""
    left_out = (*TRAINING_ONLY,)
    frozen = _frozen(codec)
    return {key: value for key, value in codec.state_dict().items() if not key.endswith(left_out) and key not in frozen}


def _round_weights(codec: LmSptCodec) -> None:
    """Round what is stored to bfloat16."""
    for value in _weights(codec).values():
        if value.is_floating_point():
            value.copy_(value.bfloat16())


def _frozen(codec: LmSptCodec) -> dict[str, Tensor]:
    """Weights of others that the codec's settings name."""
    return {f"decoder.{key}": value for key, value in codec.decoder.borrowed().items()}


def _rebuild(config: LmSptTokenizerConfig, tensors: Mapping[str, Tensor]) -> LmSptCodec:
    """Make the codec and load its weights; it computes in float32 whatever the stored type."""
    codec = LmSptCodec(config.codec)
    found = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    codec.load_state_dict({**codec.state_dict(), **found})
    return codec
