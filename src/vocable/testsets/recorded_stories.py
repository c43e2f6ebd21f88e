"""Topic pairs cut from recordings of connected speech: nothing is synthesised.

    utterances 3 4 5 of a chapter  +  6 (right)  or  an utterance of another chapter, same voice (wrong)

The idea of topic StoryCloze (Hassid et al., 2023, arXiv:2305.13009) on real speech. Differs: the unit is the utterance,
and both endings are by the speaker of the context.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.testsets.plan import check_count
from vocable.types import Utterance

ORDERS = (
    re.compile(r"(?P<story>(?P<voice>[A-Za-z0-9]+)-[A-Za-z0-9]+)-(?P<number>\d+)"),
    re.compile(r"(?P<story>.+)\.(?P<voice>[^.]+)\.(?P<number>\d+)"),
)
"""Ids that tell story, voice and place: LibriSpeech's 19-198-0001, and Vocable's the-blue-kite.af_heart.00."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStoriesConfig:
    """How stories are cut from recordings."""

    num_stories: int | None = None
    """Pairs of endings, one each story; None takes all."""
    context_utterances: int = 2
    """Length of a context cut from recordings."""
    min_ending_seconds: float = 1.0
    """Shortest ending cut from recordings."""
    max_ending_seconds: float = 12.0
    """Longest ending cut from recordings."""
    max_context_seconds: float = 40.0
    """Longest context cut from recordings."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        check_count("num_stories", self.num_stories)
        check_count("context_utterances", self.context_utterances)
        if not 0 < self.min_ending_seconds < self.max_ending_seconds:
            raise ConfigError(
                f"endings last {self.min_ending_seconds} to {self.max_ending_seconds} s; "
                "0 < min_ending_seconds < max_ending_seconds must hold."
            )


class Place(NamedTuple):
    """Where an utterance belongs."""

    story: str
    voice: str
    number: float
    is_counted: bool
    """Whether neighbours differ by one: the number of an id; else it is the start within a file."""


class _Passage(NamedTuple):
    context: tuple[Utterance, ...]
    ending: Utterance
    place: Place


def find_place(utterance: Utterance) -> Place | None:
    """Tell story, voice and place from the id, else from speaker, file and start; None when nothing tells."""
    for pattern in ORDERS:
        match = pattern.fullmatch(utterance.id)
        if match:
            return Place(match["story"], utterance.speaker or match["voice"], float(match["number"]), True)
    if utterance.speaker is None or utterance.duration is None:
        return None
    return Place(str(utterance.audio), utterance.speaker, utterance.start, False)


def cut_stories(utterances: Sequence[Utterance], config: RecordedStoriesConfig) -> PairSet:
    """Make a pair set from recordings; it speaks of the utterances as they are, and copies no audio.

    A wrong ending comes from another story by the same voice. Every utterance is a wrong ending about as often as any
    other, and is chosen for a length near that of the right one.

    Raises:
        ConfigError: no voice has two stories with enough consecutive utterances.
    """
    passages = _passages(utterances, config)
    generator = random.Random(config.seed)
    generator.shuffle(passages)
    used: Counter[str] = Counter()
    items: list[PairItem] = []
    for passage in passages:
        if len(items) == config.num_stories:
            break
        wrong = _wrong_ending(passage, passages, used, generator)
        if wrong is not None:
            used[wrong.id] += 1
            items.append(_item(passage, wrong))
    if not items:
        raise ConfigError(
            f"No pair could be cut from {len(utterances)} utterances: {len(passages)} of them follow "
            f"{config.context_utterances} others of their story and last {config.min_ending_seconds} to "
            f"{config.max_ending_seconds} s, and no voice reads two stories. Ids like speaker-chapter-number or "
            "story.voice.number, or starts within a file, tell the order."
        )
    needed = {segment.speech for item in items for segment in item.segments}
    kept = {utterance.id: utterance for utterance in utterances if utterance.id in needed}
    return PairSet(benchmark="storycloze", items=items, utterances=kept)


def _passages(utterances: Iterable[Utterance], config: RecordedStoriesConfig) -> list[_Passage]:
    """All runs of consecutive utterances that are long enough."""
    stories: dict[tuple[str, str], list[tuple[Place, Utterance]]] = {}
    for utterance in utterances:
        place = find_place(utterance)
        if place is not None and utterance.duration is not None:
            stories.setdefault((place.story, place.voice), []).append((place, utterance))
    passages = []
    for entries in stories.values():
        entries.sort(key=lambda entry: (entry[0].number, entry[1].id))
        for last in range(config.context_utterances, len(entries)):
            run = entries[last - config.context_utterances : last + 1]
            context, ending = tuple(utterance for _, utterance in run[:-1]), run[-1][1]
            if (
                _is_consecutive([place for place, _ in run])
                and config.min_ending_seconds <= _seconds(ending) <= config.max_ending_seconds
                and sum(map(_seconds, context)) <= config.max_context_seconds
            ):
                passages.append(_Passage(context, ending, run[-1][0]))
    return passages


def _is_consecutive(places: Sequence[Place]) -> bool:
    """Numbers from ids leave no gap; starts within a file are in order anyway."""
    pairs = itertools.pairwise(places)
    return all(after.number - before.number == 1 or not after.is_counted for before, after in pairs)


def _wrong_ending(
    passage: _Passage, passages: Sequence[_Passage], used: Counter[str], generator: random.Random
) -> Utterance | None:
    candidates = [
        other.ending
        for other in passages
        if other.place.voice == passage.place.voice
        and other.place.story != passage.place.story
        and (other.ending.text is None or other.ending.text != passage.ending.text)
    ]
    if not candidates:
        return None

    def price(other: Utterance) -> tuple[float, float]:
        ratio = abs(math.log(_seconds(other) / _seconds(passage.ending)))
        return used[other.id] + ratio, generator.random()

    return min(candidates, key=price)


def _item(passage: _Passage, wrong: Utterance) -> PairItem:
    context = tuple(Segment(speech=utterance.id) for utterance in passage.context)
    return PairItem(
        id=f"topic-{passage.ending.id}",
        positive=(*context, Segment(speech=passage.ending.id)),
        negative=(*context, Segment(speech=wrong.id)),
        voice=passage.place.voice,
        group={"version": "topic", "story": passage.place.story},
    )


def _seconds(utterance: Utterance) -> float:
    return utterance.duration or 0.0
