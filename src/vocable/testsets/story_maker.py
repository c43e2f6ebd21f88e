"""Our own short stories, with an ending that follows and one that does not, from templates (story_templates.yaml).

    start, cause a -> end a (right), end b (wrong)          start, cause b -> end b (right), end a (wrong)

Both causes of a template occur equally often, so every ending is right as often as wrong: a model that does not listen
to the context is at chance, whatever it thinks of the endings.
"""

from __future__ import annotations

import functools
import itertools
import random
from pathlib import Path
from typing import NamedTuple

import yaml

from vocable.errors import ConfigError
from vocable.testsets.plan import check_count
from vocable.testsets.stories import Story

TEMPLATES = Path(__file__).with_name("story_templates.yaml")
FEMALE = ("Anna", "Mary", "Julia", "Lucy", "Emma", "Sarah")
MALE = ("Tom", "Peter", "David", "Ben", "Jack", "Paul")
SHE = {"He": "She", "he": "she", "His": "Her", "his": "her", "him": "her"}
HE = {word: word for word in SHE}
SENTENCES = ("start", "a", "b", "end_a", "end_b")


class Template(NamedTuple):
    """A start, two causes and their ends; one list of fillings."""

    id: str
    field: str
    fillings: tuple[str, ...]
    sentences: dict[str, str]


@functools.cache
def load_templates() -> tuple[Template, ...]:
    """Read the templates that come with Vocable."""
    templates = []
    for row in yaml.safe_load(TEMPLATES.read_text(encoding="utf-8")):
        (field,) = set(row) - {"id", *SENTENCES}
        templates.append(Template(row["id"], field, tuple(row[field]), {name: row[name] for name in SENTENCES}))
    return tuple(templates)


def make_stories(num_stories: int, seed: int = 0) -> list[Story]:
    """Return stories, two of each filled template (one a cause), evenly over the templates; an even number.

    Raises:
        ConfigError: more are wanted than there are.
    """
    check_count("num_stories", num_stories)
    generator = random.Random(seed)
    rows: list[list[tuple[Story, Story]]] = []
    for template in load_templates():
        fillings = list(itertools.product(template.fillings, FEMALE + MALE))
        generator.shuffle(fillings)
        twins = [_twins(template, filling, name) for filling, name in fillings]
        rows.append(list({pair[0].context: pair for pair in twins}.values()))
    pairs: list[tuple[Story, Story]] = []
    for turn in range(max(map(len, rows))):
        one_of_each = [row[turn] for row in rows if turn < len(row)]
        generator.shuffle(one_of_each)  # voices are dealt out in this order: no template has its own
        pairs += one_of_each
    num_pairs = (num_stories + 1) // 2
    if num_pairs > len(pairs):
        raise ConfigError(f"num_stories is {num_stories}; the templates give {2 * len(pairs)} different ones.")
    return [story for pair in pairs[:num_pairs] for story in pair]


def _twins(template: Template, filling: str, name: str) -> tuple[Story, Story]:
    pronouns = SHE if name in FEMALE else HE
    words = {"name": name, template.field: filling, **pronouns}
    said = {label: _capital(sentence.format(**words)) for label, sentence in template.sentences.items()}
    twin = f"{template.id}-{filling}-{name}".lower().replace(" ", "_")
    first, second = (
        Story(
            f"{twin}-{cause}",
            f"{said['start']} {said[cause]}",
            said[f"end_{cause}"],
            said[f"end_{other}"],
            template.id,
            pronouns["he"],
            twin,
        )
        for cause, other in (("a", "b"), ("b", "a"))
    )
    return first, second


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
