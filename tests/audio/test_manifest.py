"""Manifests: round trips, every kind of broken line, and rejections that survive a restart without doubling."""

import itertools
import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocable.audio.manifest import HeldRejections, Rejections, read_manifest, validate_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.errors import ManifestError, OutputError
from vocable.types import Utterance, Word

GOOD = {"id": "a", "audio": "a.wav", "duration": 1.0}

text = st.text(min_size=1, max_size=20).filter(lambda value: "\0" not in value)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=3,
)


@st.composite
def utterances(draw) -> Utterance:
    duration = draw(st.none() | st.floats(1e-3, 1e4))
    times = sorted(draw(st.lists(st.floats(0, duration or 10), max_size=4)))
    words = tuple(Word(word=draw(text), start=a, end=b) for a, b in itertools.pairwise(times))
    return Utterance(
        id=draw(text),
        audio=Path("/data/sounds") / draw(st.sampled_from(["a.wav", "x/ü b.flac", "../other/声.mp3", "\udcff.wav"])),
        start=draw(st.floats(0, 1e5)),
        duration=duration,
        text=draw(st.none() | st.text()),
        speaker=draw(st.none() | st.text()),
        licence=draw(st.none() | st.text()),
        words=draw(st.none() | st.just(words)),
        extra=draw(st.dictionaries(st.text().map(lambda key: "x-" + key), json_values, max_size=3)),
    )


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.lists(utterances(), min_size=1, max_size=2, unique_by=lambda item: item.id))
def test_writing_then_reading_gives_the_utterances_back(tmp_path, items):
    write_manifest(items, tmp_path / "m.jsonl")
    found = read_manifest(tmp_path / "m.jsonl", strict=True)
    expected_audio = [Path(str(item.audio).replace("/sounds/../", "/")) for item in items]
    assert [item.audio for item in found] == expected_audio
    for item, other in zip(found, items, strict=True):
        fields = ("id", "start", "duration", "text", "language", "speaker", "corpus", "licence", "words", "extra")
        assert [getattr(item, name) for name in fields] == [getattr(other, name) for name in fields]


