"""The page holds the numbers, the figures and the sound; it is opened and read as a browser would."""

import base64
import io
import json
from html.parser import HTMLParser

import pytest
import soundfile

from evaluation.comparison_results import pair_result, pair_row, resynthesis_result
from vocable import cli
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.evaluation.comparison.compare import compare_results
from vocable.evaluation.comparison.page import (
    most_different,
    no_sounds,
    render_comparison_page,
    sounds_of_manifest,
)
from vocable.evaluation.pairs import PairItem, PairSet, Segment, write_pair_set
from vocable.evaluation.results import save_result
from vocable.evaluation.sblimp import read_sblimp
from vocable.types import Utterance

WARM = [1, 1, 0, 1, 0.5, 1, 1, 0, 1, 1, 1, 0]
COLD = [0, 1, 0, 1, 0.0, 0, 1, 1, 0, 0, 0.5, 0]


class Page(HTMLParser):
    """Players, headings, and the rows of every table of tests."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sounds, self.rows, self.svgs, self.text = [], [], 0, ""
        self.in_tests = False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "audio":
            kind, data = attributes["src"].split(",", 1)
            assert kind == "data:audio/ogg;base64"
            self.sounds.append(soundfile.read(io.BytesIO(base64.b64decode(data))))
        self.svgs += tag == "svg"
        if tag == "table":
            self.in_tests = attributes.get("class") == "tests"
        if tag == "tr" and self.in_tests:
            self.rows.append([])
        if tag == "td" and self.in_tests:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.in_tests = self.in_tests and tag != "table"

    def handle_data(self, data):
        self.text += data
        if self.in_tests and self.rows and self.rows[-1]:
            self.rows[-1][-1] += " ".join(data.split())


@pytest.fixture
def pair_folder(tmp_path, make_speechlike):
    """A pair set for the twelve items: a context of 0.5 s that both halves share, endings of 0.7 s and 1.1 s."""
    seconds = {"context": 0.5, "good": 0.7, "bad": 1.1}
    utterances = {}
    for seed, (name, length) in enumerate(seconds.items()):
        write_audio(tmp_path / f"{name}.wav", make_speechlike(round(length * 16_000), seed=seed), 16_000)
        utterances[name] = Utterance(id=name, audio=tmp_path / f"{name}.wav", text=f"{name} <words>")
    items = [
        PairItem(
            id=f"pair{index}",
            positive=(Segment(speech="context"), Segment(speech="good")),
            negative=(Segment(speech="context"), Segment(speech="bad")),
        )
        for index in range(12)
    ]
    write_pair_set(PairSet(benchmark="sblimp", items=items, utterances=utterances), tmp_path / "pairs")
    return tmp_path / "pairs"


def test_the_command_writes_a_page_with_the_numbers_and_both_halves(tmp_path, pair_folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # of the terminal: a narrow one breaks words in the table
    paths = [
        str(save_result(pair_result(values), tmp_path / name)) for name, values in (("warm", WARM), ("cold", COLD))
    ]
    arguments = ["compare", *paths, "--out", str(tmp_path / "out"), "--pairs", str(pair_folder), "--num-examples", "4"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "sblimp: 12 common items" in printed and "warm - cold" in printed and "0.1406" in printed
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    page = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    first = page.rows[1]
    assert first[:4] == ["accuracy", "warm - cold", "0.7083 - 0.375", "0.3333"]
    (found,) = record["differences"]
    assert first[4] == f"{found['low']:.4g} to {found['high']:.4g}"
    # p by hand in test_comparison.py; McNemar's: 2 * (1 + 7) / 128
    assert first[6:] == ["12", "7", "0.1406 (exact)", "0.1406", "0.125 (6 : 1, 2 by half)", "not shown"]
    assert [row[0] for row in page.rows if row][1:] == ["p0", "p1", "p2", "p3", "v0", "v1", "v2"]
    assert page.svgs == 4  # differences, scores, by phenomenon, by voice
    assert [round(len(samples) / rate, 1) for samples, rate in page.sounds] == [1.2, 1.6] * 4
    assert "context <words> | good <words>" in page.text
    # refused a second time, unless asked
    assert cli.main(arguments) == 2 and "holds an earlier result" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite"]) == 0


def test_published_layouts_are_played_too(tmp_path, make_speechlike, capsys):
    folder = tmp_path / "syntactic" / "dev"
    folder.mkdir(parents=True)
    lines = ["id,filename,voice,type,subtype,correct,transcription"]
    for row in (f"{i},{i}{c},v0,p0,t,{c},said {i}{c}" for i in range(3) for c in (1, 0)):
        lines.append(row)
        write_audio(folder / f"{row.split(',')[1]}.wav", make_speechlike(8_000), 16_000)
    (folder / "gold.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [item.id for item in read_sblimp(tmp_path).items]
    for model, values in (("warm", (1, 0, 1)), ("cold", (0, 0, 1))):
        rows = [pair_row(i, value, id=name) for i, (name, value) in enumerate(zip(names, values))]
        save_result(pair_result(None, rows), tmp_path / model)
    paths = [str(tmp_path / model / "sblimp.json") for model in ("warm", "cold")]
    assert cli.main(["compare", *paths, "--out", str(tmp_path / "out"), "--pairs", str(tmp_path)]) == 0
    page = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    assert len(page.sounds) == 2 and "said 01" in page.text and "said 00" in page.text


def test_errors_of_the_command_are_one_line(tmp_path, capsys):
    warm = str(save_result(pair_result(WARM), tmp_path / "warm"))
    cold = str(save_result(pair_result(COLD), tmp_path / "cold"))
    other = str(save_result(resynthesis_result([1], [2], ["a"], [0.5]), tmp_path / "other"))
    for words, message in [
        ([warm, other], "different benchmarks"),
        ([warm], "1 result given"),
        ([warm, other, "--pairs", "a", "--manifest", "b"], "not both"),
        ([warm, cold, "--pairs", str(tmp_path / "none")], "no gold.csv for syntactic"),
        ([warm, other, "--manifest", str(tmp_path / "none.jsonl")], "none.jsonl"),
    ]:
        assert cli.main(["compare", *words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("vocable compare: ") and error.count("\n") == 1


def test_recordings_are_played_with_what_each_model_was_heard_to_say(tmp_path, make_speechlike):
    write_audio(tmp_path / "u.wav", make_speechlike(8_000), 16_000)
    utterances = [Utterance(id=f"u{i}", audio=tmp_path / "u.wav", text=f"text {i}") for i in range(3)]
    utterances[2] = Utterance(id="u2", audio=tmp_path / "gone.wav", text="text 2")
    write_manifest(utterances, tmp_path / "m.jsonl")
    speakers = ["a", "b", "a", "b"]
    one = resynthesis_result([1, 2, 0, 1], [4] * 4, speakers, [0.5] * 4)
    two = resynthesis_result([1, 0, 1, 0], [4] * 4, speakers, [0.5] * 4)
    comparison = compare_results({"one": one, "two": two})
    page = Page(render_comparison_page(comparison, sounds_of_manifest(tmp_path / "m.jsonl"), 12))
    assert len(page.sounds) == 1 and "text 1" in page.text and "text 0" not in page.text
    assert "transcript resynthesis: heard 2 wrong" in page.text and "no sound: " in page.text
    assert "2 of these items have no sound here" in page.text and "On no item" not in page.text


def test_items_come_by_difference_then_by_margin_and_by_turns():
    rows = {"a": [pair_row(0, 1), pair_row(1, 1), pair_row(2, 0), pair_row(3, 0.5), pair_row(4, 1), pair_row(5, 0)]}
    rows["b"] = [pair_row(0, 0), pair_row(1, 0), pair_row(2, 1), pair_row(3, 0), pair_row(4, 1), pair_row(5, 0)]
    comparison = compare_results({name: pair_result(None, table) for name, table in rows.items()})
    # margins grow with the index; pair2 favours b, pair3 differs by half a point, pairs 4 and 5 do not differ
    assert [example.id for example in most_different(comparison, "a", "b")] == ["pair1", "pair2", "pair0", "pair3"]
    assert [example.id for example in most_different(comparison, "a", "b", num_examples=1)] == ["pair1"]
    verdicts = most_different(comparison, "a", "b")[1].verdicts
    assert verdicts["a"] == "accuracy 0; log-likelihood per token: positive -3.2, negative -2.4"


def test_names_from_outside_are_escaped_and_ties_are_said():
    comparison = compare_results({"<b>$x$</b>": pair_result([1, 0]), "other": pair_result([1, 0])})
    html = render_comparison_page(comparison, no_sounds, 12)
    assert "<b>" not in html and "&lt;b&gt;$x$&lt;/b&gt;" in html
    assert "On no item of accuracy do these two differ." in html
