"""The loss of the prosody decoder, with the recording's durations given to pitch and energy, and its measures.

Everything is a sum over symbols, words or frames, so the loss of a batch is that of its items together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vocable.features.pitch import ENERGY_PER_NEPER
from vocable.synthesis.phonemes import SYMBOL_RATE
from vocable.synthesis.unit_frontend import ENERGY_DEVIATION
from vocable.systems.taste.prosody_network import ProsodyNetwork
from vocable.systems.taste.prosody_targets import EDGE_FRAMES
from vocable.systems.taste.speech_decoder import DecoderLoss, WordBatch

SEMITONES = 3.0
"""Spread of pitch in speech: the unit in which its error counts."""
LARGEST_ERROR = 12.0
"""Semitones from which on an error of pitch counts no more: an octave, most likely the tracker's."""
DECIBELS_PER_ENERGY = 20 / math.log(10) / ENERGY_PER_NEPER
FRAMES_PER_SYMBOL = 4
"""So many frames of pitch and energy count as much as a symbol: about as many as one has."""
MILLISECONDS = 1000 / SYMBOL_RATE
CONSISTENT_MS = 50.0
"""A word whose length is within this of the recording's is consistent (as the paper counts)."""

PART_NAMES = (
    "duration_loss",
    "duration_ms",
    "word_loss",
    "word_ms",
    "words_within_50_ms",
    "pitch_loss",
    "pitch_semitones",
    "pitch_correlation",
    "voiced_loss",
    "voiced_accuracy",
    "energy_loss",
    "energy_decibels",
    "energy_correlation",
    "pause_loss",
    "pauses_found",
    "pauses_invented",
)
"""The losses before they are weighed, and measures: mean errors of durations of phonemes and words, share of words
whose length is consistent, error and correlation of pitch and energy; of the pauses that have no mark in the text the
share that is found, and of the places without mark and pause the share where one is invented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyLossConfig:
    """Weights of the parts."""

    duration: float = 1.0
    """Squared error of log(1 + frames) of each symbol."""
    word: float = 2.0
    """The same of the sum over each word. Means of logarithms lie below the logarithm of the mean; this keeps words as
    long as they are."""
    pitch: float = 1.0
    """Absolute error of pitch where it is known."""
    voiced: float = 1.0
    """Cross entropy of voicing."""
    energy: float = 1.0
    """Squared error of energy, in standard deviations of speech."""
    pause: float = 1.0
    """Cross entropy of pauses that the text has no mark for."""


class _Symbols(NamedTuple):
    ids: Int[Tensor, "batch symbols"]
    owners: Int[Tensor, "batch symbols"]
    mask: Bool[Tensor, "batch symbols"]


def prosody_loss(
    config: ProsodyLossConfig,
    network: ProsodyNetwork,
    sounds: Bool[Tensor, " num_symbols"],
    batch: WordBatch,
    targets: Sequence[Mapping[str, Tensor]],
) -> DecoderLoss:
    """Return the loss of a batch.

    Args:
        config: Weights of the parts.
        network: What learns.
        sounds: Whether each symbol of the alphabet has a sound of its own; durations of these are measured.
        batch: Words.
        targets: See ProsodyTargets.measure.
    """
    device = batch.speaker.device
    targets = [{key: value.to(device) for key, value in one.items()} for one in targets]
    symbols = _pad([(one["ids"], one["owners"]) for one in targets])
    features = network.features(*symbols, batch.vectors, batch.speaker)
    total, parts = batch.speaker.new_zeros((), dtype=torch.float32), {}

    def add(name: str, weight: float, losses: Float[Tensor, " _"]) -> None:
        nonlocal total
        total = total + weight * losses.sum()
        parts[f"{name}_loss"] = (float(losses.sum().detach()), losses.numel())

    logs = network.log_durations(features, symbols.mask).float()
    frames = pad_sequence([one["frames"] for one in targets], batch_first=True)
    learned = pad_sequence([_without_edges(one["frames"]) for one in targets], batch_first=True)
    add("duration", config.duration, (logs - learned.log1p()).square()[symbols.mask])
    guessed = logs.exp() - 1
    heard = symbols.mask & sounds[symbols.ids]
    parts["duration_ms"] = _mean((guessed - learned).abs()[heard] * MILLISECONDS)

    words = [
        torch.stack([_sums(values, one["spans"]) for values in (row, learn)])
        for row, learn, one in zip(guessed, learned, targets, strict=True)
    ]
    lasting, wanted = torch.cat(words, dim=1)
    add("word", config.word, (lasting.clamp(min=0).log1p() - wanted.log1p()).square())
    off = (lasting - wanted).abs().detach() * MILLISECONDS
    parts["word_ms"] = _mean(off)
    parts["words_within_50_ms"] = _mean((off <= CONSISTENT_MS).float())

    delivery, mask = network.delivery(features, frames)
    # of the same number of frames: the sum of the durations is what was measured
    semitones, known, voiced, energy = (
        pad_sequence([one[key] for one in targets], batch_first=True)
        for key in ("semitones", "known", "voiced", "energy")
    )
    known = known & mask
    error = (delivery.semitones - semitones).abs()
    add("pitch", config.pitch / FRAMES_PER_SYMBOL, error.clamp(max=LARGEST_ERROR)[known] / SEMITONES)
    parts["pitch_semitones"] = _mean(error[known])
    parts["pitch_correlation"] = _correlation(delivery.semitones, semitones, known)
    add(
        "voiced",
        config.voiced / FRAMES_PER_SYMBOL,
        functional.binary_cross_entropy_with_logits(delivery.voiced[mask], voiced[mask].float(), reduction="none"),
    )
    parts["voiced_accuracy"] = _mean(((delivery.voiced > 0) == voiced)[mask].float())
    apart = (delivery.energy - energy)[mask]
    add("energy", config.energy / FRAMES_PER_SYMBOL, (apart / ENERGY_DEVIATION).square())
    parts["energy_decibels"] = _mean(apart.abs() * DECIBELS_PER_ENERGY)
    parts["energy_correlation"] = _correlation(delivery.energy, energy, mask)

    logits, pauses = _pause_logits(network, batch, targets)
    add(
        "pause",
        config.pause,
        functional.binary_cross_entropy_with_logits(logits, pauses.float(), reduction="none"),
    )
    parts["pauses_found"] = _mean((logits > 0)[pauses > 0].float())
    parts["pauses_invented"] = _mean((logits > 0)[pauses == 0].float())
    return DecoderLoss(total, int(symbols.mask.sum()), parts)


def _pause_logits(
    network: ProsodyNetwork, batch: WordBatch, targets: Sequence[Mapping[str, Tensor]]
) -> tuple[Float[Tensor, " words"], Int[Tensor, " words"]]:
    """Logits of pauses where the text has no mark, from the text as it stands, and whether there are pauses."""
    rows, places = [], []
    for one in targets:
        found = one["pauses"] == 1
        kept = torch.ones_like(one["ids"], dtype=torch.bool)
        kept[one["spans"][found, 1]] = False  # the comma after the word
        rows.append((one["ids"][kept], one["owners"][kept]))
        places.append(one["spans"][:, 1] - 1 - (found.cumsum(0) - found.long()))
    symbols = _pad(rows)
    features = network.features(*symbols, batch.vectors, batch.speaker)
    asked = [one["pauses"] >= 0 for one in targets]
    picked = [row[place[ask]] for row, place, ask in zip(features, places, asked, strict=True)]
    pauses = [one["pauses"][ask] for one, ask in zip(targets, asked, strict=True)]
    return network.pauses(torch.cat(picked)).float(), torch.cat(pauses)


def _pad(rows: Sequence[tuple[Tensor, Tensor]]) -> _Symbols:
    ids, owners = (pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
    lengths = torch.tensor([len(row) for row, _ in rows], device=ids.device)
    return _Symbols(ids, owners, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None])


def _without_edges(frames: Int[Tensor, " symbols"]) -> Int[Tensor, " symbols"]:
    """Cut the silence around the text, in both end marks and the last pause mark: it is the recording's, not the
    speaker's."""
    cut = frames.clone()
    edges = [0, len(frames) - 2, len(frames) - 1]
    cut[edges] = cut[edges].clamp(max=EDGE_FRAMES)
    return cut


def _sums(values: Tensor, spans: Int[Tensor, "words 2"]) -> Float[Tensor, " words"]:
    ends = functional.pad(values.float().cumsum(0), (1, 0))
    return ends[spans[:, 1]] - ends[spans[:, 0]]


def _mean(values: Tensor) -> tuple[float, int]:
    return float(values.detach().sum()), values.numel()


def _correlation(first: Tensor, second: Tensor, mask: Tensor) -> tuple[float, int]:
    """Sum of the correlations of the rows that have one, and their number."""
    total, count = 0.0, 0
    for a, b, kept in zip(first.detach(), second, mask, strict=True):
        pair = torch.stack([a[kept], b[kept]])
        if pair.shape[1] > 2 and bool((pair.std(1) > 1e-4).all()):
            total, count = total + float(torch.corrcoef(pair)[0, 1]), count + 1
    return total, count
