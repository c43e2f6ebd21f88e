"""Who is speaking: one vector per recording, and how alike two of them are.

    waveform 16 kHz -> 40 mels every 10 ms -> windows of 1.6 s -> 3 LSTM layers -> 256 numbers, mean over windows

Cosine similarity near 0.85 for two recordings of one speaker and 0.6 for two speakers is typical: the numbers order
systems, they are no probability. Source: Generalized End-to-End Loss for Speaker Verification (Wan et al., 2018,
arXiv:1710.10467); weights and constants of Resemblyzer 0.1.4. Differs from that package: long silences are not cut
out (it runs a voice activity detector first).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.assets.weights import read_weights, weights_record
from vocable.errors import AssetError, AudioFormatError

SAMPLE_RATE = 16_000
FFT_SAMPLES, HOP_SAMPLES, NUM_MELS = 400, 160, 40
WINDOW_FRAMES = 160
"""1.6 s; an utterance is cut into such windows, and the last one padded with zeros."""
WINDOWS_PER_SECOND = 1.3
MIN_COVERAGE = 0.75
"""The last window is kept when at least this share of it lies inside the recording."""
TARGET_RMS = 10 ** (-30 / 20)
"""-30 dB relative to full scale: quieter recordings are raised to it, louder ones left alone."""


class SpeakerEncoder(nn.Module):
    """Waveform to a unit vector that depends on the voice."""

    name = "resemblyzer"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = MappingProxyType({"name": "random"})
    """Name and hash, for results."""
    mel_filters: Tensor

    def __init__(self, hidden_dim: int = 256, embedding_dim: int = 256) -> None:
        super().__init__()
        self.lstm = nn.LSTM(NUM_MELS, hidden_dim, num_layers=3, batch_first=True)
        self.linear = nn.Linear(hidden_dim, embedding_dim)
        self.register_buffer("mel_filters", _mel_filters(), persistent=False)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.linear.out_features

    def forward(self, mels: Float[Tensor, "windows frames mels"]) -> Float[Tensor, "windows dim"]:
        """Embed windows of mel power spectra (not logarithms): last LSTM state, linear, ReLU, length 1."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)

    @torch.inference_mode()
    def embed(self, waveform: Float[Tensor, "*samples"]) -> Float[Tensor, " dim"]:
        """Embed one recording at 16 kHz: the mean over its windows, scaled to length 1.

        Raises:
            AudioFormatError: the waveform is empty, silent, not one-dimensional, or holds NaN or infinity.
        """
        waveform = _normalise_level(waveform).to(self.mel_filters.device)
        starts = _window_starts(waveform.numel())
        missing = (starts[-1] + WINDOW_FRAMES) * HOP_SAMPLES - waveform.numel()
        mels = self._mel_power(nn.functional.pad(waveform, (0, max(missing, 0))))
        windows = torch.stack([mels[start : start + WINDOW_FRAMES] for start in starts])
        return nn.functional.normalize(self(windows).mean(0), dim=0).cpu()

    def _mel_power(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, "frames mels"]:
        window = torch.hann_window(FFT_SAMPLES, device=waveform.device)
        spectrum = torch.stft(
            waveform, FFT_SAMPLES, HOP_SAMPLES, window=window, center=True, pad_mode="constant", return_complex=True
        )
        return spectrum.abs().square().mT @ self.mel_filters


def load_speaker_encoder(name: str = "resemblyzer", device: str = "cpu") -> SpeakerEncoder:
    """Build the encoder with its released weights.

    Args:
        name: an asset name or a folder; resolved by `vocable.assets`.
        device: where it runs.

    Raises:
        AssetError: the weights are not at hand, or do not fit.
    """
    from vocable.assets import resolve

    model = SpeakerEncoder()
    folder = resolve(name)
    load_released_weights(model, read_weights(folder))
    model.weights = weights_record(name, folder)
    return model.to(device).eval()


def load_released_weights(model: SpeakerEncoder, released: Mapping[str, Tensor]) -> None:
    """Copy the tensors of the LSTM and the linear layer; the two scalars of the training loss are not needed.

    Raises:
        AssetError: a tensor is missing, left over, or of another shape.
    """
    state = {name: tensor for name, tensor in released.items() if not name.startswith("similarity_")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AssetError(f"These are not the weights of the Resemblyzer speaker encoder: {error}") from error


def _normalise_level(waveform: Float[Tensor, "*samples"]) -> Float[Tensor, " samples"]:
    if waveform.ndim != 1 or waveform.numel() == 0 or not torch.isfinite(waveform).all():
        raise AudioFormatError(
            f"A waveform of shape {tuple(waveform.shape)} has no speaker: it must have one dimension, at least one "
            "sample, and no NaN or infinity."
        )
    waveform = waveform.float()
    rms = float(waveform.double().square().mean().sqrt())
    if rms == 0:
        raise AudioFormatError("A waveform is all zeros: silence has no speaker. Leave it out.")
    return waveform * max(TARGET_RMS / rms, 1.0)


def _window_starts(num_samples: int) -> list[int]:
    """First frame of every window; see the constants above."""
    num_frames = math.ceil((num_samples + 1) / HOP_SAMPLES)
    step = round(SAMPLE_RATE / WINDOWS_PER_SECOND / HOP_SAMPLES)
    starts = list(range(0, max(1, num_frames - WINDOW_FRAMES + step + 1), step))
    covered = (num_samples - starts[-1] * HOP_SAMPLES) / (WINDOW_FRAMES * HOP_SAMPLES)
    return starts[:-1] if covered < MIN_COVERAGE and len(starts) > 1 else starts


def _mel_filters() -> Float[Tensor, "frequencies mels"]:
    """40 triangles of equal area up to 8 kHz, on Slaney's mel scale."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=FFT_SAMPLES // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()
