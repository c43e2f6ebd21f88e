"""Predicted mean opinion score of one recording, from 1 (bad) to 5 (excellent), without a reference: DistillMOS.

    waveform 16 kHz -> windows of 7.68 s -> compressed complex spectrum -> CNN -> transformer -> weighted mean -> 1..5

A small model (4.1 M parameters) distilled from one on XLS-R features. It ranks speech systems; absolute values depend
on what listeners heard in its training data, and it is lenient to noisy formant speech. Source: Distillation and
Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment (Stahl and Gamper, 2025,
arXiv:2502.05356); shapes and constants from the released weights, variant 7.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.assets.weights import read_weights, weights_record
from vocable.errors import AssetError, AudioFormatError

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 122_880
"""7.68 s: what the transformer's 384 positions see."""
MAX_HOP_SAMPLES = 16_000
"""Windows of a longer recording start at most this far apart, evenly spread from its start to its end."""
FFT_SAMPLES, HOP_SAMPLES = 320, 160
NUM_POSITIONS, TRANSFORMER_DIM, NUM_HEADS, NUM_LAYERS = 384, 200, 8, 7
CNN_CHANNELS = (2, 64, 64, 128, 256, 256, 256)


class DistillMOS(nn.Module):
    """The predictor; `predict` takes any length of waveform, `forward` whole windows."""

    name = "distillmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = MappingProxyType({"name": "random"})
    """Name and hash, for results."""
    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        convolutions = []
        for index, (before, after) in enumerate(itertools.pairwise(CNN_CHANNELS)):
            frequency_stride = 1 if index == 0 else 2
            time_stride = 2 if index == len(CNN_CHANNELS) - 2 else 1
            convolutions.append(
                nn.Conv2d(before, after, kernel_size=3, stride=(frequency_stride, time_stride), padding=(0, 1))
            )
        self.convolutions = nn.ModuleList(convolutions)
        input_dim = CNN_CHANNELS[-1] * 4  # 161 frequencies become 4
        self.norm_features = nn.BatchNorm1d(input_dim)
        self.norm_input = nn.BatchNorm1d(input_dim)
        self.projection = nn.Linear(input_dim, TRANSFORMER_DIM)
        layer = nn.TransformerEncoderLayer(
            TRANSFORMER_DIM, NUM_HEADS, dim_feedforward=2 * TRANSFORMER_DIM, dropout=0.0, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)
        self.norm_output = nn.BatchNorm1d(TRANSFORMER_DIM)
        self.pool_hidden = nn.Linear(TRANSFORMER_DIM, 2 * TRANSFORMER_DIM)
        self.pool_score = nn.Linear(2 * TRANSFORMER_DIM, 1)
        self.output = nn.Linear(TRANSFORMER_DIM, 1)
        self.register_buffer("positions", _position_table(), persistent=False)

    def forward(self, windows: Float[Tensor, "windows samples"]) -> Float[Tensor, " windows"]:
        """Score windows of exactly `WINDOW_SAMPLES` samples; each is first scaled to a peak of 1."""
        windows = windows / (windows.abs().amax(1, keepdim=True) + 1e-8)
        x = _compressed_spectrum(windows)  # (windows, 2, frequencies, frames)
        for convolution in self.convolutions:
            x = nn.functional.leaky_relu(convolution(x), 0.1)
        x = x.flatten(1, 2)  # (windows, channels * frequencies, positions)
        x = self.norm_input(self.norm_features(x)).mT
        x = self.transformer(self.projection(x) + self.positions)
        x = self.norm_output(x.mT).mT
        attention = self.pool_score(self.pool_hidden(x).relu()).softmax(1)  # (windows, positions, 1)
        pooled = (attention * x).sum(1)
        return 1 + 4 * self.output(pooled).squeeze(-1).sigmoid()

    @torch.inference_mode()
    def predict(self, waveforms: Sequence[Float[Tensor, " samples"]], batch_windows: int = 8) -> list[float]:
        """Score recordings at 16 kHz; a long one gets the mean over its windows, a short one zeros at its end.

        Raises:
            AudioFormatError: a waveform is empty, not one-dimensional, or holds NaN or infinity.
        """
        windows, owners = [], []
        for index, waveform in enumerate(waveforms):
            cut = _cut_windows(waveform)
            windows.extend(cut)
            owners.extend([index] * len(cut))
        device = self.positions.device
        scores = [
            self(torch.stack(windows[start : start + batch_windows]).to(device)).cpu()
            for start in range(0, len(windows), batch_windows)
        ]
        flat = torch.cat(scores) if scores else torch.zeros(0)
        owner = torch.tensor(owners, dtype=torch.long)
        return [float(flat[owner == index].mean()) for index in range(len(waveforms))]


