"""What every feature encoder does: waveforms in, one vector per frame out, and nothing of one clip in another.

    waveform -> windows -> condition (normalise, lengthen) -> front (convolutions) -> layers -> frames, joined again

A family (HuBERT, Whisper, log-mel) says what the three steps are; this module cuts long recordings into windows,
batches them, and streams. Previous stage: audio/. Next: tokens/.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vocable.audio.waveforms import check_waveform
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.windows import plan_windows
from vocable.registry import look_up

FEATURES_VERSION = 1
"""Goes up when the same weights and waveform give other features than before; part of every fingerprint."""
BATCHINGS = ("exact", "equal_length", "masked")
"""Ways of batching that `FeatureEncoder.encode` knows."""


class _Segment(NamedTuple):
    """One window of one clip."""

    clip: int
    waveform: Tensor
    keep: slice


class FeatureEncoder(nn.Module, ABC):
    """Turns mono waveforms into one vector per frame. Frozen: no parameter asks for a gradient.

    Attributes: `name` and `layer` (which checkpoint, and where it stops), `sample_rate` (Hz), `hop_length` (samples
    from one frame to the next), `dim` (size of a vector), `frame_rate` (Hz).
    """

    def __init__(
        self,
        *,
        name: str,
        layer: int,
        sample_rate: int,
        hop_length: int,
        dim: int,
        window_seconds: float,
        context_seconds: float,
        batch_seconds: float,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.name, self.layer, self.dtype = name, layer, dtype
        self.sample_rate, self.hop_length, self.dim = sample_rate, hop_length, dim
        self.window_frames = int(window_seconds * sample_rate) // hop_length
        self.context_frames = int(context_seconds * sample_rate) // hop_length
        self.batch_samples = int(batch_seconds * sample_rate)
        if self.window_frames <= 2 * self.context_frames:
            raise ConfigError(
                f"encoder.window_seconds is {window_seconds}, but the context on both sides takes "
                f"{2 * context_seconds} s of it. Make the window longer or the context shorter."
            )
        self.register_buffer("_device_marker", torch.empty(0), persistent=False)

    @property
    def frame_rate(self) -> float:
        """Frames per second, Hz."""
        return self.sample_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        """Where the encoder runs, and where the features lie."""
        marker: Any = self._device_marker
        return marker.device

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Return how many frames `encode` makes of so many samples; at least 1."""

    @abstractmethod
    def num_samples(self, num_frames: int) -> int:
        """Return the fewest samples that give `num_frames`, when no clip is lengthened."""

    @abstractmethod
    def condition(self, waveform: Float[Tensor, " samples"]) -> Float[Tensor, " conditioned"]:
        """Normalise one clip, and lengthen it as far as the model needs."""

    @abstractmethod
    def front(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Run everything before the first transformer layer, on conditioned clips of equal length."""

    @abstractmethod
    def layers_up(
        self, hidden: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Run the transformer layers. `mask` is True on real frames; None when all are."""

    def description(self) -> dict[str, Any]:
        """Return what decides the features, as JSON values; fingerprints are made of it.

        How the work is cut (batching, windows, number type) is not part of it.
        """
        return {
            "name": self.name,
            "layer": self.layer,
            "sample_rate": self.sample_rate,
            "hop_length": self.hop_length,
            "dim": self.dim,
            "features_version": FEATURES_VERSION,
        }

    def forward(
        self,
        waveforms: Float[Tensor, "batch samples"],
        lengths: Int[Tensor, " batch"] | None = None,
        keep_padding: bool = False,
    ) -> Float[Tensor, "batch frames dim"]:
        """Run clips at once, in one window; gradients flow back to the waveforms.

        For losses that listen through a frozen encoder. Nothing is checked; `encode` is the way for files.

        Args:
            waveforms: Of one length, or lengthened to it.
            lengths: Samples of each clip, at least 1: what follows is not heard, and its frames are zero. None: all of
                them. A clip's features are those it has alone, up to rounding.
            keep_padding: Return the frames of silence that `condition` adds too, where it does (Whisper's `30s`).
        """
        total = waveforms.shape[-1]
        sizes = [total] * len(waveforms) if lengths is None else lengths.tolist()
        conditioned = [self.condition(waveform[:size]) for waveform, size in zip(waveforms, sizes, strict=True)]
        hidden = self._run_padded(conditioned) if len(set(map(len, conditioned))) > 1 else self._run_batch(conditioned)
        if keep_padding:
            return hidden
        num_frames = self.num_frames(total)
        hidden = functional.pad(hidden, (0, 0, 0, max(num_frames - hidden.shape[1], 0)))[:, :num_frames]
        if lengths is None:
            return hidden
        counts = torch.tensor([self.num_frames(size) for size in sizes], device=hidden.device)
        return hidden * (torch.arange(num_frames, device=hidden.device) < counts[:, None])[..., None]

    @torch.no_grad()
    def encode(
        self, waveforms: Sequence[Float[Tensor, " _samples"]], batching: str = "exact"
    ) -> list[Float[Tensor, "_frames dim"]]:
        """Encode clips of any lengths; each result has `num_frames(samples)` rows and lies on the encoder's device.

        Args:
            waveforms: mono, at `sample_rate`, each of its own length. Longer than the window: run in windows.
            batching: `exact` runs one clip at a time, so a clip's features are the same bits in whatever company it
                comes (and on a CPU this is also the fastest). `equal_length` batches clips of equal length; `masked`
                pads clips and masks the padding out, for GPUs: both equal `exact` up to rounding.

        Raises:
            AudioFormatError: a waveform is empty, not one-dimensional, or holds NaN or infinity.
            UnknownNameError: no such `batching`.
        """
        ways = (self._run_exact, self._run_equal_length, self._run_masked)
        run = look_up("batching", batching, dict(zip(BATCHINGS, ways, strict=True)))
        segments = []
        for clip, waveform in enumerate(waveforms):
            check_waveform(waveform, f"waveforms[{clip}]")
            segments.extend(self._segments(clip, waveform))
        pieces: list[list[Tensor]] = [[] for _ in waveforms]
        for segment, features in zip(segments, run([segment.waveform for segment in segments]), strict=True):
            pieces[segment.clip].append(features[segment.keep])
        return [torch.cat(parts) for parts in pieces]

    @torch.no_grad()
    def encode_stream(self, blocks: Iterable[Float[Tensor, " _samples"]]) -> Iterator[Float[Tensor, "_frames dim"]]:
        """Encode one recording that arrives in blocks; at most a window and a block of it are in memory.

        The pieces, joined, are the same bits as `encode([recording])[0]`, however the blocks are cut.

        Raises:
            AudioFormatError: a block holds NaN or infinity or is not one-dimensional, or there is no audio at all.
        """
        buffer = torch.empty(0, device=self.device)
        keep_start, step = 0, self.window_frames - 2 * self.context_frames
        for index, block in enumerate(blocks):
            if block.ndim != 1 or not bool(block.isfinite().all()):
                raise AudioFormatError(
                    f"blocks[{index}] has shape {tuple(block.shape)} or holds NaN or infinity; "
                    "a block is a one-dimensional waveform of finite samples."
                )
            buffer = torch.cat([buffer, block.to(buffer)])
            # once a frame beyond the window is in sight, the window is known not to be the last one
            while self.num_frames(buffer.numel()) > self.window_frames:
                segment = buffer[: self.num_samples(self.window_frames)]
                yield self._run_exact([segment])[0][keep_start : self.window_frames - self.context_frames]
                keep_start, buffer = self.context_frames, buffer[step * self.hop_length :]
        if keep_start == 0:
            check_waveform(buffer, "the recording")
        yield self._run_exact([buffer])[0][keep_start:]

    def _segments(self, clip: int, waveform: Tensor) -> Iterator[_Segment]:
        num_frames = self.num_frames(waveform.numel())
        for window in plan_windows(num_frames, self.window_frames, self.context_frames):
            start = window.start * self.hop_length
            stop = start + self.num_samples(window.stop - window.start)
            if window.stop == num_frames:  # the samples after the last whole frame count in the norms over time
                stop = waveform.numel()
            yield _Segment(clip, waveform[start:stop], window.keep)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")

    def _prepare(self, waveform: Tensor) -> Tensor:
        # the copy starts at a fresh, aligned address: some kernels round by the alignment of their input
        return self.condition(waveform.to(self.device, torch.float32, copy=True)).contiguous()

    def _run_batch(self, waveforms: Sequence[Tensor]) -> Tensor:
        with self._autocast():
            return self.layers_up(self.front(torch.stack(list(waveforms))), None).float()

    def _run_padded(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Run the front clip by clip, so that its norms and convolutions never see padding; pad only for the layers."""
        with self._autocast():
            fronts = [self.front(waveform[None])[0] for waveform in waveforms]
            lengths = torch.tensor([len(hidden) for hidden in fronts], device=self.device)
            mask = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
            return self.layers_up(pad_sequence(fronts, batch_first=True), None if mask.all() else mask).float()

    def _run_exact(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        return [
            self._run_batch([self._prepare(waveform)])[0, : self.num_frames(waveform.numel())] for waveform in waveforms
        ]

    def _run_equal_length(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        prepared = [self._prepare(waveform) for waveform in waveforms]
        results: dict[int, Tensor] = {}
        for indices in _batches([clip.numel() for clip in prepared], self.batch_samples, equal=True):
            for index, features in zip(indices, self._run_batch([prepared[i] for i in indices]), strict=True):
                results[index] = features[: self.num_frames(waveforms[index].numel())]
        return [results[index] for index in range(len(waveforms))]

    def _run_masked(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        prepared = [self._prepare(waveform) for waveform in waveforms]
        results: dict[int, Tensor] = {}
        for indices in _batches([clip.numel() for clip in prepared], self.batch_samples, equal=False):
            hidden = self._run_padded([prepared[index] for index in indices])
            for row, index in enumerate(indices):
                results[index] = hidden[row, : self.num_frames(waveforms[index].numel())]
        return [results[index] for index in range(len(waveforms))]


def weights_sha256(module: nn.Module) -> str:
    """Hash the parameters and buffers of a module: names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _batches(lengths: Sequence[int], batch_samples: int, equal: bool) -> Iterator[list[int]]:
    """Group indices, longest first, so that no group's padded size exceeds `batch_samples` (a single clip may)."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[group[0]] if group else lengths[index]
        if group and ((len(group) + 1) * longest > batch_samples or (equal and lengths[index] != longest)):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
