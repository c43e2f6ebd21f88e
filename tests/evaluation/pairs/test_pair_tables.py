"""How credits are summed up, against tables worked out by hand."""

import numpy as np
import pytest

from vocable.evaluation.pairs.tables import macro_accuracy
from vocable.evaluation.salmon import salmon_scores
from vocable.evaluation.sblimp import sblimp_scores
from vocable.evaluation.storycloze import storycloze_scores
from vocable.evaluation.swuggy import swuggy_scores


def rows(*columns, names):
    return [dict(zip(names, values), id=str(place)) for place, values in enumerate(zip(*columns))]


def test_swuggy_averages_voices_then_words():
    words = ["a", "a", "a", "b", "c", "c", "d"]
    bands = ["oov", "oov", "oov", "1-5", ">100", ">100", ">100"]
    credits = [1, 0, 0, 1, 0.5, 0, 1]
    scores = swuggy_scores(rows(words, bands, credits, names=("word", "band", "correct")), "correct")
    assert scores["all"].value == pytest.approx((1 / 3 + 1 + 0.25 + 1) / 4)
    assert scores["in_vocabulary"].value == pytest.approx((1 + 0.25 + 1) / 3)
    assert scores["band/oov"].value == pytest.approx(1 / 3)
    assert scores["band/>100"].value == pytest.approx((0.25 + 1) / 2)
    # the toolkit weights band means by their counts and drops oov: the same number
    weighted = (1 * scores["band/1-5"].value + 2 * scores["band/>100"].value) / 3
    assert scores["in_vocabulary"].value == pytest.approx(weighted)
    assert list(scores) == ["all", "in_vocabulary", "band/oov", "band/1-5", "band/>100"]


def test_words_without_names_or_bands():
    scores = swuggy_scores([{"id": str(i), "correct": value} for i, value in enumerate((1, 0, 1))], "correct")
    assert {name: score.value for name, score in scores.items()} == {"all": pytest.approx(2 / 3)}
    assert scores["all"].num_items == 3


def test_sblimp_pair_mean_and_macro_differ():
    phenomena = ["x"] * 6 + ["y"] * 2
    sentences = ["0", "0", "1", "1", "2", "2", "0", "0"]  # two voices each; ids repeat between phenomena
    credits = [1, 1, 1, 0, 1, 1, 0, 0]
    names = ("phenomenon", "type", "sentence", "correct")
    scores = sblimp_scores(rows(phenomena, ["t"] * 8, sentences, credits, names=names), "correct")
    assert scores["pairs"].value == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert scores["macro"].value == pytest.approx(((1 + 0.5 + 1) / 3 + 0) / 2)
    assert scores["phenomenon/y"].value == 0


def test_storycloze_versions_apart():
    names = ("version", "story", "correct")
    both = rows(["spoken", "topic", "topic"], ["1", "1", "2"], [0, 1, 0.5], names=names)
    scores = storycloze_scores(both, "correct")
    assert {k: v.value for k, v in scores.items()} == {"all": 0.5, "spoken": 0, "topic": 0.75}
    assert list(storycloze_scores(both[1:], "correct")) == ["topic"]


def test_pairs_of_one_story_are_drawn_together():
    names = ("version", "story", "correct")
    many = rows(["topic"] * 60, [str(i // 10) for i in range(60)], [i // 10 % 2 for i in range(60)], names=names)
    apart = [{**row, "story": row["id"]} for row in many]
    clustered, single = (storycloze_scores(items, "correct")["topic"] for items in (many, apart))
    assert clustered.value == single.value == 0.5 and clustered.num_items == 60
    # six stories that are right or wrong as a whole: as wide as six coin flips, not sixty
    assert clustered.high - clustered.low > 2 * (single.high - single.low)


def test_salmon_mean_over_tasks():
    scores = salmon_scores(rows(["s", "s", "s", "r"], [1, 1, 0, 0], names=("task", "correct")), "correct")
    assert scores["mean"].value == pytest.approx((2 / 3 + 0) / 2)
    assert scores["s"].value == pytest.approx(2 / 3) and scores["s"].num_items == 3


def test_pairs_cut_from_one_recording_count_as_one():
    names = ("task", "recording", "correct")
    scores = salmon_scores(rows(["s"] * 6, ["a", "a", "b", "b", "c", "c"], [1, 0, 1, 1, 0, 0], names=names), "correct")
    assert scores["s"].value == 0.5 and scores["s"].num_items == 3


def test_macro_interval_draws_within_groups():
    rng = np.random.default_rng(1)
    values = {"a": rng.integers(0, 2, 400).tolist(), "b": rng.integers(0, 2, 100).tolist()}
    found = macro_accuracy(values, "")
    # a mean of two independent means: normal theory, to within the error of 2,000 draws
    variances = [np.var(v) / len(v) for v in values.values()]
    half = 1.96 * np.sqrt(sum(variances)) / 2
    assert found.low == pytest.approx(found.value - half, abs=0.006)
    assert found.high == pytest.approx(found.value + half, abs=0.006)


def test_macro_interval_needs_two_items_a_group():
    found = macro_accuracy({"a": [1.0, 0.0], "b": [1.0]}, "")
    assert (found.value, found.low, found.high) == (0.75, None, None)
