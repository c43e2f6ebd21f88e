"""How a tokenizer uses its codebook, and how many bits a second of its tokens costs.

    shards  ->  ids per position and per frame, durations  ->  usage, perplexity, entropy, bits per second

A codebook of 500 whose units have perplexity 60 is, for a language model, a codebook of 60. Perplexity grows with the
corpus until each id was seen often. Intervals come from counting resampled corpora again (`recount`).
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vocable.errors import ConfigError, FingerprintError
from vocable.evaluation.recount import Described, Statistic, count_scores, gather_counts
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, BenchmarkConfig, Item, Items
from vocable.tokens.runs import frames_of
from vocable.tokens.streams import streams_of_card
from vocable.types import SpeechTokens

FRAMES_PER_ID = 100
"""With fewer frames per id of the codebook, the result warns that usage and perplexity are too low."""

SCORES = {
    "used": Described(None, "share of the codebook that occurs, mean over codebooks"),
    "perplexity": Described(None, "exp(entropy) of ids over positions (runs, where collapsed)"),
    "frame_perplexity": Described(None, "exp(entropy) of ids over frames"),
    "normalised_entropy": Described(None, "entropy over positions / log(codebook_size)"),
}
RATES = {
    "positions_per_second": Described("lower", "tokens per codebook and second that a language model reads"),
    "empirical_bits_per_second": Described("lower", "positions per second times the entropy of ids, all codebooks"),
    "duration_bits_per_second": Described("lower", "the same for the durations of runs; 0 without them"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnitsConfig(BenchmarkConfig):
    """Which tokens are counted."""

    tokens: Path
    """Folder of token shards, as 'vocable tokenize' writes them."""
    stream: str | None = None
    """Name of the stream to count, where the tokens have several."""
    num_resamples: int = 500
    """Resamples of the bootstrap."""


class Units(Benchmark[UnitsConfig]):
    """Count how token shards use their codebook, and how many bits a second of tokens costs.

    Writes units.json (scores with 95 % intervals, and each codebook by itself) and units.items.parquet; without a
    folder for them, the numbers are only printed.

    vocable evaluate units tokens --out results
    """

    name, Config, positional = "units", UnitsConfig, ("tokens",)

    def items(self) -> Iterator[Item]:
        """Count each utterance."""
        from vocable.tokens.shards import TokenShards

        shards = self.run.open("shards", lambda: TokenShards(self.config.tokens)).stream(self.config.stream)
        (self.stream,) = streams_of_card(shards.card)
        self.sizes = self.stream.codebook_sizes
        self.counter = UnitCounter(self.sizes)
        self.run.fingerprints["tokenizer"] = shards.fingerprint
        for utterance, tokens in self.run.watch("Counting units", shards):
            self.counter.add(tokens)
            if not tokens.num_positions:
                self.run.excluded["no tokens: audio too short"] += 1
                continue
            yield {
                "id": utterance.id,
                "speaker": utterance.speaker,
                "num_frames": tokens.num_frames if tokens.has_frames else None,
                "num_positions": tokens.num_positions,
                "num_distinct": int(tokens.codes[0].unique().numel()),
                "_cells": _cells(tokens, self.sizes),
                "_longest": int(tokens.durations.max()) if tokens.durations is not None else 1,
            }

    def nothing(self, reasons: str) -> ConfigError:
        """Say that there are no tokens."""
        return ConfigError(f"{self.config.tokens}: there are no tokens to count: every utterance was empty.")

    def scores(self, items: Items) -> dict[str, Score]:
        """Count resampled corpora again."""
        longest = max(item["_longest"] for item in items)
        counts = gather_counts([item["_cells"] for item in items], 2 * sum(self.sizes) + longest + 1)
        described = SCORES | (RATES if self.stream.rate else {})
        statistic, speakers = _statistic(self.sizes, self.stream.rate), [item["speaker"] for item in items]
        scores, self.biases = count_scores(counts, statistic, described, speakers, **self.draws)
        return scores

    def conventions(self) -> dict[str, Any]:
        """How usage is counted."""
        return {
            "stream": self.stream.name,
            "codebook_sizes": list(self.sizes),
            "frame_rate": self.stream.rate,
            "collapsed": bool(self.counter.durations) and self.counter.durations.keys() != {1},
            "over_codebooks": "usage and entropy: mean; bits: sum",
            "interval": "bootstrap, recounted; centred on the value",
            "num_resamples": self.config.num_resamples,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """The statistics of the whole, and of each codebook."""
        return {
            **dataclasses.asdict(self.counter.statistics(self.stream.rate)),
            "codebooks": self.counter.by_codebook(),
            "bootstrap_bias": self.biases,
        }

    def notes(self, items: Items) -> list[str]:
        """Warn of few frames."""
        num_frames, size = int(self.counter.by_frame[0].sum()), max(self.sizes)
        if num_frames >= FRAMES_PER_ID * size:
            return []
        what = "words" if self.counter.follows_words else "frames"
        return [
            f"{num_frames} {what} are few for a codebook of {size}: usage and perplexity come out too low. "
            f"Count at least {FRAMES_PER_ID * size}."
        ]


def _cells(tokens: SpeechTokens, sizes: Sequence[int]) -> np.ndarray:
    """All counts of an utterance in one table: ids by position, ids by frame, each per level, then durations."""
    offsets = (torch.tensor(sizes).cumsum(0) - torch.tensor(sizes))[:, None]
    positions = (tokens.codes.cpu().long() + offsets).flatten()
    frames = (frames_of(tokens).cpu().long() + offsets).flatten() + sum(sizes)
    parts = [positions, frames]
    if tokens.durations is not None:
        parts.append(tokens.durations.cpu().long() + 2 * sum(sizes))
    return torch.cat(parts).numpy()


def _statistic(sizes: Sequence[int], frame_rate: float | None) -> Statistic:
    """The scores, from a table as `_cells` numbers it."""

    def compute(table: np.ndarray) -> Mapping[str, float]:
        counts, all_ids = torch.from_numpy(table), sum(sizes)
        by_position, by_frame = (
            pad_sequence(list(counts[start : start + all_ids].split(list(sizes))), batch_first=True)
            for start in (0, all_ids)
        )
        per_second = float(by_position[0].sum() / by_frame[0].sum()) * frame_rate if frame_rate else None
        return code_usage(by_position, by_frame, sizes, counts[2 * all_ids :], per_second)

    return compute


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnitStatistics:
    """Code usage of one stream over a corpus. With several levels, shares and entropies are means, bits are sums."""

    num_frames: int | None
    """Frames before run collapsing; None where tokens follow words."""
    num_positions: int
    """Tokens a language model reads per level: runs where runs are collapsed, else frames or words."""
    seconds: float | None
    """Seconds of audio; None when the tokenizer has no frame rate and none was given."""
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
        self.durations: Counter[int] = Counter()
        self.follows_words = False

    def add(self, tokens: SpeechTokens) -> None:
        """Count the tokens of one utterance.

        Raises:
            FingerprintError: an id or the number of levels does not fit.
        """
        codes = tokens.codes.cpu().long()
        check_ids(codes, self.sizes)
        self.follows_words = self.follows_words or tokens.words is not None
        ones = torch.ones_like(codes[0])
        repeats = ones if tokens.durations is None else tokens.durations.cpu().long()
        for row, ids in enumerate(codes):
            self.by_position[row].scatter_add_(0, ids, ones)
            self.by_frame[row].scatter_add_(0, ids, repeats)
        if tokens.durations is not None:
            self.durations.update(repeats.tolist())

    def statistics(self, frame_rate: float | None = None, seconds: float | None = None) -> UnitStatistics:
        """Summarise what was counted.

        Args:
            frame_rate: frames per second; gives `seconds` from the number of frames when nobody says it.

        Raises:
            ConfigError: nothing was counted.
        """
        num_positions, num_frames = int(self.by_position[0].sum()), int(self.by_frame[0].sum())
        if num_positions == 0:
            raise ConfigError("There are no tokens to count: every utterance was empty.")
        if seconds is None and frame_rate is not None:
            seconds = num_frames / frame_rate
        nominal = sum(map(math.log2, self.sizes))
        lengths = torch.tensor(list(self.durations.values()))
        rates = dict.fromkeys(RATES) if not seconds else {}
        return UnitStatistics(
            num_frames=None if self.follows_words else num_frames,
            num_positions=num_positions,
            seconds=seconds,
            nominal_bits_per_second=num_frames / seconds * nominal if seconds else None,
            **rates,
            **code_usage(
                self.by_position, self.by_frame, self.sizes, lengths, num_positions / seconds if seconds else None
            ),
        )

    def by_codebook(self) -> list[dict[str, Any]]:
        """Usage of each codebook by itself, in order."""
        found = []
        for book, size in enumerate(self.sizes):
            positions, frames = self.by_position[book : book + 1], self.by_frame[book : book + 1]
            usage = code_usage(positions, frames, (size,))
            found.append(
                {
                    "used": usage["used"],
                    "num_unused": size - int((positions > 0).sum()),
                    "perplexity": usage["perplexity"],
                    "frame_perplexity": usage["frame_perplexity"],
                    "entropy_bits": float(entropy(positions)) / math.log(2),
                }
            )
        return found


def check_ids(codes: Int[Tensor, "levels positions"], sizes: Sequence[int], whose: str = "") -> None:
    """Raise FingerprintError where codes do not fit the codebooks of a tokenizer; `whose` opens the message."""
    if len(codes) != len(sizes):
        raise FingerprintError(f"{whose}Tokens have {len(codes)} codebooks; expected {len(sizes)}.")
    for row, size in zip(codes, sizes, strict=True):
        if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < size:
            raise FingerprintError(
                f"{whose}Ids run from {int(row.min())} to {int(row.max())}, outside a codebook of {size}: these tokens "
                "belong to another tokenizer."
            )


def code_usage(
    by_position: Int[Tensor, "levels ids"] | Float[Tensor, "levels ids"],
    by_frame: Int[Tensor, "levels ids"] | Float[Tensor, "levels ids"],
    sizes: Sequence[int],
    durations: Tensor | None = None,
    positions_per_second: float | None = None,
) -> dict[str, float]:
    """Compute `SCORES` and, where positions per second are known, `RATES`.

    Args:
        by_position: how often each id occurs, per level.
        by_frame: the same over frames.
        sizes: codebook size of each level.
        durations: how often each duration of a run occurs.
        positions_per_second: gives the rates.
    """
    entropies = entropy(by_position)
    possible = torch.tensor([math.log(size) if size > 1 else 1.0 for size in sizes], dtype=torch.float64)
    values = {
        "used": float(((by_position > 0).double().sum(-1) / torch.tensor(sizes)).mean()),
        "perplexity": float(entropies.mean().exp()),
        "frame_perplexity": float(entropy(by_frame).mean().exp()),
        "normalised_entropy": float((entropies / possible).mean()),
    }
    if positions_per_second is None:
        return values
    duration_bits = 0.0
    if durations is not None and durations.sum():
        duration_bits = float(entropy(durations[None])) / math.log(2)
    return values | {
        "positions_per_second": positions_per_second,
        "empirical_bits_per_second": positions_per_second * float(entropies.sum()) / math.log(2),
        "duration_bits_per_second": positions_per_second * duration_bits,
    }


def entropy(counts: Tensor) -> Float[Tensor, " rows"]:
    """Entropy of the distribution of each row of counts (rows, ids), in nats, float64."""
    shares = counts.double() / counts.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1)
