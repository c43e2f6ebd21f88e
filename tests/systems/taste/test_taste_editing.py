"""Edits of words and codes: by hand, against edits done one by one from the back, and what contradicts itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.systems.taste.editing import Change, Delete, DeliveredWord, Edit, Insert, Replace, Take, apply_edits
from vocable.systems.taste.speech_decoder import WordChange

TEXT = "The cat, the seven miles and the cat!"


def speech(text: str, first: int = 0) -> list[DeliveredWord]:
    """Words with codes that are nowhere else."""
    return [DeliveredWord(word=w, codes=(first + i, first + i + 100)) for i, w in enumerate(text.split())]


WORDS = speech(TEXT)
OTHERS = {"other.wav": speech("Seven miles of cats and a THE", first=500)}


def codes_of(words):
    return [None if one.codes is None else one.codes[0] for one in words]


def edit(*edits: Edit):
    return apply_edits(WORDS, edits, OTHERS)


def test_without_edits_and_swapped_with_itself_nothing_changes():
    assert edit().words == tuple(WORDS) and edit().places == tuple(range(8))
    itself = Take(take="seven miles")
    whole = Take(take=TEXT, recording="copy")
    assert edit(itself).words == tuple(WORDS)
    swapped = apply_edits(WORDS, [whole], {"copy": speech(TEXT)})
    assert swapped.words == tuple(WORDS) and swapped.places == tuple(range(8))


def test_delivery_is_taken_by_the_letters_of_the_words():
    found = edit(Take(take="seven MILES", recording="other.wav"), Take(take="the#2", recording="other.wav"))
    assert [one.word for one in found.words] == TEXT.split()
    assert codes_of(found.words) == [0, 1, 506, 500, 501, 5, 6, 7]


def test_delivery_of_other_words_here_and_elsewhere():
    assert codes_of(edit(Take(take="cat#1", like="cat#2")).words) == [0, 7, 2, 3, 4, 5, 6, 7]
    like = Take(take="the cat#2", like="of cats", recording="other.wav", semitones=2)
    found = edit(like)
    assert codes_of(found.words)[-2:] == [502, 503] and found.words[-1].change == WordChange(semitones=2)


def test_text_edits_keep_the_neighbours_and_the_punctuation():
    found = edit(
        Replace(replace="seven miles", by="eight long roads"),
        Insert(insert="small", before="cat#1"),
        Insert(insert="so far", after="cat#2"),
        Delete(delete="and"),
        Replace(replace="cat#2", by="dog"),
    )
    assert " ".join(one.word for one in found.words) == "The small cat, the eight long roads the dog! so far"
    assert codes_of(found.words) == [0, 1, 1, 2, 3, 4, 4, 6, 7, 7, 7]
    assert found.places == (0, None, 1, 2, 3, 4, None, 6, 7, None, None)


def test_marks_around_are_lent_only_where_there_are_none():
    words = speech("“Yes,” — no")
    for by, expected in (("maybe", "“maybe,”"), ("maybe?", "“maybe?"), ("oh no", "“oh no,”"), ("(so", "(so,”")):
        text = " ".join(one.word for one in apply_edits(words, [Replace(replace="yes", by=by)]).words)
        assert text == f"{expected} — no"
    dash = apply_edits(words, [Replace(replace="—", by="and")]).words
    assert [one.word for one in dash] == ["“Yes,”", "and", "no"]


def test_deliveries_of_new_words():
    assert codes_of(edit(Replace(replace="seven", by="cat", delivery="same")).words)[3] == 1  # 2 words away, not 4
    away = edit(Insert(insert="cats", after="seven", delivery="same", recording="other.wav"))
    assert codes_of(away.words)[4] == 503
    unknown = edit(Insert(insert="very", before="seven", delivery="none", decibels=3))
    assert unknown.words[3] == DeliveredWord(word="very", codes=None, change=WordChange(decibels=3))


def test_changes_add_up_and_go_with_the_delivery():
    found = edit(
        Change(change="seven miles", stretch=2.0, semitones=1), Change(change="miles", stretch=1.5, decibels=-3)
    )
    assert [one.change for one in found.words[3:5]] == [
        WordChange(stretch=2.0, semitones=1.0), WordChange(stretch=3.0, semitones=1.0, decibels=-3.0)
    ]  # fmt: skip
    assert [one.change for one in found.words[:3] + found.words[5:]] == [WordChange()] * 6
    again = apply_edits(found.words, [Replace(replace="miles", by="yards", stretch=2.0)])
    assert again.words[4].change == WordChange(stretch=6.0, semitones=1.0, decibels=-3.0)
    both = edit(Take(take="seven", recording="other.wav"), Change(change="seven", semitones=4))
    assert both.words[3] == DeliveredWord(word="seven", codes=(500, 600), change=WordChange(semitones=4))


@st.composite
def separate_edits(draw):
    """Some words, and edits of places that do not touch."""
    size = draw(st.integers(1, 12))
    words = [DeliveredWord(word=f"w{i}", codes=(i,)) for i in range(size)]
    plan, place = [], 0
    while place < size:
        length = draw(st.integers(1, size - place))
        plan.append((draw(st.sampled_from(["keep", "delete", "replace", "insert", "take"])), place, place + length))
        place += length
    return words, plan


@given(case=separate_edits(), order=st.randoms(use_true_random=False))
def test_all_at_once_is_one_by_one_from_the_back(case, order):
    words, plan = case
    other = [DeliveredWord(word=one.word, codes=(900 + i,)) for i, one in enumerate(words)]
    edits, expected = [], list(words)
    for kind, start, stop in reversed(plan):
        named = " ".join(one.word for one in words[start:stop])
        if kind == "delete":
            edits.append(Delete(delete=named))
            del expected[start:stop]
        elif kind == "replace":
            edits.append(Replace(replace=named, by="x y"))
            second = words[min(start + 1, stop - 1)].codes
            expected[start:stop] = [
                DeliveredWord(word="x", codes=words[start].codes), DeliveredWord(word="y", codes=second)
            ]  # fmt: skip
        elif kind == "insert":
            edits.append(Insert(insert="z", before=words[start].word))
            expected.insert(start, DeliveredWord(word="z", codes=words[start].codes))
        elif kind == "take":
            edits.append(Take(take=named, recording="other"))
            expected[start:stop] = other[start:stop]
    order.shuffle(edits)
    if not expected:
        with pytest.raises(ConfigError, match="leave no word"):
            apply_edits(words, edits, {"other": other})
        return
    found = apply_edits(words, edits, {"other": other})
    assert list(found.words) == expected
    kept = [(word, place) for word, place in zip(found.words, found.places) if word.word.startswith("w")]
    assert all(place is not None and words[place].word == word.word for word, place in kept)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([Delete(delete="dog")], "There is no word 'dog' to delete. Words: The, cat,, the"),
        ([Delete(delete="miles seven")], "There are no words 'miles seven' to delete"),
        ([Delete(delete="the")], "The word 'the' is there 3 times; say which one, such as the#1"),
        ([Delete(delete="the#4")], "nth is 4; the word 'the' is there 3 times: 1 to 3"),
        ([Delete(delete="the#0")], "nth is 0"),
        ([Change(change=" ", stretch=2)], "An edit names no word to change"),
        ([Delete(delete="seven miles"), Replace(replace="miles", by="yards")],
         "Two edits are of the word 'miles': delete 'seven miles'; replace 'miles' by 'yards'"),
        ([Take(take="seven"), Take(take="seven miles", recording="other.wav")], "Two edits are of the word 'seven'"),
        ([Change(change="miles", stretch=2), Delete(delete="miles")], "'miles' is to be changed, but another"),
        ([Delete(delete="seven miles"), Insert(insert="long", before="miles")],
         "'long' is to stand between words that another edit takes away"),
        ([Insert(insert="a", before="miles"), Insert(insert="b", after="seven")], "in the same place: insert 'b'"),
        ([Insert(insert="a")], "insert 'a' needs a place"),
        ([Insert(insert="a", before="seven", after="cat#1")], "needs a place"),
        ([Insert(insert=" ", before="seven")], "there is no new word"),
        ([Replace(replace="seven", by="")], "there is no new word. To leave words out, delete them"),
        ([Replace(replace="seven", by="dog", delivery="same")], "'dog' is nowhere in the recording"),
        ([Replace(replace="seven", by="dog", delivery="same", recording="other.wav")], "'dog' is nowhere in other.wav"),
        ([Take(take="cat#1", recording="other.wav")], "no word 'cat' in other.wav to take the delivery of. W"),
        ([Take(take="seven", like="seven miles", recording="other.wav")], "and 'seven miles' are 1 and 2 words"),
        ([Delete(delete="The cat, the seven miles and the cat")], "leave no word to say"),
    ],
)  # fmt: skip
def test_contradictions_and_words_that_are_not_there(edits, message):
    with pytest.raises(ConfigError) as error:
        edit(*edits)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("told", "description"),
    [
        (Delete(delete="a b"), "delete 'a b'"),
        (
            Change(change="a", stretch=1.5, semitones=-2, decibels=6),
            "change 'a': 1.5 times as long, -2 semitones, +6 dB",
        ),
        (Take(take="a", recording="o.wav", like="b"), "take 'a' like 'b' from o.wav"),
        (Replace(replace="a", by="b c", decibels=6), "replace 'a' by 'b c': +6 dB"),
        (Insert(insert="a", after="b"), "insert 'a' after 'b'"),
    ],
)
def test_edits_tell_what_they_do(told, description):
    assert told.description == description


@pytest.mark.parametrize(("name", "value"), [("stretch", 0.0), ("stretch", float("nan")), ("decibels", float("inf"))])
def test_impossible_changes(name, value):
    with pytest.raises(ConfigError, match=f"The word's {name} is"):
        Change(change="seven", **{name: value})
