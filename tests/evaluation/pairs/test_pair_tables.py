"""How credits are summed up, against tables worked out by hand."""

import numpy as np
import pytest

from vocable.evaluation.bootstrap import bootstrap_ratio
from vocable.evaluation.pairs.tables import Said, accuracy, macro_accuracy, mean_over_voices, with_voices
from vocable.evaluation.results import Score
from vocable.evaluation.salmon import salmon_scores
from vocable.evaluation.sblimp import sblimp_scores
from vocable.evaluation.storycloze import storycloze_scores
from vocable.evaluation.swuggy import swuggy_scores


def bootstrap_mean(values, clusters=None, **settings):
    return bootstrap_ratio(values, [1.0] * len(values), clusters, **settings)


def rows(*columns, names):
    return [dict(zip(names, values), id=str(place)) for place, values in enumerate(zip(*columns))]


def things(*credits):
    return [Said((float(credit),), (None,)) for credit in credits]


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
    found = macro_accuracy({name: things(*credits) for name, credits in values.items()}, "")
    # a mean of two independent means: normal theory, to within the error of 2,000 draws
    variances = [np.var(v) / len(v) for v in values.values()]
    half = 1.96 * np.sqrt(sum(variances)) / 2
    assert found.low == pytest.approx(found.value - half, abs=0.006)
    assert found.high == pytest.approx(found.value + half, abs=0.006)


def test_macro_interval_needs_two_items_a_group():
    found = macro_accuracy({"a": things(1.0, 0.0), "b": things(1.0)}, "")
    assert (found.value, found.low, found.high) == (0.75, None, None)


def over_voices(score):
    return score.num_speakers, score.speaker_low, score.speaker_high


def test_with_each_thing_in_one_voice_whole_voices_are_drawn():
    """Then it is the cluster bootstrap of a mean."""
    rng = np.random.default_rng(0)
    voices = [str(place % 8) for place in range(240)]
    credits = [float(rng.random() < 0.2 + 0.08 * int(voice)) for voice in voices]
    names = ("word", "voice", "correct")
    score = swuggy_scores(rows(map(str, range(240)), voices, credits, names=names), "correct")["all"]
    expected = bootstrap_mean(credits, voices, num_resamples=20_000)
    count, low, high = over_voices(score)
    assert count == 8 and [low, high] == pytest.approx([*(expected or ())], abs=0.02)
    # voices differ by more than chance: items alone do not show it
    assert high - low > 1.3 * ((score.high or 1) - (score.low or 0))


def test_with_each_thing_in_all_voices_the_mean_over_voices_is_resampled():
    rng = np.random.default_rng(0)
    table = (rng.random((6, 50)) < np.linspace(0.3, 0.8, 6)[:, None]).astype(float)  # voices, words
    said = [(str(word), str(voice), table[voice, word]) for voice in range(6) for word in range(50)]
    score = swuggy_scores(rows(*zip(*said), names=("word", "voice", "correct")), "correct")["all"]
    drawn = [table[rng.integers(0, 6, 6)].mean() for _ in range(20_000)]
    count, low, high = over_voices(score)
    assert count == 6 and [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_voices_are_drawn_and_summed_up_as_the_score_is():
    """Against loops over copies of items: voices that say unequally much, groups that not every voice is in."""
    said = {
        ("x", "a"): {"p": [1, 0], "q": [1]},
        ("x", "b"): {"q": [0], "r": [1], "s": [0.5]},
        ("x", "c"): {"p": [0]},
        ("y", "d"): {"r": [1], "s": [1]},
        ("y", "e"): {"s": [0]},
    }
    flat = [(p, s, v, c) for (p, s), by in said.items() for v, many in by.items() for c in many]
    names = ("phenomenon", "sentence", "voice", "correct")
    scores = sblimp_scores(rows(*zip(*flat), names=names), "correct")
    rng, drawn = np.random.default_rng(1), {"pairs": [], "macro": []}
    for _ in range(8000):
        chosen = rng.choice(list("pqrs"), 4)
        items = [
            (phenomenon, credit, 1 / sum(map(len, by.values())))
            for (phenomenon, _), by in said.items()
            for voice in chosen
            for credit in by.get(voice, [])
        ]
        drawn["pairs"].append(weighted_mean(items))
        parts = [[item for item in items if item[0] == phenomenon] for phenomenon in "xy"]
        drawn["macro"].append(np.mean([weighted_mean(part) for part in parts if part]))
    for name, found in drawn.items():
        count, low, high = over_voices(scores[name])
        # four voices give few different values: a percentile may fall on a neighbour's
        assert count == 4 and [low, high] == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.05)
    assert over_voices(scores["phenomenon/y"]) == (None, None, None)  # said by two voices


def weighted_mean(items):
    return sum(credit * weight for _, credit, weight in items) / sum(weight for _, _, weight in items)


def test_few_or_unknown_voices_give_no_interval_over_voices():
    names = ("word", "voice", "correct")
    for voices in (["p", "q", "r"] * 4, ["p", "q", "r", None] * 3):
        scores = swuggy_scores(rows(map(str, range(12)), voices, [1, 0] * 6, names=names), "correct")
        assert over_voices(scores["all"]) == (None, None, None) and scores["all"].low is not None
    alike = mean_over_voices(rows("aabbccdd", "pqrspqrs", [1] * 8, names=names), "correct", ("word",))
    assert over_voices(accuracy(alike.values(), "")) == (4, 1, 1)
    assert with_voices(Score(value=None, num_items=0), []).num_speakers is None


def test_stories_have_an_interval_over_voices_beside_that_over_stories():
    names = ("version", "story", "voice", "correct")
    voices = [str(i % 5) for i in range(60)]
    stories = [str(i // 2) for i in range(60)]
    items = rows(["topic"] * 60, stories, voices, [float(voice > "1") for voice in voices], names=names)
    score = storycloze_scores(items, "correct")["topic"]
    # voices are right or wrong as a whole; of five draws none is right in 0.010 of all resamples, each in 0.078
    assert score.value == pytest.approx(0.6) and over_voices(score) == (5, pytest.approx(0.2), 1)
    assert score.low is not None and score.low > 0.2
