"""Random segments of speech with their tokens, for vocoder training.

    (Utterance, SpeechTokens) ...  ->  step number  ->  one batch

A batch depends only on the seed, the step and the process: a run that continues at step n draws the same batches as one
that never stopped, without any saved sampler state.

Memory is flat in the size of the corpus. Tokens are read from mapped shards; of a recording, only the segment is read,
where its file can be sought in; what needs the whole recording (level, pitch, energy, speaker) is measured once and
kept in a file.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocable.audio.io import audio_info, read_part, read_utterance
from vocable.audio.waveforms import resample
from vocable.errors import AudioFormatError, ManifestError
from vocable.features.pitch import REFERENCE_HZ, Pitch, bridge_voicing, measure_energy, measure_pitch
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import LONGEST_SECONDS, Speaker, pitch_of
from vocable.synthesis.unit_frontend import frame_positions
from vocable.synthesis.vocoder import USUAL_PITCH, VocoderConfig
from vocable.tokens.runs import frames_of
from vocable.tokens.shard_columns import TokenRows
from vocable.training.measures import Kept, Measures, MeasuresFile
from vocable.types import SpeechTokens, Utterance

KEPT_BYTES = 96 << 20
"""Samples of recordings that stay in memory, in each process: 35 minutes at 24 kHz."""


class Content(NamedTuple):
    """What the front end is to say of a recording whose phonemes are known."""

    vectors: Tensor
    """(symbols, content_dim): content of each symbol"""
    ids: Tensor
    """(symbols,): which symbol it is"""
    places: Tensor
    """(frames,): number of the symbol that each frame holds"""


class ContentTargets(Protocol):
    """Says what is spoken in a recording."""

    def __call__(self, utterance: Utterance, num_frames: int) -> Content | None:
        """Return its content; None where it is not known."""
        ...


class SegmentBatch(NamedTuple):
    """Segments of one length in frames of the decoder, and the tokens that they lie among."""

    waveforms: Tensor
    """(batch, samples)"""
    codes: Tensor
    """(batch, num_codebooks, tokens)"""
    positions: Tensor
    """(batch, frames): where each frame lies among the tokens"""
    f0: Tensor
    """(batch, frames); Hz, 0 where unvoiced"""
    pitch: Tensor
    """(batch, frames); log F0 in standard deviations of the speaker, a line through unvoiced frames"""
    has_pitch: Tensor
    """(batch, frames): whether the pitch was measured"""
    energy: Tensor
    """(batch, frames)"""
    speakers: Tensor
    """(batch, speaker_dim)"""
    speaker_pitch: Tensor
    """(batch, 2): mean and standard deviation of log F0"""
    content: Tensor
    """(batch, frames, content_dim)"""
    symbols: Tensor
    """(batch, frames): phoneme symbols; -1 where they, and the content, are not known"""
    run_codes: Tensor
    """(batch, num_codebooks, runs)"""
    durations: Tensor
    """(batch, runs); token frames"""
    run_mask: Tensor
    """(batch, runs); False also for runs that the cut has shortened"""


@dataclass(slots=True)
class Recording:
    """One utterance, all but its samples."""

    codes: Tensor
    """(num_codebooks, tokens)"""
    measures: Measures
    content: Content | None
    """What is spoken, where that is known."""
    read: Callable[[int, int], np.ndarray]
    """Returns int16 samples from one on, and as many as wanted."""

    @property
    def speaker(self) -> Speaker:
        """Its speaker; a recording without a voiced frame has the usual pitch."""
        pitch = pitch_of(Pitch(self.measures.log_f0[None], self.measures.is_measured[None]))
        return Speaker(self.measures.speaker, torch.tensor(USUAL_PITCH) if pitch is None else pitch)

    @property
    def f0(self) -> Tensor:
        """Hz; 0 where unvoiced."""
        return REFERENCE_HZ * self.measures.log_f0.exp() * self.measures.voiced

    @property
    def num_frames(self) -> int:
        """Frames of the decoder."""
        return self.measures.frames.shape[1]


class Piece(NamedTuple):
    """A piece of a recording."""

    recording: Recording
    first: int
    """Its first frame."""
    vector: Tensor
    """(dim,): the speaker vector that it is to be spoken with"""


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
        batch_size: int = 1,
        segment_seconds: float = 1.6,
        loudness_db: float | None = -27.0,
        seed: int = 0,
        weights: Sequence[float] | np.ndarray | None = None,
        store: Path | None = None,
        encoder: SpeakerEncoder | None = None,
        targets: ContentTargets | None = None,
    ) -> None:
        """Choose the utterances that are long enough.

        Args:
            pairs: utterances with their tokens; rows of mapped shards stay on the disk.
            config: the vocoder's.
            read: turns an utterance into a waveform at a sample rate; None reads the audio file.
            batch_size: segments of a batch.
            segment_seconds: length of a segment.
            loudness_db: RMS level that utterances are brought to, dB below full scale; None leaves levels alone.
            seed: decides, with the step, what is drawn.
            weights: how often each utterance is drawn, per second of its speech.
            store: folder where measures are kept; None measures them again when memory has dropped them.
            encoder: of speaker vectors; None leaves them zero.
            targets: content of recordings whose phones are known.

        Raises:
            ManifestError: no utterance is long enough.
        """
        self.config, self.read, self.encoder, self.targets = config, read, encoder, targets
        self.segment_frames = max(1, math.ceil(segment_seconds * config.decoder.frame_rate))
        rows = TokenRows.of(pairs)
        frames = np.array([config.num_frames(int(count)) for count in rows.num_frames], dtype=np.int64)
        long_enough = frames >= self.segment_frames + 2
        self.rows = rows.select(long_enough)
        if not len(self.rows):
            raise ManifestError(
                f"None of {len(rows)} utterances lasts {(self.segment_frames + 2) / config.decoder.frame_rate:.2f} s, "
                "which a training segment needs. Lower segment_seconds or add longer utterances."
            )
        self.batch_size, self.loudness_db, self.seed = batch_size, loudness_db, seed
        seconds = self.rows.num_frames.astype(np.float64)
        drawn = seconds if weights is None else seconds * np.asarray(weights, dtype=np.float64)[long_enough]
        self.shares = drawn / drawn.sum()
        self.seconds = float(seconds.sum() / config.token_frame_rate)
        self._recordings: Kept[Recording] = Kept(KEPT_BYTES // 8)
        self._samples: Kept[np.ndarray] = Kept(KEPT_BYTES)
        self._by_speaker: dict[str | None, list[int]] | None = None
        self._speaker_of: list[str | None] = []
        self._measured = None
        if store is not None:
            what = (self.sample_rate, config.decoder.hop_length, loudness_db, config.speaker_encoder)
            self._measured = MeasuresFile(store, what, self.rows, frames[long_enough], self.speaker_dim)

    @property
    def sample_rate(self) -> int:
        """Samples per second, Hz."""
        return self.config.decoder.sample_rate

    @property
    def speaker_dim(self) -> int:
        """Length of the speaker vectors; 0 where none is read."""
        return self.config.decoder.speaker_dim or 0

    def __getitem__(self, step: int) -> SegmentBatch:
        """Batch number `step`."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.rows), self.batch_size, p=self.shares)
        pieces = []
        for index in map(int, chosen):
            recording = self.recording(index)
            first = int(rng.integers(0, max(1, recording.num_frames - self.segment_frames + 1)))
            pieces.append(Piece(recording, first, self.recording(self._same_speaker(index, rng)).measures.speaker))
        return self.batch(pieces, self.segment_frames)

    def __len__(self) -> int:
        """Number of utterances (not of steps, of which there is no end)."""
        return len(self.rows)

    def _same_speaker(self, index: int, rng: np.random.Generator) -> int:
        """The recording itself, or as often another one of its speaker: the voice is to be copied, not the words."""
        if not self.speaker_dim or rng.random() < 0.5:
            return index
        if self._by_speaker is None:
            self._by_speaker = defaultdict(list)
            self._speaker_of = list(self.rows.values("speaker"))
            for row, name in enumerate(self._speaker_of):
                self._by_speaker[name].append(row)
        name = self._speaker_of[index]
        return index if name is None else int(rng.choice(self._by_speaker[name]))

    def batch(self, pieces: Sequence[Piece], count: int) -> SegmentBatch:
        """Cut `count` frames out of each recording; what is missing at the end is silence."""
        hop, ratio, columns = self.config.decoder.hop_length, self.config.tokens_per_frame, []
        num_tokens = math.ceil(count * ratio) + 2
        for recording, first, vector in pieces:
            frames, last = slice(first, first + count), first + count - recording.num_frames
            first_token = min(max(0, int((first + 0.5) * ratio - 0.5)), max(0, recording.codes.shape[1] - num_tokens))
            codes = recording.codes[:, first_token : first_token + num_tokens]
            samples = recording.read(first * hop, count * hop)
            log_f0, voiced, energy = (_extend(values[frames], count) for values in recording.measures.frames)
            speaker = recording.speaker
            assert speaker.pitch is not None
            hz = math.log(REFERENCE_HZ)
            content = torch.zeros(count, self.config.decoder.content_dim)
            symbols = torch.full((count,), -1)
            if recording.content is not None:
                places = recording.content.places[frames]
                content[: len(places)] = recording.content.vectors[places]
                symbols[: len(places)] = recording.content.ids[places]
            if last > 0:
                voiced[-last:] = 0
            columns.append(
                (
                    _extend(torch.from_numpy(samples).float() / 32767, count * hop, repeat=False),
                    _extend(codes, num_tokens),
                    frame_positions(first, count, ratio, first_token),
                    (log_f0 + hz).exp() * (voiced > 0),
                    (log_f0 + hz - speaker.pitch[0]) / speaker.pitch[1],
                    voiced > 1,
                    energy,
                    vector,
                    speaker.pitch,
                    content,
                    symbols,
                )
            )
        tensors = [torch.stack(column) for column in zip(*columns, strict=True)]
        runs = [
            _runs(codes[:, : recording.codes.shape[1]], ends=recording.codes.shape[1])
            for codes, (recording, _, _) in zip(tensors[1], pieces)
        ]
        return SegmentBatch(
            *tensors,
            run_codes=_pad([run.T for run, _, _ in runs]).mT,
            durations=_pad([durations for _, durations, _ in runs]),
            run_mask=_pad([whole for _, _, whole in runs]),
        )

    def recording(self, index: int) -> Recording:
        """Read the tokens and measures of an utterance; measure the first time.

        Raises:
            ManifestError: the audio is much longer or shorter than the tokens say.
        """
        found = self._recordings.get(index)
        if found is None:
            found = self._load(index)
            self._recordings.put(index, found, 16 * found.codes.numel() + 12 * found.num_frames)
        return found

    def _load(self, index: int) -> Recording:
        utterance, tokens = self.rows[index]
        codes = frames_of(tokens).long()
        measures = None if self._measured is None else self._measured.get(index)
        if measures is None:
            measures = self._measure(index, utterance, codes.shape[1])
            if self._measured is not None:
                self._measured.put(index, measures)
        return Recording(
            codes=codes,
            measures=measures,
            content=None if self.targets is None else self.targets(utterance, measures.frames.shape[1]),
            read=functools.partial(self._read, index, utterance, measures),
        )

    def _measure(self, index: int, utterance: Utterance, num_tokens: int) -> Measures:
        """Level the loudness of an utterance, and measure its pitch, its energy and its speaker."""
        rate, hop, loudness = self.sample_rate, self.config.decoder.hop_length, self.loudness_db
        waveform = self._whole(utterance)
        wanted = self.config.num_samples(num_tokens)
        if abs(wanted - len(waveform)) > 0.05 * wanted + 0.1 * rate:
            raise ManifestError(
                f"{utterance.id}: {len(waveform) / rate:.2f} s of audio, but tokens for {wanted / rate:.2f} s. "
                "Tokenize this manifest again."
            )
        waveform = _extend(waveform, self.config.num_frames(num_tokens) * hop, repeat=False)
        scale, divisor = 1.0, 1.0
        if loudness is not None:
            scale = float(10 ** (loudness / 20) / waveform.square().mean().sqrt().clamp(min=1e-4))
            divisor = max(1.0, float((waveform * scale).abs().max()) / 0.95)
        levelled = waveform * scale / divisor
        pitch, energy = measure_pitch(levelled[None], rate, hop), measure_energy(levelled, rate, hop)
        measured = pitch.voiced[0]
        voicing = measured.float() + bridge_voicing(measured, energy, rate / hop)
        frames = torch.stack([pitch.log_f0[0], voicing, energy])
        self._keep(index, _to_int16(levelled))
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

    def _read(self, index: int, utterance: Utterance, measures: Measures, first: int, count: int) -> np.ndarray:
        """Return int16 samples of the levelled utterance."""
        samples = self._samples.get(index)
        if samples is not None:
            return samples[first : first + count]
        if self.read is None:
            part = _part(utterance, self.sample_rate, first, count)
            return _to_int16(part * measures.scale / measures.divisor)
        whole = _extend(self._whole(utterance), measures.frames.shape[1] * self.config.decoder.hop_length, repeat=False)
        return self._keep(index, _to_int16(whole * measures.scale / measures.divisor))[first : first + count]

    def _whole(self, utterance: Utterance) -> Tensor:
        return (self.read or read_utterance)(utterance, self.sample_rate)

    def _keep(self, index: int, samples: np.ndarray) -> np.ndarray:
        self._samples.put(index, samples, samples.nbytes)
        return samples


