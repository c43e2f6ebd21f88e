"""Code usage and bitrate of token shards as a result: scores with intervals, and every codebook by itself.

    shards  ->  ids per position and per frame, durations  ->  usage, perplexity, entropy, bits per second

The numbers are those of `unit_metrics`; here they get intervals over utterances (and speakers) by counting resampled
corpora again (`recount`), and a file. Perplexity grows with the corpus until each id was seen often.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vocable.errors import ConfigError
from vocable.evaluation.recount import Described, Statistic, count_scores, gather_counts
from vocable.evaluation.results import EvaluationResult
from vocable.evaluation.token_sources import frame_codes
from vocable.evaluation.unit_metrics import UnitCounter, entropy
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


def evaluate_units(tokens: Path, num_resamples: int = 500, seed: int = 0) -> EvaluationResult:
    """Score the code usage of a folder of token shards.

    Raises:
        ConfigError: the shards hold no tokens.
        FingerprintError: an id or the number of codebooks is not the tokenizer's.
        OutputError: there are no shards, or not all of them.
    """
    from vocable.tokens.shards import TokenShards

    started = time.perf_counter()
    shards = TokenShards(tokens)
    card = shards.card
    size, books, rate = card["codebook_size"], card.get("num_codebooks", 1), card.get("frame_rate")
    counter, excluded = UnitCounter(size, books), Counter()
    rows, cells, longest = [], [], 1
    for utterance, item in shards:
        counter.add(item)
        if not item.num_frames:
            excluded["no tokens: audio too short"] += 1
            continue
        cells.append(_cells(item, size))
        longest = max(longest, int(item.durations.max()) if item.durations is not None else 1)
        rows.append(_row(utterance.id, utterance.speaker, item))
    if not rows:
        raise ConfigError(f"{tokens}: there are no tokens to count: every utterance was empty.")
    statistics = counter.statistics(rate)
    counts = gather_counts(cells, 2 * books * size + longest + 1)
    described = SCORES | (RATES if rate else {})
    speakers = [row["speaker"] for row in rows]
    statistic = _statistic(books, size, rate)
    scores, biases = count_scores(counts, statistic, described, speakers, num_resamples, seed)
    return EvaluationResult(
        benchmark="units",
        scores=scores,
        conventions={
            "codebook_size": size,
            "num_codebooks": books,
            "frame_rate": rate,
            "collapsed": any(row["num_positions"] != row["num_frames"] for row in rows),
            "over_codebooks": "usage and entropy: mean; bits: sum",
            "interval": "bootstrap, recounted; centred on the value",
            "num_resamples": num_resamples,
        },
        fingerprints={"tokenizer": shards.fingerprint},
        weights={},
        seed=seed,
        seconds=time.perf_counter() - started,
        excluded=dict(excluded),
        notes=_notes(statistics.num_frames, size),
        measurements={
            **dataclasses.asdict(statistics),
            "codebooks": _by_codebook(counter),
            "bootstrap_bias": biases,
        },
        items=rows,
    )


def _cells(tokens: SpeechTokens, size: int) -> np.ndarray:
    """All counts of an utterance in one table: ids by position, ids by frame, each per codebook, then durations."""
    books = tokens.codes.shape[0]
    offsets = torch.arange(books)[:, None] * size
    positions = (tokens.codes.cpu().long() + offsets).flatten()
    frames = (frame_codes(tokens).cpu().long() + offsets).flatten() + books * size
    parts = [positions, frames]
    if tokens.durations is not None:
        parts.append(tokens.durations.cpu().long() + 2 * books * size)
    return torch.cat(parts).numpy()


def _statistic(books: int, size: int, frame_rate: float | None) -> Statistic:
    """The scores, from a table as `_cells` numbers it."""

    def compute(table: np.ndarray) -> Mapping[str, float]:
        counts = torch.from_numpy(table)
        by_position, by_frame = counts[: 2 * books * size].reshape(2, books, size)
        durations = counts[2 * books * size :]
        entropies, frame_entropies = entropy(by_position), entropy(by_frame)
        values = {
            "used": float((by_position > 0).double().mean()),
            "perplexity": float(entropies.mean().exp()),
            "frame_perplexity": float(frame_entropies.mean().exp()),
            "normalised_entropy": float(entropies.mean()) / (math.log(size) if size > 1 else 1.0),
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
            "used": float((counts > 0).double().mean()),
            "num_unused": int((counts == 0).sum()),
            "perplexity": float(entropies[book].exp()),
            "frame_perplexity": float(frame_entropies[book].exp()),
            "entropy_bits": float(entropies[book]) / math.log(2),
        }
        for book, counts in enumerate(counter.by_position)
    ]


def _row(id: str, speaker: str | None, tokens: SpeechTokens) -> dict[str, Any]:
    return {
        "id": id,
        "speaker": speaker,
        "num_frames": tokens.num_frames,
        "num_positions": tokens.codes.shape[1],
        "num_distinct": int(tokens.codes[0].unique().numel()),
    }


def _notes(num_frames: int, size: int) -> list[str]:
    if num_frames >= FRAMES_PER_ID * size:
        return []
    return [
        f"{num_frames} frames are few for a codebook of {size}: usage and perplexity come out too low. "
        f"Count at least {FRAMES_PER_ID * size}."
    ]
