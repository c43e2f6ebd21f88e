"""Stories: our own templates, files in the published layouts, and topic pairs cut from recordings."""

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import pytest

from vocable.audio.manifest import write_manifest
from vocable.cli import main
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.pairs import read_pair_set
from vocable.testsets.recorded_stories import RecordedStoriesConfig, cut_stories, find_place
from vocable.testsets.stories import Story, lend_endings, plan_story_pairs, read_story_file, stories_left_out
from vocable.testsets.story_maker import load_templates, make_stories
from vocable.types import Utterance

OURS = make_stories(480)
HEADER = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
    "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
)


def test_there_are_hundreds_of_different_short_stories():
    assert len({(story.context, story.right) for story in OURS}) == len({story.id for story in OURS}) == 480
    assert len(load_templates()) >= 50
    for story in OURS:
        assert "{" not in story.context + story.right + str(story.wrong)
        assert 2 <= sum(mark in ".!?" for mark in story.context) <= 3
        assert len(story.context.split()) <= 18 and 3 <= len(story.right.split()) <= 7


def test_every_ending_is_right_as_often_as_wrong():
    """A model that does not listen to the context is at chance."""
    assert Counter(story.right for story in OURS) == Counter(story.wrong for story in OURS)


def test_twins_share_the_start_and_swap_the_ends():
    twins: dict[str, list[Story]] = {}
    for story in OURS:
        twins.setdefault(story.twin, []).append(story)
    for first, second in twins.values():
        assert first.context.split(".")[0] == second.context.split(".")[0] and first.context != second.context
        assert (first.right, first.wrong) == (second.wrong, second.right)


def test_endings_name_nobody():
    names = {name for story in OURS for name in story.twin.split("-")[2:]}
    assert names and not any(name in story.right.lower().split() for story in OURS for name in names)


def test_spoken_and_topic_pairs_differ_in_the_ending_only():
    planned = plan_story_pairs(OURS, num_voices=4)
    assert Counter(pair.group["version"] for pair in planned) == {"spoken": 480, "topic": 480}
    for pair in planned:
        assert pair.positive[0] == pair.negative[0] and pair.positive[1] != pair.negative[1]
        assert len(pair.positive) == len(pair.negative) == 2


def test_lent_endings_come_from_other_topics_and_the_same_voice_each_about_once():
    endings = lend_endings(OURS, num_voices=4, seed=0)
    turns = {twin: turn % 4 for turn, twin in enumerate(dict.fromkeys(story.twin for story in OURS))}
    for story, ending in zip(OURS, endings):
        lenders = [lender for lender in OURS if lender.right == ending]
        assert story.topic not in {lender.topic for lender in lenders}
        assert any(turns[lender.twin] == turns[story.twin] for lender in lenders)
        assert {lender.agreement for lender in lenders} >= {story.agreement}
    assert endings == lend_endings(OURS, 4, 0) != lend_endings(OURS, 4, 1)


def test_plain_stories_lend_each_ending_once():
    stories = [Story(str(n), f"Story {n}.", f"End {n}.", None, str(n)) for n in range(10)]
    lent = lend_endings(stories, 1, seed=5)
    assert sorted(lent, key=str) == sorted((story.right for story in stories), key=str)
    with pytest.raises(ConfigError, match="--versions topic"):
        plan_story_pairs(stories, ["spoken"])
    with pytest.raises(ConfigError, match="topic pair"):
        plan_story_pairs(stories[:1], ["topic"])
    with pytest.raises(ConfigError, match="among spoken, topic"):
        plan_story_pairs(stories, ["topics"])  # type: ignore[list-item]


