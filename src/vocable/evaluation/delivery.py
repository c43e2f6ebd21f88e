"""How words are spoken in a copy, beside the same words of the original: length, pitch and loudness, word by word.

    originals and copies (manifests with word times) -> words that both have -> seconds, semitones, decibels of each
        -> equally long words; correlations over words; words that an edit changed against words that it did not

Frames of a copy that keeps no timing correspond to no frames of the original; words do. Times come from the manifests:
`vocable align` writes them, for copies as for originals.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AudioFormatError, ConfigError, ManifestError
from vocable.evaluation.bootstrap import Interval, bootstrap, cluster_sums, ratio
from vocable.evaluation.metrics.signal import PITCH_HOP, SAMPLE_RATE, check_pair, match_words
from vocable.evaluation.results import Score, column_mean, column_ratio, score_between
from vocable.evaluation.runner import Benchmark, Item, Items, SampledConfig
from vocable.evaluation.signal import Pair, pair_utterances
from vocable.features.pitch import measure_pitch
from vocable.types import Word

CHANGED = "changed"
"""Key of a copy's line in the manifest: numbers of its words that an edit changed, from 0."""
VALUES = {"duration": "seconds", "pitch": "semitones", "energy": "decibels"}
LEAST_VOICED = 3
"""Voiced frames of 10 ms that a word needs to have a pitch."""
LEAST_POWER = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig(SampledConfig):
    """Which recordings are compared."""

    manifest: Path
    """The originals (JSONL), with word times."""
    copies: Path
    """A manifest with the same ids and its own word times, as `vocable align` writes them."""
    tolerances: tuple[float, ...] = (0.025, 0.04, 0.05)
    """Differences in seconds up to which a word counts as equally long; publications have these three."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        if not self.tolerances or min(self.tolerances) < 0:
            raise ConfigError(f"tolerances is {self.tolerances}; name at least one, none of them negative.")


class Delivery(Benchmark[DeliveryConfig]):
    """Compare how the words of two recordings are spoken: durations, pitch and energy of each word.

    Writes delivery.json and delivery.items.parquet (one row per utterance). Where the copies' manifest says which words
    an edit changed (`changed`: their numbers), it also tells how much those changed, and how much the others did.

    vocable evaluate delivery --manifest dev.jsonl --copies spoken/aligned.jsonl --out results
    """

    name, Config = "delivery", DeliveryConfig

    def items(self) -> Iterator[Item]:
        """Compare every pair that can be read."""
        config, reasons = self.config, self.run.excluded
        self.pairs, missing = self.run.open("pairs", lambda: pair_utterances(self.run.utterances(), config.copies))
        reasons.update(missing)
        for pair in self.run.watch("Comparing words", self.pairs):
            sounds = self._read(pair, reasons)
            if sounds is None:
                continue
            words = [one.words or () for one in pair]
            matched = match_words(*words)
            if not matched:
                reasons["no word in common"] += 1
                continue
            values = [word_values(sound, own) for sound, own in zip(sounds, words, strict=True)]
            both = np.stack([own[[places[side] for places in matched]] for side, own in enumerate(values)])
            item: dict[str, Any] = {
                "id": pair.original.id,
                "speaker": pair.original.speaker,
                "words": len(words[0]),
                "words_matched": len(matched),
            }
            gaps = np.abs(both[0, :, 0] - both[1, :, 0])
            for tolerance in config.tolerances:  # a microsecond of grace: times are rounded in files
                item[f"words_within_{_ms(tolerance)}"] = int((gaps <= tolerance + 1e-6).sum())
            for index, name in enumerate(VALUES):
                item |= co_moments(name, both[0, :, index], both[1, :, index])
            changed = pair.copy.extra.get(CHANGED)
            item |= _changes(both, None if changed is None else [second in set(changed) for _, second in matched])
            yield item

    def _read(self, pair: Pair, reasons: Counter[str]) -> list[Tensor] | None:
        for name, one in zip(("original", "copy"), pair, strict=True):
            if not one.words:
                reasons[f"no word times in the {name}"] += 1
                return None
        try:
            sounds = [read_utterance(one, SAMPLE_RATE) for one in pair]
        except AudioFormatError:
            reasons["unreadable audio"] += 1
            return None
        try:
            check_pair(*sounds)
        except AudioFormatError as error:
            reasons[str(error)] += 1
            return None
        return sounds

    def nothing(self, reasons: str) -> ManifestError:
        """Say how many pairs there were."""
        return ManifestError(f"None of {len(self.pairs)} pairs could be compared ({reasons}).")

    def scores(self, items: Items) -> dict[str, Score]:
        """Shares and correlations over words, with intervals over utterances and speakers."""
        scores = {}
        for tolerance in self.config.tolerances:
            within = f"words_within_{_ms(tolerance)}"
            meaning = f"words whose durations differ by at most {_ms(tolerance)}"
            scores[f"duration_consistency_{_ms(tolerance)}"] = column_ratio(
                items, within, "words_matched", better="higher", meaning=meaning, **self.draws
            )
        for name, unit in VALUES.items():
            columns = [f"{name}_{part}" for part in ("product", "square", "copy_square")]
            meaning = f"Pearson over words, in {unit}, the mean of each recording taken off"
            scores[f"{name}_correlation"] = self._sums(items, columns, _correlation, "higher", meaning)
        edited = [item for item in items if item["words_changed"] is not None]
        for name, unit in VALUES.items() if edited else ():
            columns = [f"{name}_change_{which}" for which in ("changed", "kept")]
            for which, column in zip(("changed", "kept"), columns, strict=True):
                meaning = f"mean absolute difference in {unit} over words that were {which}"
                scores[column] = column_ratio(
                    edited, column, f"{column}_words", better=None, meaning=meaning, **self.draws
                )
            names = [name for column in columns for name in (column, f"{column}_words")]
            meaning = "difference of kept words over that of changed ones: 0 where edits stay in their place"
            scores[f"{name}_spill"] = self._sums(edited, names, _spill, "lower", meaning)
        scores["words_in_common"] = column_mean(
            [{**item, "share": item["words_matched"] / item["words"]} for item in items],
            "share", better="higher", meaning="words of the original that the copy has", **self.draws,
        )  # fmt: skip
        return scores

    def _sums(
        self,
        items: Items,
        columns: Sequence[str],
        statistic: Callable[[np.ndarray], np.ndarray],
        better: Literal["higher", "lower"],
        meaning: str,
    ) -> Score:
        """Score a function of sums over utterances, given as (draws, columns)."""
        values = [[float(item[name]) for item in items] for name in columns]
        value = float(statistic(cluster_sums(values).sum(0, keepdims=True))[0])
        speakers = [item["speaker"] for item in items]
        known = all(speaker is not None for speaker in speakers)

        def draw(sums: np.ndarray) -> Interval | None:
            return bootstrap(lambda draws: statistic(draws @ sums), len(sums), **self.draws)

        over_items = draw(cluster_sums(values))
        over_speakers = draw(cluster_sums(values, speakers)) if known else None
        return score_between(
            value if np.isfinite(value) else None, len(items), over_items, over_speakers,
            len(set(speakers)) if known else None, better=better, meaning=meaning,
        )  # fmt: skip

    def conventions(self) -> dict[str, Any]:
        """How words are matched and measured."""
        return {
            "words": "longest common subsequence, by letters and digits",
            "tolerances_seconds": list(self.config.tolerances),
            "pitch": f"YIN, 60 to 450 Hz; mean of voiced frames, at least {LEAST_VOICED}",
            "energy": "mean power of the word",
            "frame_seconds": PITCH_HOP / SAMPLE_RATE,
        }


def word_values(
    waveform: Float[Tensor, " samples"], words: Sequence[Word], sample_rate: int = SAMPLE_RATE
) -> Float[np.ndarray, "words 3"]:
    """Measure each word: seconds, semitones above a fixed pitch, decibels; NaN where it has none."""
    hop = PITCH_HOP * sample_rate // SAMPLE_RATE
    pitch = measure_pitch(waveform[None], sample_rate, hop)
    semitones, voiced = pitch.log_f0[0].double() * 12 / np.log(2), pitch.voiced[0]
    values = []
    for word in words:
        first, last = (round(second * sample_rate / hop) for second in (word.start, word.end))
        own = semitones[first:last][voiced[first:last]]
        power = waveform[first * hop : last * hop].double().square().mean() if last > first else torch.tensor(torch.nan)
        values.append(
            (
                word.end - word.start,
                float(own.mean()) if len(own) >= LEAST_VOICED else np.nan,
                float(10 * power.clamp(min=LEAST_POWER).log10()),
            )
        )
    return np.array(values).reshape(-1, len(VALUES))


def co_moments(name: str, original: Float[np.ndarray, " words"], copy: Float[np.ndarray, " words"]) -> dict[str, float]:
    """Return sums of products and squares about the means, over words that have a value on both sides."""
    known = np.isfinite(original) & np.isfinite(copy)
    a, b = original[known], copy[known]
    a, b = (a - a.mean(), b - b.mean()) if len(a) else (a, b)
    return {f"{name}_product": float(a @ b), f"{name}_square": float(a @ a), f"{name}_copy_square": float(b @ b)}


def _changes(both: Float[np.ndarray, "2 words values"], changed: Sequence[bool] | None) -> dict[str, Any]:
    """Return how much changed and kept words differ between the two sides, as sums and numbers of words."""
    if changed is None:
        return {"words_changed": None}
    marks = np.array(changed)
    item: dict[str, Any] = {"words_changed": int(marks.sum())}
    for index, name in enumerate(VALUES):
        gaps = np.abs(both[0, :, index] - both[1, :, index])
        for which, rows in (("changed", marks), ("kept", ~marks)):
            known = rows & np.isfinite(gaps)
            item[f"{name}_change_{which}"] = float(gaps[known].sum())
            item[f"{name}_change_{which}_words"] = int(known.sum())
    return item


def _correlation(sums: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, " draws"]:
    return ratio(sums[:, 0], np.sqrt(sums[:, 1] * sums[:, 2]))


def _spill(sums: Float[np.ndarray, "draws 4"]) -> Float[np.ndarray, " draws"]:
    return ratio(ratio(sums[:, 2], sums[:, 3]), ratio(sums[:, 0], sums[:, 1]))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:g}ms"
