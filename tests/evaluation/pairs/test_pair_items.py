"""Pair sets: written and read again, and what is wrong with a folder or a line."""

import json
from dataclasses import replace

import pytest

from vocable.errors import ManifestError, UnknownNameError
from vocable.evaluation.pairs import PairItem, PairSet, Segment, read_pair_set, write_pair_set
from vocable.evaluation.pairs.benchmark import read_benchmark
from vocable.evaluation.pairs.items import pair_fingerprint
from vocable.types import Utterance


def make_set(tmp_path):
    utterances = {name: Utterance(id=name, audio=tmp_path / f"{name}.wav", text=name) for name in ("a", "b", "c")}
    items = [
        PairItem(
            id="p1",
            positive=(Segment(speech="a"), Segment(speech="b")),
            negative=(Segment(speech="a"), Segment(text="écrit")),
            voice="v",
            group={"version": "topic", "story": "1"},
        ),
        PairItem(id="p2", positive=(Segment(speech="b"),), negative=(Segment(speech="c"),)),
    ]
    return PairSet(benchmark="storycloze", items=items, utterances=utterances, card={"seed": 3})


def test_what_is_written_is_read_again(tmp_path):
    before = make_set(tmp_path)
    write_pair_set(before, tmp_path / "set")
    after = read_pair_set(tmp_path / "set")
    assert list(after.items) == list(before.items)
    assert [u.id for u in after.spoken()] == ["a", "b", "c"]
    assert (after.benchmark, after.card["seed"]) == ("storycloze", 3)
    assert read_benchmark("sblimp", tmp_path / "set").benchmark == "sblimp"


def test_the_fingerprint_follows_what_is_said(tmp_path):
    before = make_set(tmp_path)
    assert pair_fingerprint(before) == pair_fingerprint(make_set(tmp_path / "elsewhere"))
    texts = {**before.utterances, "c": replace(before.utterances["c"], text="other")}
    assert pair_fingerprint(replace(before, utterances=texts)) != pair_fingerprint(before)
    swapped = [before.items[0], replace(before.items[1], positive=before.items[1].negative)]
    assert pair_fingerprint(replace(before, items=swapped)) != pair_fingerprint(before)


def test_unusable_pairs_are_counted(tmp_path):
    write_pair_set(make_set(tmp_path), tmp_path / "set")
    path = tmp_path / "set" / "pairs.jsonl"
    more = [
        {"id": "half", "positive": [{"speech": "a"}]},
        {"id": "lost", "positive": [{"speech": "a"}], "negative": [{"speech": "nobody"}]},
    ]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in more))
    found = read_pair_set(tmp_path / "set")
    assert len(found.items) == 2
    assert found.excluded == {"one half is missing": 1, "an utterance is not in the manifest": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ('["p"]', "line 1: a pair is an object with an id"),
        ('{"id": "p", "positive": [{}], "negative": [{"text": "x"}]}', "must hold exactly one of the two"),
        ('{"id": "p", "positive": [{"text": "x", "speech": "a"}], "negative": [{"text": "x"}]}', "exactly one"),
        ('{"id": "p", "positive": ["x"], "negative": [{"text": "x"}]}', "line 1"),
        ('{"id": "p", "positive": [{"text": "x"}]}', "no usable pair .one half is missing: 1"),
    ],
)
def test_broken_lines(tmp_path, line, message):
    write_pair_set(make_set(tmp_path), tmp_path / "set")
    (tmp_path / "set" / "pairs.jsonl").write_text(line + "\n")
    with pytest.raises(ManifestError, match=message):
        read_pair_set(tmp_path / "set")


def test_folders_without_a_set(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest.jsonl, pairs.jsonl, card.json not found"):
        read_pair_set(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'sblimp'"):
        read_benchmark("sblmip", tmp_path)
    with pytest.raises(ManifestError, match="'units' has no pairs"):
        read_benchmark("units", tmp_path)
    with pytest.raises(ManifestError, match="Two pairs of the x set have the id 'p'"):
        item = PairItem(id="p", positive=(Segment(text="a"),), negative=(Segment(text="b"),))
        PairSet(benchmark="x", items=[item, item], utterances={})
    with pytest.raises(ManifestError, match="speaks of the utterance 'ghost'"):
        item = PairItem(id="p", positive=(Segment(speech="ghost"),), negative=(Segment(text="b"),))
        PairSet(benchmark="x", items=[item], utterances={})
