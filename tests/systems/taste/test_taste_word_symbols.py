"""Which symbol belongs to which word of a text."""

import pytest

from vocable.errors import ConfigError
from vocable.synthesis.phonemes import WordPhonemes, read_given
from vocable.systems.taste.word_symbols import read_words


def read_aloud(text):
    """A phonemizer that cuts at dashes, reads digits as two words, and leaves out other punctuation."""
    found = []
    for token in text.replace("—", " — ").split():
        bare = token.strip("“”.,—")
        if not bare:
            found[-1] = found[-1]._replace(pause=found[-1].pause or token[:1])
            continue
        sounds = "sˈɛvən θˈɜɹTi" if bare[0].isdigit() else bare.lower()
        found.append(WordPhonemes(bare, sounds, token[-1] if token[-1] in ".," else ""))
    return found


def test_symbols_belong_to_the_words_between_blanks():
    read = read_words(["“Wel", "—", "its", "go—on,", "7:30"], read_aloud)
    assert [word.word for word in read.spoken] == ["Wel", "its", "go", "on", "7:30"]
    assert read.owners == (0, 2, 3, 3, 4)
    assert read.text == "wel— its go— on, sˈɛvən θˈɜɹTi."
    assert [read.text[first:last] for first, last in read.spans] == ["wel", "its", "go", "on", "sˈɛvən θˈɜɹTi"]
    # the start mark, "wel" with its mark and blank, "its ", "go— ", "on, ", "sˈɛvən θˈɜɹTi." and the end mark
    assert read.symbol_owners() == [0] * 6 + [2] * 4 + [3] * 8 + [4] * 15
    assert len(read.symbol_owners()) == len(read.text) + 2


def test_pauses_are_put_in_and_read_back():
    read = read_words(["ab", "cd", "ef."], read_given)
    paused = read.with_commas([0, 2])
    assert (read.text, paused.text) == ("ab cd ef.", "ab, cd ef.")
    assert read.pauses_of("ab, cd ef.") == paused and paused.pauses_of("ab cd ef.") == read
    for other in ("ab cd ef. ", "ab cd", "abcd ef.", "ab cd eg.", "ab,cd ef.", "ab cd ef. gh."):
        assert read.pauses_of(other) is None


def test_long_texts_are_cut_between_words():
    parts = read_words(["ab", "cd,", "ef", "gh"], read_given).parts(7)
    assert [(part.text, part.owners) for part in parts] == [("ab cd,", (0, 1)), ("ef gh.", (2, 3))]


def test_words_that_a_phonemizer_invents_are_refused():
    with pytest.raises(ConfigError, match="the word 'nine', which is not in '7 o'"):
        read_words(["7", "o"], lambda text: [WordPhonemes("nine", "nˈIn", "")])
    with pytest.raises(ConfigError, match="holds no word"):
        read_words(["...", "—"], read_given)