def load_distillmos(name: str = "distillmos", device: str = "cpu") -> DistillMOS:
    """Build the predictor with its released weights.

    Args:
        name: an asset name or a folder; resolved by `vocable.assets`.
        device: where it runs.

    Raises:
        AssetError: the weights are not at hand, or are not DistillMOS weights.
    """
    from vocable.assets import resolve

    model = DistillMOS()
    folder = resolve(name)
    load_released_weights(model, read_weights(folder))
    model.weights = weights_record(name, folder)
    return model.to(device).eval()


def load_released_weights(model: DistillMOS, released: Mapping[str, Tensor]) -> None:
    """Copy tensors under their released names into `model`.

    Raises:
        AssetError: a tensor is missing, left over, or of another shape.
    """
    state = {}
    for name, tensor in released.items():
        ours = _our_name(name)
        if ours is not None:
            state[ours] = tensor
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AssetError(f"These are not the weights of DistillMOS variant 7: {error}") from error


def _our_name(released: str) -> str | None:
    """Our parameter's name for a released one; None for the position table, which we compute."""
    if released.endswith("position_encoding.pe"):
        return None
    if released.startswith("cnn.cnn."):  # convolutions sit at even places, activations between them
        _, _, place, kind = released.split(".")
        return f"convolutions.{int(place) // 2}.{kind}"
    renamed = {
        "transformer_pool_attn.norm_input.": "norm_features.",
        "transformer_pool_attn.norm_trans.": "norm_output.",
        "transformer_pool_attn.transformer.norm.": "norm_input.",
        "transformer_pool_attn.transformer.linear_proj.": "projection.",
        "transformer_pool_attn.transformer.transformer_encoder.": "transformer.",
        "transformer_pool_attn.pool.linear1.": "pool_hidden.",
        "transformer_pool_attn.pool.linear2.": "pool_score.",
        "transformer_pool_attn.pool.linear3.": "output.",
    }
    for prefix, ours in renamed.items():
        if released.startswith(prefix):
            return ours + released.removeprefix(prefix)
    return released


def _compressed_spectrum(windows: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows 2 frequencies frames"]:
    """Complex spectrum (20 ms Hann windows every 10 ms) whose magnitudes are raised to 0.3, phases kept."""
    margin = (FFT_SAMPLES - HOP_SAMPLES) // 2
    padded = nn.functional.pad(windows, (margin, margin), mode="reflect")
    window = torch.hann_window(FFT_SAMPLES, device=windows.device)
    spectrum = torch.stft(padded, FFT_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().clamp_min(1e-12)
    spectrum = spectrum * magnitude.pow(-0.7)
    return torch.stack([spectrum.real, spectrum.imag], dim=1)


def _cut_windows(waveform: Float[Tensor, " samples"]) -> list[Float[Tensor, " samples"]]:
    """Windows of 7.68 s, evenly spread over the recording, at most one second apart."""
    if waveform.ndim != 1 or waveform.numel() == 0 or not torch.isfinite(waveform).all():
        raise AudioFormatError(
            f"A waveform of shape {tuple(waveform.shape)} cannot be scored: it must have one dimension, at least one "
            "sample, and no NaN or infinity."
        )
    waveform = waveform.float()
    excess = max(waveform.numel() - WINDOW_SAMPLES, 0)
    waveform = nn.functional.pad(waveform, (0, max(WINDOW_SAMPLES - waveform.numel(), 0)))
    num_hops = math.ceil(excess / MAX_HOP_SAMPLES)
    # the same truncation as the released code: the score moves by up to 0.04 when a window moves by one sample
    starts = [int(share * excess) for share in np.linspace(0, 1, num_hops + 1)]
    return [waveform[start : start + WINDOW_SAMPLES] for start in starts]


def _position_table() -> Float[Tensor, "positions dim"]:
    """Sines and cosines, alternating, with wavelengths up to 2 pi times twice the number of positions."""
    position = torch.arange(NUM_POSITIONS).unsqueeze(1)
    rate = torch.exp(torch.arange(0, TRANSFORMER_DIM, 2) * (-math.log(2 * NUM_POSITIONS) / TRANSFORMER_DIM))
    return torch.stack([torch.sin(position * rate), torch.cos(position * rate)], dim=-1).flatten(1)
