"""Who is held out: by id, text or speaker, marks before hashes, and nothing moves when a corpus grows."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ManifestError
from vocable.splits import assign_splits, by_rank, divide, training_items, validation_items
from vocable.types import SPLITS, Utterance


def utterances(count: int) -> list[Utterance]:
    """Every text is spoken three times, every speaker speaks seven utterances."""
    return [
        Utterance(id=f"u{i}", audio=Path("a.wav"), text=f"Sentence, {i // 3}!", speaker=f"s{i // 7}")
        for i in range(count)
    ]


def test_ids_are_divided_as_twist_and_last_always_did():
    """The oracle is the arithmetic of earlier versions, in whole numbers."""
    items = utterances(3000)
    old = [i.id for i in items if int.from_bytes(hashlib.sha256(i.id.encode()).digest()[:8], "big") < 0.02 * 2**64]
    train, valid = divide(items, 0.02)
    assert [i.id for i in valid] == old and 30 < len(old) < 90
    assert [i.id for i in train] == [i.id for i in items if i.id not in set(old)]


def test_texts_are_divided_as_sutlm_always_did():
    items = utterances(3000)

    def is_valid(item: Utterance) -> bool:
        key = "0\n" + (item.text or "").lower().replace(",", "").replace("!", "")
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 >= 1 - 0.1

    assert [i.id for i in divide(items, 0.1, by="text")[1]] == [i.id for i in items if is_valid(i)]


@pytest.mark.parametrize(("by", "attribute"), [("id", "id"), ("text", "text"), ("speaker", "speaker")])
def test_no_key_is_on_two_sides_and_shares_hold(by, attribute):
    items = utterances(6000)
    splits = assign_splits(items, 0.1, 0.2, by=by)
    sides = {name: {getattr(i, attribute) for i, s in zip(items, splits, strict=True) if s == name} for name in SPLITS}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not sides[one] & sides[other]
    assert [splits.count(name) / 6000 for name in SPLITS] == pytest.approx([0.7, 0.1, 0.2], abs=0.04)
    assert splits[:500] == assign_splits(items[:500], 0.1, 0.2, by=by)  # stable when the corpus grows
    wider = assign_splits(items, 0.15, 0.0, by=by)
    assert all(new == "valid" for old, new in zip(splits, wider, strict=True) if old == "valid")


@given(marks=st.lists(st.sampled_from([None, *SPLITS]), min_size=40, max_size=40), by=st.sampled_from(["text", "id"]))
def test_marks_are_obeyed_and_pull_their_texts_along(marks, by):
    items = [replace(item, split=mark) for item, mark in zip(utterances(40), marks, strict=True)]
    splits = assign_splits(items, 0.3, by=by)
    for item, split in zip(items, splits, strict=True):
        if item.split is not None and (item.split != "train" or "valid" in marks):
            assert split == item.split
        twins = [other.split for other in items if other.split and other.text == item.text]
        if by == "text" and item.split is None and twins and (twins != ["train"] * len(twins) or "valid" in marks):
            assert split == max(twins, key=SPLITS.index)


def test_where_all_is_marked_train_a_share_of_it_is_validated_on():
    items = [replace(item, split="train") for item in utterances(500)]
    assert [i.id for i in divide(items, 0.1)[1]] == [i.id for i in divide(utterances(500), 0.1)[1]]


def test_sets_given_for_training_and_validation():
    items = [replace(u, split=s) for u, s in zip(utterances(4), ["train", "valid", "test", None], strict=True)]
    assert [i.id for i in training_items(items)] == ["u0", "u3"]
    assert [i.id for i in validation_items(items)] == ["u1"]
    assert validation_items([items[0], items[2]]) == [items[0], items[2]]  # the user says that they are for validation
    with pytest.raises(ManifestError, match=r"None of 2 utterances is left to train on; their splits: test, valid\."):
        training_items(items[1:3])
    with pytest.raises(ManifestError, match="vocable manifest split"):
        divide(items[1:3], 0.1)


def test_order_does_not_matter_to_ranks():
    items = utterances(50)
    assert by_rank(items[::-1], "text") == by_rank(items, "text")
