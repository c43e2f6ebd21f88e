"""Labelled sentences: balanced, different between splits, and spoken with their word times into a readable set."""

import re
import shlex
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from vocable.audio.io import read_audio
from vocable.cli import main
from vocable.errors import ConfigError, OutputError
from vocable.evaluation.slue.labelled_set import SENTIMENTS, read_labelled_set
from vocable.testsets import labelled_maker, speak
from vocable.testsets.labelled_maker import Templates, load_templates, make_labelled_texts
from vocable.testsets.labelled_speech import LabelledVoices, plan_jobs, speak_labelled
from vocable.testsets.plan import SpokenText
from vocable.testsets.speak import SegmentJob, SpeechConfig, read_word_times, speak_segment
from vocable.testsets.speech import Speech
from vocable.types import Word

ALL = make_labelled_texts(600, 100, 200)
BEEP = """
import math, struct, sys, wave
text, path = sys.argv[1:3]
if "Berlin" in text:
    sys.exit("cannot say that")
count = 800 * (len(text.split()) + 2)
samples = [int(9000 * math.sin(0.3 * t)) for t in range(count)]
with wave.open(path, "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", None))
    file.writeframes(struct.pack("<%dh" % count, *samples))
"""

ONE_FRAME = Templates(
    names={"GPE": {"train": ["Rome", "Oslo"], "new": ["Bonn"]}},
    feelings={"remark": {sentiment: {"train": [f"{sentiment}."], "new": ["No."]} for sentiment in SENTIMENTS}},
    frames={"remark": {split: [f"{split} {{GPE}}. {{feeling}}"] for split in ("train", "dev", "test")}},
)


def of(split):
    return [label for label in ALL if label.split == split]


def phrases(labels):
    return {entity.phrase(label.text) for label in labels for entity in label.entities or ()}


def test_every_split_is_balanced_and_no_sentence_occurs_twice():
    for split, count in (("train", 600), ("dev", 100), ("test", 200)):
        sentiments = Counter(label.sentiment for label in of(split))
        assert sum(sentiments.values()) == count and max(sentiments.values()) - min(sentiments.values()) <= 1
    assert len({label.text for label in ALL}) == len(ALL)
    groups = Counter((label.group["names"], label.group["feelings"], label.sentiment) for label in of("test"))
    assert len(groups) == 12 and max(groups.values()) - min(groups.values()) <= 1


def test_frames_of_the_splits_differ_and_each_has_every_sentiment():
    frames = load_templates().frames
    for by_split in frames.values():
        rows = [set(row) for row in by_split.values()]
        assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    for kind in frames:
        assert {label.sentiment for label in of("train") if label.group["kind"] == kind} == set(SENTIMENTS)


def test_new_names_and_feelings_are_in_the_test_split_only():
    templates = load_templates()
    new_names = set(chain.from_iterable(row["new"] for row in templates.names.values()))
    old_names = set(chain.from_iterable(row["train"] for row in templates.names.values()))
    assert not new_names & old_names
    assert phrases(of("train")) | phrases(of("dev")) <= {name[0].upper() + name[1:] for name in old_names} | old_names
    fresh = [label for label in of("test") if label.group["names"] == "new"]
    assert phrases(fresh) <= {name[0].upper() + name[1:] for name in new_names} | new_names
    new_feelings = [f for kind in templates.feelings.values() for row in kind.values() for f in row["new"]]
    for label in ALL:
        if label.group["feelings"] == "train":
            assert not any(f" {feeling}" in f" {label.text}" for feeling in new_feelings), label.text


def test_words_of_new_feelings_are_mostly_known():
    known = set(re.findall(r"\w+", " ".join(label.text.lower() for label in of("train"))))
    for kinds in load_templates().feelings.values():
        for row in kinds.values():
            words = re.findall(r"\w+", " ".join(row["new"]).lower())
            assert sum(word in known for word in words) > 0.5 * len(words)


def test_some_names_are_persons_here_and_places_there():
    tags: dict[str, set] = {}
    for label in of("train"):
        for entity in label.entities or ():
            tags.setdefault(entity.phrase(label.text), set()).add(entity.tag)
    assert {"PERSON", "PLACE"} in tags.values()


def test_entities_stand_where_they_say_and_capitals_are_kept():
    for label in ALL:
        assert label.text[0].isupper() and label.text[-1] in ".?"
        for entity in label.entities or ():
            before, after = label.text[: entity.start], label.text[entity.start + entity.length :]
            assert not before[-1:].isalnum() and not after[:1].isalnum()


