"""sBLIMP: is a grammatical sentence more likely than its ungrammatical twin?

Source: The Zero Resource Speech Benchmark 2021 (Nguyen et al., 2020, arXiv:2011.11588), section 3.3, after BLiMP
(Warstadt et al., 2020, arXiv:1912.00582). The toolkit's headline is the mean over sentence pairs, voices averaged
first; others report the macro mean over phenomena. Both are here, and they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.evaluation.pairs import PairSet
from vocable.evaluation.pairs.benchmark import PairBenchmark, PairsConfig
from vocable.evaluation.pairs.gold_csv import find_gold, pairs_from_gold, read_gold
from vocable.evaluation.pairs.tables import accuracy, accuracy_by, grouped, macro_accuracy, mean_over_voices
from vocable.evaluation.results import Score

SENTENCE = ("phenomenon", "type", "sentence")
"""Columns that identify a sentence pair, whatever the voice."""


def read_sblimp(folder: Path, split: str = "dev") -> PairSet:
    """Read the published layout: syntactic/<split>/gold.csv (id, filename, voice, type, subtype, correct, ...).

    Raises:
        ManifestError: gold.csv is missing, lacks a column, or no pair in it is whole.
    """
    path = find_gold(folder, "syntactic", split)
    rows = read_gold(path, ("id", "filename", "voice", "type", "subtype", "correct"))
    group = {"type": "phenomenon", "subtype": "type", "id": "sentence"}
    return pairs_from_gold("sblimp", path, rows, ("type", "subtype", "id", "voice"), group)


def sblimp_scores(items: Sequence[Mapping[str, Any]], column: str) -> dict[str, Score]:
    """Return the accuracy over sentence pairs, its macro mean over phenomena, and each phenomenon."""
    sentences = mean_over_voices(items, column, SENTENCE)
    scores = {"pairs": accuracy(sentences.values(), "grammatical sentences preferred")}
    by_phenomenon = grouped({key: said for key, said in sentences.items() if key[0] is not None}, 0)
    if len(by_phenomenon) > 1:
        scores["macro"] = macro_accuracy(by_phenomenon, "mean over phenomena of their accuracies")
    phenomena = {key: None if key[0] is None else str(key[0]) for key in sentences}
    by_name = accuracy_by(sentences, phenomena, "phenomenon")
    return scores | {f"phenomenon/{name}": score for name, score in sorted(by_name.items())}


class Sblimp(PairBenchmark):
    """Grammatical against ungrammatical sentences (sBLIMP): accuracy over pairs, and by phenomenon.

    DATA is the unpacked ZeroSpeech 2021 benchmark (syntactic/dev/gold.csv), or a set of your own, made with
    'vocable evaluate build sentences'.

    vocable evaluate sblimp data/sblimp --model runs/twist --out results
    """

    name, Config = "sblimp", PairsConfig
    read, score_items = staticmethod(read_sblimp), staticmethod(sblimp_scores)
