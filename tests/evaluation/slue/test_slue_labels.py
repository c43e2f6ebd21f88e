"""Labels and labelled sets: what is read, what is refused, and that reading undoes writing."""

import dataclasses
import json
from pathlib import Path

import pytest

from vocable.audio.manifest import write_manifest
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.slue.labelled_set import (
    COMBINED_TAGS,
    TAGS,
    Entity,
    LabelledSet,
    Labels,
    read_entities,
    read_labelled_set,
    read_sentiment,
    write_labelled_set,
)
from vocable.types import Utterance, Word

TEXT = "the eu met in berlin today"


def test_eighteen_raw_tags_become_seven():
    assert len(COMBINED_TAGS) == 18
    assert set(TAGS) == {"WHEN", "QUANT", "PLACE", "NORP", "ORG", "LAW", "PERSON"}
    assert sorted(raw for raw, tag in COMBINED_TAGS.items() if tag is None) == [
        "EVENT",
        "FAC",
        "LANGUAGE",
        "PRODUCT",
        "WORK_OF_ART",
    ]


def test_entities_are_combined_sorted_and_discarded():
    rows = [["DATE", 21, 5], ["GPE", 14, 6], ["EVENT", 7, 3], ["ORG", 4, 2]]
    found = read_entities(rows, TEXT)
    assert found == (Entity("ORG", 4, 2), Entity("PLACE", 14, 6), Entity("WHEN", 21, 5))
    assert [entity.phrase(TEXT) for entity in found] == ["eu", "berlin", "today"]
    assert read_entities([list(entity) for entity in found], TEXT) == found  # combined tags are read as they are


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["CITY", 0, 3], "tag 'CITY' is unknown"),
        (["GPE", 21, 6], r"characters 21 to 27, but the text has 26"),
        (["GPE", -1, 3], "expected"),
        (["GPE", 3, 0], "characters 3 to 3"),
        (["GPE", 3, 1], "holds no word"),
        (["GPE", 3], "expected"),
        (["GPE", "3", 4], "expected"),
        (["GPE", 3, True], "expected"),
    ],
)
def test_bad_entities_are_refused(row, reason):
    with pytest.raises(ManifestError, match=reason):
        read_entities([row], TEXT)


def test_overlapping_entities_are_refused():
    with pytest.raises(ManifestError, match="overlap"):
        read_entities([["GPE", 0, 6], ["ORG", 4, 2]], TEXT)


def test_sentiments():
    assert [read_sentiment(value) for value in ("Positive", "negative", " Neutral ")] == [
        "Positive",
        "Negative",
        "Neutral",
    ]
    for undecided in ("<mixed>", "Mixed", "Disagreement"):
        assert read_sentiment(undecided) == "Neutral" and read_sentiment(undecided, "drop") is None
    with pytest.raises(ManifestError, match=r"'Positiv'.*Did you mean 'Positive'"):
        read_sentiment("Positiv")


@pytest.fixture
def labelled(tmp_path):
    labels = [
        Labels(id="a", split="train", text="Tom sang.", sentiment="Positive", entities=(Entity("PERSON", 0, 3),)),
        Labels(id="b", split="test", text="Well.", entities=(), group={"names": "new"}),
        Labels(id="c", split="dev", text="Hm.", sentiment="Neutral"),
    ]
    utterances = {
        label.id: Utterance(
            id=label.id,
            audio=(tmp_path / "x" / f"{label.id}.wav").resolve(),
            text=label.text,
            words=(Word(word="w", start=0.0, end=0.5),),
        )
        for label in labels
    }
    return LabelledSet(labels=labels, utterances=utterances, card={"seed": 3})


def test_reading_undoes_writing(labelled, tmp_path):
    write_labelled_set(labelled, tmp_path)
    found = read_labelled_set(tmp_path)
    assert found == labelled and found.fingerprint == labelled.fingerprint
    assert [label.id for label in found.split("train", "entities")] == ["a"]
    assert found.split("dev", "entities") == [] and len(found.split("dev", "sentiment")) == 1


def test_another_manifest_may_give_the_words(labelled, tmp_path):
    write_labelled_set(labelled, tmp_path)
    fewer = {name: dataclasses.replace(found, words=None) for name, found in labelled.utterances.items() if name != "b"}
    write_manifest(fewer.values(), tmp_path / "other" / "aligned.jsonl")
    found = read_labelled_set(tmp_path, manifest=tmp_path / "other" / "aligned.jsonl")
    assert found.utterances == fewer and found.excluded == {"the utterance is not in the manifest": 1}


def test_labels_without_an_utterance_are_counted(labelled, tmp_path):
    write_labelled_set(labelled, tmp_path)
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write(json.dumps({"id": "ghost", "split": "test", "text": "Boo.", "sentiment": "Negative"}) + "\n")
    found = read_labelled_set(tmp_path)
    assert len(found.labels) == 3 and found.excluded == {"the utterance is not in the manifest": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a", "split": "train"}, "line 4: the id 'a' occurs twice"),
        ({"id": "a", "split": "valid"}, "line 4: The split of 'a' is 'valid'"),
        ({"id": "a", "split": "train", "sentiment": "great"}, "line 4: The sentiment is 'great'"),
        ({"id": "a", "split": "train", "entities": [["GPE", 0, 99]]}, "line 4: The entity GPE"),
        ({"id": "a", "split": "train", "entities": "none"}, "line 4: 'a': entities are a list"),
        ({"split": "train"}, "line 4: A label is an object"),
        ({"id": "zz", "split": "train"}, "line 4: 'zz' has no text"),
    ],
)
def test_broken_lines_are_named(labelled, tmp_path, row, reason):
    write_labelled_set(labelled, tmp_path)
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(ManifestError, match=reason):
        read_labelled_set(tmp_path)


def test_folders_without_a_set_are_refused(labelled, tmp_path):
    with pytest.raises(ManifestError, match=r"no labelled set: manifest\.jsonl, labels\.jsonl not found"):
        read_labelled_set(tmp_path)
    write_labelled_set(labelled, tmp_path)
    with pytest.raises(ConfigError, match="undecided is 'keep'"):
        read_labelled_set(tmp_path, "keep")
    Path(tmp_path / "labels.jsonl").write_text('{"id": "ghost", "split": "test", "text": "Boo."}\n')
    with pytest.raises(ManifestError, match="no label has its utterance"):
        read_labelled_set(tmp_path)
