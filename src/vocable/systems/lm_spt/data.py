"""Crops of recordings by step number, for codec training: any manifest, memory flat in its size.

A batch depends only on the seed, the step and the process, so a run that continues draws what it would have drawn.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections
from vocable.errors import AudioFormatError, ManifestError
from vocable.features.pitch import REFERENCE_HZ
from vocable.features.speaker import SpeakerEncoder
from vocable.systems.lm_spt.decoders import CodecDecoder, Crops
from vocable.training.measures import Kept
from vocable.training.recordings import Recordings, extend
from vocable.training.vocoder_data import Content, ContentTargets
from vocable.types import Utterance

KEPT_CONTENTS = 16 << 20
"""Bytes of content that stay in memory, in each process."""
TRIES = 100
"""Unreadable recordings in a row after which drawing gives up."""


class CropData(Dataset):
    """Batches of crops by step number."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        decoder: CodecDecoder,
        *,
        crop_samples: int,
        batch_size: int = 1,
        loudness_db: float | None = None,
        gain_db: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
        fixed: bool = False,
        store: Path | None = None,
        encoder: SpeakerEncoder | None = None,
        targets: ContentTargets | None = None,
        read: Callable[[Utterance, int], Tensor] | None = None,
        rejections: Rejections | None = None,
        strict: bool = False,
    ) -> None:
        """Look up how long each recording is.

        Args:
            utterances: speech to draw from, each in proportion to its length.
            decoder: whose sample rate crops have, and who says what must be measured.
            crop_samples: length of a crop; shorter recordings are filled up with silence.
            batch_size: crops of a batch.
            loudness_db: RMS level that recordings are brought to, dB below full scale; None leaves levels alone.
            gain_db: each crop is made louder by a number of dB from this range.
            seed: decides, with the step, what is drawn.
            fixed: whether crops begin at multiples of their length and keep one gain each, so that they occur again.
            store: folder where measures are kept.
            encoder: of speaker vectors, where the decoder is to know them.
            targets: content of recordings whose phonemes are known, where the decoder predicts it.
            read: turns an utterance into a waveform at a sample rate; None reads the audio file.
            rejections: where unreadable recordings are noted.
            strict: whether an unreadable recording is an error instead.

        Raises:
            AudioFormatError: a recording is unreadable, when `strict`.
            ManifestError: no recording can be read.
        """
        self.rate, self.hop = decoder.sample_rate, decoder.measured_hop or 1
        self.needs_measures = decoder.measured_hop is not None or loudness_db is not None
        self.crop_samples, self.batch_size, self.seed, self.gain_db = crop_samples, batch_size, seed, gain_db
        self.rejections, self.strict = rejections, strict
        self.targets, self.content_dim = targets, decoder.content_dim if targets is not None else 0
        self._contents: Kept[Content | None] = Kept(KEPT_CONTENTS)
        hop = decoder.measured_hop or round(self.rate / 100)
        self.utterances: list[Utterance] = []
        seconds = []
        for utterance in utterances:
            try:
                found = utterance.duration or audio_info(utterance.audio).duration - utterance.start
            except AudioFormatError as error:
                self._reject(utterance, error)
                continue
            if found > 0:
                self.utterances.append(utterance)
                seconds.append(found)
        if not seconds:
            raise ManifestError(f"None of {len(utterances)} recordings can be read; there is nothing to train on.")
        self.seconds = np.array(seconds)
        self.shares = self.seconds / self.seconds.sum()
        self.audio = Recordings(
            self.utterances.__getitem__,
            (utterance.id for utterance in self.utterances),
            np.ceil(self.seconds * self.rate / hop - 1e-6).astype(np.int64),
            self.rate,
            hop,
            read=read,
            loudness_db=loudness_db,
            store=store,
            encoder=encoder,
            speaker_dim=decoder.speaker_dim,
            speaker_encoder="" if encoder is None else type(encoder).__name__,
        )
        self._measured_hop = decoder.measured_hop
        self.fixed = fixed
        places = np.maximum(1, (self.seconds * self.rate + 1e-6) // crop_samples).astype(np.int64)
        self.first_places = np.cumsum([0, *places])
        """Number of the first fixed place of each recording, and of all places."""

    def __len__(self) -> int:
        """Number of recordings (not of steps, of which there is no end)."""
        return len(self.utterances)

    def __getitem__(self, step: int) -> Crops:
        """Batch number `step`."""
        rng = np.random.default_rng((self.seed, step))
        return _stack([self._draw(rng) for _ in range(self.batch_size)])

    def describe(self) -> dict[str, Any]:
        """Describe the recordings well enough to notice other ones."""
        pairs = zip(self.utterances, self.seconds, strict=True)
        listed = json.dumps([[utterance.id, round(float(length), 3)] for utterance, length in pairs])
        return {"recordings": len(self), "sha256": hashlib.sha256(listed.encode()).hexdigest()[:16]}

    def whole(self, index: int, longest: int, multiple: int) -> Crops:
        """Return a recording from its start, at most `longest` samples: a batch of one, for validation.

        Silence fills it up to a multiple of so many samples.
        """
        count = min(longest, math.ceil(self.seconds[index] * self.rate))
        return _stack([self._crop(index, 0, max(-(-count // multiple), 1) * multiple, 1.0)])

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        for _ in range(TRIES):
            index = int(rng.choice(len(self), p=self.shares))
            if self.fixed:
                place = int(rng.integers(self.first_places[index], self.first_places[index + 1]))
                first = (place - int(self.first_places[index])) * self.crop_samples // self.hop * self.hop
                gain = 10 ** (np.random.default_rng((self.seed, 0, place)).uniform(*self.gain_db) / 20)
            else:
                place, last = -1, math.floor(self.seconds[index] * self.rate) - self.crop_samples
                first = int(rng.integers(0, max(0, last) // self.hop + 1)) * self.hop
                gain = 10 ** (rng.uniform(*self.gain_db) / 20)
            try:
                return self._crop(index, first, self.crop_samples, gain, place)
            except AudioFormatError as error:
                self._reject(self.utterances[index], error)
        raise ManifestError(f"{TRIES} recordings in a row could not be read: see rejected.jsonl.")

    def _crop(self, index: int, first: int, count: int, gain: float, place: int = -1) -> tuple[Tensor, ...]:
        measures = self.audio.measures(index) if self.needs_measures else None
        samples = torch.from_numpy(self.audio.samples(index, measures, first, count)).float() / 32767 * gain
        length = torch.tensor(len(samples))
        waveform = extend(samples, count, repeat=False)
        frames = 0 if self._measured_hop is None else -(-count // self._measured_hop)
        content, has_content = torch.zeros(frames, self.content_dim), torch.zeros(frames, dtype=torch.bool)
        if measures is None or not frames:
            nothing, speaker = torch.zeros(0), torch.zeros(self.audio.speaker_dim)
            known = nothing, nothing.bool(), nothing, speaker, content, has_content
            return waveform, length, *known, torch.tensor(place)
        assert self._measured_hop is not None
        start = first // self._measured_hop
        log_f0, voiced, energy = (extend(row[start:], frames) for row in measures.frames)
        missing = start + frames - measures.frames.shape[1]
        if missing > 0:
            voiced[-missing:] = 0
        f0 = (log_f0 + math.log(REFERENCE_HZ)).exp() * (voiced > 0)
        known = self._content(index, measures.frames.shape[1])
        if known is not None:
            places = known.places[start : start + frames]
            content[: len(places)], has_content[: len(places)] = known.vectors[places], True
        measured = f0, voiced > 1, energy, measures.speaker, content, has_content
        return waveform, length, *measured, torch.tensor(place)

    def _content(self, index: int, num_frames: int) -> Content | None:
        if self.targets is None:
            return None
        if self._contents.get(index) is None:
            found = self.targets(self.utterances[index], num_frames)
            size = 0 if found is None else 4 * found.vectors.numel() + 8 * len(found.places)
            self._contents.put(index, found, size + 64)
            return found
        return self._contents.get(index)

    def _reject(self, utterance: Utterance, error: AudioFormatError) -> None:
        if self.strict:
            raise error
        if self.rejections is not None:
            self.rejections.add(utterance.id, utterance.audio, str(error))


def _stack(rows: Sequence[tuple[Tensor, ...]]) -> Crops:
    return Crops(*(torch.stack(column) for column in zip(*rows, strict=True)))
