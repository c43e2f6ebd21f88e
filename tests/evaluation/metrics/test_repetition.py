"""Repetition by hand, and against NLTK and the slow definition."""

import math
import random

import pytest

from vocable.errors import ConfigError
from vocable.evaluation.metrics.repetition import (
    auto_bleu_gslm,
    auto_bleu_slam,
    copy_rate,
    nltk_words,
    plain_words,
    self_bleu,
    vert,
)


def test_auto_bleu_of_a_b_a_b_by_hand():
    words = ["a", "b", "a", "b"]
    # unigrams: all 4 occur again; bigrams ab ba ab: 2 of 3; trigrams aba bab: none
    assert auto_bleu_gslm(words, 2, "arithmetic") == pytest.approx((1 + 2 / 3) / 2)
    assert auto_bleu_gslm(words, 2, "geometric") == pytest.approx(math.sqrt(2 / 3))
    assert auto_bleu_gslm(words, 3, "arithmetic") == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert auto_bleu_gslm(words, 3, "geometric") == 0
    assert auto_bleu_slam(words) == pytest.approx(2 / 3)


def test_the_two_forms_differ_on_overlaps():
    """In "a a a" the two bigrams overlap: again for Slam, the same place for GSLM."""
    words = ["a", "a", "a"]
    assert auto_bleu_slam(words) == 1
    assert auto_bleu_gslm(words, 2, "arithmetic") == pytest.approx((1 + 0) / 2)


@pytest.mark.parametrize("words", [[], ["one"]])
def test_too_short_for_a_bigram(words):
    assert auto_bleu_gslm(words) == 0 and auto_bleu_slam(words) == 0


def test_auto_bleu_against_the_slow_definition():
    """Cut the text before and after each n-gram, and look for it in what is left."""
    generator = random.Random(0)
    for _ in range(50):
        words = generator.choices(["a", "b", "c", "d"], k=generator.randint(2, 15))
        shares = []
        for order in (1, 2, 3):
            starts = range(len(words) - order + 1)
            grams = [words[p : p + order] for p in starts]
            found = 0
            for p in starts:
                sides = words[:p], words[p + order :]
                found += any(side[q : q + order] == grams[p] for side in sides for q in range(len(side) - order + 1))
            shares.append(found / len(grams) if grams else 0.0)
        assert auto_bleu_gslm(words, 3, "arithmetic") == pytest.approx(sum(shares) / 3)
        assert auto_bleu_gslm(words, 2, "geometric") == pytest.approx(math.sqrt(shares[0] * shares[1]))
        bigrams = [(words[p], words[p + 1]) for p in range(len(words) - 1)]
        slam = [gram for gram in bigrams if bigrams.count(gram) > 1]
        assert auto_bleu_slam(words) == pytest.approx(len(slam) / (len(words) - 1))


def test_self_bleu_by_hand():
    texts = [["a", "a", "b"], ["a", "b"], ["c"]]
    # text 0: unigrams a a b, clipped by "a b": 2 of 3; bigrams aa ab: 1 of 2. text 1: 2 of 2, 1 of 1. text 2: nothing
    assert self_bleu(texts, 2, "geometric") == pytest.approx([math.sqrt(2 / 3 * 1 / 2), 1, 0])
    assert self_bleu(texts, 2, "arithmetic") == pytest.approx([(2 / 3 + 1 / 2) / 2, 1, 0])


def test_self_bleu_against_nltk():
    from nltk.translate.bleu_score import modified_precision

    generator = random.Random(1)
    texts = [generator.choices(["a", "b", "c", "d", "e", "f"], k=generator.randint(1, 12)) for _ in range(25)]
    ours = self_bleu(texts, 3, "arithmetic"), self_bleu(texts, 2, "geometric")
    for index, text in enumerate(texts):
        others = texts[:index] + texts[index + 1 :]
        exact = [float(modified_precision(others, text, n)) for n in (1, 2, 3)]
        assert ours[0][index] == pytest.approx(sum(exact) / 3)
        assert ours[1][index] == pytest.approx(math.sqrt(exact[0] * exact[1]))


def test_self_bleu_needs_company():
    with pytest.raises(ConfigError, match="there are 1, at least 2"):
        self_bleu([["a"]])


def test_vert_by_hand():
    assert vert(0.5, 0.02) == pytest.approx(0.1)


def test_copy_rate_by_hand():
    prompt = ["the", "cat", "sat", "on", "the", "mat"]
    assert copy_rate(prompt, prompt) == 1
    assert copy_rate(prompt, ["and", "then", "sat", "on", "the", "floor"]) == pytest.approx(3 / 6)
    assert copy_rate(prompt, ["dogs"]) == 0
    assert copy_rate(prompt, []) is None


def test_words_of_the_two_forms():
    assert plain_words("Don't stop, 'Mary' – or Don\u2019t!") == ["don't", "stop", "mary", "or", "don't"]
    assert nltk_words("Don't stop, Mary!") == ["Do", "n't", "stop", ",", "Mary", "!"]


def test_an_unknown_average_is_refused():
    with pytest.raises(ConfigError, match="known: arithmetic, geometric"):
        auto_bleu_gslm(["a", "b"], averaging="harmonic")  # type: ignore[arg-type]
