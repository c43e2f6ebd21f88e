"""Labels of SLUE, and a folder of labelled speech: `manifest.jsonl` (audio, text, words) and `labels.jsonl`.

    {"id": "a1", "split": "train", "text": "Tom sang in Oslo.", "sentiment": "<mixed>", "entities": [["GPE", 12, 4]]}
    "<mixed>" -> Neutral          ["GPE", 12, 4] -> Entity("PLACE", 12, 4), "Oslo"

One manifest holds train, dev and test, so that one command makes tokens of it. A label may lack `sentiment` or
`entities`: then it is not part of that task. `card.json`, if there, says how the set was made. The 18 raw tags of
OntoNotes are combined to 7.

Source: SLUE (Shon et al., 2022, arXiv:2111.10367) and its toolkit, github.com/asappresearch/slue-toolkit.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.errors import ConfigError, ManifestError
from vocable.files import read_json_lines, read_text, write_json, write_json_lines
from vocable.registry import nearest_name
from vocable.tokens.fingerprint import fingerprint
from vocable.types import Utterance

SENTIMENTS = ("Negative", "Neutral", "Positive")
UNDECIDED = ("mixed", "<mixed>", "disagreement")
"""Labels in the published tables where annotators saw both, or did not agree; in lower case."""
WAYS = {"neutral": "Neutral", "drop": None}
"""Label that such utterances get, or None to leave them out."""
TASKS = ("sentiment", "entities")
SPLITS = ("train", "dev", "test")

COMBINED_TAGS: Mapping[str, str | None] = {
    "DATE": "WHEN",
    "TIME": "WHEN",
    "CARDINAL": "QUANT",
    "ORDINAL": "QUANT",
    "QUANTITY": "QUANT",
    "MONEY": "QUANT",
    "PERCENT": "QUANT",
    "GPE": "PLACE",
    "LOC": "PLACE",
    "NORP": "NORP",
    "ORG": "ORG",
    "LAW": "LAW",
    "PERSON": "PERSON",
    "FAC": None,
    "EVENT": None,
    "WORK_OF_ART": None,
    "PRODUCT": None,
    "LANGUAGE": None,
}
"""Combined tag of each raw tag; None: such entities are discarded."""
TAGS = tuple(sorted({tag for tag in COMBINED_TAGS.values() if tag is not None}))


class Entity(NamedTuple):
    """A tagged stretch of a text: first character and number of characters."""

    tag: str
    start: int
    length: int

    def phrase(self, text: str) -> str:
        """Return the words of the entity as they stand in the text."""
        return text[self.start : self.start + self.length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of one utterance; a task that is None was not annotated."""

    id: str
    split: str
    text: str
    """Text in which `entities` count characters."""
    sentiment: str | None = None
    entities: tuple[Entity, ...] | None = None
    """With combined tags, in the order of the text, none inside another."""
    group: Mapping[str, str] = field(default_factory=dict)
    """Kinds that a result can be split by."""


def read_sentiment(value: str, undecided: str = "neutral") -> str | None:
    """Return a label of `SENTIMENTS`, or None for one to leave out.

    Args:
        value: as published, in any case.
        undecided: "neutral" or "drop": what becomes of mixed sentiment and of disagreement. The toolkit made both
            Neutral when it prepared its data, and leaves out what is still undecided when it reads them.

    Raises:
        ManifestError: an unknown label.
    """
    plain = value.strip().lower()
    if plain in UNDECIDED:
        return WAYS[undecided]
    named = {sentiment.lower(): sentiment for sentiment in SENTIMENTS}
    if plain not in named:
        guess = nearest_name(plain, named)
        hint = f" Did you mean {named[guess]!r}?" if guess else ""
        raise ManifestError(f"The sentiment is {value!r}; it is one of {', '.join(SENTIMENTS)}, or mixed.{hint}")
    return named[plain]


def read_entities(rows: Sequence[Sequence], text: str) -> tuple[Entity, ...]:
    """Return entities with combined tags, sorted; those of discarded kinds are left out.

    Args:
        rows: [tag, first character, number of characters]; raw tags or combined ones.

    Raises:
        ManifestError: an unknown tag, a span outside the text or with no letter in it, or two spans that overlap.
    """
    entities = []
    for row in rows:
        if len(row) != 3 or not isinstance(row[0], str) or not all(_is_count(number) for number in row[1:]):
            raise ManifestError(f"The entity is {row!r}; expected [tag, first character, number of characters].")
        tag, start, length = row
        if tag not in COMBINED_TAGS and tag not in TAGS:
            raise ManifestError(f"The entity tag {tag!r} is unknown. Known: {', '.join(COMBINED_TAGS)}.")
        combined = COMBINED_TAGS.get(tag, tag)
        if length < 1 or start + length > len(text):
            raise ManifestError(
                f"The entity {tag} has characters {start} to {start + length}, but the text has {len(text)}: {text!r}."
            )
        if not any(char.isalnum() for char in text[start : start + length]):
            raise ManifestError(f"The entity {tag} at character {start} of {text!r} holds no word.")
        if combined is not None:
            entities.append(Entity(combined, start, length))
    entities.sort(key=lambda entity: entity.start)
    for first, second in itertools.pairwise(entities):
        if first.start + first.length > second.start:
            raise ManifestError(f"The entities {tuple(first)} and {tuple(second)} overlap in {text!r}.")
    return tuple(entities)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


