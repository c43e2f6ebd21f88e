"""Code usage and bitrate of token shards as a result: scores with intervals, and every codebook by itself.

    shards  ->  ids per position and per frame, durations  ->  usage, perplexity, entropy, bits per second

The numbers are those of `unit_metrics`; here they get intervals over utterances (and speakers) by counting resampled
corpora again (`recount`), and a file. Perplexity grows with the corpus until each id was seen often.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from vocable.errors import ConfigError
from vocable.evaluation.recount import Described, Statistic, count_scores, gather_counts
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, BenchmarkConfig, Item, Items
from vocable.evaluation.unit_metrics import UnitCounter, entropy, normalised_entropy, used_share
from vocable.tokens.agreement import frames_of
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
            "codebooks": _by_codebook(self.counter),
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
        durations = counts[2 * all_ids :]
        entropies, frame_entropies = entropy(by_position), entropy(by_frame)
        values = {
            "used": used_share(by_position, sizes),
            "perplexity": float(entropies.mean().exp()),
            "frame_perplexity": float(frame_entropies.mean().exp()),
            "normalised_entropy": normalised_entropy(entropies, sizes),
        }
        if frame_rate:
            per_second = float(by_position[0].sum() / by_frame[0].sum()) * frame_rate
            duration_bits = float(entropy(durations[None])) / math.log(2) if durations.sum() else 0.0
            values["positions_per_second"] = per_second
            values["empirical_bits_per_second"] = per_second * float(entropies.sum()) / math.log(2)
            values["duration_bits_per_second"] = per_second * duration_bits
        return values

    return compute


def _by_codebook(counter: UnitCounter) -> list[dict[str, Any]]:
    """Usage of each codebook, in order."""
    entropies, frame_entropies = entropy(counter.by_position), entropy(counter.by_frame)
    return [
        {
            "used": used_share(counts[None], counter.sizes[book : book + 1]),
            "num_unused": counter.sizes[book] - int((counts > 0).sum()),
            "perplexity": float(entropies[book].exp()),
            "frame_perplexity": float(frame_entropies[book].exp()),
            "entropy_bits": float(entropies[book]) / math.log(2),
        }
        for book, counts in enumerate(counter.by_position)
    ]
