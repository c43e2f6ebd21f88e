"""`vocable align` with word times of a file, and `vocable align compare`."""

import json

import pytest
import torch

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.types import Utterance, Word


@pytest.fixture
def manifest(tmp_path):
    write_audio(tmp_path / "talk.wav", torch.rand(48_000), 16_000)
    words = (Word(word="One", start=0.1, end=0.4), Word(word="two", start=0.5, end=0.8))
    utterances = [
        Utterance(id="t-0", audio=tmp_path / "talk.wav", duration=1.0, text="One two.", speaker="s", words=words),
        Utterance(id="t-1", audio=tmp_path / "talk.wav", start=1.0, duration=2.0, text="Three four five."),
    ]
    path = tmp_path / "m.jsonl"
    write_manifest(utterances, path)
    return path


def test_times_of_a_whole_file(manifest, capsys):
    ctm = manifest.parent / "talk.ctm"
    rows = ["0.10 0.31 one", "0.55 0.25 two", "1.2 0.3 three", "1.5 0.1 fore", "2.0 0.5 five", "2.7 0.2 six"]
    ctm.write_text("".join(f"talk 1 {row}\n" for row in rows) + "other 1 0 1 x\n", encoding="utf-8")
    out = manifest.parent / "out" / "words.jsonl"
    arguments = ["align", str(manifest), str(out), "--aligner", f"ctm:{ctm}", "--times-from", "file", "--compare"]
    assert main(arguments) == 0
    first, second = read_manifest(out, strict=True)
    assert [(w.word, w.start, w.end) for w in first.words] == [("One", 0.1, 0.41), ("two", 0.55, 0.8)]
    assert [(w.word, w.start, w.end) for w in second.words] == [
        ("Three", 0.2, 0.5),
        ("four", 0.5, 0.6),
        ("five", 1.0, 1.5),
    ]
    report = [json.loads(line) for line in (out.parent / "words.report.jsonl").read_text().splitlines()]
    assert report[0] == {"id": "t-1", "index": 1, "word": "four", "note": "stands as 'fore' in the other list"}
    assert report[1] == {"id": "t-1", "unused": [["six", 1.7, 1.9]]}
    shown = capsys.readouterr().out
    assert "2 utterances; 5 words, 0 of them interpolated" in shown
    assert "1 of the aligner's entries belong to no utterance, such as other" in shown
    assert "boundaries within 20 ms" in shown and "0.750" in shown

    numbers = manifest.parent / "agreement.json"
    assert main(["align", "compare", str(manifest), str(out), "--out", str(numbers)]) == 0
    record = json.loads(numbers.read_text(encoding="utf-8"))
    assert (record["num_utterances"], record["num_words"], record["left_out"]) == (1, 2, 1)
    values = {measure["name"]: measure["value"] for measure in record["measures"]}
    assert values["mean absolute deviation"] == pytest.approx((0 + 0.01 + 0.05 + 0) / 4)
    assert values["words matched"] == 1


def test_errors_are_one_line(manifest, capsys):
    out = str(manifest.parent / "o.jsonl")
    assert main(["align", str(manifest), out, "--aligner", "ctn:x"]) == 2
    assert "Unknown aligner 'ctn'. Did you mean 'ctm'?" in capsys.readouterr().err
    bare = manifest.parent / "bare.jsonl"
    write_manifest([Utterance(id="x", audio=manifest.parent / "talk.wav")], bare)
    assert main(["align", "compare", str(manifest), str(bare)]) == 2
    assert "No utterance has words in both manifests" in capsys.readouterr().err
