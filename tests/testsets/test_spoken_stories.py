"""Stories to utterances, voices and recordings, with a synthesiser that hums instead of speaking."""

import json

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from vocable.audio.io import read_utterance
from vocable.audio.manifest import read_manifest
from vocable.errors import ConfigError, OutputError
from vocable.testsets.speech import Speech
from vocable.testsets.spoken_stories import (
    SpokenStoriesConfig,
    build_spoken_stories,
    level_and_trim,
    plan_recordings,
    read_stories,
    split_sentences,
    split_utterances,
)
from vocable.types import Phone, Word

TEXT = """# One Day
The sun rose. A bird sang in the tall green tree behind the house.

It was warm.
# Two [test]
"Stop!" he called. "It is far." Nobody stopped.
"""
CONFIG = SpokenStoriesConfig(voices=("low", "high"), held_out_voices=("other",))


class Hummer:
    """Hums 0.2 s a word between two silences; the pitch rises, from a note that depends on the text."""

    name = "hummer"

    def __init__(self):
        self.spoken = []

    def check_voices(self, voices):
        pass

    def speak(self, text, voice):
        self.spoken.append((text, voice))
        words = text.split()
        time = np.arange(int(0.2 * len(words) * 24_000)) / 24_000
        hum = 0.3 * np.sin(2 * np.pi * (200 + 3 * len(text) + 300 * time) * time)
        silence = np.zeros(7_200)
        times = tuple(Word(word=w, start=0.3 + 0.2 * i, end=0.5 + 0.2 * i) for i, w in enumerate(words))
        phones = [Phone(phone=w.word[0], start=w.start, end=w.end) for w in times]
        phones.append(Phone(phone="sil", start=times[-1].end, end=times[-1].end + 0.3))
        return Speech(np.concatenate([silence, hum, silence]).astype(np.float32), 24_000, times, tuple(phones))