MANIFEST, LABELS, CARD = "manifest.jsonl", "labels.jsonl", "card.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Utterances and their labels; every label has its utterance."""

    labels: Sequence[Labels]
    utterances: Mapping[str, Utterance]
    card: Mapping[str, Any] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Labels that could not be used, by reason."""

    def split(self, name: str, task: str) -> list[Labels]:
        """Return the labels of a split that were annotated for a task, "sentiment" or "entities"."""
        return [label for label in self.labels if label.split == name and getattr(label, task) is not None]

    @property
    def fingerprint(self) -> str:
        """Hash of all ids, splits, texts and labels."""
        return fingerprint(
            {label.id: [label.split, label.text, label.sentiment, label.entities] for label in self.labels}
        )


def write_labelled_set(labelled: LabelledSet, folder: Path) -> None:
    """Write manifest, card and labels into `folder`; the labels last, so that a set with them is whole.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    write_manifest([labelled.utterances[label.id] for label in labelled.labels], folder / MANIFEST)
    card = dict(labelled.card)
    if labelled.excluded:
        card["left_out"] = dict(labelled.excluded)
    write_json(card, folder / CARD)
    write_json_lines(map(_to_row, labelled.labels), folder / LABELS)


def read_labelled_set(folder: Path, undecided: str = "neutral", manifest: Path | None = None) -> LabelledSet:
    """Read a folder that `write_labelled_set` wrote, or that was written by hand in the same layout.

    A label whose utterance the manifest lacks is left out and counted in `excluded`.

    Args:
        manifest: to read in place of the folder's, e.g. one to which 'vocable align' added word times.

    Raises:
        ManifestError: a file is missing, a line is broken, an id occurs twice, or no label is usable.
        ConfigError: an unknown `undecided`.
    """
    folder = Path(folder)
    if undecided not in WAYS:
        raise ConfigError(f"undecided is {undecided!r}; it is {' or '.join(WAYS)}.")
    manifest = manifest or folder / MANIFEST
    missing = [path.name for path in (manifest, folder / LABELS) if not path.is_file()]
    if missing:
        raise ManifestError(
            f"{folder} is no labelled set: {', '.join(missing)} not found. Make one with 'vocable evaluate build "
            "labelled' or 'vocable evaluate build slue', or name the folder of one."
        )
    utterances = {utterance.id: utterance for utterance in read_manifest(manifest)}
    excluded: Counter[str] = Counter()
    labels: dict[str, Labels] = {}
    for number, row in read_json_lines(folder / LABELS):
        where = f"{folder / LABELS}, line {number}"
        try:
            label = _from_row(row, utterances, undecided)
        except ManifestError as error:
            raise ManifestError(f"{where}: {error}") from error
        if label.id in labels:
            raise ManifestError(f"{where}: the id {label.id!r} occurs twice.")
        if label.id not in utterances:
            excluded["the utterance is not in the manifest"] += 1
            continue
        labels[label.id] = label
    if not labels:
        raise ManifestError(f"{folder / LABELS}: no label has its utterance in {manifest.name}.")
    card = json.loads(read_text(folder / CARD)) if (folder / CARD).is_file() else {}
    return LabelledSet(labels=list(labels.values()), utterances=utterances, card=card, excluded=excluded)


def _to_row(label: Labels) -> dict[str, Any]:
    row: dict[str, Any] = {"id": label.id, "split": label.split, "text": label.text}
    if label.sentiment is not None:
        row["sentiment"] = label.sentiment
    if label.entities is not None:
        row["entities"] = [list(entity) for entity in label.entities]
    return row | ({"group": dict(label.group)} if label.group else {})


def _from_row(row: Any, utterances: Mapping[str, Utterance], undecided: str) -> Labels:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise ManifestError('A label is an object: {"id": ..., "split": ..., "sentiment": ..., "entities": ...}.')
    if row.get("split") not in SPLITS:
        raise ManifestError(f"The split of {row['id']!r} is {row.get('split')!r}; it is one of {', '.join(SPLITS)}.")
    known = utterances.get(row["id"])
    text = row.get("text", known.text if known is not None else None)
    entities, sentiment, group = row.get("entities"), row.get("sentiment"), row.get("group") or {}
    if not isinstance(text, str):
        raise ManifestError(f"{row['id']!r} has no text, neither here nor in the manifest.")
    if not isinstance(entities, list | None) or not isinstance(sentiment, str | None) or not isinstance(group, dict):
        raise ManifestError(f"{row['id']!r}: entities are a list, sentiment is text, group an object.")
    return Labels(
        id=row["id"],
        split=row["split"],
        text=text,
        sentiment=None if sentiment is None else read_sentiment(sentiment, undecided),
        entities=None if entities is None else read_entities(entities, text),
        group=group,
    )
