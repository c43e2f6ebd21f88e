"""Sentence pairs: our own templates, all of them, and files in BLiMP's layout."""

import json
import logging
from collections import Counter

import pytest

from vocable.errors import ConfigError, ManifestError
from vocable.testsets.sentence_maker import TEMPLATES, make_sentence_pairs
from vocable.testsets.sentences import plan_sentence_pairs, read_sentence_pairs

ALL = make_sentence_pairs(None)


def words(sentence: str) -> list[str]:
    return sentence.lower().rstrip(".?").split()


def test_there_are_thousands_of_different_pairs_on_many_phenomena():
    assert len({pair.phenomenon for pair in ALL}) >= 8
    assert len({(pair.good, pair.bad) for pair in ALL}) == len(ALL) > 5000
    assert len({pair.id for pair in ALL}) == len(ALL)


def test_both_sentences_differ_in_one_word_or_in_the_order_of_two():
    for pair in ALL:
        good, bad = words(pair.good), words(pair.bad)
        assert 4 <= len(good) <= 7 and len(good) == len(bad)
        places = [place for place, (a, b) in enumerate(zip(good, bad)) if a != b]
        if pair.phenomenon == "word_order":
            assert sorted(good) == sorted(bad)
            assert len(places) == 2 and places[1] == places[0] + 1
        else:
            assert len(places) == 1


def test_no_sentence_is_right_in_one_pair_and_wrong_in_another():
    assert not {pair.good for pair in ALL} & {pair.bad for pair in ALL}


@pytest.mark.parametrize("phenomenon", sorted({t.phenomenon for t in TEMPLATES} - {"npi_licensing"}))
def test_every_form_is_right_as_often_as_wrong(phenomenon):
    """A model that knows words but no grammar is at chance."""
    chosen = [pair for pair in ALL if pair.phenomenon == phenomenon]
    right = Counter(word for pair in chosen for word in words(pair.good))
    wrong = Counter(word for pair in chosen for word in words(pair.bad))
    if phenomenon == "anaphor_agreement":  # reflexives: three forms, and the plural stands against both others
        assert right["himself"] == right["herself"] and wrong["himself"] == wrong["herself"]
        assert right["themselves"] == wrong["themselves"]
    else:
        assert right == wrong


def test_seeds_reproduce_and_matter():
    assert make_sentence_pairs(20, seed=1) == make_sentence_pairs(20, seed=1) != make_sentence_pairs(20, seed=2)


def test_pairs_are_drawn_evenly_from_the_phenomena():
    planned = plan_sentence_pairs(ALL, 400, seed=0)
    counts = Counter(pair.group["phenomenon"] for pair in planned)
    assert len(planned) == 400 and max(counts.values()) - min(counts.values()) <= 1
    assert {len(pair.positive) for pair in planned} == {1}
    assert [pair.turn for pair in planned] == list(range(400))


def blimp_line(number: int, **changes) -> str:
    row = {"sentence_good": f"Cats sleep {number}.", "sentence_bad": f"Cats sleeps {number}.", "UID": "regular_plural"}
    row |= {"linguistics_term": "subject_verb_agreement", "pairID": str(number)}
    return json.dumps({**row, **changes})


def test_blimp_files_of_a_folder(tmp_path):
    (tmp_path / "a.jsonl").write_text(blimp_line(0) + "\n" + blimp_line(1) + "\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("good\tbad\nHe goes.\tHe go.\tagreement\nIl va.\tIl vont.\n", encoding="utf-8")
    pairs, num_bad = read_sentence_pairs(tmp_path)
    assert num_bad == 0
    assert [(pair.id, pair.phenomenon, pair.type) for pair in pairs] == [
        ("regular_plural-0", "subject_verb_agreement", "regular_plural"),
        ("regular_plural-1", "subject_verb_agreement", "regular_plural"),
        ("b-2", "agreement", "agreement"),
        ("b-3", "b", "b"),
    ]
    planned = plan_sentence_pairs(pairs, None)
    assert planned[0].group.keys() == {"phenomenon", "type", "sentence"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: .*not JSON"),
        ("[1]", "line 2: .*sentence_good"),
        (blimp_line(1, sentence_bad=None), "line 2: .*the bad sentence is None"),
        (blimp_line(1, sentence_good=" ."), "line 2: .*must have a word"),
        (blimp_line(1, sentence_bad="Cats sleep 1."), "line 2: .*both sentences are"),
        (blimp_line(0), "line 2: .*occurs twice"),
    ],
)
def test_bad_lines_are_named_and_counted(tmp_path, caplog, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text(blimp_line(0) + "\n" + line + "\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        pairs, num_bad = read_sentence_pairs(path)
    assert (len(pairs), num_bad) == (1, 1) and "line 2" in caplog.text
    with pytest.raises(ManifestError, match=reason):
        read_sentence_pairs(path, strict=True)


def test_files_without_pairs_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("only one column\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="none of its 1 lines"):
        read_sentence_pairs(tmp_path / "a.tsv")
    with pytest.raises(ConfigError, match="no such file"):
        read_sentence_pairs(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="max_words is 2"):
        plan_sentence_pairs(ALL, None, max_words=2)
