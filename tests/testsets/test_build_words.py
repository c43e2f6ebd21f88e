"""Lexicons, pseudo-words and spellings: small lexicons written here, checked against slow obvious references."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.testsets.lexicon import Lexicon, count_words, read_counts, read_lexicon, split_mark, unmarked
from vocable.testsets.phonotactics import PhoneModel, PseudoWordConfig, PseudoWordMaker, trigrams
from vocable.testsets.spelling import Speller
from vocable.testsets.words import WordPairsConfig, plan_word_pairs

SOUNDS = {"p": "P", "t": "T", "k": "K", "s": "S", "n": "N", "l": "L", "a": "AE1", "i": "IH1", "o": "AA1", "e": "EH1"}


def made_up_lexicon(share: float = 0.4, seed: int = 0) -> Lexicon:
    """Consonant-vowel-consonant(-vowel-consonant) words; some of all that there could be."""
    generator = random.Random(seed)
    consonants, vowels = "ptksnl", "aioe"
    words = ["".join(parts) for parts in itertools.product(consonants, vowels, consonants)]
    words += ["".join(parts) for parts in itertools.product("pts", "ai", "nl", "oe", "kt")]
    chosen = [word for word in words if generator.random() < share]
    pronunciations = {word: (tuple(SOUNDS[letter] for letter in word),) for word in chosen}
    return Lexicon(
        name="made up",
        pronunciations=pronunciations,
        counts={word: number * 3 for number, word in enumerate(chosen)},
        vowels=frozenset({"AE", "IH", "AA", "EH"}),
    )


@pytest.fixture
def lexicon() -> Lexicon:
    return made_up_lexicon()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_cmudict_layout_variants_and_comments(tmp_path):
    path = write(tmp_path / "cmudict.dict", "# comment\ncat K AE1 T\na(2) EY1\na AH0 # weak\nbroken\n")
    lexicon = read_lexicon(path)
    assert lexicon.pronunciations == {"cat": (("K", "AE1", "T"),), "a": (("EY1",), ("AH0",))}
    assert lexicon.vowels == {"AE", "EY", "AH"}
    assert lexicon.num_bad_lines == 1
    assert lexicon.band("cat") is None


def test_lexicon_of_another_language_with_counts(tmp_path):
    path = write(tmp_path / "it.tsv", "Gatto\tˈɡ a tː o\t120\nperché\tp e rˈ k e\t0\ncane\tˈk a n e\t5\n")
    lexicon = read_lexicon(path)
    assert lexicon.vowels == {"a", "o", "e"}
    assert [lexicon.band(word) for word in ("gatto", "perché", "cane")] == [">100", "oov", "6-20"]


def test_vowels_that_cannot_be_told_are_asked_for(tmp_path):
    path = write(tmp_path / "x.tsv", "cat\tk { t\nkit\tk I t\n")
    with pytest.raises(ConfigError, match="--vowels"):
        read_lexicon(path)
    assert read_lexicon(path, vowels=["{", "I"]).vowels == {"{", "I"}
    with pytest.raises(ConfigError, match="Q occur nowhere"):
        read_lexicon(path, vowels=["Q"])


@pytest.mark.parametrize(("text", "words"), [("", "no usable line"), ("one\nword\n", "the first is line 1")])
def test_lexicon_without_a_usable_line(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        read_lexicon(write(tmp_path / "bad.tsv", text))
    with pytest.raises(ConfigError, match="no such lexicon"):
        read_lexicon(tmp_path / "missing.tsv")


@pytest.mark.parametrize(
    ("phone", "sound", "mark"),
    [("AE1", "AE", "1"), ("K", "K", ""), ("ˈa", "a", "ˈ"), ("a5", "a", "5"), ("tː", "tː", ""), ("2", "2", "")],
)
def test_stress_and_tone_are_marks(phone, sound, mark):
    assert split_mark(phone) == (sound, mark)


def test_counting_words(tmp_path):
    assert count_words(["It's ONE, one! two-three"]) == {"it's": 1, "one": 2, "two": 1, "three": 1}
    assert read_counts(write(tmp_path / "m.jsonl", '{"id": "a", "text": "B b"}\n{"id": "c"}\n')) == {"b": 2}
    assert read_counts(write(tmp_path / "c.tsv", "Zwölf\t12\n")) == {"zwölf": 12}
    with pytest.raises(ConfigError, match=r"c\.tsv, line 2"):
        read_counts(write(tmp_path / "c.tsv", "a\t1\nb\tmany\n"))
    for line in ('{"id": "a"', "[1]"):
        with pytest.raises(ConfigError, match="line 2: not a line of a manifest"):
            read_counts(write(tmp_path / "m.jsonl", '{"text": "a"}\n' + line + "\n"))


def test_phone_model_by_hand():
    # two words, "a b" and "a c": after "< a" comes b or c, each half of the time
    model = PhoneModel([("a", "b"), ("a", "c")])
    # unigrams, add one, one unseen kind: a 2, b 1, c 1, > 2, in all 6 -> (count + 1) / (6 + 4 + 1)
    start = 0.6 * 1 + 0.3 * 1 + 0.1 * 3 / 11
    middle = 0.6 * 1 / 2 + 0.3 * 1 / 2 + 0.1 * 2 / 11
    end = 0.6 * 1 + 0.3 * 1 + 0.1 * 3 / 11
    assert model.log_probability(("a", "b")) == pytest.approx(math.log(start * middle * end))


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=6))
def test_probabilities_of_what_may_follow_add_up_to_one(words):
    model = PhoneModel(tuple(word) for word in words)
    phones = {phone for word in words for phone in word}
    for first, second in {trigram[:2] for trigram in model.trigrams}:
        known = sum(model._probability(first, second, third) for third in [*phones, ">"])
        unseen = 0.1 / model._total  # one kind of phone that nobody has seen
        assert known + unseen == pytest.approx(1.0)


def test_variants_are_all_that_an_exhaustive_search_finds(lexicon):
    maker = PseudoWordMaker(lexicon, PseudoWordConfig())
    phones, positions = ("P", "AE1", "N", "AA1", "K"), frozenset({0, 3})
    every = itertools.product(["P", "T", "K", "S", "N", "L"], ["AE1", "IH1", "AA1", "EH1"])
    expected = {
        (consonant, "AE1", "N", vowel, "K")
        for consonant, vowel in every
        if consonant != "P"
        and vowel != "AA1"
        and set(trigrams((consonant, "AE1", "N", vowel, "K"))) <= maker.model.trigrams.keys()
    }
    assert expected
    assert set(maker.variants(phones, positions)) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.2, 0.4, 0.7]))
def test_pseudo_words_are_matched_and_are_no_words(seed, share):
    lexicon = made_up_lexicon(share, seed)
    planned = plan_word_pairs(lexicon, WordPairsConfig(num_pairs=60, seed=seed))
    real = {unmarked(phones) for entries in lexicon.pronunciations.values() for phones in entries}
    attested = {trigram for entries in lexicon.pronunciations.values() for trigram in trigrams(entries[0])}
    kind = PseudoWordMaker(lexicon, PseudoWordConfig()).kind
    made = []
    for pair in planned.pairs:
        word, pseudo = pair.positive[0].phones, pair.negative[0].phones
        assert word is not None and pseudo is not None
        assert lexicon.pronunciations[pair.positive[0].text][0] == word
        assert [kind(phone) for phone in pseudo] == [kind(phone) for phone in word]
        assert sum(a != b for a, b in zip(word, pseudo)) == max(1, round(len(word) / 3))
        assert set(trigrams(pseudo)) <= attested
        assert pair.negative[0].text not in lexicon.pronunciations  # a synthesiser that reads letters says no word
        made.append(unmarked(pseudo))
    assert not set(made) & real and len(made) == len(set(made))
    assert planned.matching["max_abs_delta_log_p"] <= 0.5


def test_a_homophone_of_another_pronunciation_is_no_pseudo_word():
    entries = {"kit": (("K", "IH1", "T"),), "cat": (("K", "AE1", "T"), ("K", "AA1", "T"))}
    entries |= {"k": (("K", "EH2", "T"),)}  # with another stress: a listener hears k-eh-t all the same
    lexicon = Lexicon(name="x", pronunciations=entries, vowels=frozenset({"IH", "AE", "AA", "EH"}))
    maker = PseudoWordMaker(lexicon, PseudoWordConfig(max_nats=100, close_nats=0))
    assert maker.make(("K", "IH1", "T"), random.Random(0)) is None


def test_seeds_reproduce_and_matter(lexicon):
    def phones(seed):
        return [pair.negative[0].phones for pair in plan_word_pairs(lexicon, WordPairsConfig(seed=seed)).pairs]

    assert phones(3) == phones(3) != phones(4)


def test_words_are_drawn_evenly_from_the_bands():
    lexicon = made_up_lexicon(share=0.5)
    words = sorted(lexicon.pronunciations)
    lexicon = replace(lexicon, counts={word: (0, 3, 9, 50, 200)[place % 5] for place, word in enumerate(words)})
    loose = PseudoWordConfig(max_nats=100)
    pairs = plan_word_pairs(lexicon, WordPairsConfig(num_pairs=20, min_count=1, pseudo_words=loose)).pairs
    counts = Counter(pair.group["band"] for pair in pairs)
    assert set(counts) == {"1-5", "6-20", "21-100", ">100"}  # none out of vocabulary
    assert max(counts.values()) - min(counts.values()) <= 1  # though some words have no pseudo-word
    all_bands = plan_word_pairs(lexicon, WordPairsConfig(num_pairs=20, min_count=0, pseudo_words=loose)).pairs
    assert "oov" in {pair.group["band"] for pair in all_bands}


def test_nothing_to_choose_from_is_explained(lexicon):
    with pytest.raises(ConfigError, match="0 words have 8 to 9 phones"):
        plan_word_pairs(lexicon, WordPairsConfig(min_phones=8))
    bare = Lexicon(name="bare", pronunciations=lexicon.pronunciations, vowels=lexicon.vowels)
    with pytest.raises(ConfigError, match="--counts"):
        plan_word_pairs(bare, WordPairsConfig(min_count=1))
    with pytest.raises(ConfigError, match="num_pairs is 0"):
        WordPairsConfig(num_pairs=0)


def test_spelling_changes_the_letters_of_changed_phones_only():
    entries = {
        "cat": "K AE T",
        "kit": "K IH T",
        "tack": "T AE K",
        "sick": "S IH K",
        "chip": "CH IH P",
        "chat": "CH AE T",
    }
    entries |= {"pat": "P AE T", "pit": "P IH T", "sat": "S AE T", "tap": "T AE P", "kick": "K IH K", "cap": "K AE P"}
    lexicon = Lexicon(name="x", pronunciations={word: (tuple(p.split()),) for word, p in entries.items()})
    speller = Speller(lexicon)
    assert speller.align("chat", ("CH", "AE", "T")) == ["ch", "a", "t"]
    assert speller.align("sick", ("S", "IH", "K")) == ["s", "i", "ck"]
    assert speller.spell("sick", ("S", "IH", "K"), ("CH", "IH", "K")) == "chick"
    assert speller.align("abcdefgh", ("K", "AE")) is None  # eight letters are too many for two phones
