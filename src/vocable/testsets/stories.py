"""Right endings against wrong ones, after a context: pairs like those of spoken StoryCloze.

    published StoryCloze (.csv, .tsv), or {context, right, wrong} a line (.jsonl)  ->  "spoken" and "topic" pairs

"spoken": the wrong ending of the file fits the topic. "topic": the ending of another story, drawn by a seed; stories
without a wrong ending of their own will do. StoryCloze: Mostafazadeh et al., 2016 (arXiv:1604.01696); spoken: TWIST
(Hassid et al., 2023, arXiv:2305.13009). Stories of our own, with no file: story_maker.py.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vocable.audio.manifest import note_rejection
from vocable.errors import ConfigError
from vocable.files import read_text, split_lines
from vocable.testsets.plan import PlannedPair, SpokenText, check_count

Version = Literal["spoken", "topic"]
VERSIONS: tuple[Version, ...] = ("spoken", "topic")


class Story(NamedTuple):
    """A context and its endings."""

    id: str
    context: str
    right: str
    wrong: str | None
    """None where nobody wrote one."""
    topic: str
    """Stories of one topic lend each other no endings."""
    agreement: str = ""
    """Endings are lent only among stories with the same: he or she, say."""
    twin: str = ""
    """Stories with the same have the same voice; empty: the id."""


class ReadStories(NamedTuple):
    """The stories of a file, and which of its lines were left out."""

    stories: list[Story]
    bad_lines: dict[str, int]
    """Number of bad lines, by reason."""


class BadLine(NamedTuple):
    """A line that is no story."""

    reason: str
    """Reason of its kind, to be counted."""
    detail: str
    """Reason of this line, to be logged."""


def read_story_file(path: Path, strict: bool = False) -> ReadStories:
    """Read stories from a .csv or .tsv in the published layout, or from a .jsonl; bad lines are logged.

    Columns: InputSentence1 to InputSentence4, RandomFifthSentenceQuiz1, RandomFifthSentenceQuiz2 and AnswerRightEnding
    (1 or 2), and InputStoryid if there is one; ROCStories' storyid and sentence1 to sentence5 give stories without a
    wrong ending. A line of .jsonl: {"context": text or list of sentences, "right": ..., "wrong": ..., "id": ...}.

    Raises:
        ConfigError: the file is missing, has other columns, or no line is usable.
        ManifestError: with `strict`, a bad line.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of stories (.csv, .tsv or .jsonl).")
    stories: list[Story] = []
    seen: set[str] = set()
    bad: Counter[str] = Counter()
    for number, story in _lines(path):
        if isinstance(story, Story) and story.id in seen:
            story = BadLine("an id that an earlier line has", f"The id {story.id!r} occurs twice.")
        if isinstance(story, BadLine):
            note_rejection(path, None, None, story.detail, number, strict=strict, rejections=None)
            bad[story.reason] += 1
            continue
        seen.add(story.id)
        stories.append(story)
    if not stories:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in bad.items())
        raise ConfigError(f"{path}: none of its {bad.total()} lines is a usable story ({reasons or 'it is empty'}).")
    return ReadStories(stories, dict(bad))


def plan_story_pairs(
    stories: Sequence[Story],
    versions: Sequence[Version] = VERSIONS,
    num_stories: int | None = None,
    num_voices: int = 1,
    seed: int = 0,
) -> list[PlannedPair]:
    """Make the pairs of some stories; the context is one segment, spoken once for all its pairs.

    An ending lent in "topic" pairs comes from a story with the same voice, if there is one: it is spoken anyway.

    Args:
        versions: "spoken" wants stories with a wrong ending; those without give "topic" pairs only.
        num_voices: How many voices will be dealt out in turn.

    Raises:
        ConfigError: an unknown version; no story has a wrong ending; or "topic" pairs of one story, or one topic.
    """
    check_count("num_stories", num_stories)
    unknown = sorted(set(versions) - set(VERSIONS))
    if unknown or not versions:
        raise ConfigError(f"versions are {list(versions)}; they are among {', '.join(VERSIONS)}.")
    chosen = list(stories[:num_stories])
    turns = _turns(chosen)
    pairs: list[PlannedPair] = []
    if "spoken" in versions:
        own = [(turn, story) for turn, story in zip(turns, chosen) if story.wrong is not None]
        if not own:
            raise ConfigError("No story has a wrong ending of its own. Make topic pairs only: --versions topic")
        pairs += [_pair(story, story.wrong or "", "spoken", turn) for turn, story in own]
    if "topic" in versions:
        for turn, story, ending in zip(turns, chosen, lend_endings(chosen, num_voices, seed)):
            if ending is not None:
                pairs.append(_pair(story, ending, "topic", turn))
    if not pairs:
        raise ConfigError(
            f"{len(chosen)} stories on {len({story.topic for story in chosen})} topics yield no topic pair: a wrong "
            "ending comes from a story on another topic. Give more stories."
        )
    return pairs


def stories_left_out(
    stories: Sequence[Story], planned: Sequence[PlannedPair], versions: Sequence[Version], num_stories: int | None
) -> dict[str, int]:
    """Count the stories of which no pair of a version was made, by reason; arguments as in `plan_story_pairs`."""
    chosen = stories[:num_stories]
    made = {(pair.group["version"], pair.group["story"]) for pair in planned}
    missing = {version: sum((version, story.id) not in made for story in chosen) for version in versions}
    counts = {
        "more than were asked for": len(stories) - len(chosen),
        "no wrong ending of its own, so no spoken pair": missing.get("spoken", 0),
        "no other story could lend it an ending, so no topic pair": missing.get("topic", 0),
    }
    return {reason: count for reason, count in counts.items() if count}


