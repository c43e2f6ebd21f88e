"""Who is trained on, validated on and tested on: decided once, written into the manifest as `split`, read by all.

    {"id": "a1", ..., "split": "valid"}     a mark is obeyed by every stage and system
    {"id": "a2", ...}                       without one, the hash of the id, text or speaker decides

The hash makes the choice independent of what else is in a corpus: more utterances never move one that is there. So two
stages that divide the same unmarked speech the same way agree, whichever of them comes first.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

from vocable.errors import ConfigError, ManifestError
from vocable.types import SPLITS, Split, Utterance

By = Literal["id", "text", "speaker"]
BY: dict[str, By] = {"id": "id", "text": "text", "speaker": "speaker"}


_NAMES: dict[object, Split] = {**{name: name for name in SPLITS}, "dev": "valid", "validation": "valid"}


def split_named(name: object) -> Split:
    """Return the split of this name; `dev` and `validation` are other names of `valid`.

    Raises:
        ManifestError: there is no such split.
    """
    if not isinstance(name, str) or name not in _NAMES:
        raise ManifestError(f"split is {name!r}; expected one of {', '.join(SPLITS)}, or no such key.")
    return _NAMES[name]


class Divisible(Protocol):
    """An item that can be put on one side of a split."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def speaker(self) -> str | None: ...
    @property
    def split(self) -> Split | None: ...


D = TypeVar("D", bound=Divisible)


def hash_place(key: str) -> float:
    """Map a text to a place in [0, 1) that looks random and is always the same."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


def rank(item: Divisible, by: By = "id") -> float:
    """Return a number in [0, 1]: the lowest are validated on, the next tested on, the rest trained on.

    Utterances with the same text (its words, in any case and punctuation) or the same speaker have the same rank;
    those without one are ranked by their id.
    """
    if by == "text":  # mirrored and seeded, as text was divided first: earlier splits do not move
        return 1 - hash_place(f"0\n{split_key(item, by)}")
    return hash_place(split_key(item, by))


def split_key(item: Divisible, by: By) -> str:
    """Return what must stay on one side of a split: the id, the words of the text, or the speaker."""
    if by == "text":
        return plain_text(item.text) if item.text else item.id
    return (item.speaker if by == "speaker" else None) or item.id


def plain_text(text: str) -> str:
    """Return the words of a text in small letters, with single spaces; punctuation but apostrophes is dropped."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join("".join(char if char.isalnum() or char == "'" else " " for char in text).split())


def by_rank(items: Sequence[D], by: By = "id") -> list[D]:
    """Sort: a number of items from the front is a validation set whose choice does not depend on their order."""
    return sorted(items, key=lambda item: (rank(item, by), item.id))


def assign_splits(
    items: Sequence[Divisible], valid_share: float, test_share: float = 0.0, by: By = "id"
) -> list[Split]:
    """Return the split of each item: its mark, or that of a marked item with the same text or speaker, or by its rank.

    Where everything is marked and nothing is to be validated on, `valid_share` of what is marked `train` is.
    """
    marks: dict[str, Split] = {}
    for item in items:
        if item.split is not None and by != "id":  # what shares an id is the item itself
            key = split_key(item, by)
            if key not in marks or SPLITS.index(item.split) > SPLITS.index(marks[key]):  # the most held out
                marks[key] = item.split
    found: list[Split] = []
    for item in items:
        mark = item.split or marks.get(split_key(item, by))
        found.append(mark or _by_rank(rank(item, by), valid_share, test_share))
    if "valid" in found:
        return found
    pairs = zip(items, found, strict=True)
    return ["valid" if split == "train" and rank(item, by) < valid_share else split for item, split in pairs]


def mark_splits(
    utterances: Sequence[Utterance], valid_share: float, test_share: float = 0.0, by: By = "id"
) -> list[Utterance]:
    """Return the utterances, divided anew: marks that they have are replaced.

    Raises:
        ConfigError: the shares leave nothing to train on, or are below 0.
    """
    if valid_share < 0 or test_share < 0 or valid_share + test_share >= 1:
        raise ConfigError(f"The shares are {valid_share} (valid) and {test_share} (test); they must add up to below 1.")
    bare = [replace(utterance, split=None) for utterance in utterances]
    splits = assign_splits(bare, valid_share, test_share, by)
    return [replace(utterance, split=split) for utterance, split in zip(bare, splits, strict=True)]


def check_valid_share(share: float) -> None:
    """Refuse a share of 0 or below, or of everything.

    Raises:
        ConfigError: with the value.
    """
    if not 0 < share < 1:
        raise ConfigError(f"valid_share is {share}; it must lie between 0 and 1.")


def divide(items: Sequence[D], valid_share: float, by: By = "id") -> tuple[list[D], list[D]]:
    """Return the items to train on and those to validate on; what is marked `test` is in neither.

    Raises:
        ManifestError: nothing is left to train on.
    """
    splits = assign_splits(items, valid_share, by=by)
    train, valid = ([i for i, s in zip(items, splits, strict=True) if s == wanted] for wanted in ("train", "valid"))
    refuse_nothing_to_train_on(len(train), items)
    return train, valid


def training_items(items: Sequence[D]) -> list[D]:
    """Return what may be trained on where validation has a set of its own: all that is not marked otherwise.

    Raises:
        ManifestError: nothing is left.
    """
    train = [item for item in items if item.split in (None, "train")]
    refuse_nothing_to_train_on(len(train), items)
    return train


def validation_items(items: Sequence[D]) -> list[D]:
    """Return what a set given for validation is used for: what is marked `valid`, or all where nothing is."""
    return [item for item in items if item.split == "valid"] or list(items)


def refuse_nothing_to_train_on(num_train: int, items: Sequence[Divisible]) -> None:
    """Stop where every item is marked as held out, or the hash left none."""
    if items and not num_train:
        marks = sorted({item.split or "unmarked" for item in items})
        raise ManifestError(
            f"None of {len(items)} utterances is left to train on; their splits: {', '.join(marks)}. Mark some "
            "'train', lower the share that is held out, or divide anew: vocable manifest split MANIFEST OUT"
        )


def _by_rank(place: float, valid_share: float, test_share: float) -> Split:
    if place < valid_share:
        return "valid"
    return "test" if place < valid_share + test_share else "train"
