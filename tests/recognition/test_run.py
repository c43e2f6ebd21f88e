"""Aligning whole manifests: what is kept, what is rejected, what is written."""

import json
from dataclasses import replace

import pytest
import torch

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.errors import AlignmentError, ManifestError, OutputError
from vocable.recognition.agreement import agreement, median_deviation, word_deviations
from vocable.recognition.aligner import Found, Timed
from vocable.recognition.run import AlignConfig, align_manifest, align_utterance
from vocable.recognition.stamps import StampAligner
from vocable.types import Utterance, Word


class Even:
    """Gives each spoken word a tenth of a second, and never finds one that begins with z."""

    def __init__(self, name="even", stop_at=None):
        self.name, self.stop_at, self.asked = name, stop_at, []

    def find(self, utterance, words, language):
        if utterance.id == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(utterance.id)
        times = [None if w.word.startswith("z") else Timed(i / 10, i / 10 + 0.1, 0.5) for i, w in enumerate(words)]
        return Found(times)


@pytest.fixture
def utterances(tmp_path):
    write_audio(tmp_path / "a.wav", torch.rand(16_000), 16_000)
    texts = {"u1": "one 2 three", "u2": "zeta two", "u3": "zeta zulu", "u4": None, "u5": "five"}
    return [
        Utterance(id=id, audio=tmp_path / "a.wav", start=0.25, text=text, extra={"story": id})
        for id, text in texts.items()
    ]


def test_a_confidence_that_is_no_number_is_noted_and_the_run_goes_on(tmp_path, utterances):
    words = [{"word": "one", "start": 0.1, "end": 0.3, "score": float("nan")}]
    words += [{"word": "2", "start": 0.4, "end": 0.5, "score": 0.4}, {"word": "three", "start": 0.6, "end": 0.7}]
    (tmp_path / "whisperx").mkdir()
    (tmp_path / "whisperx" / "u1.json").write_text(json.dumps({"segments": [{"words": words}]}))
    (tmp_path / "a.ctm").write_text("u1 1 0.1 0.2 one nan\nu1 1 0.4 0.1 2 0.4\nu1 1 0.6 0.1 three\nu2 1 nan 1 two\n")
    for kind, path in (("whisperx", tmp_path / "whisperx"), ("ctm", tmp_path / "a.ctm")):
        report = align_manifest(utterances, StampAligner(kind, path), tmp_path / kind / "aligned.jsonl")
        (found,) = read_manifest(tmp_path / kind / "aligned.jsonl", strict=True)
        assert [word.start for word in found.words] == [0.1, 0.4, 0.6]
        assert found.extra["alignment"]["confidence"] == [None, 0.4, None]
        notes = [json.loads(line) for line in report.path.read_text(encoding="utf-8").splitlines()]
        assert (notes[0]["word"], notes[0]["note"]) == ("one", "its confidence in the other list is not a number")
        assert report.num_rejected == len(utterances) - 1


