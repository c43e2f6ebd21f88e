"""Edits as people write them, in a file and on the command line."""

import json

import pytest

from vocable.errors import ConfigError
from vocable.systems.taste.edit_list import EditOptions, other_recordings, read_edits
from vocable.systems.taste.editing import Change, Delete, DeliveredWord, Insert, Replace, Take, apply_edits

FILE = """
- replace: seven
  by: eight
  delivery: none
- take: good morning
  recording: other.wav
  text: Good morning!
  semitones: 2
- insert: very
  before: good#2
- delete: "1984"
- change: miles
  stretch: 1.5
"""


def described(edits):
    """Kind and fields of each, in place of equality, which edits do not have."""
    return [(type(edit).__name__, {name: getattr(edit, name) for name in edit.__dataclass_fields__}) for edit in edits]


def test_files_of_edits(tmp_path):
    path = tmp_path / "edits.yaml"
    path.write_text(FILE, encoding="utf-8")
    expected = [
        Replace(replace="seven", by="eight", delivery="none"),
        Take(take="good morning", recording="other.wav", text="Good morning!", semitones=2),
        Insert(insert="very", before="good#2"),
        Delete(delete="1984"),
        Change(change="miles", stretch=1.5),
    ]
    assert described(read_edits(path)) == described(expected)
    as_json = tmp_path / "edits.json"
    as_json.write_text(json.dumps([{"delete": "very"}, {"change": "a", "decibels": 3}]), encoding="utf-8")
    assert described(read_edits(as_json)) == described([Delete(delete="very"), Change(change="a", decibels=3)])
    assert described(EditOptions(edits=as_json, delete=("so",)).read()) == described(
        [Delete(delete="very"), Change(change="a", decibels=3), Delete(delete="so")]
    )


def test_options_are_the_same_edits():
    options = EditOptions(
        take=("seven miles",), other="o.wav", other_text="Seven miles.", replace=("cat#2=big dog",),
        insert_before=("morning=good",), insert_after=("good=old",), delete=("very",), slower=("the#1=1.5",),
        higher=("a b=-2",), louder=("c=6",),
    )  # fmt: skip
    assert described(options.read()) == described(
        [
            Take(take="seven miles", recording="o.wav", text="Seven miles."),
            Replace(replace="cat#2", by="big dog"),
            Insert(insert="good", before="morning"),
            Insert(insert="old", after="good"),
            Delete(delete="very"),
            Change(change="the#1", stretch=1.5),
            Change(change="a b", semitones=-2.0),
            Change(change="c", decibels=6.0),
        ]
    )
    same = EditOptions(replace=("a=b",), delivery="same", other="o.wav").read()
    assert described(same) == described([Replace(replace="a", by="b", delivery="same", recording="o.wav")])
    words = [DeliveredWord(word=word, codes=(i,)) for i, word in enumerate(["a", "b", "c", "the"])]
    changed = apply_edits(words, EditOptions(slower=("a b=2", "b=2"), louder=("c=6",)).read()).words
    assert [(one.change.stretch, one.change.decibels) for one in changed] == [(2, 0), (4, 0), (1, 6), (1, 0)]


def test_other_recordings_are_read_once_each_with_their_text():
    edits = [
        Delete(delete="x"), Take(take="a", recording="1.wav"), Take(take="b", recording="1.wav", text="a b"),
        Replace(replace="c", by="d", recording="2.wav", delivery="same"), Take(take="e"),
    ]  # fmt: skip
    assert other_recordings(edits) == {"1.wav": "a b", "2.wav": None}
    with pytest.raises(ConfigError, match=r"give 1\.wav different texts: 'a b' and 'c'"):
        other_recordings([*edits, Take(take="f", recording="1.wav", text="c")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("delete: very", "is a list of edits"),
        ("- very", "edit 1: an edit is a table with one of take, replace, insert, delete, change; this is 'very'"),
        ("- delete: a\n- delte: very", "edit 2: .* Did you mean 'delete'"),
        ("- delete: a\n  replace: b\n  by: c", "edit 1: an edit is a table with one of"),
        ("- replace: a", "edit 1: by is "),
        ("- change: a\n  strech: 2", "edit 1: unknown setting 'strech'. Did you mean 'stretch'"),
        ("- change: a\n  stretch: fast", "edit 1: stretch is 'fast'"),
        ("- change: a\n  stretch: 0", "edit 1: The word's stretch is 0.0; it must be above 0"),
        ("- delete: a\n  stretch: 2", "edit 1: unknown setting 'stretch'"),
        ("- delete: 7", "edit 1: delete is 7; input should be a valid string"),
        ("- replace: a\n  by: b\n  delivery: sam", "delivery is 'sam'.*Did you mean 'same'"),
        ("- {delete: a", "not valid yaml"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "edits.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_edits(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to edit"),
        ({"take": ("a",)}, "--take needs a recording"),
        ({"other": "o.wav", "delete": ("a",)}, "nothing is taken from it"),
        ({"replace": ("seven", "eight=9")}, "--replace 'seven' is not written as seven=eight. Commas separate edits"),
        ({"insert_before": ("=a",)}, "--insert-before '=a' is not written as morning=good"),
        ({"slower": ("miles",)}, "--slower 'miles' is not written as miles=1.5"),
        ({"louder": ("miles=much",)}, "--louder ...=much: 'much' is no number"),
        ({"slower": ("miles=-1",)}, "stretch is -1.0; it must be above 0"),
    ],
)
def test_options_that_are_wrong(options, message):
    with pytest.raises(ConfigError) as error:
        EditOptions(**options).read()
    assert message in str(error.value)
