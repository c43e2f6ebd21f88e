"""Decoders of a codec: vectors of tokens -> waveform. What they share, and the one on the source-filter decoder.

    vectors -> ConvNeXt blocks at the token rate -> upsampled -> ConvNeXt blocks -> content, pitch, energy, voice
            -> source-filter decoder (synthesis/source_filter.py) -> 24 kHz

LM-SPT's own decoders are in dac.py and vocos.py; this one is ours: it starts from weights that speak already.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.assets.weights import read_weights
from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.features.pitch import Prosody
from vocable.features.windows import Window, plan_windows
from vocable.files import read_text
from vocable.synthesis.layers import ConvNeXtBlock
from vocable.synthesis.source_filter import SourceFilterConfig, SourceFilterDecoder
from vocable.synthesis.unit_frontend import ENERGY_DEVIATION, ENERGY_MEAN, between, frame_positions
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.tokenizer import resolve_folder
from vocable.training.vocoder_losses import content_loss

PITCH_MEAN, PITCH_DEVIATION = 5.0, 0.5
"""Log F0 (Hz) is predicted on this scale: 148 Hz, and an octave and a half on both sides within two deviations."""


SOURCE = ("source.", "content_mean", "content_deviation")
"""Names of the weights that belong to the source-filter decoder."""
WINDOW_SECONDS = 60.0
"""Longest stretch of tokens that is decoded at once."""
CONTEXT_SECONDS = 5.0
"""Context of a window, on each side, for a decoder whose reach has no limit."""


class Crops(NamedTuple):
    """Crops of recordings, and what is measured of them; one row each."""

    waveforms: Float[Tensor, "batch samples"]
    lengths: Tensor
    """(batch,): samples before the silence that fills up short recordings."""
    f0: Float[Tensor, "batch frames"]
    """Hz, 0 where unvoiced; of as many frames as the decoder measures, or none."""
    has_pitch: Tensor
    """(batch, frames): whether the pitch was measured, not bridged."""
    energy: Float[Tensor, "batch frames"]
    speakers: Float[Tensor, "batch speaker_dim"]
    """Speaker vectors; zeros where nothing is known."""
    content: Float[Tensor, "batch frames content_dim"]
    """Content as the pretrained voice would say it, where phonemes are known."""
    has_content: Tensor
    """(batch, frames): whether it is known."""
    places: Tensor | None = None
    """(batch,): number of each crop where crops have fixed places, else -1."""


class Taught(NamedTuple):
    """Speech made in training, and how far off the decoder's own predictions are."""

    waveforms: Float[Tensor, "batch samples"] | None
    """None where no sound was asked for."""
    losses: Mapping[str, Tensor]


