"""Recordings that training draws crops from: their level, pitch, energy and speaker, and samples from any place on.

    Utterance  ->  measures (once, kept in a file), samples (the part that is asked for)

Memory is flat in the size of the corpus: of a recording, only the part is read, where its file can be sought in; what
needs the whole recording is measured once and kept in a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocable.audio.io import audio_info, read_part, read_utterance
from vocable.audio.waveforms import resample
from vocable.errors import AudioFormatError
from vocable.features.pitch import bridge_voicing, measure_energy, measure_pitch
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import LONGEST_SECONDS
from vocable.training.measures import Kept, Measures, MeasuresFile
from vocable.types import Utterance

KEPT_BYTES = 96 << 20
"""Samples of recordings that stay in memory, in each process: 35 minutes at 24 kHz."""


class Recordings:
    """Recordings by number, at one sample rate and one level.

    Samples of the last few stay in memory (`KEPT_BYTES`), so that a small corpus is read once.
    """

    def __init__(
        self,
        utterance: Callable[[int], Utterance],
        ids: Iterable[str],
        num_frames: Sequence[int] | np.ndarray,
        sample_rate: int,
        hop_length: int,
        *,
        read: Callable[[Utterance, int], Tensor] | None = None,
        loudness_db: float | None = -27.0,
        store: Path | None = None,
        encoder: SpeakerEncoder | None = None,
        speaker_dim: int = 0,
        speaker_encoder: str = "",
        check: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        """Plan where the measures of each recording lie; nothing is read yet.

        Args:
            utterance: returns the utterance of a number.
            ids: of all utterances, in the order of their numbers.
            num_frames: how many frames of `hop_length` are measured of each; it is cut or lengthened to them.
            sample_rate: of the samples, Hz.
            hop_length: samples per frame of pitch and energy.
            read: turns an utterance into a waveform at a sample rate; None reads the audio file.
            loudness_db: RMS level that utterances are brought to, dB below full scale; None leaves levels alone.
            store: folder where measures are kept; None measures them again when memory has dropped them.
            encoder: of speaker vectors; None leaves them zero.
            speaker_dim: length of the speaker vectors.
            speaker_encoder: name of the encoder, for the file of measures.
            check: told the number and the whole waveform of a recording before it is measured.
        """
        self.utterance, self.num_frames = utterance, np.asarray(num_frames, dtype=np.int64)
        self.sample_rate, self.hop_length, self.loudness_db = sample_rate, hop_length, loudness_db
        self.encoder, self.speaker_dim, self._read_whole, self._check = encoder, speaker_dim, read, check
        self._samples: Kept[np.ndarray] = Kept(KEPT_BYTES)
        self._measured = None
        if store is not None:
            what = (sample_rate, hop_length, loudness_db, speaker_encoder)
            self._measured = MeasuresFile(store, what, ids, self.num_frames, speaker_dim)

    def measures(self, index: int) -> Measures:
        """Return level, pitch, energy and speaker of a recording; they are measured the first time."""
        measures = None if self._measured is None else self._measured.get(index)
        if measures is None:
            measures = self._measure(index)
            if self._measured is not None:
                self._measured.put(index, measures)
        return measures

    def samples(self, index: int, measures: Measures | None, first: int, count: int) -> np.ndarray:
        """Return int16 samples from one on, fewer where the recording ends; without measures, at its own level."""
        samples = self._samples.get(index)
        if samples is not None:
            return samples[first : first + count]
        scale, divisor = (1.0, 1.0) if measures is None else (measures.scale, measures.divisor)
        utterance = self.utterance(index)
        if self._read_whole is None:
            return to_int16(_part(utterance, self.sample_rate, first, count) * scale / divisor)
        whole = extend(self._whole(utterance), int(self.num_frames[index]) * self.hop_length, repeat=False)
        return self._keep(index, to_int16(whole * scale / divisor))[first : first + count]

    def _measure(self, index: int) -> Measures:
        """Level the loudness of a recording, and measure its pitch, its energy and its speaker."""
        rate, hop, loudness = self.sample_rate, self.hop_length, self.loudness_db
        waveform = self._whole(self.utterance(index))
        if self._check is not None:
            self._check(index, waveform)
        waveform = extend(waveform, int(self.num_frames[index]) * hop, repeat=False)
        scale, divisor = 1.0, 1.0
        if loudness is not None:
            scale = float(10 ** (loudness / 20) / waveform.square().mean().sqrt().clamp(min=1e-4))
            divisor = max(1.0, float((waveform * scale).abs().max()) / 0.95)
        levelled = waveform * scale / divisor
        pitch, energy = measure_pitch(levelled[None], rate, hop), measure_energy(levelled, rate, hop)
        measured = pitch.voiced[0]
        voicing = measured.float() + bridge_voicing(measured, energy, rate / hop)
        frames = torch.stack([pitch.log_f0[0], voicing, energy])
        self._keep(index, to_int16(levelled))
        return Measures(scale, divisor, frames.float(), self._speaker(levelled))

    def _speaker(self, waveform: Tensor) -> Tensor:
        if self.encoder is None:
            return torch.zeros(self.speaker_dim)
        heard = resample(
            waveform[: round(LONGEST_SECONDS * self.sample_rate)], self.sample_rate, self.encoder.sample_rate
        )
        try:
            return self.encoder.embed(heard)
        except AudioFormatError:  # silence
            return torch.zeros(self.speaker_dim)

    def _whole(self, utterance: Utterance) -> Tensor:
        return (self._read_whole or read_utterance)(utterance, self.sample_rate)

    def _keep(self, index: int, samples: np.ndarray) -> np.ndarray:
        self._samples.put(index, samples, samples.nbytes)
        return samples


def extend(values: Tensor, length: int, *, repeat: bool = True) -> Tensor:
    """Cut or lengthen the last dimension, by its last value or by zeros."""
    missing = length - values.shape[-1]
    if missing <= 0:
        return values[..., :length].clone()
    tail = values[..., -1:] if repeat and values.shape[-1] else values.new_zeros(*values.shape[:-1], 1)
    return torch.cat([values, tail.expand(*values.shape[:-1], missing)], -1)


def to_int16(waveform: Tensor) -> np.ndarray:
    """Round samples of [-1, 1]."""
    return (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()


def _part(utterance: Utterance, sample_rate: int, first: int, count: int) -> Tensor:
    """Read a part of an utterance at any rate, with a margin that takes the edge of the resampling.

    What lies after its end is missing.
    """
    info = audio_info(utterance.audio)
    own, end = info.sample_rate, info.num_samples - round(utterance.start * info.sample_rate)
    if utterance.duration is not None:
        end = min(end, round(utterance.duration * own))
    step = own // math.gcd(own, sample_rate)  # samples of the file after which both clocks meet
    margin = 0 if own == sample_rate else own // 20
    start = max(0, (first * own // sample_rate - margin) // step * step)
    stop = min((first + count) * own // sample_rate + margin, end)
    if stop <= start:
        return torch.zeros(0)
    samples = read_part(utterance, own, start, stop - start)
    assert samples is not None
    skipped = first - start * sample_rate // own
    return resample(samples, own, sample_rate)[skipped : skipped + count]