def lend_endings(stories: Sequence[Story], num_voices: int, seed: int) -> list[str | None]:
    """Return, for every story, the right ending of a story on another topic; None where nobody can lend one.

    Every ending is lent about once, and to a story whose own ending is about as long: neither how likely an ending is
    by itself nor its length tells right from wrong.
    """
    generator = random.Random(seed)
    turns = _turns(stories)
    lent: Counter[int] = Counter()
    endings: list[str | None] = [None] * len(stories)
    order = list(range(len(stories)))
    generator.shuffle(order)
    for receiver in order:
        story = stories[receiver]
        lenders = [
            lender
            for lender in order
            if stories[lender].topic != story.topic
            and stories[lender].agreement == story.agreement
            and stories[lender].right != story.right
        ]
        same_voice = [lender for lender in lenders if (turns[lender] - turns[receiver]) % num_voices == 0]
        lenders = same_voice or lenders
        if lenders:
            length = len(story.right.split())
            lender = min(
                lenders, key=lambda k: (lent[k], abs(len(stories[k].right.split()) - length), generator.random())
            )
            lent[lender] += 1
            endings[receiver] = stories[lender].right
    return endings


def _turns(stories: Sequence[Story]) -> list[int]:
    """Number the stories for the dealing of voices; twins have one number."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(story.twin or story.id, len(numbers)) for story in stories]


def _pair(story: Story, wrong: str, version: Version, turn: int) -> PlannedPair:
    context = SpokenText(text=story.context)
    return PlannedPair(
        id=f"{version}-{story.id}",
        positive=(context, SpokenText(text=story.right)),
        negative=(context, SpokenText(text=wrong)),
        group={"version": version, "story": story.id, "topic": story.topic},
        turn=turn,
    )


def _lines(path: Path) -> Iterator[tuple[int, Story | BadLine]]:
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(split_lines(text), start=1):
            if line.strip():
                yield number, _from_json(line, number)
        return
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    columns = set(rows.fieldnames or ())
    published, plain = {*_PUBLISHED, *_QUIZ}, {f"sentence{place}" for place in range(1, 6)}
    if not published <= columns and not plain <= columns:
        raise ConfigError(
            f"{path}: the columns are {', '.join(sorted(columns)) or 'none'}. StoryCloze has {', '.join(_PUBLISHED)}, "
            f"{', '.join(_QUIZ)}; ROCStories has sentence1 to sentence5."
        )
    for row in rows:
        number = rows.line_num
        yield number, _from_published(row, number) if published <= columns else _from_five(row, number)


_PUBLISHED = tuple(f"InputSentence{place}" for place in range(1, 5))
EMPTY = "a sentence is missing or has no word"
_QUIZ = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding")


def _from_published(row: Mapping[str, str | None], number: int) -> Story | BadLine:
    values = {column: (row.get(column) or "").strip() for column in (*_PUBLISHED, *_QUIZ)}
    empty = [column for column, value in values.items() if not value]
    if empty:
        return BadLine(EMPTY, f"{', '.join(empty)} is empty.")
    answer = values["AnswerRightEnding"]
    if answer not in ("1", "2"):
        return BadLine("AnswerRightEnding is not 1 or 2", f"AnswerRightEnding is {answer!r}; it is 1 or 2.")
    endings = values[_QUIZ[0]], values[_QUIZ[1]]
    right, wrong = endings if answer == "1" else endings[::-1]
    name = (row.get("InputStoryid") or "").strip() or f"{number:05d}"
    return _checked(name, " ".join(values[column] for column in _PUBLISHED), right, wrong)


def _from_five(row: Mapping[str, str | None], number: int) -> Story | BadLine:
    sentences = [(row.get(f"sentence{place}") or "").strip() for place in range(1, 6)]
    if not all(sentences):
        return BadLine(EMPTY, f"sentence{sentences.index('') + 1} is empty.")
    name = (row.get("storyid") or "").strip() or f"{number:05d}"
    return _checked(name, " ".join(sentences[:4]), sentences[4], None)


def _from_json(line: str, number: int) -> Story | BadLine:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return BadLine("not JSON", f"not JSON ({error.msg}).")
    if not isinstance(row, dict):
        return BadLine("not JSON", "not an object with context and right.")
    context = row.get("context")
    if isinstance(context, list) and all(isinstance(part, str) for part in context):
        context = " ".join(context)
    name = str(row.get("id") or f"{number:05d}")
    return _checked(name, context, row.get("right"), row.get("wrong"), str(row.get("topic") or name))


def _checked(name: str, context: Any, right: Any, wrong: Any, topic: str | None = None) -> Story | BadLine:
    for label, value in (("context", context), ("right ending", right), ("wrong ending", wrong)):
        if label == "wrong ending" and value is None:
            continue
        if not isinstance(value, str) or not any(char.isalnum() for char in value):
            return BadLine(EMPTY, f"the {label} is {value!r}; it must have a word.")
    if right == wrong:
        return BadLine("both endings are the same", f"both endings are {right!r}.")
    return Story(name, context.strip(), right.strip(), None if wrong is None else wrong.strip(), topic or name)