class CodecDecoder(nn.Module):
    """Vectors of tokens to samples."""

    sample_rate: int
    """Samples per second of the waveforms, Hz."""
    hop_length: int
    """Samples per token."""
    measured_hop: int | None = None
    """Samples per frame of the pitch and the energy that training must know; None: it needs neither."""
    speaker_dim: int = 0
    """Length of the speaker vectors that training must know."""
    content_dim: int = 0
    """Length of the content vectors that training may know."""
    reach: tuple[int, int] | None = None
    """Tokens before and after its own that can change a token's samples; None: all of them."""

    def forward(self, vectors: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch samples"]:
        """Return tokens x hop_length samples."""
        raise NotImplementedError

    @property
    def grid(self) -> int:
        """Tokens between two places where a window may begin."""
        return 1

    def context_tokens(self) -> int:
        """Return the tokens that a window needs on each side of those that are kept of it: a multiple of the grid."""
        if self.reach is None:
            return _up(math.ceil(CONTEXT_SECONDS * self.sample_rate / self.hop_length), self.grid)
        return _up(max(self.reach), self.grid)

    def plan(self, num_tokens: int, window_tokens: int | None = None) -> list[Window]:
        """Cut a recording into windows of about `window_tokens` (None: a minute), or four times the context."""
        wanted = round(WINDOW_SECONDS * self.sample_rate / self.hop_length) if window_tokens is None else window_tokens
        context = self.context_tokens()
        return plan_windows(num_tokens, max(_up(wanted, self.grid), 4 * context, self.grid), context)

    def stretches(
        self, vectors: Float[Tensor, "1 tokens dim"], window_tokens: int | None = None
    ) -> Iterator[Float[Tensor, " _samples"]]:
        """Decode one recording of any length, window by window: a stretch of the waveform for each window.

        Joined, they are what `forward` returns of all tokens: the same bits where one window holds them, otherwise up
        to rounding where `reach` has a limit, and nearly so where it has none.
        """
        for window in self.plan(vectors.shape[1], window_tokens):
            samples = self(vectors[:, window.start : window.stop])[0]
            yield samples[window.keep.start * self.hop_length : window.keep.stop * self.hop_length]

    def taught(self, vectors: Float[Tensor, "batch tokens dim"], crops: Crops, speak: bool = True) -> Taught:
        """Return samples for the losses of training, made with the help of what is known of the recordings.

        Without `speak` a decoder that has other losses may leave the samples out.
        """
        return Taught(self(vectors), {})

    def start_from(self, folder: Path) -> None:
        """Take pretrained weights, where this decoder can begin with some."""

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return parameters that have a learning rate of their own."""
        return []

    def borrowed(self) -> dict[str, Tensor]:
        """Return weights of another model, which the settings name and which are not stored."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFilterCodecConfig:
    """A decoder that predicts content, pitch, energy and voice for the source-filter decoder."""

    kind: Literal["source_filter"] = "source_filter"
    stride: int = 8
    """Frames per token that the upsampling makes; they are then read at the rate of the source-filter decoder."""
    dim: int = 192
    """Channels of the blocks."""
    hidden_dim: int = 576
    """Channels inside a block."""
    token_layers: int = 3
    """Blocks at the token rate."""
    frame_layers: int = 3
    """Blocks after the upsampling."""
    kernel_size: int = 7
    """Tokens or frames that a convolution sees; odd."""
    source: SourceFilterConfig = field(default_factory=lambda: SourceFilterConfig(speaker_dim=256))
    """The source-filter decoder; `speaker_dim` is the length of the voice vector that is predicted for every frame."""
    weights: str | None = "vocable/voices"
    """Unit vocoder, or codec, whose source-filter decoder speaks, a folder or a shipped name. It is frozen, and not
    stored with this codec. None: the decoder has weights of its own, which learn; `start` says how they begin."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"decoder.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")
        if self.stride < 1:
            raise ConfigError(f"decoder.stride is {self.stride}; it counts frames per token, 1 or more.")

    @property
    def sample_rate(self) -> int:
        """Samples per second, Hz."""
        return self.source.sample_rate


class SourceFrames(NamedTuple):
    """Inputs of the source-filter decoder, frame by frame."""

    content: Float[Tensor, "batch frames content_dim"]
    pitch: Float[Tensor, "batch frames"]
    """Log F0 less PITCH_MEAN, in PITCH_DEVIATION."""
    voiced: Float[Tensor, "batch frames"]
    """Logit."""
    energy: Float[Tensor, "batch frames"]
    """In standard deviations of speech."""
    voice: Float[Tensor, "batch frames speaker_dim"]

    @property
    def prosody(self) -> Prosody:
        """F0 in Hz, 0 where unvoiced, and energy on the decoder's scale."""
        f0 = (self.pitch.clamp(-3, 3) * PITCH_DEVIATION + PITCH_MEAN).exp() * (self.voiced > 0)
        return Prosody(f0, self.energy * ENERGY_DEVIATION + ENERGY_MEAN)


class SourceFilterCodecDecoder(CodecDecoder):
    """Vectors of tokens to content, pitch, energy and voice, and to sound."""

    content_mean: Tensor
    content_deviation: Tensor

    def __init__(self, config: SourceFilterCodecConfig, dim: int, frame_rate: float) -> None:
        super().__init__()
        self.config = config
        width, size, source = config.dim, config.kernel_size, config.source
        self.sample_rate, self.hop_length = source.sample_rate, round(source.sample_rate / frame_rate)
        self.measured_hop, self.speaker_dim = source.hop_length, source.speaker_dim or 0
        self.content_dim = source.content_dim
        self.register_buffer("content_mean", torch.zeros(source.content_dim))
        self.register_buffer("content_deviation", torch.ones(source.content_dim))

        def blocks(count: int) -> nn.Sequential:
            return nn.Sequential(*(ConvNeXtBlock(width, config.hidden_dim, size, 0.1) for _ in range(count)))

        self.into = nn.Linear(dim, width)
        self.token_blocks, self.frame_blocks = blocks(config.token_layers), blocks(config.frame_layers)
        self.up = nn.ConvTranspose1d(width, width, config.stride, config.stride)
        self.norm = nn.LayerNorm(width)
        self.content, self.prosody = nn.Linear(width, source.content_dim), nn.Linear(width, 3)
        self.voice = nn.Linear(width, self.speaker_dim)
        nn.init.zeros_(self.voice.weight)
        nn.init.zeros_(self.voice.bias)
        self.source = SourceFilterDecoder(source)
        if config.weights is not None:
            self.start_from(resolve_folder(config.weights))
            self.source.requires_grad_(False)

    @property
    def reach(self) -> tuple[int, int]:  # type: ignore[override]
        """Tokens before and after its own that can change a token's samples, pulses aside, whose phase adds up."""
        config, frames_per_token = self.config, self.hop_length / self.config.source.hop_length
        side = config.kernel_size // 2
        before, after = (
            math.ceil(frames / frames_per_token)
            + math.ceil((side * config.frame_layers + 2) / config.stride)
            + side * config.token_layers
            for frames in config.source.reach
        )
        return before, after

    def start_from(self, folder: Path) -> None:
        """Take the source-filter decoder of a unit vocoder, or of a codec with one of its own.

        Raises:
            ConfigError: it has other sizes, or the codec has none of its own.
        """
        sizes, found = _read_source(folder)
        if not found:
            raise ConfigError(f"The codec of {folder} has no source-filter decoder of its own: name where its is from.")
        if sizes != config_to_dict(self.config.source):
            raise ConfigError(
                f"The decoder of {folder} has other sizes than codec.decoder.source ({sizes}). Set these, or take no "
                "pretrained weights: codec.decoder.weights=null start=null."
            )
        self.load_state_dict({**self.state_dict(), **found})

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the source-filter decoder, unless it is frozen."""
        return [parameter for parameter in self.source.parameters() if parameter.requires_grad]

    def borrowed(self) -> dict[str, Tensor]:
        """Return the weights of the source-filter decoder, where the settings name them."""
        if self.config.weights is None:
            return {}
        return {name: weights for name, weights in self.state_dict().items() if name.startswith(SOURCE)}

    def frames(self, vectors: Float[Tensor, "batch tokens dim"]) -> SourceFrames:
        """Return as many frames as the tokens last, the last one whole."""
        config, tokens = self.config, vectors.shape[1]
        hidden = self.up(self.token_blocks(self.into(vectors)).mT).mT
        count = -(-tokens * self.hop_length // config.source.hop_length)
        ratio = config.stride * config.source.hop_length / self.hop_length
        positions = frame_positions(0, count, ratio).to(hidden.device).expand(len(hidden), -1)
        hidden = self.norm(between(self.frame_blocks(hidden), positions))
        pitch, voiced, energy = self.prosody(hidden).float().unbind(-1)
        content = self.content(hidden) * self.content_deviation + self.content_mean
        return SourceFrames(content, pitch, voiced, energy, self.voice(hidden))

    def spoken(
        self, frames: SourceFrames, prosody: Prosody, start: int = 0, phase: float = 0.0
    ) -> Float[Tensor, "batch samples"]:
        """Turn frames into samples; `start` and `phase` as in SourceFilterDecoder.synthesise."""
        spectra = self.source(frames.content, *prosody, frames.voice if self.speaker_dim else None)
        return self.source.synthesise(spectra, prosody.f0, start, phase)

    def forward(self, vectors: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch samples"]:
        """Return tokens x hop_length samples."""
        frames = self.frames(vectors)
        return self.spoken(frames, frames.prosody)[:, : vectors.shape[1] * self.hop_length]

    @property
    def grid(self) -> int:
        """Tokens between two places where a token and a frame begin together."""
        hop = self.config.source.hop_length
        return hop // math.gcd(hop, self.hop_length)

    def stretches(
        self, vectors: Float[Tensor, "1 tokens dim"], window_tokens: int | None = None
    ) -> Iterator[Float[Tensor, " _samples"]]:
        """See CodecDecoder; noise goes by the number of the frame, and pulses go on where the last window ended.

        F0 is rounded to 1/16 Hz: where rounding falls to the other side in a window, pulses move by 0.0008 periods.
        """
        hop, phase = self.hop_length, 0.0
        for window in self.plan(vectors.shape[1], window_tokens):
            frames = self.frames(vectors[:, window.start : window.stop])
            prosody = frames.prosody
            begin, end = window.keep.start * hop, window.keep.stop * hop
            # pitch lacks context at the far end of a window; phase is tied where the last one ended (streaming.py)
            cycles = self.source.cycles(prosody.f0)[0]
            tied = phase - float(cycles[begin - 1]) if begin else phase
            first = window.start * hop // self.config.source.hop_length
            yield self.spoken(frames, prosody, first, tied)[0, begin:end]
            phase = (tied + float(cycles[end - 1])) % 1.0

    def taught(self, vectors: Float[Tensor, "batch tokens dim"], crops: Crops, speak: bool = True) -> Taught:
        """Speak with the recordings' F0, and compare pitch, voicing, energy and voice with theirs."""
        frames = self.frames(vectors)
        count = frames.pitch.shape[1]
        f0, energy, known = crops.f0[:, :count], crops.energy[:, :count], crops.has_pitch[:, :count]
        spoken = None
        if speak:
            spoken = self.spoken(frames, Prosody(f0, frames.prosody.energy))[:, : vectors.shape[1] * self.hop_length]
        wanted = (f0.clamp(min=1).log() - PITCH_MEAN) / PITCH_DEVIATION
        # absolute, and cut off: octave errors of the tracker do not rule
        error = (frames.pitch - wanted).abs().clamp(max=2.0)
        losses = {
            "pitch": (error * known).sum() / known.sum().clamp(min=1),
            "voiced": functional.binary_cross_entropy_with_logits(frames.voiced, (f0 > 0).float()),
            "energy": functional.mse_loss(frames.energy, (energy - ENERGY_MEAN) / ENERGY_DEVIATION),
        }
        if crops.has_content.any():
            content, said = crops.content[:, :count], crops.has_content[:, :count]
            losses["content"] = content_loss(frames.content.float(), content, said, self.content_deviation)
        if self.speaker_dim:
            voice, is_known = frames.voice.float().mean(1), crops.speakers.abs().sum(-1) > 0
            # the squared length of a speaker vector is 1: the sum, not the mean, is of the order of the other losses
            apart = (voice - crops.speakers).square().sum(-1)
            losses["voice"] = (apart * is_known).sum() / is_known.sum().clamp(min=1)
        return Taught(spoken, losses)


def _read_source(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the source-filter decoder of a unit vocoder's folder, or of a codec's: its sizes, and weights as named here.

    A codec whose decoder is of another kind, or borrowed, has none.
    """
    config = folder / "config.json"
    codec = json.loads(read_text(config)).get("config", {}).get("lm_spt") if config.is_file() else None
    if codec is not None:
        stored = {key.removeprefix("decoder."): value.float() for key, value in read_weights(folder).items()}
        found = {key: value for key, value in stored.items() if key.startswith(SOURCE)}
        return codec["codec"]["decoder"].get("source", {}), found
    vocoder = UnitVocoder.from_pretrained(folder)
    found = {f"source.{key}": value for key, value in vocoder.decoder.state_dict().items()}
    found |= {key: getattr(vocoder.frontend, key) for key in SOURCE[1:]}
    return config_to_dict(vocoder.decoder.config), found


def _up(number: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-number // multiple) * multiple
