"""Words with their phonemes: by hibari's phonemizer, as given; and durations to times."""

import itertools
import sys
from importlib import metadata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError, MissingDependencyError
from vocable.synthesis import phonemes
from vocable.synthesis.phonemes import (
    WordPhonemes,
    assign_words,
    default_phonemizer,
    join_words,
    open_phonemizer,
    phone_times,
    phonemize_with_hibari,
    read_given,
    split_long,
    without_shouting,
    word_times,
)


def is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


needs_hibari = pytest.mark.skipif(not is_installed("hibari-tts"), reason="needs the extra [voice]")


def test_words_and_pauses_become_one_string_with_spans():
    text, spans = join_words([WordPhonemes("oh", "ˈO", ","), WordPhonemes("no", "nˈO", "")])
    assert text == "ˈO, nˈO"
    assert [text[first:last] for first, last in spans] == ["ˈO", "nˈO"]


def test_word_times_add_up_durations_and_share_the_space():
    spans = [(0, 2), (3, 5), (7, 8)]  # "ab cd, e"
    durations = np.array([1, 2, 2, 1, 1, 4, 3, 5])
    words = word_times(["ab", "cd", "e"], spans, durations, first_frame=10)
    frame = 0.025
    # the space (2 frames) is shared; the comma and the space after it (7 frames) are silence
    expected = [(10, 14), (14, 17), (24, 29)]
    assert [(round(w.start / frame), round(w.end / frame)) for w in words] == expected


def test_phone_times_give_marks_and_spaces_to_their_neighbours():
    #                     a  b  space ˈ  c  ː  ,  space d  .
    durations = np.array([1, 2, 2, 1, 3, 1, 4, 2, 5, 6])
    phones = phone_times("ab ˈcː, d.", durations, first_frame=10)
    expected = [("a", 10, 11), ("b", 11, 14), ("c", 14, 20), ("sil", 20, 26), ("d", 26, 31), ("sil", 31, 37)]
    assert [(p.phone, round(p.start / 0.025), round(p.end / 0.025)) for p in phones] == expected


@needs_hibari
def test_a_sentence_becomes_words_with_phonemes_and_pauses():
    spoken = phonemize_with_hibari('"The old farmer," he said — and (then) left…')
    assert spoken == [
        ("The", "ði", ""),
        ("old", "ˈOld", ""),
        ("farmer", "fˈɑɹməɹ", ","),
        ("he", "hi", ""),
        ("said", "sˈɛd", "—"),
        ("and", "ænd", ""),
        ("then", "ðˈɛn", ""),
        ("left", "lˈɛft", "…"),
    ]


def test_only_texts_in_capitals_throughout_are_read_in_lower_case():
    assert without_shouting("I SAID IT'S 5 O'CLOCK, AND I'M OFF") == "I said it's 5 o'clock, and I'm off"
    assert without_shouting("ÉTÉ À VICHY I") == "été à vichy I"
    for text in ("The BBC and IT", "iPHONE", "12:30", "x"):
        assert without_shouting(text) == text


@needs_hibari
def test_a_transcript_in_capitals_sounds_like_the_same_in_lower_case():
    """Without it, hibari spells "IT", "NORTHANGER" and "MORLAND" letter by letter."""
    shouted = phonemize_with_hibari("NORTHANGER ABBEY, AND IT WAS MR MORLAND'S AT 7:30")
    quiet = phonemize_with_hibari("northanger abbey, and it was mr morland's at 7:30")
    assert [word.word for word in shouted] == [
        "NORTHANGER",
        "ABBEY",
        "AND",
        "IT",
        "WAS",
        "MR",
        "MORLAND'S",
        "AT",
        "7:30",
    ]
    assert [word[1:] for word in shouted] == [word[1:] for word in quiet]
    assert shouted[0].phonemes == "nˈɔɹθAnʤəɹ"
    mixed = phonemize_with_hibari("They met at the BBC")
    assert mixed[-1].phonemes == "bˌibˌisˈi"


@needs_hibari
def test_what_is_read_out_stays_one_word_of_the_text():
    spoken = {word.word: word.phonemes for word in phonemize_with_hibari("Dr. Smith paid $9.99 at 7:30 pm for 60 km.")}
    assert list(spoken) == ["Dr", "Smith", "paid", "9.99", "at", "7:30", "pm", "for", "60", "km"]
    assert spoken["Dr"] == "dˈɑktəɹ" and spoken["km"].startswith("kəlˈɑm")
    assert spoken["9.99"].split()[:2] == ["nˈIn", "dˈɑləɹz"]
    assert spoken["7:30"].split() == ["sˈɛvən", "θˈɜɹTi"] and spoken["pm"] == "pˌiˈɛm"


