"""Random segments of speech with their tokens, for vocoder training.

    (Utterance, SpeechTokens) ...  ->  step number  ->  one batch

A batch depends only on the seed, the step and the process: a run that continues at step n draws the same batches as one
that never stopped, without any saved sampler state.

Memory is flat in the size of the corpus: tokens are read from mapped shards, audio as recordings.py says.
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

from vocable.errors import ManifestError
from vocable.features.pitch import REFERENCE_HZ, Pitch
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import Speaker, pitch_of
from vocable.synthesis.unit_frontend import frame_positions
from vocable.synthesis.vocoder import USUAL_PITCH, VocoderConfig
from vocable.tokens.runs import frames_of
from vocable.tokens.shard_columns import TokenRows
from vocable.training.measures import Kept, Measures
from vocable.training.recordings import KEPT_BYTES, Recordings, extend
from vocable.types import SpeechTokens, Utterance


class Content(NamedTuple):
    """Targets of the front end for a recording whose phonemes are known."""

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
    """Content that is spoken, where that is known."""
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
        self.config, self.targets = config, targets
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
        self.batch_size, self.seed = batch_size, seed
        seconds = self.rows.num_frames.astype(np.float64)
        drawn = seconds if weights is None else seconds * np.asarray(weights, dtype=np.float64)[long_enough]
        self.shares = drawn / drawn.sum()
        self.seconds = float(seconds.sum() / config.token_frame_rate)
        self._recordings: Kept[Recording] = Kept(KEPT_BYTES // 8)
        self._by_speaker: dict[str | None, list[int]] | None = None
        self._speaker_of: list[str | None] = []
        self._audio = Recordings(
            self._utterance,
            self.rows.values("id"),
            frames[long_enough],
            self.sample_rate,
            config.decoder.hop_length,
            read=read,
            loudness_db=loudness_db,
            store=store,
            encoder=encoder,
            speaker_dim=self.speaker_dim,
            speaker_encoder=config.speaker_encoder,
            check=self._refuse_other_length,
        )

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
            log_f0, voiced, energy = (extend(values[frames], count) for values in recording.measures.frames)
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
                    extend(torch.from_numpy(samples).float() / 32767, count * hop, repeat=False),
                    extend(codes, num_tokens),
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
        measures = self._audio.measures(index)
        return Recording(
            codes=codes,
            measures=measures,
            content=None if self.targets is None else self.targets(utterance, measures.frames.shape[1]),
            read=functools.partial(self._audio.samples, index, measures),
        )

    def _utterance(self, index: int) -> Utterance:
        return self.rows[index][0]

    def _refuse_other_length(self, index: int, waveform: Tensor) -> None:
        rate, wanted = self.sample_rate, self.config.num_samples(int(self.rows.num_frames[index]))
        if abs(wanted - len(waveform)) > 0.05 * wanted + 0.1 * rate:
            raise ManifestError(
                f"{self.rows[index][0].id}: {len(waveform) / rate:.2f} s of audio, but tokens for {wanted / rate:.2f} "
                "s. Tokenize this manifest again."
            )


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


def _runs(codes: Tensor, ends: int) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal columns, their durations, and which of them are whole; the first and last may go on outside."""
    runs, durations = torch.unique_consecutive(codes, dim=1, return_counts=True)
    whole = torch.ones(len(durations), dtype=torch.bool)
    whole[[0, -1]] = codes.shape[1] >= ends
    return runs, durations, whole


def _pad(items: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True)
