"""What is said for the words of a text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable.recognition.normalise import comparable, english_cardinal, spoken_words


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("42", "forty two"),
        ("0", "zero"),
        ("100", "one hundred"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("1984", "nineteen eighty four"),
        ("1,984", "one thousand nine hundred eighty four"),
        ("1905", "nineteen oh five"),
        ("1900", "nineteen hundred"),
        ("2005", "two thousand five"),
        ("2024", "twenty twenty four"),
        ("3.50", "three point five zero"),
        ("007", "zero zero seven"),
        ("1st", "first"),
        ("22nd", "twenty second"),
        ("30th", "thirtieth"),
        ("1,000th", "one thousandth"),
        ("$5", "five dollars"),
        ("(-5%)", "five percent"),  # a minus stands at the start of a word
        ("-5", "minus five"),
        ("10:30", "ten thirty"),
        ("1990s", "nineteen ninety s"),
        ("R2D2", "r two d two"),
        ("12345678901234567", "one two three four five six seven eight nine zero one two three four five six seven"),
    ],
)
def test_numbers_are_spelled_and_noted(written, spoken):
    (word,) = spoken_words(written)
    assert " ".join(word.spoken) == spoken
    assert word.notes


@given(st.integers(0, 10**15 - 1))
def test_cardinals_can_be_read_back(value):
    units = {word: number for number in range(20) for word in english_cardinal(number)}
    units |= {english_cardinal(10 * tens)[0]: 10 * tens for tens in range(2, 10)}
    scales = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
    total = group = 0
    for word in english_cardinal(value):
        if word in scales:
            total, group = total + group * scales[word], 0
        else:
            group = group * 100 if word == "hundred" else group + units[word]
    assert total + group == value


@pytest.mark.parametrize(
    ("text", "words", "spoken"),
    [
        ("“Hello,” she said—twice.", ["Hello", "she", "said—twice"], ["hello", "she", "said twice"]),
        ("O’Brien's rock 'n' roll", ["O’Brien's", "rock", "n", "roll"], ["o'brien's", "rock", "n", "roll"]),
        ("Mr. Well-known & Co.", ["Mr", "Well-known", "&", "Co"], ["mister", "well known", "and", "co"]),
        ("naïve हिन्दी", ["naïve", "हिन्दी"], ["naïve", "हिन्दी"]),
    ],
)
def test_words_lose_their_punctuation_only(text, words, spoken):
    found = spoken_words(text)
    assert [word.word for word in found] == words
    assert [" ".join(word.spoken) for word in found] == spoken


@given(st.text())
def test_no_word_vanishes_and_silence_is_explained(text):
    found = spoken_words(text)
    assert len(found) == len(text.split())
    assert all(word.spoken or word.notes for word in found)
    assert all(char.isalpha() or char == "'" or not char.isascii() for word in found for s in word.spoken for char in s)


def test_what_cannot_be_said_is_noted():
    emoji, dash, slash = spoken_words("hi☃ — and/or")
    assert (emoji.spoken, dash.spoken, slash.spoken) == (("hi",), (), ("and", "or"))
    assert "'☃' has no known sound" in emoji.notes[0]
    assert dash.notes == ("nothing in it is spoken",)
    assert "'/' has no known sound" in slash.notes[0]


def test_other_languages_use_the_library_or_say_so(monkeypatch):
    pytest.importorskip("num2words")
    assert comparable("42", "de") == ("zweiundvierzig",)
    assert comparable("3 %", "de") == ("drei",)  # the sign is an English word in our table only
    unknown = spoken_words("42", "tlh")[0]
    assert unknown.spoken == () and "the number 42 cannot be spelled for the language 'tlh'" in unknown.notes[0]
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    assert "pip install 'vocable[align]'" in spoken_words("42", "de")[0].notes[0]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("IT WAS (coughs) A [noise] LITTLE", ["it", "was", "", "a", "", "little"]),
        ("SPEAKER 1: yes Speaker 12: no", ["", "", "yes", "", "", "no"]),
        ("[background noise], well", ["", "", "well"]),
        ("so <unk> {breath in} (loud laughter) on", ["so", "", "", "", "", "", "on"]),
        ("words[1] and (who was late) x < y", ["words", "and", "who", "was", "late", "x", "", "y"]),
        ("he (having heard a noise) ran", ["he", "having", "heard", "a", "noise", "ran"]),
        ("the speaker 1 said: (my) coughs", ["the", "speaker", "one", "said", "my", "coughs"]),
    ],
)
def test_tags_of_a_transcript_are_not_spoken_and_noted(text, spoken):
    words = spoken_words(text)
    assert [" ".join(word.spoken) for word in words] == spoken
    assert len(words) == len(text.split())
    for word in words:
        noted = any("a tag of the transcript, which nobody says" in note for note in word.notes)
        assert noted == ((not word.spoken and word.word != "<") or "[1]" in word.word or word.word == "words[1")
