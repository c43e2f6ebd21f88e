"""Entities as tags of words (B-PLACE, I-PLACE, O), and back.

    "Tom sang in New York."   [PERSON 0 3] [PLACE 12 8]   ->   B-PERSON O O B-PLACE I-PLACE   ->   (PLACE, new york)

A word is tagged when a letter or digit of it lies in an entity, so punctuation at a word does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vocable.evaluation.slue.labelled_set import TAGS, Entity
from vocable.evaluation.slue.metrics import Found, plain_phrase
from vocable.sequences.word_slices import word_texts
from vocable.types import Word

OUTSIDE = "O"
WORD_TAGS = (OUTSIDE, *(f"{place}-{tag}" for tag in TAGS for place in "BI"))

Span = tuple[int, int]
"""First character of a word, and one past its last."""


def written_spans(text: str) -> tuple[Span, ...]:
    """Return the words of a text: what stands between blanks."""
    return tuple(match.span() for match in re.finditer(r"\S+", text))


def spoken_spans(text: str, words: Sequence[Word]) -> tuple[Span, ...] | None:
    """Return where each spoken word stands in the text; None when words and text are not the same."""
    pieces = word_texts(text, words)
    if "".join(pieces) != text or not words:
        return None
    spans, start = [], 0
    for piece in pieces:
        stop = start + len(piece)
        spans.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = stop
    return tuple(spans)


def tag_words(text: str, spans: Sequence[Span], entities: Sequence[Entity]) -> list[str]:
    """Return a tag of `WORD_TAGS` for each word; a word in two entities belongs to the first."""
    tags: list[str] = []
    before: Entity | None = None
    for start, stop in spans:
        inside = next((entity for entity in entities if _shares_letter(text, start, stop, entity)), None)
        if inside is None:
            tags.append(OUTSIDE)
        else:
            tags.append(f"{'I' if inside is before else 'B'}-{inside.tag}")
        before = inside
    return tags


def tagged_entities(text: str, spans: Sequence[Span], tags: Sequence[str], language: str = "en") -> list[Found]:
    """Return the entities that tags say; an I- that continues nothing of its kind begins an entity."""
    groups: list[tuple[str, list[Span]]] = []
    before = OUTSIDE
    for span, tag in zip(spans, tags, strict=True):
        if tag != OUTSIDE:
            if tag.startswith("I-") and before[2:] == tag[2:]:
                groups[-1][1].append(span)
            else:
                groups.append((tag[2:], [span]))
        before = tag
    return [Found(tag, plain_phrase(text[rows[0][0] : rows[-1][1]], language)) for tag, rows in groups]


def gold_entities(text: str, entities: Sequence[Entity], language: str = "en") -> list[Found]:
    """Return labelled entities in the form in which they are compared."""
    return [Found(entity.tag, plain_phrase(entity.phrase(text), language)) for entity in entities]


def _shares_letter(text: str, start: int, stop: int, entity: Entity) -> bool:
    first, last = max(start, entity.start), min(stop, entity.start + entity.length)
    return any(char.isalnum() for char in text[first:last])