@needs_hibari
def test_a_text_of_numbers_is_read():
    assert [word.word for word in phonemize_with_hibari("1,250 3/4 1990s")] == ["1,250", "3/4", "1990s"]


@needs_hibari
def test_british_words_are_british():
    bath = {accent: open_phonemizer("hibari", accent)("bath")[0].phonemes for accent in ("en-us", "en-gb")}
    assert bath == {"en-us": "bˈæθ", "en-gb": "bˈɑːθ"}


@needs_hibari
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no word to speak"),
        (" — ...!", "holds no word to speak"),
        ("Hello, мир", "has the letter 'м', which is not of the Latin script"),
        ("漢字", "has the letter '漢'"),
    ],
)
def test_text_that_hibari_cannot_read_is_refused(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        phonemize_with_hibari(text)


@needs_hibari
@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["it's", "café", "A.M.", "&", "O'Neill", "x2y", "50-60", "—", "...", "qwrt"]), min_size=1)
)
def test_words_come_back_in_the_order_of_the_text(tokens: list[str]):
    text = " ".join(tokens)
    try:
        spoken = phonemize_with_hibari(text)
    except ConfigError:
        assert not any(char.isalnum() or char == "&" for char in text)
        return
    words = [phonemes.bare_word(token) for token in tokens if phonemes.bare_word(token)]
    rest = iter(words)
    assert all(any(word.word == other for other in rest) for word in spoken)
    assert all(word.phonemes.strip() for word in spoken)


def test_phonemes_that_are_given_are_read_as_they_are():
    spoken = read_given("ˈO , nˈO!! —")
    assert spoken == [("ˈO", "ˈO", ","), ("nˈO", "nˈO", "!")]
    assert open_phonemizer("given")("a.") == [("a", "a", ".")]
    with pytest.raises(ConfigError, match="holds no word to speak"):
        read_given(" . ")


def test_rewritten_words_fall_to_the_words_of_the_text():
    def spoken(text: str) -> list[WordPhonemes]:
        return [WordPhonemes(word, word.upper(), "") for word in text.split()]

    given = assign_words(["at", "7:30", "pm", "on", "May", "3"], spoken("at seven thirty P.M on May third"))
    assert [tuple(word) for word in given] == [
        ("at", "AT", ""),
        ("7:30", "SEVEN THIRTY", ""),
        ("pm", "P.M", ""),
        ("on", "ON", ""),
        ("May", "MAY", ""),
        ("3", "THIRD", ""),
    ]
    # a word that nothing stands for is left out; words without one go to the word before
    assert [word.word for word in assign_words(["a", "b", "c"], spoken("a c"))] == ["a", "c"]
    assert assign_words(["a", "c"], spoken("a b c"))[0].phonemes == "A B"
    assert assign_words(["a"], spoken("x a"))[0].phonemes == "X A"


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40), marks=st.integers(0, 2**40))
def test_long_texts_are_split_and_nothing_is_lost(sizes: list[int], marks: int):
    words = [WordPhonemes("w", "x" * size, "," if marks >> index & 1 else "") for index, size in enumerate(sizes)]
    parts = split_long(words, 12)
    assert [word for part in parts for word in part] == words
    assert all(len(join_words(part)[0]) <= 12 for part in parts)
    for part, following in itertools.pairwise(parts):
        longer = len(join_words([*part, following[0]])[0]) > 12
        assert part[-1].pause or (longer and not any(word.pause for word in part))
    with pytest.raises(ConfigError, match="'w' has more than 12 phonemes"):
        split_long([WordPhonemes("w", "x" * 13, "")], 12)


def test_the_default_is_what_is_installed(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(phonemes.metadata, "version", lambda name: "0.2.1")
    assert default_phonemizer() == "hibari"
    monkeypatch.setattr(phonemes.metadata, "version", missing)
    assert default_phonemizer() == "espeak-ng"


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch):
    phonemes._hibari.cache_clear()
    monkeypatch.setitem(sys.modules, "hibari.g2p", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vocable\[voice\]'"):
        phonemize_with_hibari("a word")
