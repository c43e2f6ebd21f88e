"""How a tokenizer uses its codebook, and how many bits a second of its tokens costs.

    units of a corpus -> counts -> share of ids used, perplexity, normalised entropy, bits per second

A codebook of 500 whose units have perplexity 60 is, for a language model, a codebook of 60.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError, FingerprintError
from vocable.types import SpeechTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatistics:
    """Code usage of one stream over a corpus. With several levels, shares and entropies are means, bits are sums."""

    num_frames: int | None
    """Frames before run collapsing; None where tokens follow words."""
    num_positions: int
    """Tokens a language model reads per level: runs where runs are collapsed, else frames or words."""
    seconds: float | None
    """Of audio; None when the tokenizer has no frame rate and nobody said."""
    used: float
    """Share of the codebook that occurs at all, 0 to 1."""
    frame_perplexity: float
    """exp(entropy) of ids over frames."""
    perplexity: float
    """exp(entropy) of ids over positions."""
    normalised_entropy: float
    """Entropy over positions as a share of log(codebook size), 0 to 1."""
    nominal_bits_per_second: float | None
    """Frames per second times log2(codebook size), all levels: the rate that publications state."""
    empirical_bits_per_second: float | None
    """Positions per second times the entropy of the ids: their cost under an ideal code that ignores order."""
    duration_bits_per_second: float | None
    """The same for the durations of runs; 0 without them."""
    positions_per_second: float | None


class UnitCounter:
    """Counts ids and durations while a corpus streams by."""

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        """Count one stream, whose levels have codebooks of these sizes."""
        if not codebook_sizes or min(codebook_sizes) < 1:
            raise ConfigError(f"codebook_sizes is {tuple(codebook_sizes)}: there is at least one, of at least 1 id.")
        self.sizes = tuple(codebook_sizes)
        self.by_position = torch.zeros(len(self.sizes), max(self.sizes), dtype=torch.long)
        self.by_frame = torch.zeros_like(self.by_position)
        self.durations: dict[int, int] = {}
        self.follows_words = False

    def add(self, tokens: SpeechTokens) -> None:
        """Count the tokens of one utterance.

        Raises:
            FingerprintError: an id or the number of levels does not fit.
        """
        codes = tokens.codes.cpu().long()
        if codes.shape[0] != len(self.by_position):
            raise FingerprintError(f"Tokens have {codes.shape[0]} codebooks; expected {len(self.by_position)}.")
        for row, size in zip(codes, self.sizes, strict=True):
            if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < size:
                raise FingerprintError(
                    f"Ids run from {int(row.min())} to {int(row.max())}, outside a codebook of {size}: these tokens "
                    "belong to another tokenizer."
                )
        self.follows_words = self.follows_words or tokens.words is not None
        ones = torch.ones_like(codes[0])
        repeats = ones if tokens.durations is None else tokens.durations.cpu().long()
        for row, ids in enumerate(codes):
            self.by_position[row].scatter_add_(0, ids, ones)
            self.by_frame[row].scatter_add_(0, ids, repeats)
        if tokens.durations is not None:
            for duration in repeats.tolist():
                self.durations[duration] = self.durations.get(duration, 0) + 1

    def statistics(self, frame_rate: float | None = None, seconds: float | None = None) -> UnitStatistics:
        """Summarise what was counted.

        Args:
            frame_rate: frames per second; gives `seconds` from the number of frames when nobody says it.
            seconds: of audio behind the tokens.

        Raises:
            ConfigError: nothing was counted.
        """
        num_positions, num_frames = int(self.by_position[0].sum()), int(self.by_frame[0].sum())
        if num_positions == 0:
            raise ConfigError("There are no tokens to count: every utterance was empty.")
        if seconds is None and frame_rate is not None:
            seconds = num_frames / frame_rate
        entropies = entropy(self.by_position)
        lengths = torch.tensor([list(self.durations.values()) or [1]])
        positions_per_second = num_positions / seconds if seconds else None
        bits = float(entropies.sum()) / math.log(2)
        duration_bits = float(entropy(lengths)) / math.log(2)
        nominal = sum(map(math.log2, self.sizes))
        return UnitStatistics(
            num_frames=None if self.follows_words else num_frames,
            num_positions=num_positions,
            seconds=seconds,
            used=used_share(self.by_position, self.sizes),
            frame_perplexity=float(entropy(self.by_frame).mean().exp()),
            perplexity=float(entropies.mean().exp()),
            normalised_entropy=normalised_entropy(entropies, self.sizes),
            nominal_bits_per_second=num_frames / seconds * nominal if seconds else None,
            empirical_bits_per_second=positions_per_second * bits if positions_per_second else None,
            duration_bits_per_second=positions_per_second * duration_bits if positions_per_second else None,
            positions_per_second=positions_per_second,
        )


def unit_statistics(
    tokens: Iterable[SpeechTokens],
    codebook_sizes: Sequence[int],
    frame_rate: float | None = None,
    seconds: float | None = None,
) -> UnitStatistics:
    """Code usage of some tokens; see `UnitCounter`."""
    counter = UnitCounter(codebook_sizes)
    for item in tokens:
        counter.add(item)
    return counter.statistics(frame_rate, seconds)


def used_share(counts: Int[Tensor, "levels ids"], sizes: Sequence[int]) -> float:
    """Share of the ids that occur, mean over levels, whose codebooks have these sizes."""
    return float(((counts > 0).double().sum(-1) / torch.tensor(sizes)).mean())


def normalised_entropy(entropies: Float[Tensor, " levels"], sizes: Sequence[int]) -> float:
    """Entropies as shares of the largest possible, mean over levels, whose codebooks have these sizes."""
    possible = torch.tensor([math.log(size) if size > 1 else 1.0 for size in sizes], dtype=torch.float64)
    return float((entropies / possible).mean())


def entropy(counts: Int[Tensor, "rows ids"]) -> Float[Tensor, " rows"]:
    """Entropy of each row's distribution, in nats, float64."""
    shares = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1)
