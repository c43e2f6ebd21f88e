"""Random segments of speech with their tokens, for vocoder training.

    (Utterance, SpeechTokens) ...  ->  step number  ->  one batch

A batch depends only on the seed, the step and the process: a run that continues at step n draws the same batches as one
that never stopped, without any saved sampler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocable.errors import ManifestError
from vocable.features.pitch import Pitch, measure_pitch
from vocable.synthesis.vocoder import VocoderConfig
from vocable.types import SpeechTokens, Utterance


class SegmentBatch(NamedTuple):
    """What the trunk is trained on: short segments, all of one length."""

    waveforms: Tensor
    """(batch, samples)"""
    codes: Tensor
    """(batch, num_codebooks, frames)"""
    voices: Tensor
    """(batch,)"""
    pitch: Pitch
    """(batch, frames)"""


class ProsodyBatch(NamedTuple):
    """What the duration and pitch predictors are trained on: long stretches, padded."""

    codes: Tensor
    """(batch, num_codebooks, frames)"""
    voices: Tensor
    """(batch,)"""
    pitch: Pitch
    """(batch, frames)"""
    mask: Tensor
    """(batch, frames)"""
    run_codes: Tensor
    """(batch, num_codebooks, runs)"""
    durations: Tensor
    """(batch, runs); frames"""
    run_mask: Tensor
    """(batch, runs); False also for runs that the cut has shortened"""


@dataclass(slots=True)
class Clip:
    """One utterance in memory."""

    waveform: np.ndarray
    """int16, to halve the memory."""
    codes: Tensor
    """(num_codebooks, frames)"""
    voice: int
    log_f0: Tensor
    voiced: Tensor


class VocoderData(Dataset):
    """Batches by step number; holds every clip in memory after its first use (32 kB per second at 16 kHz)."""

    def __init__(
        self,
        pairs: Sequence[tuple[Utterance, SpeechTokens]],
        config: VocoderConfig,
        read: Callable[[Utterance, int], Tensor],
        *,
        batch_size: int,
        segment_frames: int,
        prosody_batch: int = 4,
        prosody_frames: int = 500,
        loudness_db: float | None = -23.0,
        seed: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.config, self.read = config, read
        weights = [1.0] * len(pairs) if weights is None else weights
        long_enough = [pair[1].num_frames >= segment_frames + 1 for pair in pairs]
        self.pairs = [pair for pair, enough in zip(pairs, long_enough, strict=True) if enough]
        if not self.pairs:
            raise ManifestError(
                f"None of {len(pairs)} utterances lasts {(segment_frames + 1) / config.token_frame_rate:.2f} s, which "
                "a training segment needs. Lower segment_seconds or add longer utterances."
            )
        self.batch_size, self.segment_frames = batch_size, segment_frames
        self.prosody_batch, self.prosody_frames = prosody_batch, prosody_frames
        self.loudness_db, self.seed = loudness_db, seed
        frames = np.array([tokens.num_frames for _, tokens in self.pairs], dtype=np.float64)
        drawn = frames * [weight for weight, enough in zip(weights, long_enough, strict=True) if enough]
        self.shares = drawn / drawn.sum()
        self.seconds = float(frames.sum() / config.token_frame_rate)
        self.clips: dict[int, Clip] = {}
        self._voice_rows = {name: row for row, name in enumerate(config.voices)}

    def __getitem__(self, step: int) -> tuple[SegmentBatch, ProsodyBatch]:
        """Batch number `step`."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.pairs), self.batch_size, p=self.shares)
        segments = [self._segment(self.clip(int(index)), rng) for index in chosen]
        waveforms, codes, log_f0, voiced = (torch.stack(column) for column in zip(*segments, strict=True))
        voices = torch.tensor([self.clip(int(index)).voice for index in chosen])
        whole = rng.choice(len(self.pairs), self.prosody_batch, p=self.shares)
        return SegmentBatch(waveforms, codes, voices, Pitch(log_f0, voiced)), self._prosody(whole, rng)

    def __len__(self) -> int:
        """Number of utterances (not of steps, of which there is no end)."""
        return len(self.pairs)

    def clip(self, index: int) -> Clip:
        """Read an utterance, level its loudness, measure its pitch; remembered."""
        if index not in self.clips:
            self.clips[index] = self._load(*self.pairs[index])
        return self.clips[index]

    def _load(self, utterance: Utterance, tokens: SpeechTokens) -> Clip:
        config = self.config
        codes = tokens.codes.long()
        if tokens.durations is not None:
            codes = codes.repeat_interleave(tokens.durations.long(), dim=1)
        waveform = self.read(utterance, config.sample_rate)
        num_frames = min(codes.shape[1], len(waveform) // config.token_hop)
        if abs(codes.shape[1] - len(waveform) / config.token_hop) > 0.05 * codes.shape[1] + 4:
            raise ManifestError(
                f"{utterance.id}: {len(waveform) / config.sample_rate:.2f} s of audio, but tokens for "
                f"{codes.shape[1] / config.token_frame_rate:.2f} s. Tokenize this manifest again."
            )
        waveform = waveform[: num_frames * config.token_hop]
        if self.loudness_db is not None:
            level = waveform.square().mean().sqrt().clamp(min=1e-4)
            waveform = waveform * (10 ** (self.loudness_db / 20) / level)
            waveform = waveform / max(1.0, float(waveform.abs().max()) / 0.95)
        pitch = measure_pitch(waveform[None], config.sample_rate, config.token_hop)
        return Clip(
            waveform=(waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy(),
            codes=codes[:, :num_frames],
            voice=self._voice_rows.get(utterance.speaker or "", 0),
            log_f0=pitch.log_f0[0],
            voiced=pitch.voiced[0],
        )

    def _segment(self, clip: Clip, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = int(rng.integers(0, max(1, clip.codes.shape[1] - self.segment_frames + 1)))
        frames = slice(first, first + self.segment_frames)
        hop = self.config.token_hop
        samples = torch.from_numpy(clip.waveform[first * hop : (first + self.segment_frames) * hop])
        return samples.float() / 32767, clip.codes[:, frames], clip.log_f0[frames], clip.voiced[frames]

    def _prosody(self, chosen: np.ndarray, rng: np.random.Generator) -> ProsodyBatch:
        pieces = []
        for index in chosen:
            clip = self.clip(int(index))
            first = int(rng.integers(0, max(1, clip.codes.shape[1] - self.prosody_frames + 1)))
            cut_short = (first > 0, first + self.prosody_frames < clip.codes.shape[1])
            pieces.append((clip, slice(first, first + self.prosody_frames), cut_short))
        runs = [_runs(clip.codes[:, frames], *cut_short) for clip, frames, cut_short in pieces]
        codes = [clip.codes[:, frames].T for clip, frames, _ in pieces]
        return ProsodyBatch(
            codes=_pad(codes).mT,
            voices=torch.tensor([clip.voice for clip, _, _ in pieces]),
            pitch=Pitch(
                _pad([clip.log_f0[frames] for clip, frames, _ in pieces]),
                _pad([clip.voiced[frames] for clip, frames, _ in pieces]),
            ),
            mask=_pad([torch.ones(len(item), dtype=torch.bool) for item in codes]),
            run_codes=_pad([run.T for run, _, _ in runs]).mT,
            durations=_pad([durations for _, durations, _ in runs]),
            run_mask=_pad([whole for _, _, whole in runs]),
        )


def voices_by_speech(pairs: Sequence[tuple[Utterance, SpeechTokens]]) -> tuple[str, ...]:
    """Speakers that are trained on, those with most speech first; empty when none is named."""
    frames: dict[str, int] = {}
    for utterance, tokens in pairs:
        if utterance.speaker and utterance.split in (None, "train"):
            frames[utterance.speaker] = frames.get(utterance.speaker, 0) + tokens.num_frames
    return tuple(sorted(frames, key=lambda name: (-frames[name], name)))


def segment_frames(seconds: float, config: VocoderConfig) -> int:
    """Token frames in a training segment of about `seconds`."""
    return max(1, math.ceil(seconds * config.token_frame_rate))


def _runs(codes: Tensor, cut_before: bool, cut_after: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal columns, their durations, and which of them are whole."""
    runs, durations = torch.unique_consecutive(codes, dim=1, return_counts=True)
    whole = torch.ones(len(durations), dtype=torch.bool)
    if cut_before:
        whole[0] = False
    if cut_after:
        whole[-1] = False
    return runs, durations, whole


def _pad(items: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
