"""Read published unit vocoders: the generator of unit HiFi-GAN with its duration predictor.

    units -> embedding -> repeated by duration -> convolutions and transposed convolutions -> samples

Paper: Polyak et al., 2021, arXiv:2104.00355, on HiFi-GAN (Kong et al., 2020, arXiv:2010.05646); duration predictor:
Lee et al., 2021, arXiv:2107.05604. Checkpoints are torch files {"generator": weights} beside a config.json, as
textlesslib and fairseq publish them; TWIST (arXiv:2305.13009) uses one for its 25 Hz units. Names of modules here are
names in those files. They carry no fingerprint: only the number of units can be checked.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from vocable.errors import AssetError
from vocable.features.voice import Voice, voice_row
from vocable.synthesis.layers import DurationPredictor
from vocable.synthesis.vocoder import clean_codes
from vocable.types import SpeechTokens

SLOPE = 0.1
"""Slope of the leaky ReLUs, except the last one, which has torch's default of 0.01 in the published code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitHiFiGANConfig:
    """The keys of a published config.json that matter for synthesis."""

    num_embeddings: int
    """Distinct units."""
    embedding_dim: int = 128
    model_in_dim: int = 128
    """Channels into the first convolution: embedding_dim, or twice that with speakers."""
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    """Their product is the number of samples per unit frame: 320 at 50 Hz, 640 at 25 Hz."""
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    sampling_rate: int = 16_000
    num_speakers: int = 0
    """Rows of the speaker table; 0 for none."""
    duration_dim: int | None = 128
    """Channels of the duration predictor; None without one."""
    duration_kernel_size: int = 3

    @classmethod
    def from_published(cls, values: Mapping[str, Any], source: str) -> "UnitHiFiGANConfig":
        """Read a published config.json.

        Raises:
            AssetError: a key is missing, or the vocoder needs inputs that units do not give (F0, style).
        """
        for key in ("f0", "multistyle", "embedder_params"):
            if values.get(key):
                raise AssetError(f"{source}: the vocoder also needs the input {key!r}, which units do not give.")
        if str(values.get("resblock", "1")) != "1":
            raise AssetError(f"{source}: resblock is {values['resblock']!r}; published unit vocoders have '1'.")
        duration = values.get("dur_predictor_params")
        names = set(cls.__dataclass_fields__) - {"num_speakers", "duration_dim", "duration_kernel_size"}
        known = {name: _tuples(values[name]) for name in names & set(values)}
        if "num_embeddings" not in known:
            raise AssetError(f"{source}: no num_embeddings, so this is not the config of a unit vocoder.")
        return cls(
            **known,
            num_speakers=int(values.get("num_speakers", 200)) if values.get("multispkr") else 0,
            duration_dim=duration["var_pred_hidden_dim"] if duration else None,
            duration_kernel_size=duration["var_pred_kernel_size"] if duration else 3,
        )


class ResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each pair dilated, each pair with a residual."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_conv(channels, channels, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, channels, kernel_size) for _ in dilations)

    def forward(self, signal: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch channels samples"]:
        """Return the signal, changed."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            changed = second(functional.leaky_relu(first(functional.leaky_relu(signal, SLOPE)), SLOPE))
            signal = signal + changed
        return signal


class UnitHiFiGAN(nn.Module):
    """The published generator, with `synthesize` as `UnitVocoder` has it."""

    def __init__(self, config: UnitHiFiGANConfig) -> None:
        super().__init__()
        self.config = config
        self.dict = nn.Embedding(config.num_embeddings, config.embedding_dim)
        self.spkr = nn.Embedding(config.num_speakers, config.embedding_dim) if config.num_speakers else None
        self.dur_predictor = (
            DurationPredictor(config.embedding_dim, config.duration_dim, config.duration_kernel_size)
            if config.duration_dim is not None
            else None
        )
        widths = [config.upsample_initial_channel >> stage for stage in range(len(config.upsample_rates) + 1)]
        self.conv_pre = _conv(config.model_in_dim, widths[0], 7)
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2))
            for wide, narrow, rate, kernel in zip(
                widths, widths[1:], config.upsample_rates, config.upsample_kernel_sizes
            )
        )
        self.resblocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations)
            for width in widths[1:]
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = _conv(widths[-1], 1, 7)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms, Hz."""
        return self.config.sampling_rate

    @property
    def tokenizer_fingerprint(self) -> None:
        """None: published files do not record whose units they read."""
        return None

    @property
    def voices(self) -> list[str]:
        """Rows of the speaker table: published files number them, without names."""
        return [str(row) for row in range(self.config.num_speakers)]

    def forward(
        self, units: Int[Tensor, "batch frames"], speaker: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Turn unit frames into frames * product(upsample_rates) samples."""
        signal = self.dict(units).mT
        if self.spkr is not None:
            assert speaker is not None
            signal = torch.cat([signal, self.spkr(speaker)[:, :, None].expand(-1, -1, signal.shape[-1])], 1)
        signal = self.conv_pre(signal)
        per_stage = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            signal = up(functional.leaky_relu(signal, SLOPE))
            blocks = self.resblocks[stage * per_stage : (stage + 1) * per_stage]
            signal = torch.stack([block(signal) for block in blocks]).mean(0)
        return self.conv_post(functional.leaky_relu(signal)).tanh()[:, 0]

    @torch.inference_mode()
    def synthesize(
        self, tokens: Sequence[SpeechTokens], voice: Voice | None = None
    ) -> list[Float[Tensor, " _samples"]]:
        """Turn tokens into waveforms, each by itself; durations are used where given, else predicted.

        Columns with an id below 0 are dropped, as in the published code. Without durations and without a duration
        predictor each column is one frame.

        Raises:
            FingerprintError: an id is outside the codebook.
            UnknownNameError: there is no such voice.
            ConfigError: the voice is a recording or a vector.
        """
        row = voice_row(voice, self.voices)
        device = self.dict.weight.device
        speaker = None if row is None else torch.tensor([row], device=device)
        results = []
        for item in tokens:
            codes, durations = clean_codes(item, (self.config.num_embeddings,))
            codes = codes.to(device)
            if durations is None and self.dur_predictor is not None and codes.shape[1]:
                durations = self.dur_predictor.durations(self.dict(codes))[0]
            frames = codes if durations is None else codes.repeat_interleave(durations.to(device), dim=1)
            results.append(self(frames, speaker)[0].cpu() if frames.shape[1] else torch.zeros(0))
        return results

    @classmethod
    def from_published(cls, checkpoint: Path | str, config: Path | str | None = None) -> "UnitHiFiGAN":
        """Read a torch checkpoint {"generator": weights} and the config.json beside it. No pickled code is run.

        Raises:
            AssetError: a file is missing or of another kind, or weights and config do not fit.
        """
        checkpoint = Path(checkpoint)
        config = checkpoint.parent / "config.json" if config is None else Path(config)
        for path in (checkpoint, config):
            if not path.is_file():
                raise AssetError(f"{path}: no such file. A published vocoder is a checkpoint and its config.json.")
        settings = UnitHiFiGANConfig.from_published(json.loads(config.read_text(encoding="utf-8")), str(config))
        try:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise AssetError(f"{checkpoint}: not plain tensors, so it is not loaded: {error}") from error
        if "generator" not in content:
            raise AssetError(f"{checkpoint}: holds {', '.join(sorted(map(str, content)))}; expected 'generator'.")
        vocoder = cls(settings)
        vocoder.load_published(content["generator"], str(checkpoint))
        return vocoder.eval()

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load weights named as in published files (weight_g, weight_v), and fold the weight normalisation in.

        Raises:
            AssetError: a weight is missing, unknown, or of another shape than the config says.
        """
        renamed = {
            key.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): value
            for key, value in weights.items()
        }
        try:
            self.load_state_dict(renamed)
        except RuntimeError as error:
            raise AssetError(f"{source}: weights and config do not fit. {error}") from error
        self.fold_weight_norm()

    def fold_weight_norm(self) -> None:
        """Replace weight normalisation by the weights it makes: the same sound, faster."""
        for module in self.modules():
            if hasattr(module, "parametrizations"):
                remove_parametrizations(module, "weight")


def _conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Module:
    """A convolution that keeps the length, with weight normalisation."""
    padding = (kernel_size - 1) * dilation // 2
    return weight_norm(nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=padding))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
