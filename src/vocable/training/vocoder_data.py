"""Random segments of speech with their tokens, for vocoder training.

    (Utterance, SpeechTokens) ...  ->  step number  ->  one batch

A batch depends only on the seed, the step and the process: a run that continues at step n draws the same batches as one
that never stopped, without any saved sampler state.

Memory is flat in the size of the corpus. Tokens are read from mapped shards; of a recording, only the segment is read,
where its file can be sought in at the rate that is wanted; what needs the whole recording (its level and its pitch) is
measured once and kept in a file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocable.audio.io import read_part, read_utterance
from vocable.errors import ManifestError
from vocable.features.pitch import Pitch, measure_pitch
from vocable.synthesis.vocoder import VocoderConfig
from vocable.tokens.runs import frames_of
from vocable.tokens.shard_columns import TokenRows
from vocable.training.measures import Kept, Measures, MeasuresFile
from vocable.types import SpeechTokens, Utterance

KEPT_BYTES = 64 << 20
"""Samples of recordings that stay in memory, in each process: 35 minutes at 16 kHz."""


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
    """One utterance, all but its samples."""

    codes: Tensor
    """(num_codebooks, frames)"""
    voice: int
    """Its row in the table of voices."""
    measures: Measures
    read: Callable[[int, int], np.ndarray]
    """Returns int16 samples from one on, and as many as wanted."""
    hop: int
    """Samples per frame."""

    @property
    def log_f0(self) -> Tensor:
        """Pitch of every frame."""
        return self.measures.log_f0

    @property
    def voiced(self) -> Tensor:
        """Whether each frame has a pitch."""
        return self.measures.voiced

    @property
    def waveform(self) -> np.ndarray:
        """All samples, int16; read when asked for."""
        return self.read(0, self.codes.shape[1] * self.hop)


class VocoderData(Dataset):
    """Batches by step number, of utterances that are read when they are drawn.

    Samples of the last few recordings stay in memory (`KEPT_BYTES`), so that a small corpus is read once.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Utterance, SpeechTokens]],
        config: VocoderConfig,
        read: Callable[[Utterance, int], Tensor] | None = None,
        *,
        batch_size: int,
        segment_frames: int,
        prosody_batch: int = 4,
        prosody_frames: int = 500,
        loudness_db: float | None = -23.0,
        seed: int = 0,
        weights: Sequence[float] | np.ndarray | None = None,
        store: Path | None = None,
    ) -> None:
        """Choose the utterances that are long enough.

        Args:
            pairs: utterances with their tokens; rows of mapped shards stay on the disk.
            config: the vocoder's.
            read: turns an utterance into a waveform at a sample rate; None reads the audio file.
            batch_size: segments of a batch.
            segment_frames: token frames of a segment.
            prosody_batch: stretches of a batch, for the predictors of duration and pitch.
            prosody_frames: most frames of a stretch.
            loudness_db: RMS level that utterances are brought to, dB below full scale; None leaves levels alone.
            seed: decides, with the step, what is drawn.
            weights: how often each utterance is drawn, per second of its speech.
            store: folder where levels and pitch are kept; None measures them again when memory has dropped them.

        Raises:
            ManifestError: no utterance is long enough.
        """
        self.config, self.read = config, read
        rows = TokenRows.of(pairs)
        long_enough = rows.num_frames >= segment_frames + 1
        self.rows = rows.select(long_enough)
        if not len(self.rows):
            raise ManifestError(
                f"None of {len(rows)} utterances lasts {(segment_frames + 1) / config.token_frame_rate:.2f} s, which "
                "a training segment needs. Lower segment_seconds or add longer utterances."
            )
        self.batch_size, self.segment_frames = batch_size, segment_frames
        self.prosody_batch, self.prosody_frames = prosody_batch, prosody_frames
        self.loudness_db, self.seed = loudness_db, seed
        frames = self.rows.num_frames.astype(np.float64)
        drawn = frames if weights is None else frames * np.asarray(weights, dtype=np.float64)[long_enough]
        self.shares = drawn / drawn.sum()
        self.seconds = float(frames.sum() / config.token_frame_rate)
        self._voice_rows = {name: row for row, name in enumerate(config.voices)}
        self._clips: Kept[Clip] = Kept(KEPT_BYTES // 16)
        self._samples: Kept[np.ndarray] = Kept(KEPT_BYTES)
        self._measured = None
        if store is not None:
            what = (config.sample_rate, config.token_hop, loudness_db)
            self._measured = MeasuresFile(store, what, self.rows)

    def __getitem__(self, step: int) -> tuple[SegmentBatch, ProsodyBatch]:
        """Batch number `step`."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.rows), self.batch_size, p=self.shares)
        segments = [self._segment(self.clip(int(index)), rng) for index in chosen]
        waveforms, codes, log_f0, voiced = (torch.stack(column) for column in zip(*segments, strict=True))
        voices = torch.tensor([self.clip(int(index)).voice for index in chosen])
        whole = rng.choice(len(self.rows), self.prosody_batch, p=self.shares)
        return SegmentBatch(waveforms, codes, voices, Pitch(log_f0, voiced)), self._prosody(whole, rng)

    def __len__(self) -> int:
        """Number of utterances (not of steps, of which there is no end)."""
        return len(self.rows)

    def clip(self, index: int) -> Clip:
        """Read the tokens, the level and the pitch of an utterance; measure level and pitch the first time.

        Raises:
            ManifestError: the audio is much longer or shorter than the tokens say.
        """
        found = self._clips.get(index)
        if found is None:
            found = self._load(index)
            self._clips.put(index, found, 16 * found.codes.numel())
        return found

    def _load(self, index: int) -> Clip:
        utterance, tokens = self.rows[index]
        codes = frames_of(tokens).long()
        measures = None if self._measured is None else self._measured.get(index)
        if measures is None:
            measures = self._measure(index, utterance, codes.shape[1])
            if self._measured is not None:
                self._measured.put(index, measures)
        return Clip(
            codes=codes[:, : len(measures.log_f0)],
            voice=self._voice_rows.get(utterance.speaker or "", 0),
            measures=measures,
            read=functools.partial(self._read, index, utterance, measures),
            hop=self.config.token_hop,
        )

    def _measure(self, index: int, utterance: Utterance, num_frames: int) -> Measures:
        """Level the loudness of an utterance, and measure its pitch."""
        config, loudness = self.config, self.loudness_db
        waveform = self._whole(utterance)
        if abs(num_frames - len(waveform) / config.token_hop) > 0.05 * num_frames + 4:
            raise ManifestError(
                f"{utterance.id}: {len(waveform) / config.sample_rate:.2f} s of audio, but tokens for "
                f"{num_frames / config.token_frame_rate:.2f} s. Tokenize this manifest again."
            )
        waveform = waveform[: min(num_frames, len(waveform) // config.token_hop) * config.token_hop]
        scale, divisor = 1.0, 1.0
        if loudness is not None:
            scale = float(10 ** (loudness / 20) / waveform.square().mean().sqrt().clamp(min=1e-4))
            divisor = max(1.0, float((waveform * scale).abs().max()) / 0.95)
        levelled = waveform * scale / divisor
        pitch = measure_pitch(levelled[None], config.sample_rate, config.token_hop)
        self._keep(index, _to_int16(levelled))
        return Measures(scale, divisor, pitch.log_f0[0], pitch.voiced[0])

    def _read(self, index: int, utterance: Utterance, measures: Measures, first: int, count: int) -> np.ndarray:
        """Return int16 samples of the levelled utterance."""
        samples = self._samples.get(index)
        if samples is not None:
            return samples[first : first + count]
        part = None if self.read is not None else read_part(utterance, self.config.sample_rate, first, count)
        if part is not None:
            return _to_int16(part * measures.scale / measures.divisor)
        whole = self._whole(utterance)[: len(measures.log_f0) * self.config.token_hop]
        return self._keep(index, _to_int16(whole * measures.scale / measures.divisor))[first : first + count]

    def _whole(self, utterance: Utterance) -> Tensor:
        return (self.read or read_utterance)(utterance, self.config.sample_rate)

    def _keep(self, index: int, samples: np.ndarray) -> np.ndarray:
        self._samples.put(index, samples, samples.nbytes)
        return samples

    def _segment(self, clip: Clip, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = int(rng.integers(0, max(1, clip.codes.shape[1] - self.segment_frames + 1)))
        frames = slice(first, first + self.segment_frames)
        num_frames = min(self.segment_frames, clip.codes.shape[1] - first)
        samples = torch.from_numpy(clip.read(first * clip.hop, num_frames * clip.hop))
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
    rows, frames = TokenRows.of(pairs), dict[str, int]()
    for speaker, split, count in zip(
        rows.values("speaker"), rows.values("split"), map(int, rows.num_frames), strict=True
    ):
        if speaker and split in (None, "train"):
            frames[speaker] = frames.get(speaker, 0) + count
    return tuple(sorted(frames, key=lambda name: (-frames[name], name)))


def segment_frames(seconds: float, config: VocoderConfig) -> int:
    """Token frames in a training segment of about `seconds`."""
    return max(1, math.ceil(seconds * config.token_frame_rate))


def _to_int16(waveform: Tensor) -> np.ndarray:
    return (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()


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
