"""Building blocks of the vocoders: ConvNeXt blocks, duration predictor, overlap-add.

Nothing here takes statistics over time: a frame depends only on the frames within a fixed reach. That is what lets
`streaming.py` give the same samples as whole-utterance synthesis.
"""

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels, two pointwise layers, learned scale, residual.

    Source: ConvNeXt (Liu et al., 2022, arXiv:2201.03545), in one dimension as in Vocos (Siuzdak, 2023,
    arXiv:2306.00814), section 3.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        kernel_size: int,
        scale: float,
        future: int | None = None,
        dilation: int = 1,
    ) -> None:
        """Make a block whose convolution sees `future` frames after its own; None: as many as before it."""
        super().__init__()
        span = dilation * (kernel_size - 1)
        future = span // 2 if future is None else future
        self.pad = (span - future, future)
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, groups=dim, dilation=dilation)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, frames: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Return the frames, changed."""
        mixed = self.norm(self.depthwise(functional.pad(frames.mT, self.pad)).mT)
        return frames + self.scale * self.contract(functional.gelu(self.expand(mixed)))


class DurationPredictor(nn.Module):
    """Predict how many frames each run of a unit lasts, as log(1 + duration).

    Source: the duration head of unit HiFi-GAN (Lee et al., 2021, arXiv:2107.05604), after FastSpeech 2 (Ren et al.,
    2020, arXiv:2006.04558): twice convolution, ReLU, LayerNorm, dropout; then one linear layer.
    Differs: both convolutions keep the length whatever the kernel; the published second one pads by 1 always, which is
    right for kernel 3 only.
    """

    def __init__(self, in_dim: int, hidden_dim: int, kernel_size: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(in_dim, hidden_dim, kernel_size, padding="same"), nn.ReLU())
        self.ln1 = nn.LayerNorm(hidden_dim)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden_dim, hidden_dim, kernel_size, padding="same"), nn.ReLU())
        self.ln2 = nn.LayerNorm(hidden_dim)
        self.proj = nn.Linear(hidden_dim, 1)
        self.dropout = nn.Dropout(dropout)
        self.reach = 2 * (kernel_size // 2)

    def forward(
        self, runs: Float[Tensor, "batch runs dim"], mask: Bool[Tensor, "batch runs"] | None = None
    ) -> Float[Tensor, "batch runs"]:
        """Return log(1 + duration in frames) of every run; what `mask` marks False cannot change the others."""
        real = 1.0 if mask is None else mask[..., None].to(runs.dtype)
        hidden = self.dropout(self.ln1(self.conv1((runs * real).mT).mT)) * real
        hidden = self.dropout(self.ln2(self.conv2(hidden.mT).mT))
        return self.proj(hidden).squeeze(-1)

    def durations(self, runs: Float[Tensor, "batch runs dim"], scale: float = 1.0) -> Int[Tensor, "batch runs"]:
        """Return whole frames, `scale` times what is predicted, at least 1 for every run."""
        return whole_durations(self(runs), scale)


def whole_durations(log_durations: Float[Tensor, "*runs"], scale: float = 1.0) -> Int[Tensor, "*runs"]:
    """Turn log(1 + duration) into whole frames, at least 1; published vocoders have `scale` 1."""
    return (scale * (log_durations.exp() - 1)).round().long().clamp(min=1)


def overlap_add(
    spectra: Complex[Tensor, "batch frames bins"],
    window: Float[Tensor, " n_fft"],
    hop_length: int,
    overhang: int | None = None,
) -> Float[Tensor, "batch samples"]:
    """Invert short-time spectra: frames x hop_length samples, least squares over the overlapping windows.

    A window begins `overhang` samples before its frame; None: as many as it ends after it, as in Vocos ("same").
    Source: Griffin & Lim (1984), equation 6.
    """
    n_fft, num_frames = len(window), spectra.shape[1]
    pieces = torch.fft.irfft(spectra, n=n_fft) * window  # (batch, frames, n_fft)
    total = _add_shifted(pieces, hop_length)
    weight = _add_shifted(window.square().expand(1, num_frames, n_fft), hop_length)
    overhang = (n_fft - hop_length) // 2 if overhang is None else overhang
    kept = slice(overhang, overhang + num_frames * hop_length)
    return total[:, kept] / weight[:, kept].clamp(min=1e-11)


def _add_shifted(pieces: Tensor, hop_length: int) -> Tensor:
    """Sum windows that start hop_length apart: (batch, frames, n_fft) -> (batch, (frames - 1) * hop + n_fft)."""
    batch, num_frames, n_fft = pieces.shape
    overlaps = n_fft // hop_length
    parts = [
        functional.pad(pieces[:, :, k * hop_length : (k + 1) * hop_length], (0, 0, k, overlaps - 1 - k))
        for k in range(overlaps)
    ]
    return torch.stack(parts).sum(0).reshape(batch, (num_frames + overlaps - 1) * hop_length)
