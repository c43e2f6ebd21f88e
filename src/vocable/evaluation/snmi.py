"""How much of which sentence is said is in the tokens, whoever says it: SNMI, for each stream.

    tokens of an utterance -> n-grams of runs -> random hyperplanes -> bucket B
    its text               -> sentence S                                         -->  I(S; B) / H(S)

Utterances of one sentence fall into one bucket where tokens follow what is said, and apart where they follow who says
it. The acoustic stream's value over the semantic one's is below 1 where the semantic stream carries the content.
Source: SNMI of LM-SPT (Jo et al., 2025, arXiv:2506.16738), appendix B, by notes on it; the settings of its hash are not
known to us. Here: SimHash (Charikar, 2002, "Similarity estimation techniques from rounding algorithms") of the shares
of n-grams, less their mean over the corpus, since all utterances share silence and common sounds. Every n-gram of every
level has a random vector; the signs of the sums are the bits of the bucket. The value is the mean over several hashes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.metrics.wer import NORMALISERS
from vocable.evaluation.phones import phone_unit_statistics
from vocable.evaluation.recount import Described, count_scores, gather_counts
from vocable.evaluation.results import Score
from vocable.evaluation.runner import Benchmark, Item, Items, TokensConfig
from vocable.registry import look_up
from vocable.types import SpeechTokens

HASHED_DIM = 1 << 16
"""Random vectors; n-grams are spread over them by their numbers."""
NUM_SHUFFLES = 20
"""Shuffles of the sentences that chance is measured with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnmiConfig(TokensConfig):
    """Which utterances are compared, and how token sequences are hashed."""

    stream: str | None = None
    """Name of the stream to measure. Without it, all streams are measured, and compared with the first."""
    normaliser: str = "basic"
    """Normalisation that makes two texts the same sentence: english, basic or none."""
    ngram: int = 2
    """Neighbouring runs of equal tokens that are counted together, level by level."""
    num_bits: int | None = None
    """Bits of a bucket's number. Without it, one more than the number of sentences needs."""
    num_hashes: int = 16
    """Hashes to average over."""
    num_resamples: int = 200
    """Resamples of the bootstrap."""

    def __post_init__(self) -> None:
        TokensConfig.__post_init__(self)
        look_up("text normaliser", self.normaliser, NORMALISERS)
        for name in ("ngram", "num_hashes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.num_bits is not None and not 1 <= self.num_bits <= 16:
            raise ConfigError(f"num_bits is {self.num_bits}; it must be from 1 to 16.")


class Snmi(Benchmark[SnmiConfig]):
    """Measure how much each stream says of which sentence is spoken, over several speakers: SNMI.

    Writes snmi.json (snmi_STREAM with 95 % intervals, snmi_ratio_STREAM to the first stream, and what chance gives) and
    snmi.items.parquet (the buckets of every utterance). The manifest must hold texts that are said more than once; the
    others are left out.

    vocable evaluate snmi --manifest vctk.jsonl --tokenizer codec --out results
    """

    name, Config = "snmi", SnmiConfig

    def items(self) -> Iterator[Item]:
        """Hash the tokens of every utterance whose sentence is said more than once."""
        config, run = self.config, self.run
        sentences = [NORMALISERS[config.normaliser](one.text or "") for one in run.utterances()]
        times = Counter(sentence for sentence in sentences if sentence)
        said_again = {sentence for sentence, count in times.items() if count > 1}
        if len(said_again) < 2:
            raise ManifestError(
                f"{config.manifest}: {len(said_again)} of {len(times)} sentences are said more than once; at least two "
                "have to be. SNMI needs a corpus in which several speakers read the same sentences, such as VCTK."
            )
        source = run.tokens(whole=config.stream is None)
        self.streams = source.streams
        self.num_bits = config.num_bits or (len(said_again) - 1).bit_length() + 1
        generator = torch.Generator().manual_seed(config.seed)
        planes = torch.randn(HASHED_DIM, config.num_hashes * self.num_bits, generator=generator)
        numbers = {sentence: number for number, sentence in enumerate(sorted(said_again))}
        rows: list[dict[str, Any]] = []
        projected: dict[str, list[Tensor]] = {stream.name: [] for stream in self.streams}
        for utterance, tokens in run.watch("Hashing", source, len(source.utterances)):
            sentence = NORMALISERS[config.normaliser](utterance.text or "")
            if sentence not in said_again:
                run.excluded["sentence said only once" if sentence else "no text"] += 1
                continue
            if not all(tokens.stream(stream.name).num_positions for stream in self.streams):
                run.excluded["a stream without tokens: audio too short"] += 1
                continue
            for stream in self.streams:
                projected[stream.name].append(project(tokens.stream(stream.name), planes, config.ngram))
            rows.append(
                {"id": utterance.id, "speaker": utterance.speaker, "sentence": sentence, "_number": numbers[sentence]}
            )
        for name, vectors in projected.items():
            if vectors:
                for row, buckets in zip(rows, buckets_of(torch.stack(vectors), self.num_bits), strict=True):
                    row[f"buckets_{name}"] = buckets.tolist()
        self.num_sentences = len(numbers)
        yield from rows

    def scores(self, items: Items) -> dict[str, Score]:
        """SNMI of every stream, recounted for resampled utterances; and ratios to the first stream."""
        first, *others = [stream.name for stream in self.streams]
        described = {
            f"snmi_{name}": Described(None, f"I(sentence; bucket of {name} tokens) / H(sentence)")
            for name in (first, *others)
        }
        for name in others:
            described[f"snmi_ratio_{name}"] = Described(None, f"SNMI of {name} over that of {first}")
        speakers, numbers = [item["speaker"] for item in items], np.array([item["_number"] for item in items])
        scores, self.biases = count_scores(
            self._counts(items, numbers), self._statistic, described, speakers, **self.draws
        )
        generator = np.random.default_rng(self.config.seed)
        drawn = [
            self._statistic(self._counts(items, generator.permutation(numbers)).total()) for _ in range(NUM_SHUFFLES)
        ]
        self.chance = {name: float(np.mean([found[name] for found in drawn])) for name in described}
        return scores

    def _counts(self, items: Items, numbers: np.ndarray):
        """Joint counts of sentence and bucket: a table for each stream and hash."""
        buckets = np.array([[item[f"buckets_{stream.name}"] for stream in self.streams] for item in items])
        num_tables = buckets[0].size
        tables = np.arange(num_tables)[None] * self.num_sentences + numbers[:, None]
        cells = (tables << self.num_bits) + buckets.reshape(len(items), -1)
        return gather_counts(list(cells), (num_tables * self.num_sentences) << self.num_bits)

    def _statistic(self, table: np.ndarray) -> Mapping[str, float]:
        tables = table.reshape(len(self.streams), self.config.num_hashes, self.num_sentences, -1)
        values = [float(np.mean([phone_unit_statistics(one).pnmi for one in of_stream])) for of_stream in tables]
        first, *others = [stream.name for stream in self.streams]
        found = {f"snmi_{name}": value for name, value in zip((first, *others), values)}
        ratios = {
            f"snmi_ratio_{name}": found[f"snmi_{name}"] / values[0] if values[0] else float("nan") for name in others
        }
        return found | ratios

    def conventions(self) -> dict[str, Any]:
        """How sequences are hashed."""
        config = self.config
        return {
            "hash": "random hyperplanes over shares of n-grams of runs, level by level, less their mean",
            "ngram": config.ngram,
            "num_bits": self.num_bits,
            "num_hashes": config.num_hashes,
            "normaliser": config.normaliser,
            "interval": "bootstrap, recounted; centred on the value",
            "num_resamples": config.num_resamples,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """How much is there, and what shuffled sentences give."""
        return {
            "num_sentences": self.num_sentences,
            "num_buckets": 1 << self.num_bits,
            "num_levels": {stream.name: stream.num_levels for stream in self.streams},
            "chance": self.chance,
            "bootstrap_bias": self.biases,
        }

    def notes(self, items: Items) -> list[str]:
        """Say what chance gives."""
        chance = ", ".join(f"{name} {value:.3f}" for name, value in self.chance.items() if "ratio" not in name)
        return [f"With shuffled sentences: {chance}. Values fall towards these with more utterances of each sentence."]


def project(tokens: SpeechTokens, planes: Float[Tensor, "hashed bits"], ngram: int) -> Float[Tensor, " bits"]:
    """Return the mean over n-grams of their random vectors; of shorter sequences, the one n-gram that there is."""
    places = []
    for level, codes in enumerate(tokens.codes.long()):
        runs = torch.unique_consecutive(codes).numpy().astype(np.uint64)
        grams = np.lib.stride_tricks.sliding_window_view(runs, min(ngram, len(runs)))
        places.append(_hashed(grams, level))
    return planes[torch.from_numpy(np.concatenate(places))].mean(0)


def _hashed(grams: np.ndarray, level: int) -> np.ndarray:
    """Spread n-grams over `HASHED_DIM` places: FNV-1a over their codes, finished as in SplitMix64."""
    found = np.full(len(grams), 0xCBF29CE484222325 + level, dtype=np.uint64)
    for column in grams.T:
        found = (found ^ (column + np.uint64(1))) * np.uint64(0x100000001B3)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return (found >> np.uint64(48)).astype(np.int64)


def buckets_of(projected: Float[Tensor, "utterances bits"], num_bits: int) -> Int[Tensor, "utterances hashes"]:
    """Number the bucket of every utterance in each hash: a bit is the side of the corpus's mean that it lies on."""
    bits = (projected > projected.mean(0)).long().unflatten(1, (-1, num_bits))
    return (bits << torch.arange(num_bits)).sum(-1)
