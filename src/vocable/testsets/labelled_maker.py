"""Sentences with a known sentiment and known entities, from our own templates (labelled_templates.yaml).

    frame "{PERSON} moved to {GPE}. {feeling}" + names + a phrase of the sentiment -> text, label, entity spans

So that learning the sentences by heart is not enough: a frame is used with every sentiment, the frames of train, dev
and test differ, half of the test sentences have names that train never has, and half (across the first half) have
feelings that train never has, made of words that it mostly has. `group` says which. Next: labelled_speech.py.
"""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vocable.errors import ConfigError
from vocable.evaluation.slue.labelled_set import SENTIMENTS, SPLITS, Entity, Labels, read_entities

TEMPLATES = Path(__file__).with_name("labelled_templates.yaml")
FEELING = "feeling"
MAX_DRAWS = 200
"""Fruitless draws in a row after which a split counts as used up."""


class Templates(NamedTuple):
    """Parts of sentences; see the file."""

    names: Mapping[str, Mapping[str, Sequence[str]]]
    """By raw tag, then "train" or "new"."""
    feelings: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
    """By kind, sentiment, then "train" or "new"."""
    frames: Mapping[str, Mapping[str, Sequence[str]]]
    """By kind, then split."""


@functools.cache
def load_templates() -> Templates:
    """Read the templates that come with Vocable."""
    return Templates(**yaml.safe_load(TEMPLATES.read_text(encoding="utf-8")))


def make_labelled_texts(num_train: int, num_dev: int, num_test: int, seed: int = 0) -> list[Labels]:
    """Return sentences with labels, all different, balanced over sentiments; equal for equal seeds.

    A set with fewer sentences is not the beginning of one with more: each split is drawn by itself.

    Raises:
        ConfigError: a number is below 3 (one a sentiment), or more sentences are wanted than can be made.
    """
    counts = dict(zip(SPLITS, (num_train, num_dev, num_test)))
    labels: list[Labels] = []
    seen: set[str] = set()
    for split, count in counts.items():
        if count < len(SENTIMENTS):
            raise ConfigError(f"num_{split} is {count}; it must be at least 3, one sentence for each sentiment.")
        labels += _make_split(load_templates(), split, count, random.Random(f"{seed} {split}"), seen)
    return labels


def _make_split(templates: Templates, split: str, count: int, generator: random.Random, seen: set[str]) -> list[Labels]:
    frames = [(kind, frame) for kind, by_split in templates.frames.items() for frame in by_split[split]]
    made: list[Labels] = []
    fruitless = 0
    order: list[tuple[str, str]] = []
    while len(made) < count:
        if not order:  # every frame as often as any other
            order = generator.sample(frames, len(frames))
        kind, frame = order.pop()
        index = len(made)
        group = {
            "feelings": "new" if split == "test" and index // len(SENTIMENTS) % 2 else "train",
            "names": "new" if split == "test" and index // (2 * len(SENTIMENTS)) % 2 else "train",
        }
        sentiment = SENTIMENTS[index % len(SENTIMENTS)]
        feeling = generator.choice(templates.feelings[kind][sentiment][group["feelings"]])
        text, entities = fill(frame, feeling, templates.names, group["names"], generator)
        if text in seen:
            fruitless += 1
            if fruitless > MAX_DRAWS:
                raise ConfigError(f"num_{split} is {count}; the templates yield about {len(made)} sentences.")
            continue
        seen.add(text)
        fruitless = 0
        made.append(
            Labels(
                id=f"{split}-{index:04d}",
                split=split,
                text=text,
                sentiment=sentiment,
                entities=read_entities(entities, text),
                group={**group, "kind": kind},
            )
        )
    return made


def fill(
    frame: str, feeling: str, names: Mapping[str, Mapping[str, Sequence[str]]], which: str, generator: random.Random
) -> tuple[str, list[Entity]]:
    """Fill a frame with a feeling and with names that differ; return the sentence, and its entities with raw tags."""
    text = ""
    used: set[str] = set()
    entities: list[Entity] = []
    for literal, field, _, _ in string.Formatter().parse(frame):
        text += literal
        if field is None:
            continue
        if field == FEELING:
            text += feeling
            continue
        name = generator.choice([name for name in names[field][which] if name not in used])
        used.add(name)
        entities.append(Entity(field, len(text), len(name)))
        text += name
    return text[0].upper() + text[1:], entities


def describe(labels: Sequence[Labels]) -> dict[str, Any]:
    """Count sentences by split, and entities by tag, for the card of a set."""
    tags = [entity.tag for label in labels for entity in label.entities or ()]
    return {
        "sentences": {split: sum(label.split == split for label in labels) for split in SPLITS},
        "entities": {tag: tags.count(tag) for tag in sorted(set(tags))},
    }
