"""The encoder of Whisper, stopped at a layer (Radford et al., 2022, arXiv:2212.04356).

    waveform -> log-mel (100 Hz) -> two convolutions (50 Hz) -> positions -> transformer layers -> (frames, dim)

Two conventions, and units of one are not units of the other:
- padding `30s`: silence up to 30 s, as in training; the frames of the silence are dropped. Every clip costs 30 s.
- padding `none`: the clip as it is, with the positional embeddings cut to it.
Several layers come out of one pass too (`encode_layers`).
In both, a frame's features carry its place in the clip (see windows.py, with numbers). `positions: remove` subtracts
what the place alone puts there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.audio.waveforms import check_waveform
from vocable.errors import ConfigError
from vocable.features.base import FeatureEncoder, weights_sha256
from vocable.features.config import EncoderConfig
from vocable.features.log_mel import LogMelConfig, log_mel

NOISE_CLIPS = 4
"""Clips of noise on which the share of a place is measured. More bring little (experiments/whisper-positions)."""
NOISE_LEVEL = 0.05
"""Their root mean square, about that of recorded speech; Whisper's log-mel frames keep loudness."""


class WhisperEncoder(FeatureEncoder):
    """Whisper's encoder, from `transformers`, with only the layers that are used."""

    places: Tensor | None
    """Share that each place in the window adds to a frame, where that is to be removed: (positions, dim)."""

    def __init__(self, model: nn.Module, settings: EncoderConfig, *, num_layers: int, mel: LogMelConfig) -> None:
        """Take over the parts of `model` (transformers' WhisperEncoder) up to the layer of the settings.

        `num_layers` is how many the published model has: after the last one comes a layer norm.

        Raises:
            ConfigError: the window is longer than the model's positions.
        """
        config: Any = model.config
        hop_length = 2 * mel.hop_length
        longest = config.max_source_positions * hop_length / mel.sample_rate
        if settings.window_seconds is not None and settings.window_seconds > longest:
            raise ConfigError(
                f"encoder.window_seconds is {settings.window_seconds}, but {settings.name!r} has positions for "
                f"{longest:g} s. Set it to {longest:g} or less; longer recordings are cut into windows."
            )
        super().__init__(
            name=settings.name,
            layer=settings.layer,
            sample_rate=mel.sample_rate,
            hop_length=hop_length,
            dim=config.d_model,
            window_seconds=longest if settings.window_seconds is None else settings.window_seconds,
            context_seconds=settings.context_seconds,
            batch_seconds=settings.batch_seconds,
            dtype=settings.dtype,
        )
        self.padding = settings.padding
        self.mel = mel
        self.padded_samples = config.max_source_positions * hop_length
        parts: Any = model
        self.conv1, self.conv2 = parts.conv1, parts.conv2
        self.embed_positions = parts.embed_positions
        self.layers = nn.ModuleList(parts.layers[: self.layer])
        self.is_whole = self.layer == num_layers
        self.norm = parts.layer_norm if self.is_whole else nn.Identity()
        self.eval().requires_grad_(False)
        self.weights_sha256 = weights_sha256(self)
        self.positions = settings.positions
        self.register_buffer("places", None, persistent=False)
        if self.positions == "remove":
            self.places = self._measure_places()

    def num_frames(self, num_samples: int) -> int:
        """Return the number of hops, a last broken one included."""
        return max(-(-num_samples // self.hop_length), 1)

    def num_samples(self, num_frames: int) -> int:
        """Return the samples of so many whole hops."""
        return num_frames * self.hop_length

    def description(self) -> dict[str, Any]:
        """Add the family, the padding, whether positions are removed, and the hash of the weights up to the layer."""
        return {
            **super().description(),
            "family": "whisper",
            "padding": self.padding,
            **({} if self.positions == "keep" else {"positions": self.positions}),  # fingerprints from before stay
            "weights_sha256": self.weights_sha256,
        }

    def condition(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, " conditioned"]:
        """Zero-pad to whole hops, or to 30 s."""
        length = self.num_samples(self.num_frames(waveform.numel())) if self.padding == "none" else self.padded_samples
        return functional.pad(waveform, (0, length - waveform.numel()))

    def front(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Compute log-mel frames, in float32 whatever the encoder's type, and run the convolutions; add positions."""
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = log_mel(waveforms, self.mel).mT
        hidden = functional.gelu(self.conv2(functional.gelu(self.conv1(mel)))).mT
        return hidden + self.embed_positions.weight[: hidden.shape[1]]

    def layers_up(
        self, hidden: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the transformer layers, then remove positions, if they are to be.

        Padding that a batch adds is never attended to (that of `30s` always is).
        """
        (hidden,) = self._states(hidden, mask, (self.layer,))
        return hidden if self.places is None else hidden - self.places[: hidden.shape[1]]

    @torch.no_grad()
    def encode_layers(
        self, waveform: Float[Tensor, " samples"], layers: Sequence[int], keep_padding: bool = False
    ) -> tuple[Float[Tensor, "frames dim"], ...]:
        """Return the states of several layers in one pass, for one clip that fits into one window.

        The states of `layer`, the last one, are those of `encode`; after the model's last layer, the norm is in them.

        Args:
            waveform: Mono, at `sample_rate`.
            layers: Numbers from 0 to `layer`, in any order.
            keep_padding: Return the frames of silence that `30s` adds, too.

        Raises:
            AudioFormatError: the waveform is empty, not one-dimensional, or holds NaN or infinity.
            ConfigError: there is no such layer, the clip is longer than the window, or positions are removed, which is
                measured for `layer` alone.
        """
        check_waveform(waveform, "waveform")
        wrong = [layer for layer in layers if not 0 <= layer <= self.layer]
        if wrong:
            raise ConfigError(f"There is no layer {wrong[0]} in {self.name!r} as loaded; it has 0 to {self.layer}.")
        if self.places is not None:
            raise ConfigError("encoder.positions is 'remove', which is known for one layer alone. Set it to 'keep'.")
        num_frames = self.num_frames(waveform.numel())
        if num_frames > self.window_frames:
            raise ConfigError(
                f"A clip of {num_frames / self.frame_rate:g} s does not fit into the window of {self.name!r}, "
                f"{self.window_frames / self.frame_rate:g} s. Cut it."
            )
        with self._autocast():
            states = self._states(self.front(self._prepare(waveform)[None]), None, layers)
        return tuple(state[0, : None if keep_padding else num_frames].float() for state in states)

    def _states(self, hidden: Tensor, mask: Tensor | None, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Run all layers; return the states of those asked for."""
        attended = None if mask is None else mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        found = {0: hidden} if 0 in layers else {}
        for number, layer in enumerate(self.layers, start=1):
            output = layer(hidden, attention_mask=attended)
            hidden = output[0] if isinstance(output, tuple) else output
            if number in layers:
                found[number] = hidden
        if self.layer in layers:
            found[self.layer] = self.norm(hidden)
        return tuple(found[layer] for layer in layers)

    @torch.no_grad()
    def _measure_places(self) -> Float[Tensor, "positions dim"]:
        """Return what a place adds to a frame: features of white noise, averaged, less their mean over time.

        Noise sounds alike everywhere, so what differs along it is the place's.
        """
        generator = torch.Generator().manual_seed(0)
        noises = (NOISE_LEVEL * torch.randn(1, self.padded_samples, generator=generator) for _ in range(NOISE_CLIPS))
        mean = torch.stack([self.layers_up(self.front(noise), None)[0] for noise in noises]).mean(0)
        smooth = functional.avg_pool1d(mean.T, 3, stride=1, padding=1, count_include_pad=False).T
        return smooth - smooth.mean(0)