def write_lines(path: Path, *lines: object) -> Path:
    rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def test_paths_are_relative_on_disk_and_absolute_in_memory(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    manifest = tmp_path / "lists" / "m.jsonl"
    write_manifest([Utterance(id="a", audio=tmp_path / "wavs" / "a.wav")], manifest)
    assert json.loads(manifest.read_text())["audio"] == "../wavs/a.wav"
    monkeypatch.chdir(tmp_path)
    assert read_manifest(Path("lists/m.jsonl"))[0].audio == tmp_path / "wavs" / "a.wav"
    (tmp_path / "moved").mkdir()
    manifest.rename(tmp_path / "moved" / "m.jsonl")
    assert read_manifest(tmp_path / "moved" / "m.jsonl")[0].audio == tmp_path / "wavs" / "a.wav"


def test_unknown_keys_are_kept_nulls_and_a_byte_order_mark_are_fine(tmp_path):
    row = GOOD | {"text": None, "start": None, "sample_rate": 16000, "source": {"x": [1]}}
    path = write_lines(tmp_path / "m.jsonl", b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r", b"", b"  ")
    (utterance,) = read_manifest(path, strict=True)
    assert utterance.text is None
    assert utterance.start == 0.0
    assert utterance.extra == {"sample_rate": 16000, "source": {"x": [1]}}


BROKEN = [
    (b"{not json", r"Not JSON: Expecting property name"),
    (b'{"id": "a", "audio": "a.wav", "snr": NaN}', r"Not JSON: NaN is not a JSON value"),
    (b"[" * 100_000, "Not JSON"),
    (
        b'{"id": "a", "audio": "a.wav", "text": "nice \\ud83d"}',
        r"text holds \\ud83d at character 5, half of a character",
    ),
    (b'{"id": "a\\udcff", "audio": "a.wav"}', r"id holds \\udcff at character 1"),
    (
        b'{"id": "a", "audio": "a.wav", "words": [{"word": "\\ude00", "start": 0, "end": 1}]}',
        r"words\[0\] holds \\ude00",
    ),
    (b'{"id": "a", "audio": "a.wav", "offset": 1.5, "duration": 2}', r"'offset' is no key of a manifest; write start,"),
    (
        b'{"id": "a", "audio": "a.wav", "start": 1, "end": 2}',
        r"'end' is no key of a manifest; write duration \(the end",
    ),
    (b'{"id": "\xff"}', r"Not UTF-8 text: invalid start byte at byte 8"),
    (b"[1, 2]", r"The line holds a list; expected an object"),
    ({"audio": "a.wav"}, r"There is no 'id'\. Every line needs"),
    ({"id": "x", "audio_file": "a.wav"}, r"There is no 'audio'; is it 'audio_file'\?"),
    (GOOD | {"id": 7}, r"id is 7; expected text"),
    (GOOD | {"id": ""}, r"id is ''; expected text"),
    (GOOD | {"audio": "a\0.wav"}, r"audio is 'a\\x00\.wav'; expected text"),
    (GOOD | {"text": ["a"]}, r"text is \['a'\]; expected text"),
    (GOOD | {"start": -1}, r"start is -1\.0; it must be 0 or more"),
    (GOOD | {"start": "0"}, r"start is '0'; expected a number of seconds"),
    (GOOD | {"start": 10**400}, r"start is 10+; expected a number of seconds"),
    (GOOD | {"duration": 0}, r"duration is 0\.0; it must be more than 0"),
    (GOOD | {"duration": True}, r"duration is True; expected a number"),
    (GOOD | {"words": "hello"}, r"words is a str; expected a list"),
    (GOOD | {"words": [{"start": 0, "end": 1}]}, r"words\[0\] is \{'start': 0, 'end': 1\}; expected"),
    (GOOD | {"words": [{"word": "a", "start": 0}]}, r"end is None; expected a number"),
    (
        GOOD | {"words": [{"word": "a", "start": 0.5, "end": 0.2}]},
        r"words\[0\], 'a' from 0\.5 s to 0\.2 s, ends before",
    ),
    (
        GOOD | {"words": [{"word": "b", "start": 0.5, "end": 0.6}, {"word": "a", "start": 0, "end": 0.1}]},
        r"words\[1\], 'a' from 0 s to 0\.1 s, starts before the word in front of it",
    ),
    (GOOD | {"words": [{"word": "a", "start": 0.5, "end": 1.2}]}, r"words\[0\], .* lies outside the utterance of 1 s"),
    (GOOD | {"id": "good"}, r"The id 'good' is taken by line 1"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_a_broken_line_is_skipped_and_noted_or_an_error(tmp_path, caplog, line, message):
    path = write_lines(tmp_path / "m.jsonl", GOOD | {"id": "good"}, b"", line, GOOD | {"id": "last"})
    rejections = Rejections(tmp_path / "out")
    assert [item.id for item in read_manifest(path, rejections=rejections)] == ["good", "last"]
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert row["line"] == 3
    with pytest.raises(ManifestError, match=rf"m\.jsonl, line 3: {message}"):
        read_manifest(path, strict=True)
    (problem,) = validate_manifest(path, check_audio=False).problems
    assert (problem.line, problem.reason) == (3, row["reason"])
    with caplog.at_level(logging.WARNING):
        read_manifest(path)
    assert "line 3: skipped" in caplog.text  # never silently


def test_splits_are_read_and_written_and_parts_of_corpora_are_none(tmp_path):
    names = ["train", "valid", "test", "dev", "validation", "train-clean-100"]
    rows = [GOOD | {"id": name, "split": name} for name in names]
    found = read_manifest(write_lines(tmp_path / "m.jsonl", *rows), strict=True)
    assert [item.split for item in found] == ["train", "valid", "test", "valid", "valid", None]
    assert found[-1].extra["part"] == "train-clean-100"
    write_manifest(found, tmp_path / "again.jsonl")
    assert read_manifest(tmp_path / "again.jsonl", strict=True) == found
    with pytest.raises(ManifestError, match="split is 'vaild'; expected one of train, valid, test"):
        read_manifest(write_lines(tmp_path / "n.jsonl", GOOD | {"split": "vaild"}), strict=True)


def test_slightly_late_words_are_accepted(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", GOOD | {"words": [{"word": "a", "start": 0.5, "end": 1.05}]})
    assert read_manifest(path, strict=True)[0].words == (Word(word="a", start=0.5, end=1.05),)


def test_missing_and_empty_manifests(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere\.jsonl: no such manifest.*import-folder"):
        read_manifest(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ManifestError, match=r"empty\.jsonl: holds no usable utterance"):
        read_manifest(tmp_path / "empty.jsonl")


def test_the_report_counts_and_looks_at_the_audio(tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("hello")
    path = write_lines(
        tmp_path / "m.jsonl",
        {"id": "1", "audio": "a.wav", "speaker": "x"},
        {"id": "2", "audio": "a.wav", "start": 0.5, "duration": 0.5, "speaker": "y"},
        {"id": "3", "audio": "a.wav", "start": 0.5, "speaker": "y"},
        {"id": "4", "audio": "missing.wav"},
        {"id": "5", "audio": "text.wav"},
        {"id": "6", "audio": "a.wav", "start": 0.5, "duration": 2},
        {"id": "7", "audio": "a.wav", "start": 1.0},
    )
    report = validate_manifest(path)
    assert (report.num_utterances, report.num_speakers, report.num_without_duration) == (3, 2, 0)
    assert report.hours == pytest.approx(2.0 / 3600)
    assert [(problem.line, problem.id) for problem in report.problems] == [(4, "4"), (5, "5"), (6, "6"), (7, "7")]
    for problem, part in zip(report.problems, ["no such file", "not audio", "0.5 s to 2.5 s", "1 s long"], strict=True):
        assert part in problem.reason
    unchecked = validate_manifest(path, check_audio=False)
    assert (unchecked.num_utterances, unchecked.num_without_duration, unchecked.problems) == (7, 5, ())
    assert [item.id for item in read_manifest(path, check_audio=True)] == ["1", "2", "3"]


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path):
    good = Utterance(id="a", audio=tmp_path / "a.wav")
    path = tmp_path / "m.jsonl"
    write_manifest([good], path)
    before = path.read_bytes()
    for items, message in [
        ([good, good], "two utterances have the id 'a'"),
        ([], "there is no utterance to write"),
        ([Utterance(id="b", audio=Path("b"), extra={"x": float("nan")})], "'b' cannot be written as JSON"),
        ([Utterance(id="b", audio=Path("b"), extra={"x": {1}})], "'b' cannot be written as JSON"),
        ([Utterance(id="b", audio=Path("b"), extra={"text": "t"})], r"extra has \['text'\]"),
    ]:
        with pytest.raises(ManifestError, match=message):
            write_manifest(items, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_rejections_of_a_resumed_run_are_not_doubled(tmp_path):
    first = Rejections(tmp_path)
    first.add("a", tmp_path / "ü\udcff.wav", "broken", line=3)
    first.add("b", None, "broken\ntoo")
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-9])  # killed while the second line was written
    resumed = Rejections(tmp_path)
    resumed.add("a", tmp_path / "ü\udcff.wav", "broken", line=3)
    resumed.add("b", None, "broken\ntoo")
    assert resumed.path.read_bytes() == whole
    assert resumed.count == 2
    resumed.add("b", None, "another reason")
    assert resumed.count == 3
    rows = [json.loads(line) for line in resumed.path.read_text().splitlines()]
    assert [(row["id"], row["line"]) for row in rows] == [("a", 3), ("b", None), ("b", None)]
    assert rows[0]["audio"] == str(tmp_path / "ü\udcff.wav")


def test_rejections_make_no_file_until_needed_and_travel_to_workers(tmp_path):
    rejections = pickle.loads(pickle.dumps(Rejections(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
    rejections.add("a", "a.wav", "broken")
    assert rejections.path == tmp_path / "new" / "rejected.jsonl"
    assert rejections.path.exists()


def test_rejections_that_cannot_be_written_are_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"rejected\.jsonl: cannot be written"):
        Rejections(tmp_path / "file").add("a", None, "broken")


def test_held_rejections_are_written_only_when_released(tmp_path):
    held, rejections = HeldRejections(), Rejections(tmp_path / "out")
    held.add("a", tmp_path / "a.wav", "bad", 3)
    held.add(None, None, "worse")
    assert held.count == 2 and not (tmp_path / "out").exists()
    held.release(rejections)
    rows = [json.loads(line) for line in rejections.path.read_text().splitlines()]
    assert [(row["id"], row["line"], row["reason"]) for row in rows] == [("a", 3, "bad"), (None, None, "worse")]
    assert rejections.count == 2
