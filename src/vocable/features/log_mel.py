"""Log-mel spectra: the input of Whisper, the target of vocoders, and the plainest feature encoder.

    waveform (samples) -> short-time Fourier transform -> power -> mel filters -> log -> (frames, num_mels)

Differentiable, so that a loss can compare two waveforms through it.
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.features.base import FeatureEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMelConfig:
    """Log-mel frames. The defaults are Whisper's (Radford et al., 2022, arXiv:2212.04356), without its scaling."""

    sample_rate: int = 16_000
    """Hz."""
    num_mels: int = 80
    hop_length: int = 160
    """Samples from one frame to the next."""
    n_fft: int = 400
    """Samples in a frame, under a Hann window."""
    min_frequency: float = 0.0
    """Lower edge of the lowest filter, Hz."""
    max_frequency: float | None = None
    """Upper edge of the highest filter, Hz; None: half the sample rate."""
    floor: float = 1e-10
    """Smallest mel power; what lies below is raised to it before the logarithm."""
    log_base: Literal["10", "e"] = "10"
    scaling: Literal["none", "whisper"] = "none"
    """`whisper`: cut 8 below the loudest value of the whole input, then (x + 4) / 4."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "num_mels", "hop_length", "n_fft", "floor"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"log_mel.{name} is {getattr(self, name)}; it must be positive.")
        highest = self.max_frequency or self.sample_rate / 2
        if not 0 <= self.min_frequency < highest <= self.sample_rate / 2:
            raise ConfigError(
                f"log_mel covers {self.min_frequency} to {highest} Hz; at a sample rate of {self.sample_rate} Hz "
                f"it must rise, and end at {self.sample_rate / 2} Hz or below."
            )


def log_mel(waveform: Float[Tensor, "*batch samples"], config: LogMelConfig) -> Float[Tensor, "*batch frames num_mels"]:
    """Return `samples // hop_length` frames of log mel power; frame t is centred on sample `t * hop_length`.

    The ends are mirrored, as torch.stft does; the frame centred on the end is dropped, as Whisper does. Inputs shorter
    than one hop, or too short to be mirrored, are lengthened with zeros (to one frame at least).
    Filters: Slaney's mel scale and area normalisation.
    """
    num_frames = max(waveform.shape[-1] // config.hop_length, 1)
    shortest = max(config.hop_length, config.n_fft // 2 + 1)
    waveform = functional.pad(waveform, (0, max(shortest - waveform.shape[-1], 0)))
    flat = waveform.reshape(-1, waveform.shape[-1])
    window = torch.hann_window(config.n_fft, device=waveform.device)
    spectrum = torch.stft(flat, config.n_fft, config.hop_length, window=window, return_complex=True)
    power = spectrum[..., :num_frames].abs().square()  # (rows, frequencies, frames)
    mel = (_mel_filters(config).to(power) @ power).clamp(min=config.floor)
    values = mel.log10() if config.log_base == "10" else mel.log()
    if config.scaling == "whisper":
        loudest = values.amax(dim=(-2, -1), keepdim=True)
        values = (torch.maximum(values, loudest - 8.0) + 4.0) / 4.0
    return values.mT.reshape(*waveform.shape[:-1], num_frames, config.num_mels)


@functools.lru_cache(maxsize=16)
def _mel_filters(config: LogMelConfig) -> Float[Tensor, "num_mels frequencies"]:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=config.n_fft // 2 + 1,
        num_mel_filters=config.num_mels,
        min_frequency=config.min_frequency,
        max_frequency=config.max_frequency or config.sample_rate / 2,
        sampling_rate=config.sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float().T.contiguous()


class LogMelEncoder(FeatureEncoder):
    """Log-mel frames behind the interface of the pretrained encoders. No weights; only layer 0.

    Windows change nothing but rounding: a frame hears `n_fft` samples, fewer than the context. With Whisper's scaling
    they do change it, because the loudest value is then that of a window.
    """

    def __init__(
        self,
        config: LogMelConfig | None = None,
        *,
        window_seconds: float = 60.0,
        context_seconds: float = 2.0,
        batch_seconds: float = 240.0,
    ) -> None:
        config = config or LogMelConfig()
        super().__init__(
            name="log-mel",
            layer=0,
            sample_rate=config.sample_rate,
            hop_length=config.hop_length,
            dim=config.num_mels,
            window_seconds=window_seconds,
            context_seconds=context_seconds,
            batch_seconds=batch_seconds,
        )
        self.config = config

    def num_frames(self, num_samples: int) -> int:
        """Return the number of whole hops, at least 1."""
        return max(num_samples // self.hop_length, 1)

    def num_samples(self, num_frames: int) -> int:
        """Return the fewest samples that give `num_frames`."""
        return num_frames * self.hop_length

    def description(self) -> dict[str, Any]:
        """Return every setting of the frames."""
        return {**super().description(), "family": "log-mel", "log_mel": asdict(self.config)}

    def condition(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
        """Leave the clip as it is."""
        return waveform

    def front(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Compute the frames, in float32 whatever the encoder's type."""
        with torch.autocast(waveforms.device.type, enabled=False):
            return log_mel(waveforms, self.config)

    def layers_up(
        self, hidden: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Return the frames: there are no layers."""
        return hidden
