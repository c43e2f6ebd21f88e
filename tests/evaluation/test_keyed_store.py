"""What is kept survives a new start and a line cut off in the middle."""

import pytest

from vocable.errors import OutputError
from vocable.evaluation.keyed_store import KeyedStore


def test_values_are_there_again(tmp_path):
    store = KeyedStore(tmp_path / "new" / "store.jsonl")
    assert "a" not in store and len(store) == 0
    store.put("a", [1, 2])
    store.put("b", None)
    store.put("a", {"text": "später"})
    again = KeyedStore(store.path)
    assert again["a"] == {"text": "später"} and "b" in again and again["b"] is None and len(again) == 2


def test_a_torn_line_is_passed_over_and_what_follows_is_kept(tmp_path):
    path = tmp_path / "store.jsonl"
    KeyedStore(path).put("a", 1)
    with path.open("a") as file:
        file.write('{"key": "b", "va')
    store = KeyedStore(path)
    assert "b" not in store
    store.put("c", 3)
    again = KeyedStore(path)
    assert again["a"] == 1 and again["c"] == 3 and len(again) == 2


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(OutputError, match="cannot be read"):
        KeyedStore(tmp_path)
