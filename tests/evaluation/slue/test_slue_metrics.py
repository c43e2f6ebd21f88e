"""Scores against scikit-learn, against tables worked out by hand, and against a slow bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.evaluation.slue.labelled_set import SENTIMENTS
from vocable.evaluation.slue.metrics import (
    Counts,
    Found,
    confusion,
    entity_counts,
    macro_f1,
    macro_recall,
    micro_f1,
    numbered,
    plain_phrase,
    resampled_score,
    tag_counts,
)

sentiments = st.lists(st.tuples(st.sampled_from(SENTIMENTS), st.sampled_from(SENTIMENTS)), min_size=1, max_size=30)


@settings(deadline=None)
@given(pairs=sentiments)
def test_macro_scores_are_those_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    gold, found = zip(*pairs)
    table = np.sum([confusion(*pair) for pair in pairs], axis=0)
    wanted = {"labels": list(SENTIMENTS), "average": "macro", "zero_division": 0}
    assert float(macro_f1(table)) == pytest.approx(metrics.f1_score(gold, found, **wanted))
    assert float(macro_recall(table)) == pytest.approx(metrics.recall_score(gold, found, **wanted))


def test_macro_f1_by_hand():
    """Negative 1 of 2 right and 1 found; Neutral 1 of 1 right, 3 found; Positive none of 1 right, none found."""
    pairs = [("Negative", "Negative"), ("Negative", "Neutral"), ("Neutral", "Neutral"), ("Positive", "Neutral")]
    table = np.sum([confusion(*pair) for pair in pairs], axis=0)
    assert float(macro_f1(table)) == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert float(macro_recall(table)) == pytest.approx((1 / 2 + 1 + 0) / 3)


EU, TODAY = Found("PLACE", "eu"), Found("WHEN", "today")


def test_equal_entities_are_numbered():
    assert numbered([EU, TODAY, EU]) == {(EU, 0), (TODAY, 0), (EU, 1)}


@pytest.mark.parametrize(
    ("gold", "found", "entities", "tags"),
    [
        ([EU, TODAY, EU], [EU, Found("PLACE", "today")], Counts(1, 3, 2), Counts(2, 3, 2)),
        ([EU], [EU, EU, EU], Counts(1, 1, 3), Counts(1, 1, 3)),
        ([EU, EU], [EU, EU], Counts(2, 2, 2), Counts(2, 2, 2)),
        ([EU], [Found("ORG", "eu")], Counts(0, 1, 1), Counts(0, 1, 1)),
        ([], [EU], Counts(0, 0, 1), Counts(0, 0, 1)),
        ([], [], Counts(0, 0, 0), Counts(0, 0, 0)),
    ],
)
def test_entities_by_hand(gold, found, entities, tags):
    assert entity_counts(gold, found) == entities and tag_counts(gold, found) == tags


entity_lists = st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("xy")).map(lambda p: Found(*p)), max_size=6)


@given(gold=entity_lists, found=entity_lists)
def test_multisets_are_compared_as_a_slow_count_does(gold, found):
    left = list(gold)
    right = 0
    for entity in found:
        if entity in left:
            left.remove(entity)
            right += 1
    assert entity_counts(gold, found) == (right, len(gold), len(found))
    assert entity_counts(gold, found).correct <= tag_counts(gold, found).correct


def test_micro_f1_adds_counts_up_over_utterances():
    counts = np.array([Counts(1, 3, 2), Counts(0, 0, 1), Counts(2, 2, 2)])
    precision, recall = 3 / 5, 3 / 5
    assert float(micro_f1(counts.sum(axis=0))) == pytest.approx(2 * precision * recall / (precision + recall))
    assert float(micro_f1(np.zeros(3))) == 0.0


@pytest.mark.parametrize(
    ("written", "heard"),
    [
        ("berlin", "Berlin."),
        ("ann", "(Ann)."),
        ("twenty dollars", "$20"),
        ("three thousand", "3,000"),
        ("Mister Young", "Mr. Young's"),
        ("six o'clock", "6 o’clock"),
        ("the eu", "The EU’s,"),
        ("", "..."),
    ],
)
def test_phrases_are_compared_in_one_form(written, heard):
    assert plain_phrase(written) == plain_phrase(heard) == plain_phrase(plain_phrase(heard))


def test_different_phrases_stay_different():
    phrases = ["anna", "annas", "new york", "york", "ten", "tenth", "james", "jam"]
    assert len({plain_phrase(phrase) for phrase in phrases}) == len(phrases)
    assert plain_phrase("Grüße.", "de") == plain_phrase("grüße", "de") != plain_phrase("gruß", "de")


def test_the_bootstrap_is_that_of_a_slow_one():
    generator = np.random.default_rng(1)
    runs = [[Counts(int(c), 3, 2) for c in generator.integers(0, 3, 40)] for _ in range(2)]
    score = resampled_score(runs, micro_f1, "", seed=5)
    values = []
    for _ in range(2000):
        drawn = generator.integers(0, 40, 40)
        values.append(np.mean([2 * sum(run[i].correct for i in drawn) / (5 * 40) for run in runs]))
    assert score.value == pytest.approx(np.mean([2 * sum(c.correct for c in run) / 200 for run in runs]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert score.low == pytest.approx(low, abs=0.02) and score.high == pytest.approx(high, abs=0.02)
    assert score.num_items == 40


def test_runs_that_agree_have_the_interval_of_one():
    run = [Counts(i % 2, 1, 1) for i in range(20)]
    assert resampled_score([run, run], micro_f1, "") == resampled_score([run], micro_f1, "")
    assert resampled_score([run[:1]], micro_f1, "").low is None
    with pytest.raises(ConfigError, match="nothing to do"):
        resampled_score([[]], micro_f1, "")
