"""Words and their phonemes: symbol mapping, clauses, and the cut of a clause into words."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError, MissingDependencyError
from vocable.synthesis import espeak_phonemes
from vocable.synthesis.espeak_phonemes import align_words, phonemize, split_clauses, to_kokoro

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.mark.parametrize(
    ("ipa", "accent", "expected"),
    [
        ("sˈe^ɪ", "en-us", "sˈA"),
        ("d^ʒˈʌd^ʒ", "en-us", "ʤˈʌʤ"),
        ("t^ʃˈɜːt^ʃ", "en-us", "ʧˈɜɹʧ"),
        ("bˈɜːɹd", "en-us", "bˈɜɹd"),
        ("wˈɔːɾɚ", "en-us", "wˈɔTəɹ"),
        ("bˈɑːɾə^lz", "en-us", "bˈɑTᵊlz"),
        ("ˈo^ʊld", "en-us", "ˈOld"),
        ("ˈə^ʊld", "en-gb", "ˈQld"),
        ("ðˈe^ə", "en-gb", "ðˈɛː"),
        ("bˈɜːd", "en-gb", "bˈɜːd"),
        ("(fr)bˈɔ̃(en)", "en-us", "bˈɔ"),
    ],
)
def test_ipa_becomes_kokoro_symbols(ipa, accent, expected):
    assert to_kokoro(ipa, accent) == expected


def test_clauses_end_at_pause_marks_and_words_are_bare():
    clauses = split_clauses('"Mother!" he said—"the baker’s aunt, (she) is well."')
    assert clauses == [
        (["Mother"], "!"),
        (["he", "said"], "—"),
        (["the", "baker's", "aunt"], ","),
        (["she", "is", "well"], "."),
    ]


def test_words_that_were_written_together_are_cut_apart():
    assert align_words("ʌvðə mˈæn hˌædɪt", ["ˈʌv", "ðə", "mˈæn", "hˈæd", "ˈɪt"]) == ["ʌv", "ðə", "mˈæn", "hˌæd", "ɪt"]


def test_a_number_of_two_spoken_words_stays_one_word():
    assert align_words("twˈɛnti wˈʌn kˈæts", ["twˈɛntiwˈʌn", "kˈæts"]) == ["twˈɛntiwˈʌn", "kˈæts"]


@settings(deadline=None)
@given(words=st.lists(st.text("abdˈɛɪ", min_size=1, max_size=6), min_size=1, max_size=6), joined=st.booleans())
def test_alignment_keeps_every_phoneme_in_order(words, joined):
    clause = ("" if joined else " ").join(words)
    assert "".join(align_words(clause, words)) == "".join(words)


@settings(deadline=None)
@given(words=st.lists(st.text("abdˈɛɪ", min_size=1, max_size=6), min_size=1, max_size=6))
def test_alignment_to_the_same_words_gives_the_words(words):
    assert align_words(" ".join(words), words) == words


@needs_espeak
@pytest.mark.parametrize("accent", ["en-us", "en-gb"])
def test_every_word_of_a_sentence_gets_its_own_phonemes(accent):
    spoken = phonemize("Of the man who had it in the box, I am sure.", accent)
    assert " ".join(word.word for word in spoken) == "Of the man who had it in the box I am sure"
    assert [word.pause for word in spoken] == [""] * 8 + [","] + [""] * 2 + ["."]
    assert spoken[0].phonemes in ("ʌv", "ɒv")
    assert spoken[1].phonemes == spoken[7].phonemes == "ðə"
    assert spoken[9].phonemes == "ˌI"  # else Kokoro swallows it


@needs_espeak
def test_a_transcript_in_capitals_sounds_like_the_same_in_lower_case():
    shouted, quiet = phonemize("NORTHANGER ABBEY, AND IT WAS"), phonemize("northanger abbey, and it was")
    assert [word.word for word in shouted] == ["NORTHANGER", "ABBEY", "AND", "IT", "WAS"]
    assert [word[1:] for word in shouted] == [word[1:] for word in quiet]


def test_text_without_a_word_is_refused():
    with pytest.raises(ConfigError, match="holds no word"):
        phonemize(" ... !", "en-us")


def test_missing_espeak_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(espeak_phonemes.shutil, "which", lambda program: None)
    with pytest.raises(MissingDependencyError, match="apt install espeak-ng"):
        phonemize("a word that no other test has spoken")