def test_a_manifest_is_aligned_and_reported(tmp_path, utterances):
    out = tmp_path / "out" / "aligned.jsonl"
    report = align_manifest(utterances, Even(), out)
    done = {u.id: u for u in read_manifest(out, strict=True, check_audio=True)}
    assert list(done) == ["u1", "u2", "u5"]
    assert [w.word for w in done["u1"].words] == ["one", "2", "three"]
    assert (done["u1"].text, done["u1"].extra["story"], done["u1"].start) == ("one 2 three", "u1", 0.25)
    assert done["u1"].extra["alignment"]["confidence"] == [0.5, 0.5, 0.5]
    assert done["u2"].extra["alignment"]["interpolated"] == [0]
    rows = [json.loads(line) for line in report.path.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["index"], row["word"]) for row in rows] == [("u1", 1, "2"), ("u2", 0, "zeta")]
    rejected = [json.loads(line) for line in (out.parent / "aligned.rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rejected] == ["u3", "u4"]
    assert "2 of 2 words were not found" in rejected[0]["reason"] and "no text" in rejected[1]["reason"]
    counts = (report.num_aligned, report.num_kept, report.num_rejected, report.num_words, report.num_interpolated)
    assert counts == (3, 0, 2, 6, 1)
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "aligned.jsonl",
        "aligned.rejected.jsonl",
        "aligned.report.jsonl",
    ]


def test_a_stopped_run_goes_on(tmp_path, utterances):
    out = tmp_path / "aligned.jsonl"
    with pytest.raises(KeyboardInterrupt):
        align_manifest(utterances, Even(stop_at="u5"), out)
    assert not out.exists()
    unfinished = tmp_path / "aligned.jsonl.unfinished"
    unfinished.write_bytes(unfinished.read_bytes() + b'{"id": "u5", "au')  # killed while writing
    again = Even()
    assert align_manifest(utterances, again, out).num_kept == 2
    assert again.asked == ["u3", "u5"]
    whole = tmp_path / "whole" / "aligned.jsonl"
    align_manifest(utterances, Even(), whole)
    assert read_manifest(out) == read_manifest(whole) and not unfinished.exists()


def test_what_has_changed_is_aligned_again(tmp_path, utterances):
    out = tmp_path / "aligned.jsonl"
    align_manifest(utterances[:2], Even(), out)
    again = Even()
    changed = [utterances[0], replace(utterances[1], text="zeta three"), utterances[4]]
    report = align_manifest(changed, again, out)
    assert (again.asked, report.num_kept, report.num_aligned) == (["u2", "u5"], 1, 3)
    assert read_manifest(out)[1].words[1].word == "three"
    before = out.read_bytes()
    with pytest.raises(OutputError, match="u1 was aligned by even, not by other"):
        align_manifest(changed, Even("other"), out)
    with pytest.raises(OutputError, match="holds u1, which the manifest lacks"):
        align_manifest(changed[1:], Even(), out)
    assert out.read_bytes() == before
    assert align_manifest(changed[1:], Even("other"), out, overwrite=True).num_aligned == 2


def test_nothing_aligned_and_strict(tmp_path, utterances):
    with pytest.raises(ManifestError, match=r"no utterance could be aligned; the reasons are in .*rejected.jsonl"):
        align_manifest(utterances[2:4], Even(), tmp_path / "o.jsonl")
    with pytest.raises(ManifestError, match="2 of 2 words were not found"):
        align_manifest(utterances, Even(), tmp_path / "o.jsonl", AlignConfig(strict=True))


def words(*spans):
    return tuple(Word(word=word, start=start, end=end) for word, start, end in spans)


def test_agreement_counts_boundaries(tmp_path):
    audio = tmp_path / "a.wav"
    mine = Utterance(id="a", audio=audio, words=words(("One", 0.0, 0.5), ("2", 0.5, 1.0), ("three", 1.0, 1.5)))
    theirs = replace(mine, words=words(("one", 0.02, 0.44), ("two", 0.6, 1.2), ("other", 1.2, 1.5)))
    deviations = [word_deviations(mine, theirs)]
    assert deviations[0].starts == pytest.approx((0.02, 0.1)) and deviations[0].ends == pytest.approx((-0.06, 0.2))
    values = {measure.name: measure.value for measure in agreement(deviations)}
    assert values == {
        "boundaries within 20 ms": 1 / 4,
        "boundaries within 50 ms": 1 / 4,
        "boundaries within 100 ms": 3 / 4,
        "mean absolute deviation": pytest.approx(0.38 / 4),
        "mean deviation of starts": pytest.approx(0.06),
        "mean deviation of ends": pytest.approx(0.07),
        "words matched": pytest.approx(2 / 3),
    }
    assert median_deviation(deviations) == pytest.approx(0.08)


def test_interpolated_words_are_not_compared(tmp_path, utterances):
    aligned = align_utterance(utterances[1], Even())
    assert word_deviations(aligned, aligned).starts == (0.0,)
    exact = replace(aligned, extra={})
    assert word_deviations(exact, aligned).starts == word_deviations(aligned, exact).starts == (0.0,)
    assert word_deviations(exact, exact).starts == (0.0, 0.0)
    with pytest.raises(AlignmentError, match="u4 has no words with times"):
        word_deviations(utterances[3], aligned)


def test_the_record_survives_the_manifest(tmp_path, utterances):
    aligned = align_utterance(utterances[0], Even())
    write_manifest([aligned], tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl") == [aligned]
