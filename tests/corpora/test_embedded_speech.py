"""The spoken stories that come with Vocable: what their card promises."""

import itertools
import re
from pathlib import Path

import pytest
import torch

import vocable.quickstart
from vocable.audio.io import audio_info, read_utterance
from vocable.audio.manifest import read_manifest
from vocable.testsets.spoken_stories import SpokenStoriesConfig, plan_recordings, read_stories, split_utterances
from vocable.types import Utterance

FOLDER = Path(vocable.quickstart.__file__).parent / "speech"


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return read_manifest(FOLDER / "manifest.jsonl", strict=True, check_audio=True)


def values(utterances, key, **chosen):
    rows = [{"split": u.split, **u.extra} for u in utterances]
    return {row[key] for row in rows if all(row[name] == value for name, value in chosen.items())}


def test_minutes_and_size_are_as_promised(utterances):
    minutes = sum(u.duration for u in utterances) / 60
    assert 30 <= minutes <= 40
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 12e6


def test_splits_share_no_story(utterances):
    train, valid, test = (values(utterances, "story", split=split) for split in ("train", "valid", "test"))
    assert train and valid and test
    assert not train & valid and not train & test and not valid & test


def test_held_out_voices_are_not_in_train(utterances):
    voices = {u.speaker for u in utterances if u.split == "train"}
    held_out = {u.speaker for u in utterances if u.extra["held_out_voice"]}
    assert len(voices) == 8 and len(held_out) == 4
    assert not voices & held_out
    assert {u.speaker for u in utterances if not u.extra["held_out_voice"]} == voices


def test_the_recordings_are_those_of_the_default_command(utterances):
    plan = plan_recordings(read_stories(FOLDER / "stories.txt"), SpokenStoriesConfig().settle())
    expected = [(r.story.id, r.voice, r.story.split, text) for r in plan for text in split_utterances(r.story.text)]
    assert [(u.extra["story"], u.speaker, u.split, u.text) for u in utterances] == expected


def test_words_are_those_of_the_text_in_order_and_inside(utterances):
    for utterance in utterances:
        spoken = [re.sub(r"\W", "", word.word) for word in utterance.words]
        assert spoken == [re.sub(r"\W", "", word) for word in utterance.text.split()]
        times = [time for word in utterance.words for time in (word.start, word.end)]
        assert times[0] >= 0 and times[-1] <= utterance.duration
        assert all(word.start < word.end for word in utterance.words)
        assert times == sorted(times)


def test_utterances_of_a_file_follow_each_other(utterances):
    for before, after in itertools.pairwise(utterances):
        if before.audio == after.audio:
            assert before.start + before.duration < after.start
    for path in {u.audio for u in utterances}:
        last = [u for u in utterances if u.audio == path][-1]
        assert audio_info(path).sample_rate == 24_000
        assert last.start + last.duration <= audio_info(path).duration


@pytest.mark.parametrize("part", range(4))
def test_utterances_decode_loud_between_silent_pauses(utterances, part):
    for utterance in utterances[part * 100 + 7 :: 400]:
        waveform = read_utterance(utterance, 24_000)
        assert len(waveform) == round(utterance.duration * 24_000)
        margin = 1_200  # 50 ms of silence were kept at each end; Opus smears less than that
        first = int(utterance.words[0].start * 24_000)
        inside = waveform[first : int(utterance.words[-1].end * 24_000)].square().mean()
        assert waveform[:margin].square().mean() < 0.05 * inside
        assert waveform[-margin:].square().mean() < 0.05 * inside
        assert -26 < 10 * torch.log10(inside) < -20