def voices_by_speech(
    pairs: Sequence[tuple[Utterance, SpeechTokens]], min_seconds: float = 0.0, frame_rate: float = 50.0
) -> tuple[str, ...]:
    """Speakers that are trained on for so many seconds or more, those with most speech first."""
    rows, seconds = TokenRows.of(pairs), dict[str, float]()
    for speaker, split, count in zip(
        rows.values("speaker"), rows.values("split"), map(int, rows.num_frames), strict=True
    ):
        if speaker and split in (None, "train"):
            seconds[speaker] = seconds.get(speaker, 0.0) + count / frame_rate
    return tuple(sorted((name for name in seconds if seconds[name] >= min_seconds), key=lambda n: (-seconds[n], n)))


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


def _extend(values: Tensor, length: int, *, repeat: bool = True) -> Tensor:
    """Cut or lengthen the last dimension, by its last value or by zeros."""
    missing = length - values.shape[-1]
    if missing <= 0:
        return values[..., :length].clone()
    tail = values[..., -1:] if repeat and values.shape[-1] else values.new_zeros(*values.shape[:-1], 1)
    return torch.cat([values, tail.expand(*values.shape[:-1], missing)], -1)


def _to_int16(waveform: Tensor) -> np.ndarray:
    return (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()


def _runs(codes: Tensor, ends: int) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal columns, their durations, and which of them are whole; the first and last may go on outside."""
    runs, durations = torch.unique_consecutive(codes, dim=1, return_counts=True)
    whole = torch.ones(len(durations), dtype=torch.bool)
    whole[[0, -1]] = codes.shape[1] >= ends
    return runs, durations, whole


def _pad(items: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
