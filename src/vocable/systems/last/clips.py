"""The frozen features that LAST is trained on: cached in files, or computed whenever a crop is needed.

utterances -> cache_clips -> <folder>/index.json + features-*.npy -> CachedClips   } read(clip, start, stop)
utterances -> StreamedClips, which holds the frozen encoder                        }   -> (frames, dim)
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import audio_info, read_audio, read_utterance
from vocable.audio.manifest import Rejections
from vocable.errors import AudioFormatError, ConfigError
from vocable.features import FeatureEncoder
from vocable.files import replace_file
from vocable.tokens.feature_files import FRAMES_PER_FILE, write_feature_files
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.streaming import read_features
from vocable.types import Utterance

INDEX_NAME = "index.json"


class Clips(ABC):
    """Stretches of speech whose features can be read in parts."""

    names: list[str]
    """Ids of the utterances; a long recording may be several clips."""
    lengths: list[int]
    """Frames of each."""
    encoder: str
    """Fingerprint of the frozen encoder."""

    @abstractmethod
    def read(self, clip: int, start: int, stop: int) -> Float[Tensor, "frames dim"] | None:
        """Return features of a clip, on the CPU; None when its recording turned out to be unreadable."""

    def describe(self) -> dict[str, Any]:
        """Say what the clips are, well enough to notice others, as JSON values."""
        listed = json.dumps([self.names, self.lengths]).encode()
        return {
            "clips": len(self.names),
            "frames": sum(self.lengths),
            "sha256": hashlib.sha256(listed).hexdigest(),
            "encoder": self.encoder,
        }


class _Place(NamedTuple):
    """Where a clip lies."""

    file: str
    first: int


class CachedClips(Clips):
    """Features that `cache_clips` wrote; they are mapped into memory, not loaded."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((Path(folder) / INDEX_NAME).read_text(encoding="utf-8"))
        self.folder = Path(folder)
        self.names = [name for name, *_ in index["clips"]]
        self.lengths = [length for *_, length in index["clips"]]
        self.encoder = index["encoder"]
        self._places = [_Place(file, first) for _, file, first, _ in index["clips"]]

    def read(self, clip: int, start: int, stop: int) -> Float[Tensor, "frames dim"]:
        """Return features of a clip."""
        place = self._places[clip]
        frames = np.load(self.folder / place.file, mmap_mode="r")
        return torch.from_numpy(frames[place.first + start : place.first + stop].copy())


def cache_clips(
    utterances: Sequence[Utterance],
    encoder: FeatureEncoder,
    folder: Path,
    *,
    rejections: Rejections | None = None,
    strict: bool = False,
    on_utterance: Callable[[], None] | None = None,
    frames_per_file: int = FRAMES_PER_FILE,
) -> CachedClips:
    """Encode all utterances into files, unless `folder` holds these very features already.

    A recording of over ten minutes becomes several clips. An extraction that was cut off begins again.

    Raises:
        AudioFormatError: an unreadable recording, when `strict`.
        ConfigError: no recording can be read.
        OutputError: the disk is full.
    """
    folder, index = Path(folder), Path(folder) / INDEX_NAME
    wanted = _cache_key(utterances, encoder)
    if index.is_file() and json.loads(index.read_text(encoding="utf-8"))["key"] == wanted:
        return CachedClips(folder)
    index.unlink(missing_ok=True)  # first, so that no index stands beside other files
    for old in folder.glob("features-*.npy"):
        old.unlink()
    lengths: list[tuple[str, int]] = []

    def features() -> Iterator[Tensor]:
        for utterance in utterances:
            for piece in read_features(utterance, encoder, rejections, strict)[1]:
                lengths.append((utterance.id, len(piece)))
                yield piece
            if on_utterance is not None:
                on_utterance()

    paths = write_feature_files(features(), folder, frames_per_file)
    if not lengths:
        raise ConfigError(f"None of the {len(utterances)} recordings can be read; there is nothing to train on.")
    rows = [[name, *place, length] for (name, length), place in zip(lengths, _places(paths, lengths), strict=True)]
    content = {"key": wanted, "encoder": encoder_fingerprint(encoder.description()), "clips": rows}
    with replace_file(index) as file:
        file.write(json.dumps(content).encode())
    return CachedClips(folder)


class StreamedClips(Clips):
    """Features that are computed when they are asked for, from the audio of the crop and some context around it."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        encoder: FeatureEncoder,
        *,
        rejections: Rejections | None = None,
        strict: bool = False,
    ) -> None:
        """Find out how long everything is, from the manifest or else from the files.

        Raises:
            AudioFormatError: an unreadable recording, when `strict`; later also from `read`.
            ConfigError: no recording can be read.
        """
        self._encoder, self._rejections, self._strict = encoder, rejections, strict
        self.encoder = encoder_fingerprint(encoder.description())
        self._utterances, self.lengths = [], []
        for utterance in utterances:
            try:
                seconds = utterance.duration or audio_info(utterance.audio).duration - utterance.start
            except AudioFormatError as error:
                self._reject(utterance, error)
                continue
            self._utterances.append(utterance)
            self.lengths.append(encoder.num_frames(max(int(seconds * encoder.sample_rate), 1)))
        if not self._utterances:
            raise ConfigError(f"None of the {len(utterances)} recordings can be read; there is nothing to train on.")
        self.names = [utterance.id for utterance in self._utterances]

    def read(self, clip: int, start: int, stop: int) -> Float[Tensor, "frames dim"] | None:
        """Return features of a clip, encoded with `context_seconds` on both sides where the clip has as much."""
        encoder, utterance, length = self._encoder, self._utterances[clip], self.lengths[clip]
        first, last = max(start - encoder.context_frames, 0), min(stop + encoder.context_frames, length)
        try:
            if (first, last) == (0, length):
                waveform = read_utterance(utterance, encoder.sample_rate)
            else:
                begin = utterance.start + first * encoder.hop_length / encoder.sample_rate
                seconds = encoder.num_samples(last - first) / encoder.sample_rate
                waveform = read_audio(utterance.audio, encoder.sample_rate, begin, seconds).waveform
        except AudioFormatError as error:
            self._reject(utterance, error)
            return None
        (features,) = encoder.encode([waveform])
        return features[start - first : stop - first].cpu()

    def _reject(self, utterance: Utterance, error: AudioFormatError) -> None:
        if self._strict:
            raise error
        if self._rejections is not None:
            self._rejections.add(utterance.id, str(utterance.audio), str(error))


def _places(paths: Sequence[Path], lengths: Sequence[tuple[str, int]]) -> list[_Place]:
    """Find every clip in the files, which hold whole clips one behind the other."""
    places, file, first = [], 0, 0
    sizes = [len(np.load(path, mmap_mode="r")) for path in paths]
    for _, length in lengths:
        if first == sizes[file]:
            file, first = file + 1, 0
        places.append(_Place(paths[file].name, first))
        first += length
    return places


def _cache_key(utterances: Sequence[Utterance], encoder: FeatureEncoder) -> str:
    """Hash what decides the features: the encoder, its number type and windows, and the stretches of audio."""
    rows = [[u.id, str(u.audio), u.start, u.duration] for u in utterances]
    work = [encoder.dtype, encoder.window_frames, encoder.context_frames]
    return hashlib.sha256(json.dumps([encoder.description(), work, rows]).encode()).hexdigest()
