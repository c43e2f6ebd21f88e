"""How a tokenizer uses its codebook, and how many bits a second of its tokens costs.

    units of a corpus -> counts -> share of ids used, perplexity, normalised entropy, bits per second

A codebook of 500 whose units have perplexity 60 is, for a language model, a codebook of 60.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError, FingerprintError
from vocable.types import SpeechTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatistics:
    """Code usage of a corpus. With several codebooks, shares and entropies are means over them, bits are sums."""

    num_frames: int
    """Before run collapsing."""
    num_positions: int
    """Tokens a language model reads per codebook: runs where runs are collapsed, else frames."""
    seconds: float | None
    """Of audio; None when the tokenizer has no frame rate and nobody said."""
    used: float
    """Share of the codebook that occurs at all, 0 to 1."""
    frame_perplexity: float
    """exp(entropy) of ids over frames."""
    perplexity: float
    """exp(entropy) of ids over positions."""
    normalised_entropy: float
    """Entropy over positions as a share of log(codebook_size), 0 to 1."""
    nominal_bits_per_second: float | None
    """Frames per second times log2(codebook_size), all codebooks: what the published bitrate counts."""
    empirical_bits_per_second: float | None
    """Positions per second times the entropy of the ids: their cost under an ideal code that ignores order."""
    duration_bits_per_second: float | None
    """The same for the durations of runs; 0 without them."""
    positions_per_second: float | None


class UnitCounter:
    """Counts ids and durations while a corpus streams by."""

    def __init__(self, codebook_size: int, num_codebooks: int = 1) -> None:
        if codebook_size < 1 or num_codebooks < 1:
            raise ConfigError(f"codebook_size is {codebook_size}, num_codebooks {num_codebooks}: both are at least 1.")
        self.codebook_size = codebook_size
        self.by_position = torch.zeros(num_codebooks, codebook_size, dtype=torch.long)
        self.by_frame = torch.zeros(num_codebooks, codebook_size, dtype=torch.long)
        self.durations: dict[int, int] = {}

    def add(self, tokens: SpeechTokens) -> None:
        """Count the tokens of one utterance.

        Raises:
            FingerprintError: an id or the number of codebooks does not fit.
        """
        codes = tokens.codes.cpu().long()
        if codes.shape[0] != len(self.by_position):
            raise FingerprintError(f"Tokens have {codes.shape[0]} codebooks; expected {len(self.by_position)}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise FingerprintError(
                f"Ids run from {int(codes.min())} to {int(codes.max())}, outside a codebook of {self.codebook_size}: "
                "these tokens belong to another tokenizer."
            )
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
        possible = math.log(self.codebook_size) if self.codebook_size > 1 else 1.0
        lengths = torch.tensor([list(self.durations.values()) or [1]])
        positions_per_second = num_positions / seconds if seconds else None
        bits = float(entropies.sum()) / math.log(2)
        duration_bits = float(entropy(lengths)) / math.log(2)
        nominal = math.log2(self.codebook_size) * len(self.by_position)
        return UnitStatistics(
            num_frames=num_frames,
            num_positions=num_positions,
            seconds=seconds,
            used=float((self.by_position > 0).double().mean()),
            frame_perplexity=float(entropy(self.by_frame).mean().exp()),
            perplexity=float(entropies.mean().exp()),
            normalised_entropy=float(entropies.mean()) / possible,
            nominal_bits_per_second=num_frames / seconds * nominal if seconds else None,
            empirical_bits_per_second=positions_per_second * bits if positions_per_second else None,
            duration_bits_per_second=positions_per_second * duration_bits if positions_per_second else None,
            positions_per_second=positions_per_second,
        )


def unit_statistics(
    tokens: Iterable[SpeechTokens],
    codebook_size: int,
    num_codebooks: int = 1,
    frame_rate: float | None = None,
    seconds: float | None = None,
) -> UnitStatistics:
    """Code usage of some tokens; see `UnitCounter`."""
    counter = UnitCounter(codebook_size, num_codebooks)
    for item in tokens:
        counter.add(item)
    return counter.statistics(frame_rate, seconds)


def entropy(counts: Int[Tensor, "rows ids"]) -> Float[Tensor, " rows"]:
    """Entropy of each row's distribution, in nats, float64."""
    shares = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1)