def test_published_layout(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text(HEADER + 'x1,"A, b.",C.,D.,E.,Wrong.,Right.,2\n', encoding="utf-8")
    ((story,), bad_lines) = read_story_file(path)
    assert bad_lines == {}
    assert (story.id, story.context, story.right, story.wrong) == ("x1", "A, b. C. D. E.", "Right.", "Wrong.")


def test_five_sentences_and_jsonl(tmp_path):
    (tmp_path / "roc.tsv").write_text(
        "storyid\tsentence1\tsentence2\tsentence3\tsentence4\tsentence5\ns\ta\tb\tc\td\te\n"
    )
    ((story,), _) = read_story_file(tmp_path / "roc.tsv")
    assert (story.context, story.right, story.wrong) == ("a b c d", "e", None)
    (tmp_path / "own.jsonl").write_text('{"context": ["a.", "b."], "right": "c", "wrong": "d"}\n')
    ((story,), _) = read_story_file(tmp_path / "own.jsonl")
    assert (story.context, story.right, story.wrong) == ("a. b.", "c", "d")


ONE = HEADER + "x,A,B,C,D,E,F,1\n"
LINE = '{"context": "a", "right": "b"}\n'
NO_WORD = "a sentence is missing or has no word"


@pytest.mark.parametrize(
    ("name", "good", "bad", "detail", "reason"),
    [
        ("a.csv", ONE, "y,A,B,C,D,E,F,3\n", "line 3: AnswerRightEnding is '3'", "AnswerRightEnding is not 1 or 2"),
        ("a.csv", ONE, "y,A,,C,D,E,F,1\n", "line 3: InputSentence2 is empty", NO_WORD),
        ("a.csv", ONE, "x,A,B,C,D,E,F,1\n", "line 3: The id 'x' occurs twice", "an id that an earlier line has"),
        ("a.csv", ONE, "y,A,B,C,D,E,E,1\n", "line 3: both endings", "both endings are the same"),
        ("a.jsonl", LINE, '{"context": 1, "right": "b"}\n', "line 2: the context is 1", NO_WORD),
        ("a.jsonl", LINE, "x\n", "line 2: not JSON", "not JSON"),
        ("a.jsonl", LINE, "[1]\n", "line 2: not an object", "not JSON"),
    ],
)
def test_bad_lines_are_named_and_counted_by_reason(tmp_path, caplog, name, good, bad, detail, reason):
    (tmp_path / name).write_text(good + bad, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        stories, bad_lines = read_story_file(tmp_path / name)
    assert (len(stories), bad_lines) == (1, {reason: 1}) and detail.split(":")[0] in caplog.text
    with pytest.raises(ManifestError, match=detail):
        read_story_file(tmp_path / name, strict=True)
    (tmp_path / name).write_text((HEADER if good is ONE else "") + bad * 2, encoding="utf-8")
    if "an id" not in reason:
        with pytest.raises(ConfigError, match=rf"none of its 2 lines is a usable story \({reason}: 2\)"):
            read_story_file(tmp_path / name)


def test_stories_without_a_pair_are_counted():
    stories = [Story(str(n), f"Story {n}.", f"End {n}.", "No." if n < 3 else None, str(n), "he") for n in range(6)]
    stories[1] = stories[1]._replace(agreement="she")  # nobody else's ending agrees with it
    planned = plan_story_pairs(stories, num_stories=5)
    assert Counter(pair.group["version"] for pair in planned) == {"spoken": 3, "topic": 4}
    assert stories_left_out(stories, planned, ("spoken", "topic"), 5) == {
        "more than were asked for": 1,
        "no wrong ending of its own, so no spoken pair": 2,
        "no other story could lend it an ending, so no topic pair": 1,
    }
    assert stories_left_out(stories[:3], plan_story_pairs(stories[:3], ["spoken"]), ["spoken"], None) == {}


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the columns are label, text"):
        read_story_file(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="no such file of stories"):
        read_story_file(tmp_path / "b.csv")


def utterance(name: str, seconds: float = 3.0, **more) -> Utterance:
    return Utterance(id=name, audio=Path("/audio") / f"{name}.flac", duration=seconds, text=name, **more)


def chapters(missing: tuple[str, ...] = ()) -> list[Utterance]:
    names = [f"{speaker}-{chapter}-{number:04d}" for speaker in (1, 2) for chapter in (10, 11) for number in range(6)]
    return [utterance(name, 2.0 + len(name) % 3) for name in names if name not in missing]


def test_recordings_give_the_next_utterance_and_one_of_another_chapter():
    pair_set = cut_stories(chapters(), RecordedStoriesConfig(context_utterances=2))
    assert len(pair_set.items) == 2 * 2 * 4  # in every chapter the third to the sixth utterance can end a passage
    for item in pair_set.items:
        context, right, wrong = item.positive[:-1], item.positive[-1].speech, item.negative[-1].speech
        assert item.negative[:-1] == context and right is not None and wrong is not None
        speaker, chapter, number = right.split("-")
        assert [s.speech for s in context] == [f"{speaker}-{chapter}-{int(number) - back:04d}" for back in (2, 1)]
        other_speaker, other_chapter, _ = wrong.split("-")
        assert other_speaker == speaker == item.voice and other_chapter != chapter
    wrong_counts = Counter(item.negative[-1].speech for item in pair_set.items)
    assert set(wrong_counts.values()) == {1}  # every ending is wrong as often as right


def test_recordings_without_texts_will_do():
    silent = [dataclasses.replace(one, text=None) for one in chapters()]
    config = RecordedStoriesConfig(context_utterances=2)
    assert cut_stories(silent, config).items == cut_stories(chapters(), config).items


def test_a_gap_in_the_numbers_breaks_a_passage():
    pair_set = cut_stories(chapters(missing=("1-10-0003",)), RecordedStoriesConfig(context_utterances=2))
    ends = {item.positive[-1].speech for item in pair_set.items}
    assert "1-10-0002" in ends and not ends & {"1-10-0004", "1-10-0005"}


@pytest.mark.parametrize(
    ("name", "speaker", "place"),
    [
        ("19-198-0001", "librispeech-19", ("19-198", "librispeech-19", 1.0, True)),
        ("the-blue-kite.af_heart.02", None, ("the-blue-kite", "af_heart", 2.0, True)),
        ("clip one", "me", ("/audio/clip one.flac", "me", 0.0, False)),
        ("clip one", None, None),
    ],
)
def test_ids_tell_the_order(name, speaker, place):
    assert find_place(utterance(name, speaker=speaker)) == place


def test_recordings_of_one_story_do_not_do():
    with pytest.raises(ConfigError, match="No pair could be cut from 6 utterances"):
        cut_stories(chapters()[:6], RecordedStoriesConfig())
    with pytest.raises(ConfigError, match="context_utterances is 0"):
        RecordedStoriesConfig(context_utterances=0)


def test_the_command_cuts_recordings_and_refuses_what_it_would_not_use(tmp_path, capsys):
    write_manifest(chapters(), tmp_path / "dev.jsonl")
    arguments = ["evaluate", "build", "stories", str(tmp_path / "set"), "--recordings", str(tmp_path / "dev.jsonl")]
    assert main([*arguments, "--versions", "spoken", "--voices", "anna"]) == 2
    assert "leave out --versions, --voices" in capsys.readouterr().err
    assert main([*arguments, "--versions", "topic", "--num-stories", "5"]) == 0
    assert "5 pairs for the benchmark storycloze" in capsys.readouterr().out
    assert [item.group["version"] for item in read_pair_set(tmp_path / "set").items] == ["topic"] * 5
