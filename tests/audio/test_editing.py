"""Manifests made of manifests: chosen, filled in, put together, divided, and what is said of them."""

import json
import re
from pathlib import Path

import pytest

from vocable.audio.editing import assign, choose, divide, merge
from vocable.audio.expressions import FUNCTIONS
from vocable.audio.manifest import KNOWN_KEYS, read_manifest
from vocable.audio.overview import Overview
from vocable.cli import main
from vocable.errors import ConfigError, ManifestError, UnknownNameError
from vocable.types import Word


@pytest.fixture
def manifest(tmp_path):
    """Forty lines of ten speakers; every fifth has no text."""
    rows = [
        {
            "id": f"{i // 4}-{i}",
            "audio": f"wavs/{i}.wav",
            "duration": 1.0 + i,
            "text": "" if i % 5 == 0 else f"Sentence {i % 7}",
            "take": i % 3,
            "words": [{"word": "Sentence", "start": 0.1, "end": 0.5}],
        }
        for i in range(40)
    ]
    for row in rows[::5]:
        del row["text"]
    path = tmp_path / "lists" / "all.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_are_chosen_by_a_condition(manifest):
    whole = read_manifest(manifest)
    found = list(choose(manifest, 'duration > 10 and text and take in (0, 2) and match(id, "^[5-7]-")'))
    expected = [u for u in whole if u.duration > 10 and u.text and u.extra["take"] != 1 and u.id[0] in "567"]
    assert found == expected and expected
    with pytest.raises(ManifestError, match="none of 40 lines meets the condition 'duration > 100'"):
        list(choose(manifest, "duration > 100"))
    with pytest.raises(ConfigError, match=r"no line has a field 'tkae'.*Did you mean 'take'"):
        list(choose(manifest, "tkae == 1"))


