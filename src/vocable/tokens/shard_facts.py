"""Facts about units that a shard holds ready: how often each occurs, how long it lasts, how loud its frames are.

    tokens ---UnitCounts---> metadata of the shard ---add up---> mean durations in the card of a language model

Counts of shards add up to those of the corpus, so nobody has to unpack it to know them.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.types import SpeechTokens, Stream

FACTS_KEY = b"vocable_facts"
"""Entry of a shard's metadata that holds the counts of each stream, as JSON."""
NUM_HEARD = 200
"""Utterances of a manifest, from the first on, whose loudness is kept with their tokens, to find units of silence."""


def has_facts(stream: Stream) -> bool:
    """Whether a stream holds units: one code a frame, or a run of frames."""
    return stream.num_levels == 1 and stream.rate is not None


class UnitCounts(NamedTuple):
    """Occurrences of each unit of one codebook."""

    runs: Int[Tensor, " codebook_size"]
    """Runs; frames, where runs are not collapsed."""
    frames: Int[Tensor, " codebook_size"]

    @classmethod
    def of(cls, items: Iterable[SpeechTokens], codebook_size: int) -> "UnitCounts":
        """Count the units of utterances, one at a time."""
        counts = cls(torch.zeros(codebook_size, dtype=torch.int64), torch.zeros(codebook_size, dtype=torch.int64))
        for item in items:
            units, ones = item.units.long(), torch.ones_like(item.units, dtype=torch.int64)
            counts.runs.index_add_(0, units, ones)
            counts.frames.index_add_(0, units, ones if item.durations is None else item.durations.long())
        return counts

    def plus(self, other: "UnitCounts") -> "UnitCounts":
        """Add the counts of another shard."""
        return UnitCounts(self.runs + other.runs, self.frames + other.frames)

    def to_json(self) -> dict[str, list[int]]:
        """Return the counts of the units that occur, as JSON values."""
        ids = self.runs.nonzero()[:, 0]
        values = {"ids": ids, "runs": self.runs[ids], "frames": self.frames[ids]}
        return {name: tensor.tolist() for name, tensor in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, list[int]], codebook_size: int) -> "UnitCounts":
        """Undo `to_json`."""
        counts = cls.of((), codebook_size)
        counts.runs[values["ids"]] = torch.tensor(values["runs"], dtype=torch.int64)
        counts.frames[values["ids"]] = torch.tensor(values["frames"], dtype=torch.int64)
        return counts

    def mean_seconds(self, frame_rate: float) -> Float[Tensor, " codebook_size"]:
        """Average how long a run of each unit lasts; units never seen get the average of all runs."""
        runs, frames = self.runs.float(), self.frames.float()
        overall = (self.frames.sum().double() / self.runs.sum()).float() if int(self.runs.sum()) else torch.tensor(1.0)
        return torch.where(runs > 0, frames / runs.clamp(min=1), overall) / frame_rate
