"""Error rates counted by hand."""

import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vocable.errors import ConfigError, MissingDependencyError, UnknownNameError
from vocable.evaluation.metrics.wer import (
    AlignedText,
    ErrorCounts,
    align_texts,
    column_error_rate,
    count_errors,
    normalise_basic,
    normalise_english,
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0, 3)),
        ("the cat sat", "the hat sat", (1, 0, 0, 3)),
        ("the cat sat", "the sat", (0, 1, 0, 3)),
        ("the cat sat", "the big cat sat", (0, 0, 1, 3)),
        ("the cat sat", "", (0, 3, 0, 3)),
        ("cat", "a cat and a dog", (0, 0, 4, 1)),
        ("The cat, SAT!", "the cat sat", (0, 0, 0, 3)),
        ("", "two words", (0, 0, 2, 0)),
        ("...", "", (0, 0, 0, 0)),
    ],
)
def test_word_errors(reference: str, hypothesis: str, counts: tuple[int, ...]):
    assert count_errors(reference, hypothesis) == ErrorCounts(*counts)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [("cat", "hat", (1, 0, 0, 3)), ("a cat", "cat", (0, 2, 0, 5)), ("cat", "", (0, 3, 0, 3)), ("", "ab", (0, 0, 2, 0))],
)
def test_character_errors(reference: str, hypothesis: str, counts: tuple[int, ...]):
    assert count_errors(reference, hypothesis, "character") == ErrorCounts(*counts)


def edit_distance(first: list[str], second: list[str]) -> int:
    """The slow, obvious one."""
    if not first or not second:
        return len(first) + len(second)
    if first[-1] == second[-1]:
        return edit_distance(first[:-1], second[:-1])
    return 1 + min(
        edit_distance(first[:-1], second), edit_distance(first, second[:-1]), edit_distance(first[:-1], second[:-1])
    )


WORD_LISTS = st.lists(st.sampled_from(["cat", "dog", "bird"]), max_size=5)


@given(said=WORD_LISTS, heard=WORD_LISTS)
def test_errors_are_the_edit_distance(said: list[str], heard: list[str]):
    assert count_errors(" ".join(said), " ".join(heard)).errors == edit_distance(said, heard)


@given(said=WORD_LISTS, heard=WORD_LISTS)
def test_aligned_stretches_give_both_texts_back(said: list[str], heard: list[str]):
    parts = align_texts(" ".join(said), " ".join(heard))
    assert " ".join(part.reference for part in parts if part.reference).split() == said
    assert " ".join(part.hypothesis for part in parts if part.hypothesis).split() == heard


def error_rate(counts, speakers):
    rows = [{f"heard_{part}": value for part, value in count._asdict().items()} for count in counts]
    items = [{"speaker": speaker, **row} for speaker, row in zip(speakers, rows)]
    return column_error_rate(items, "heard", meaning="test")


def test_long_utterances_weigh_more():
    counts = [ErrorCounts(1, 0, 0, 1), ErrorCounts(0, 0, 0, 9)]
    score = error_rate(counts, ["a", "b"])
    assert score.value == pytest.approx(0.1)  # and not the mean of 1 and 0
    assert (score.num_items, score.num_speakers, score.better) == (2, 2, "lower")
    assert score.low == pytest.approx(0) and score.high == pytest.approx(1)


def test_no_interval_over_speakers_when_one_is_unknown():
    score = error_rate([ErrorCounts(1, 0, 0, 4)] * 3, ["a", None, "b"])
    assert score.speaker_low is None and score.num_speakers is None and score.low is not None


def test_no_words_no_rate():
    assert error_rate([ErrorCounts(0, 0, 2, 0)], ["a"]).value is None
    assert error_rate([], []).value is None


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("Mr. Smith's COLOUR", "mister smith is colour"),  # the published rule reads every 's as "is"
        ("It won't (laughs) go", "it will not go"),
        ("EIGHTEEN O THREE", "1803"),
        ("twenty-one dogs, uh, and 3rd", "21 dogs and 3rd"),
        ("café naïve", "cafe naive"),
        (" ... ", ""),
        ("", ""),
    ],
)
def test_the_english_normaliser_does_what_it_says(text: str, normalised: str):
    assert normalise_english(text) == normalised


def test_the_basic_normaliser_keeps_diacritics():
    assert normalise_basic("Ça, été [x]!") == "ça été"


# Hindi, Tamil, Thai, Hebrew with points, Arabic with vowels, Khmer; each word differs in one mark or letter
@pytest.mark.parametrize(
    ("reference", "hypothesis", "words"),
    [
        ("हिन्दी की किताब", "हिन्दी का किताब", 3),
        ("தமிழ் மொழி!", "தமிழ் மொழ!", 2),
        ("ภาษาไทย ดี", "ภาษาไทย ดื", 2),
        ("שָׁלוֹם עוֹלָם", "שָׁלוֹם עוֹלֵם", 2),
        ("كِتَابٌ كَبِيرٌ", "كِتَابٌ كَبُيرٌ", 2),
        ("ភាសា ខ្មែរ (ទី១)", "ភាសា ខ្មារ", 2),
    ],
)
def test_marks_stay_with_their_letters_in_every_script(reference, hypothesis, words):
    counts = count_errors(reference, hypothesis, normaliser="basic")
    assert (counts.substitutions, counts.errors, counts.reference_length) == (1, 1, words)
    assert count_errors(reference, reference, normaliser="basic").errors == 0


@given(st.text(st.characters(exclude_categories=["M", "Cs"])))
@example("\N{MATHEMATICAL BOLD ITALIC CAPITAL A}")  # a capital by NFKC only
def test_texts_without_marks_are_normalised_as_published(text):
    published = pytest.importorskip("transformers.models.whisper.english_normalizer").BasicTextNormalizer()
    if not any(unicodedata.category(char)[0] == "M" for char in unicodedata.normalize("NFKC", text.lower())):
        expected = published(text).strip()
        assert normalise_basic(text) == (expected if re.search(r"\w", expected) else "")


def test_bad_settings_are_named():
    with pytest.raises(UnknownNameError, match=r"text normaliser 'englisch'\. Did you mean 'english'"):
        count_errors("a", "a", normaliser="englisch")
    with pytest.raises(ConfigError, match="level is 'phone'"):
        count_errors("a", "a", "phone")  # type: ignore[arg-type]  # the wrong value is the point


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vocable\[eval\]'"):
        count_errors("a b", "a")


def test_a_word_replaced_is_shown():
    assert align_texts("the cat sat", "the hat sat down") == [
        AlignedText("equal", "the", "the"),
        AlignedText("substitute", "cat", "hat"),
        AlignedText("equal", "sat", "sat"),
        AlignedText("insert", "", "down"),
    ]
