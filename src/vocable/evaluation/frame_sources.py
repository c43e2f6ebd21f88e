"""Frames to compare: units of a tokenizer, features of an encoder, or arrays that somebody else computed.

utterances  ->  (id, frames): integer codes (frames, num_codebooks) or vectors (frames, dim), with their frame rate
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.errors import AudioFormatError, ConfigError
from vocable.evaluation.token_sources import TokenSource
from vocable.tokens.agreement import frames_of
from vocable.types import Utterance

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSource:
    """Iterate for the id and the frames of every utterance that has some."""

    frame_rate: float
    """Frames per second."""
    read: Callable[[], Iterator[tuple[str, Tensor]]]
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of what makes the frames."""
    excluded: Counter[str] = field(default_factory=Counter)
    """Utterances left out while reading, by reason."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.read()


def token_frames(source: TokenSource) -> FrameSource:
    """Codes frame by frame, those of several codebooks side by side.

    Raises:
        ConfigError: the tokens follow words.
    """

    def read() -> Iterator[tuple[str, Tensor]]:
        for utterance, tokens in source:
            yield utterance.id, frames_of(tokens).mT

    return FrameSource(
        frame_rate=source.frame_rate,
        read=read,
        fingerprints={"tokenizer": source.card["fingerprint"]},
        excluded=source.excluded,
    )


def encoder_frames(utterances: Sequence[Utterance], name: str, layer: int, device: str = "cpu") -> FrameSource:
    """Features of an encoder, by name or folder, up to a layer.

    Raises:
        AssetError, ConfigError: see `load_encoder`.
    """
    from vocable.audio.io import read_utterance
    from vocable.features import EncoderConfig, load_encoder
    from vocable.tokens.fingerprint import encoder_fingerprint

    encoder = load_encoder(EncoderConfig(name=name, layer=layer)).to(device)
    excluded: Counter[str] = Counter()

    def read() -> Iterator[tuple[str, Tensor]]:
        for utterance in utterances:
            try:
                frames = encoder.encode([read_utterance(utterance, encoder.sample_rate)])[0].cpu()
            except AudioFormatError:
                excluded["unreadable or refused audio"] += 1
                continue
            yield utterance.id, frames

    fingerprints = {"encoder": encoder_fingerprint(encoder.description())}
    return FrameSource(frame_rate=encoder.frame_rate, read=read, fingerprints=fingerprints, excluded=excluded)


def stored_frames(utterances: Sequence[Utterance], folder: Path, frame_rate: float | None) -> FrameSource:
    """Arrays <id>.npy in a folder, (frames, dim); utterances without one are passed over.

    Raises:
        ConfigError: no frame rate is given; while reading, a file is no such array or holds NaN or infinity.
    """
    import numpy as np
    import torch

    folder = Path(folder)
    if frame_rate is None or not 0 < frame_rate < float("inf"):
        raise ConfigError(f"frame_rate is {frame_rate}: say how many frames a second the files in {folder} have.")

    def read() -> Iterator[tuple[str, Tensor]]:
        for utterance in utterances:
            path = folder / f"{utterance.id}.npy"
            if not path.is_file():
                continue
            try:
                table = torch.from_numpy(np.load(path, allow_pickle=False))
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(f"{path}: not a readable array of numbers: {error}") from error
            if table.ndim != 2 or not bool(torch.isfinite(table).all()):
                raise ConfigError(f"{path}: shape {tuple(table.shape)}; expected finite numbers, (frames, dim).")
            yield utterance.id, table

    return FrameSource(frame_rate=frame_rate, read=read)
