"""sWUGGY: is a spoken word more likely than a pseudo-word that sounds like one?

Source: The Zero Resource Speech Benchmark 2021 (Nguyen et al., 2020, arXiv:2011.11588), section 3.2; conventions of its
toolkit: credits are averaged over voices, then over words. Frequency bands count the word in LibriSpeech; they are
[0, 1), [1, 5), [5, 20), [20, 100), [100, inf), and carry the toolkit's names (1-5, 6-20, ...), which are one off.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vocable.errors import ManifestError
from vocable.evaluation.pairs import PairSet
from vocable.evaluation.pairs.benchmark import PairBenchmark, PairsConfig
from vocable.evaluation.pairs.gold_csv import find_gold, pairs_from_gold, read_gold
from vocable.evaluation.pairs.tables import accuracy, accuracy_by, mean_over_voices, thing_said
from vocable.evaluation.results import Score

BANDS = ("oov", "1-5", "6-20", "21-100", ">100")
FIRST_COUNTS = (1, 5, 20, 100)
"""Smallest count of each band after the first."""
WORD = ("word",)
"""Columns that identify a word and its pseudo-word, whatever the voice."""


def frequency_band(count: float) -> str:
    """Name the band of a word that occurs `count` times in LibriSpeech."""
    return BANDS[bisect.bisect_right(FIRST_COUNTS, count)]


def read_swuggy(folder: Path, split: str = "dev") -> PairSet:
    """Read the published layout: lexical/<split>/gold.csv (id, filename, voice, frequency, ..., correct) and wav files.

    A word without a frequency is in no band.

    Raises:
        ManifestError: gold.csv is missing, lacks a column, or no pair in it is whole.
    """
    path = find_gold(folder, "lexical", split)
    rows = read_gold(path, ("id", "filename", "voice", "frequency", "correct"))
    pair_set = pairs_from_gold("swuggy", path, rows, ("id", "voice"), {"id": "word", "frequency": "band"})
    items = [replace(item, group=_with_band(path, item.group)) for item in pair_set.items]
    return replace(pair_set, items=items)


def swuggy_scores(items: Sequence[Mapping[str, Any]], column: str) -> dict[str, Score]:
    """Return the accuracy over all words, in-vocabulary words, and each frequency band, as far as bands are known.

    In-vocabulary is the mean over the words of all bands but `oov`, which equals the toolkit's mean of bands weighted
    by their counts.
    """
    words = mean_over_voices(items, column, WORD)
    bands = {thing_said(item, WORD): item.get("band") for item in items}
    scores = {"all": accuracy(words.values(), "words preferred to pseudo-words")}
    known = {key: said for key, said in words.items() if bands[key] is not None}
    seen = [said for key, said in known.items() if bands[key] != "oov"]
    if known and seen and len(seen) < len(known):
        scores["in_vocabulary"] = accuracy(seen, "words that occur in LibriSpeech")
    by_band = accuracy_by(known, bands, "frequency band")
    return scores | {
        f"band/{name}": by_band[name] for name in (*BANDS, *sorted(set(by_band) - set(BANDS))) if name in by_band
    }


def _with_band(path: Path, group: Mapping[str, str]) -> Mapping[str, str]:
    """The group with its band in the place of its frequency, where there is one."""
    try:
        return {**group, "band": frequency_band(float(group["band"]))} if "band" in group else group
    except ValueError as error:
        raise ManifestError(f"{path}: the frequency {group['band']!r} is no number.") from error


class Swuggy(PairBenchmark):
    """Spoken words against pseudo-words (sWUGGY): accuracy over all, in-vocabulary, and by frequency.

    DATA is the unpacked ZeroSpeech 2021 benchmark (lexical/dev/gold.csv), or a set of your own, made with
    'vocable evaluate build words'.

    vocable evaluate swuggy data/swuggy --model runs/twist --out results
    """

    name, Config = "swuggy", PairsConfig
    read, score_items = staticmethod(read_swuggy), staticmethod(swuggy_scores)