def test_fields_are_filled_in_and_taken_away(manifest):
    whole = read_manifest(manifest)
    found = list(
        assign(manifest, ['speaker="s" + match(id, "^([^-]+)")', "text=lower(text)", "take=null", "mood = 'calm'"])
    )
    for old, new in zip(whole, found, strict=True):
        assert new.speaker == "s" + old.id.split("-")[0]
        assert new.text == (old.text and old.text.lower())
        assert new.extra == {"mood": "calm"}
        assert (new.id, new.audio, new.duration, new.words) == (old.id, old.audio, old.duration, old.words)
    assert found[0].words == (Word(word="Sentence", start=0.1, end=0.5),)
    part = list(assign(manifest, ['split="dev"'], where="take == 1"))
    assert [u.split for u in part] == ["valid" if u.extra["take"] == 1 else None for u in whole]
    both = list(assign(manifest, ["id=text or id", "text=id"]))  # values are those of the line as it was
    assert (both[1].id, both[1].text) == (whole[1].text, whole[1].id)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("language", "is no assignment"),
        ("speaker=anna", 'Text stands in quotes: "anna"'),
        ('split="half"', "'0-0': split is 'half'"),
        ("duration=-1", "duration is -1"),
        ("text=3", "text is 3"),
        ("id=null", "There is no 'id'"),
        ("=3", "is no assignment"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused(manifest, assignment, message):
    with pytest.raises((ConfigError, ManifestError)) as caught:
        list(assign(manifest, [assignment]))
    assert message in str(caught.value)


def test_manifests_are_put_together(manifest, tmp_path, capsys):
    other = tmp_path / "own.jsonl"
    other.write_text(json.dumps({"id": "new", "audio": "x.wav", "duration": 2}) + "\n")
    out = tmp_path / "deep" / "er" / "both.jsonl"
    assert main(["manifest", "merge", str(manifest), str(other), str(out)]) == 0, capsys.readouterr().err
    assert "41 utterances" in capsys.readouterr().out
    assert read_manifest(out) == read_manifest(manifest) + read_manifest(other)
    with pytest.raises(ManifestError, match=r"Both .*all\.jsonl and .*all\.jsonl have an utterance '0-0'.*--prefix"):
        list(merge([manifest, manifest]))
    assert [u.id for u in merge([other, manifest], prefix=True)][:2] == ["own/new", "all/0-0"]


def test_the_commands_of_a_shell(manifest, tmp_path, capsys, monkeypatch):
    """Words with = and spaces reach the functions as they are typed."""
    monkeypatch.chdir(tmp_path)
    out = Path("out.jsonl")
    command = ["manifest", "set", str(manifest), str(out), 'speaker=match(id, "^([^-]+)-")', "language='en'"]
    assert main([*command, "--where", 'id != "0-0"']) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert f"{out}: 40 utterances, 0.228 h, 1.0 to 40.0 s" in printed
    assert "text      32 of 40" in printed
    assert "speaker   39 of 40, 10 speakers: 1 (4), 2 (4), 3 (4), 4 (4), 5 (4), 6 (4), and 4 more" in " ".join(
        printed.split("\n      ")
    )
    assert "language  39 of 40: en (39)" in printed
    few = Path("few.jsonl")
    assert main(["manifest", "filter", str(out), str(few), 'speaker=="3" and duration<15.5']) == 0
    assert [u.id for u in read_manifest(few)] == ["3-12", "3-13", "3-14"]
    assert main(["manifest", "show", str(out), "--by", "speaker", "--lines=1", "--where", "take == 0"]) == 0
    printed = capsys.readouterr().out
    assert "14 utterances" in printed
    assert '{"id": "0-0", "audio": "lists/wavs/0.wav"' in printed
    assert max(map(len, printed.splitlines()[:8])) <= 80
    assert main(["manifest", "show", str(out), "--by", "speeker"]) == 2
    assert "Did you mean 'speaker'" in capsys.readouterr().err
    with pytest.raises(UnknownNameError):
        from vocable.audio.editing import known_field

        known_field("takes", read_manifest(manifest))


def test_a_division_that_cannot_be_is_refused(manifest):
    with pytest.raises(ManifestError, match="no line has a speaker"):
        list(divide(manifest, by="speaker"))
    with pytest.raises(ManifestError, match=r"none of 40 utterances is in test\. Give a larger share"):
        list(divide(manifest, valid=0.3, test=1e-9))
    found = list(divide(manifest, valid=0.3, test=0.2, by="text"))
    texts = [{u.text for u in found if u.split == split and u.text} for split in ("train", "valid", "test")]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 7


def test_an_overview_counts_by_hand(manifest):
    overview = Overview("take")
    for utterance in read_manifest(manifest):
        overview.add(utterance)
    rows = {name: (share, values) for name, share, values in overview.rows()}
    assert rows["text"][0] == "32 of 40"
    assert rows["speaker"] == ("0 of 40", "")
    assert rows["take"] == ("40 of 40", "0 (14), 1 (13), 2 (13)")
    assert rows["words"] == ("40 of 40", "")
    assert {name: group.num_utterances for name, group in overview.groups.items()} == {"0": 14, "1": 13, "2": 13}
    assert overview.groups["1"].seconds == sum(1.0 + i for i in range(1, 40, 3))


def test_the_page_about_manifests_names_every_field():
    """Its table lists what the reader knows, and its example is a manifest."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "manifest.md").read_text(encoding="utf-8")
    table = page.split("## Fields")[1].split("| field |")[1]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(KNOWN_KEYS)
    assert [name for name in FUNCTIONS if f"`{name}(" not in page] == []


def test_the_example_of_the_page_is_a_manifest(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "manifest.md").read_text(encoding="utf-8")
    (tmp_path / "m.jsonl").write_text(page.split("```json\n")[1].split("```")[0])
    first, second = read_manifest(tmp_path / "m.jsonl", strict=True)
    assert all(getattr(second, key) for key in KNOWN_KEYS)
    assert (first.duration, second.extra["take"]) == (None, 2)