def test_seeds_reproduce_and_matter_and_too_many_are_refused(monkeypatch):
    assert make_labelled_texts(9, 3, 3, seed=1) == make_labelled_texts(9, 3, 3, seed=1)
    assert make_labelled_texts(9, 3, 3, seed=1) != make_labelled_texts(9, 3, 3, seed=2)
    with pytest.raises(ConfigError, match="num_dev is 2"):
        make_labelled_texts(9, 2, 3)
    monkeypatch.setattr(labelled_maker, "load_templates", lambda: ONE_FRAME)
    with pytest.raises(ConfigError, match="num_train is 7; the templates yield about 6 sentences"):
        make_labelled_texts(7, 3, 3)


def test_voices_do_not_go_with_sentiment_or_group():
    config = SpeechConfig(command=f"{sys.executable} {{text}} {{wav}}")
    jobs = plan_jobs(ALL, Path("audio"), LabelledVoices(train=("a", "b", "c"), test=("d", "e")), config)
    for split, voices in (("train", "abc"), ("dev", "abc"), ("test", "de")):
        for sentiment in SENTIMENTS:
            counts = Counter(jobs[label.id].voice for label in of(split) if label.sentiment == sentiment)
            assert set(counts) == set(voices) and max(counts.values()) - min(counts.values()) <= 4
    assert {jobs[label.id].voice for label in of("test") if label.group["feelings"] == "new"} == {"d", "e"}
    with pytest.raises(ConfigError, match="b would speak both"):
        LabelledVoices(train=("a", "b"), test=("b",))
    with pytest.raises(ConfigError, match="name at least one"):
        LabelledVoices(train=())


@pytest.fixture
def command(tmp_path) -> str:
    path = tmp_path / "beep.py"
    path.write_text(BEEP, encoding="utf-8")
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(path))} {{text}} {{wav}}"


def test_the_command_writes_a_set_that_the_reader_reads(command, tmp_path, capsys):
    out = tmp_path / "set"
    sizes = ["--num-train", "6", "--num-dev", "3", "--num-test", "3"]
    assert main(["evaluate", "build", "labelled", str(out), *sizes, "--command", command]) == 0
    labelled = read_labelled_set(out)
    expected = [label for label in make_labelled_texts(6, 3, 3) if "Berlin" not in label.text]
    assert [label.id for label in labelled.labels] == [label.id for label in expected]
    assert list(labelled.labels) == expected
    assert all(labelled.utterances[label.id].text == label.text for label in labelled.labels)
    assert "0 with word times" in capsys.readouterr().out
    with pytest.raises(OutputError, match="already holds a finished labelled set"):
        speak_labelled(expected, out, LabelledVoices(), SpeechConfig(command=command), {})


def test_what_cannot_be_spoken_is_left_out_and_noted(command, tmp_path):
    labels = [label for label in ALL if "Berlin" in label.text][:2] + [x for x in ALL if "Berlin" not in x.text][:2]
    voices = LabelledVoices(train=("default",), test=("default",))
    report = speak_labelled(labels, tmp_path / "out", voices, SpeechConfig(command=command), {"seed": 0})
    assert [label.id for label in report.labelled.labels] == [label.id for label in labels[2:]]
    assert set(report.failures) == {label.id for label in labels[:2]}
    assert (tmp_path / "out" / "rejected.jsonl").read_text().count("cannot say that") == 2
    with pytest.raises(ConfigError, match=r"nothing could be spoken.*cannot say that"):
        speak_labelled(labels[:1], tmp_path / "none", voices, SpeechConfig(command=command), {})


def test_word_times_of_a_synthesiser_are_kept_and_moved_with_the_trimming(tmp_path, monkeypatch):
    """Half a second of silence, then a loud word: trimming must move the word, not only cut the silence."""
    rate = 24_000
    sound = np.where(np.arange(rate) < rate // 2, 0.0, np.sin(np.arange(rate) / 5)).astype(np.float32)

    class Speaker:
        def speak(self, text, voice):
            return Speech(sound, rate, (Word(word=text, start=0.5, end=1.0),))

    monkeypatch.setattr(speak, "open_synthesizer", lambda *_: Speaker())
    job = SegmentJob(SpokenText(text="loud"), "v", tmp_path / "a.flac")
    assert speak_segment(job, SpeechConfig(), keep_words=True).failure is None
    words = read_word_times(job.path)
    assert words is not None
    (word,) = words
    wave = read_audio(job.path).waveform.numpy()
    first = np.flatnonzero(np.abs(wave) > 0.02)[0] / 16_000
    assert word.word == "loud" and word.start == pytest.approx(first, abs=0.02) == pytest.approx(0.08, abs=0.02)
    plain = job._replace(path=tmp_path / "b.flac")
    assert speak_segment(plain, SpeechConfig()).failure is None
    assert read_word_times(plain.path) is None
