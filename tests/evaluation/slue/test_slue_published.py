"""The published tables, written by the test in the layout of SLUE's toolkit."""

import json

import pytest

from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.slue.labelled_set import Entity, read_labelled_set
from vocable.evaluation.slue.published import parse_entities, read_published

CELEB = "id\tnormalized_text\tspeaker_id\tsplit\tsentiment\tstart_second\tend_second"
POPULI = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\traw_ner\tnormalized_ner"


@pytest.fixture
def write_wave(make_speechlike):
    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, make_speechlike(16_000, seed=1), 16_000)

    return write


@pytest.fixture
def celeb(tmp_path, write_wave):
    """Ids end in what their row is about."""
    rows = {
        "fine-tune": ["t1\twell done\tx1\tfine-tune\tPositive\t0.25\t0.75", "t2\thm\tx2\tfine-tune\t<mixed>\t0.1\t0.5"],
        "dev": ['d1\tno "way"\tx1\tdev\tDisagreement\t0\t0.5', "d2\tno\tx1\tdev\tNegative\t0\t0.5"],
        "test": ["e1\tso\tNone\ttest\tNeutral\t0\t1"],
    }
    for split, lines in rows.items():
        (tmp_path / f"slue-voxceleb_{split}.tsv").write_text("\n".join([CELEB, *lines]) + "\n", encoding="utf-8")
        for line in lines:
            write_wave(tmp_path / f"{split}_raw" / f"{line.split()[0]}.flac")
    write_wave(tmp_path / "dev" / "d2.flac")  # cut by the toolkit
    return tmp_path


@pytest.fixture
def populi(tmp_path, write_wave):
    cells = {"fine-tune": "[['LAW', 0, 11], ['FAC', 12, 2]]", "dev": "None", "test": '[["GPE", 15, 6]]'}
    for split, cell in cells.items():
        line = f"{split}1\tArticle Two, at berlin\tarticle two at berlin\t7\t{split}\t[]\t{cell}"
        (tmp_path / f"slue-voxpopuli_{split}.tsv").write_text(f"{POPULI}\n{line}\n", encoding="utf-8")
        write_wave(tmp_path / split / f"{split}1.wav")
    return tmp_path


def test_voxceleb(celeb):
    found = read_published(celeb)
    assert [(x.id, x.split, x.sentiment, x.entities) for x in found.labels] == [
        ("t1", "train", "Positive", None),
        ("t2", "train", "Neutral", None),
        ("d1", "dev", "Neutral", None),
        ("d2", "dev", "Negative", None),
        ("e1", "test", "Neutral", None),
    ]
    first, cut, last = (found.utterances[name] for name in ("t1", "d2", "e1"))
    assert (first.start, first.duration, first.speaker, first.text) == (0.25, 0.5, "x1", "well done")
    assert (cut.start, cut.duration, cut.audio.parent.name) == (0.0, None, "dev")
    assert last.speaker is None and found.utterances["d1"].text == 'no "way"'


def test_undecided_sentiment_can_be_left_out(celeb):
    found = read_published(celeb, undecided="drop")
    assert [x.id for x in found.labels] == ["t1", "d2", "e1"] and found.excluded == {"undecided sentiment": 2}


def test_voxpopuli(populi):
    found = read_published(populi)
    assert [x.entities for x in found.labels] == [(Entity("LAW", 0, 11),), (), (Entity("PLACE", 15, 6),)]
    assert all(x.sentiment is None for x in found.labels)
    assert [x.entities[0].phrase(x.text) for x in found.labels if x.entities] == ["article two", "berlin"]


def test_unusable_rows_are_counted_and_named(celeb, write_wave):
    path = celeb / "slue-voxceleb_fine-tune.tsv"
    bad = ["t1\tagain\tx\tf\tPositive\t0\t1", "t3\tno audio\tx\tf\tPositive\t0\t1", "t4\thm\tx\tf\tangry\t0\t1"]
    bad += ["t5\thm\tx\tf\tNeutral\tzero\t1", "t6\thm\tx\tf\tNeutral\t0.5\t0.5"]
    for name in ("t4", "t5", "t6"):
        write_wave(celeb / "fine-tune_raw" / f"{name}.flac")
    path.write_text(path.read_text() + "\n".join(bad) + "\n")
    found = read_published(celeb)
    assert found.excluded == {
        "id occurs twice": 1,
        "no audio file": 1,
        "unknown sentiment": 1,
        "broken row": 2,
    }
    assert len(found.labels) == 5
    with pytest.raises(ManifestError, match=r"fine-tune\.tsv, line 4, id 't1': The id occurs twice"):
        read_published(celeb, strict=True)


def test_a_span_outside_the_text_is_counted(populi):
    path = populi / "slue-voxpopuli_dev.tsv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1].replace("dev1", "dev2").replace("None", "[['GPE', 15, 60]]")]))
    assert read_published(populi).excluded == {"entity outside its text": 1}


def test_missing_files_and_columns(celeb, tmp_path):
    with pytest.raises(ConfigError, match=r"neither slue-voxceleb_\*\.tsv"):
        read_published(tmp_path / "dev")
    test = celeb / "slue-voxceleb_test.tsv"
    test.rename(celeb / "slue-voxceleb_test_blind.tsv")
    with pytest.raises(ConfigError, match="test_blind has no labels"):
        read_published(celeb)
    (celeb / "slue-voxceleb_test_blind.tsv").unlink()
    with pytest.raises(ConfigError, match=r"slue-voxceleb_test\.tsv is missing"):
        read_published(celeb)
    test.write_text("id\tnormalized_text\n")
    with pytest.raises(ManifestError, match="columns sentiment, start_second, end_second are missing"):
        read_published(celeb)


@pytest.mark.parametrize("cell", ["[['GPE', 1", "{'GPE': 1}", "[1, 2]", "__import__('os')"])
def test_entities_that_are_no_lists_are_refused(cell):
    with pytest.raises(ManifestError, match="The entities are not a list"):
        parse_entities(cell)


def test_the_command_writes_a_labelled_set(populi, tmp_path, capsys):
    out = tmp_path / "set"
    assert main(["evaluate", "build", "slue", str(populi), str(out)]) == 0
    assert "3 utterances (train 1, dev 1, test 1)" in capsys.readouterr().out
    found, direct = read_labelled_set(out), read_published(populi)
    assert list(found.labels) == list(direct.labels) and dict(found.utterances) == dict(direct.utterances)
    assert json.loads((out / "card.json").read_text())["name"] == "slue-voxpopuli"
    assert main(["evaluate", "build", "slue", str(populi), str(out)]) == 2
