"""The published layouts, on small trees laid out like the real ones."""

import random
from pathlib import Path

import pytest

from vocable.errors import ManifestError
from vocable.evaluation.pairs.items import with_modalities
from vocable.evaluation.salmon import TASKS, read_salmon
from vocable.evaluation.sblimp import read_sblimp
from vocable.evaluation.storycloze import read_storycloze, storycloze_scores
from vocable.evaluation.swuggy import frequency_band, read_swuggy

SWUGGY = "id,filename,voice,frequency,word,phones,length,correct"
SBLIMP = "id,filename,voice,type,subtype,correct,transcription"


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def write_gold(folder, header, rows, shuffle=None):
    if shuffle is not None:
        rows = random.Random(shuffle).sample(rows, len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gold.csv").write_text("\n".join([header, *rows]) + "\n")
    touch(folder, [f"{row.split(',')[1]}.wav" for row in rows])


WORDS = [f"{i},{c}{i}{v},{v},{frequency},w{i},p,3,{c}"
         for i, frequency in enumerate((0, 4, 250)) for v in "AB" for c in (1, 0)]  # fmt: skip


@pytest.mark.parametrize("shuffle", [None, 0, 1])
def test_swuggy_joins_by_id_and_voice_in_any_order(tmp_path, shuffle):
    write_gold(tmp_path / "lexical" / "dev", SWUGGY, WORDS, shuffle)
    found = read_swuggy(tmp_path)
    assert len(found.items) == 6
    for item in found.items:
        word, voice = item.id.split("/")
        assert (item.positive[0].speech, item.negative[0].speech) == (f"1{word}{voice}", f"0{word}{voice}")
        assert item.group == {"word": word, "band": ["oov", "1-5", ">100"][int(word)]}
        assert item.voice == voice


def test_a_word_without_a_frequency_is_in_no_band(tmp_path):
    write_gold(tmp_path, SWUGGY, [row.replace(",250,", ",,") for row in WORDS])
    assert [item.group.get("band") for item in read_swuggy(tmp_path).items] == ["oov"] * 2 + ["1-5"] * 2 + [None] * 2


def test_frequency_bands_are_right_open():
    counts = (0, 1, 4, 5, 19, 20, 99, 100, 10_000)
    names = ["oov", "1-5", "1-5", "6-20", "6-20", "21-100", "21-100", ">100", ">100"]
    assert [frequency_band(count) for count in counts] == names


def test_sblimp_keeps_types_apart(tmp_path):
    rows = [f"0,{t}{c},V,{t},sub,{c},he said {c}" for t in ("anaphor", "island") for c in (1, 0)]
    write_gold(tmp_path, SBLIMP, rows, shuffle=2)
    found = read_sblimp(tmp_path)
    assert {item.id for item in found.items} == {"anaphor/sub/0/V", "island/sub/0/V"}
    assert found.items[0].group["type"] == "sub" and found.items[0].group["sentence"] == "0"
    assert found.utterances["anaphor1"].text == "he said 1"


def test_gold_problems(tmp_path):
    write_gold(tmp_path, SWUGGY, [*WORDS[:2], WORDS[4], *WORDS[8:10], WORDS[9].replace("0,02A", "0,02A")])
    (tmp_path / "12A.wav").unlink()
    found = read_swuggy(tmp_path)
    assert len(found.items) == 1
    assert found.excluded == {"one half is missing": 1, "more than one file for a half": 1}
    with pytest.raises(ManifestError, match=r"no gold.csv for syntactic \(test\)"):
        read_sblimp(tmp_path / "elsewhere", split="test")
    with pytest.raises(ManifestError, match=r"lacks the columns \['type', 'subtype'\]"):
        read_sblimp(tmp_path)
    write_gold(tmp_path / "odd", SWUGGY, [WORDS[0], WORDS[1][:-1] + "maybe"])
    with pytest.raises(ManifestError, match="correct='maybe'; it must be 0 or 1"):
        read_swuggy(tmp_path / "odd")
    write_gold(tmp_path / "often", SWUGGY, [row.replace(",250,", ",often,") for row in WORDS])
    with pytest.raises(ManifestError, match="frequency 'often' is no number"):
        read_swuggy(tmp_path / "often")


def test_storycloze_layouts(tmp_path):
    touch(tmp_path / "tSC" / "part", ["7_correct.wav", "7_incorrect.wav", "8_correct.wav"])
    found = read_storycloze(tmp_path / "tSC")
    assert [item.id for item in found.items] == ["part/7"] and found.excluded == {"one half is missing": 1}
    assert found.items[0].group == {"story": "part/7", "version": "topic"}
    assert len(found.items[0].positive) == 1


def test_a_folder_with_both_versions_of_storycloze_gives_both(tmp_path, monkeypatch):
    for folder, numbers in (("sSC/part", "78"), ("tSC/part", "7"), ("more", "1")):
        touch(tmp_path / "all" / folder, [f"{n}_{half}.wav" for n in numbers for half in ("correct", "incorrect")])
    found = read_storycloze(tmp_path / "all")
    groups = {item.id: dict(item.group) for item in found.items}
    assert groups == {
        "more/1": {"story": "more/1"},
        "sSC/part/7": {"story": "part/7", "version": "spoken"},
        "sSC/part/8": {"story": "part/8", "version": "spoken"},
        "tSC/part/7": {"story": "part/7", "version": "topic"},  # one story in both: intervals draw it together
    }
    scores = storycloze_scores([{"id": name, **group, "correct": 1.0} for name, group in groups.items()], "correct")
    assert {name: score.num_items for name, score in scores.items()} == {"all": 4, "spoken": 2, "topic": 1}
    monkeypatch.chdir(tmp_path / "all" / "sSC")
    assert [item.group["version"] for item in read_storycloze(Path()).items] == ["spoken"] * 2
    (tmp_path / "all").rename(tmp_path / "sSC-tSC")  # says both, so it says nothing about the third pair
    assert "version" not in read_storycloze(tmp_path / "sSC-tSC").items[0].group
    assert {item.group["version"] for item in read_storycloze(tmp_path / "sSC-tSC", "topic").items} == {"topic"}


def test_storycloze_in_both_modalities(tmp_path):
    names = [f"3_{role}" for role in ("mutual", "correct", "incorrect")]
    touch(tmp_path / "tSC", ["7_correct.wav", "7_incorrect.wav"])
    touch(tmp_path / "cross", [f"{name}.wav" for name in names])
    for name in names:
        (tmp_path / "cross" / f"{name}.txt").write_text(f"text of {name}\n")
    crossed = read_storycloze(tmp_path / "cross", version="spoken")
    kinds = {"S": ("speech", "speech"), "S->T": ("speech", "text"), "T->S": ("text", "speech"), "T": ("text", "text")}
    for modalities, (context, ending) in kinds.items():
        (item,) = with_modalities(crossed, modalities).items
        values = {"speech": "3_{}", "text": "text of 3_{}"}
        assert getattr(item.positive[0], context) == values[context].format("mutual")
        assert getattr(item.positive[1], ending) == values[ending].format("correct")
        assert getattr(item.negative[1], ending) == values[ending].format("incorrect")
    with pytest.raises(ManifestError, match="no context apart from the ending: 1"):
        with_modalities(read_storycloze(tmp_path / "tSC"), "S->T")
    with pytest.raises(ManifestError, match="modalities is 'T->T'"):
        with_modalities(crossed, "T->T")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ManifestError, match="no <id>_correct"):
        read_storycloze(tmp_path / "empty")


def test_salmon_layout(tmp_path):
    touch(tmp_path / "speaker_consistency", [f"sample_{i}_{k}.wav" for i in (0, 2, 10) for k in (0, 1)])
    touch(tmp_path / "bg_alignment", ["sample_0_0.wav", "sample_0_1.wav", "sample_1_0.wav"])
    found = read_salmon(tmp_path)
    assert [item.id for item in found.items] == [
        "speaker_consistency/0", "speaker_consistency/2", "speaker_consistency/10", "bg_alignment/0"
    ]  # fmt: skip
    assert found.items[1].positive[0].speech == "speaker_consistency/sample_2_0"
    assert found.items[-1].group == {"task": "bg_alignment", "kind": "alignment"}
    assert found.excluded == {"one half is missing": 1}
    assert len(TASKS) == 8
    with pytest.raises(ManifestError, match="none of the folders"):
        read_salmon(tmp_path / "speaker_consistency")