@pytest.fixture
def stories(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text(TEXT, encoding="utf-8")
    return read_stories(path)


def test_title_lines_start_stories_and_name_splits(stories):
    assert [(story.id, story.title, story.split) for story in stories] == [
        ("one-day", "One Day", "train"),
        ("two", "Two", "test"),
    ]
    assert stories[0].text == "The sun rose. A bird sang in the tall green tree behind the house. It was warm."


def test_a_plain_text_is_one_train_story(tmp_path):
    (tmp_path / "My Notes.txt").write_text("Hello there.", encoding="utf-8")
    (story,) = read_stories(tmp_path / "My Notes.txt")
    assert story == ("my-notes", "My Notes", "train", "Hello there.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A [dev]\nHello.", "line 1: the split is 'dev'; it is one of train, valid, test"),
        ("# A\n# B\nHello.", "the story 'A' has no text"),
        ("# A\nHello.\n# a\nBye.", "two stories have the title 'A'"),
        ("\n", "holds no text"),
    ],
)
def test_broken_story_files_are_explained(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_stories(tmp_path / "t.txt")


def test_quotations_are_cut_only_where_a_sentence_begins():
    text = '"What is it?" asked Tom. "Mother!" he said. "Run!" The bell rang.'
    assert split_sentences(text) == ['"What is it?" asked Tom.', '"Mother!" he said.', '"Run!"', "The bell rang."]


def test_two_sentences_are_joined_while_they_are_short():
    text = "One two three. Four five six. Seven eight nine. Ten."
    assert split_utterances(text, max_words=6) == ["One two three. Four five six.", "Seven eight nine. Ten."]
    assert split_utterances(text, max_words=5) == ["One two three.", "Four five six.", "Seven eight nine. Ten."]


@given(st.lists(st.sampled_from(["Go", "far,", "away.", '"Yes!"', "He", "said", "it", "12", "well?"]), max_size=80))
def test_splitting_loses_no_word_and_bounds_the_length(words):
    utterances = split_utterances(" ".join(words), max_words=10)
    assert " ".join(utterances).split() == words
    assert all(len(utterance.split()) <= 16 for utterance in utterances)


def test_held_out_voices_speak_no_train_story(stories):
    plan = [(recording.story.id, recording.voice, recording.held_out) for recording in plan_recordings(stories, CONFIG)]
    assert plan == [("one-day", "low", False), ("two", "high", False), ("two", "other", True)]


def test_trimming_keeps_the_margin_moves_the_words_and_sets_the_level():
    speech = level_and_trim(Hummer().speak("a b c d e", "low"), loudness_dbfs=-20.0, margin_seconds=0.1)
    assert len(speech.waveform) / 24_000 == pytest.approx(1.2, abs=0.011)
    assert speech.words[0].start == pytest.approx(0.1, abs=0.011)
    assert [phone.phone for phone in speech.phones] == ["a", "b", "c", "d", "e", "sil"]
    assert speech.phones[0].start == speech.words[0].start
    assert speech.phones[-1].end == pytest.approx(len(speech.waveform) / 24_000)  # cut with the silence
    middle = speech.waveform[4_800:-4_800]
    assert 10 * np.log10(np.square(middle).mean()) == pytest.approx(-20.0, abs=0.3)


def test_each_utterance_decodes_to_what_was_spoken(stories, tmp_path):
    build_spoken_stories(stories, tmp_path / "out", Hummer(), CONFIG)
    utterances = read_manifest(tmp_path / "out" / "manifest.jsonl", strict=True)
    assert [u.text for u in utterances if u.extra["story"] == "one-day"] == split_utterances(stories[0].text)
    assert {u.split for u in utterances if u.speaker == "other"} == {"test"}
    for utterance in utterances:
        waveform = read_utterance(utterance, 24_000).numpy()
        assert len(waveform) == round(utterance.duration * 24_000)
        expected = level_and_trim(Hummer().speak(utterance.text, ""), CONFIG.loudness_dbfs).waveform
        lags = np.correlate(np.pad(waveform, 48), expected, "valid") / np.square(expected).sum()
        assert abs(int(lags.argmax()) - 48) <= 2  # Opus, at the right offset to two samples
        assert lags.max() > 0.9
        assert utterance.words[-1].end <= utterance.duration


def test_a_stopped_build_goes_on_and_ends_the_same(stories, tmp_path):
    whole = build_spoken_stories(stories, tmp_path / "whole", Hummer(), CONFIG)

    class Stopping(Hummer):
        def speak(self, text, voice):
            if voice == "other":
                raise KeyboardInterrupt
            return super().speak(text, voice)

    with pytest.raises(KeyboardInterrupt):
        build_spoken_stories(stories, tmp_path / "parts", Stopping(), CONFIG)
    second = Hummer()
    resumed = build_spoken_stories(stories, tmp_path / "parts", second, CONFIG)
    assert {voice for _, voice in second.spoken} == {"other"}
    assert [(u.id, u.start, u.duration, u.words) for u in resumed] == [
        (u.id, u.start, u.duration, u.words) for u in whole
    ]
    assert not (tmp_path / "parts" / "parts").exists()
    third = Hummer()
    assert build_spoken_stories(stories, tmp_path / "parts", third, CONFIG) == resumed
    assert third.spoken == []
    for path in (tmp_path / "whole" / "audio").iterdir():
        ours, _ = soundfile.read(path)
        np.testing.assert_array_equal(ours, soundfile.read(tmp_path / "parts" / "audio" / path.name)[0])


def test_another_build_or_a_foreign_folder_is_not_overwritten(stories, tmp_path):
    build_spoken_stories(stories, tmp_path / "out", Hummer(), CONFIG)
    assert json.loads((tmp_path / "out" / "build.json").read_text())["stories"] == 2
    with pytest.raises(OutputError, match=r"holds another run \(config\."):
        build_spoken_stories(stories, tmp_path / "out", Hummer(), SpokenStoriesConfig(voices=("low",)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        build_spoken_stories(stories, tmp_path / "mine", Hummer(), CONFIG)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voices": ()}, "name at least one voice"),
        ({"voices": ("a", "b"), "held_out_voices": ("b",)}, "holds b, which"),
        ({"sample_rate": 44_100}, "Opus allows 8"),
        ({"bits_per_second": 1}, "6,000 to 256,000"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SpokenStoriesConfig(**settings)
