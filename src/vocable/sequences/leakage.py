"""Does a test set share speakers, texts or utterances with what a model was trained on?

check_leakage(train, test).raise_if_any()
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from vocable.errors import ManifestError
from vocable.splits import plain_text
from vocable.types import Utterance

Kind = Literal["id", "speaker", "text"]
KINDS: tuple[Kind, ...] = ("id", "speaker", "text")
SHOWN = 3


class Leak(NamedTuple):
    """An id, a speaker or a text that is on both sides."""

    kind: Kind
    value: str
    train_id: str
    """The first utterance on the training side that has it."""
    test_ids: tuple[str, ...]
    """All utterances on the test side that have it."""


class LeakageReport(NamedTuple):
    """Ids, speakers and texts that two sets share."""

    leaks: tuple[Leak, ...]
    num_train: int
    num_test: int
    unknown: dict[str, int]
    """Utterances of both sets without a speaker or without text: what is not known cannot be compared."""

    @property
    def num_leaked(self) -> int:
        """Test utterances that share anything with training."""
        return len({id for leak in self.leaks for id in leak.test_ids})

    def raise_if_any(self) -> None:
        """Stop at a leak.

        Raises:
            ManifestError: something is shared; the message names the first few of each kind.
        """
        if not self.leaks:
            return
        lines = []
        for kind in KINDS:
            found = [leak for leak in self.leaks if leak.kind == kind]
            if found:
                shown = "; ".join(
                    f"{_short(leak.value)} ({leak.train_id}, {leak.test_ids[0]})" for leak in found[:SHOWN]
                )
                more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                lines.append(f"{len(found)} by {kind}: {shown}{more}")
        raise ManifestError(
            f"{self.num_leaked} of {self.num_test} test utterances share something with training. {'. '.join(lines)}. "
            "Take them out of one side, or divide by speaker and by text."
        )


def check_leakage(
    train: Iterable[Utterance], test: Iterable[Utterance], *, by: Sequence[Kind] = KINDS, min_text_words: int = 1
) -> LeakageReport:
    """Compare two sets of utterances by id, by speaker and by text.

    Texts are equal when their words are, whatever case and punctuation. Parts of texts are not compared: a sentence
    inside a longer training text is not found. Speakers are compared by name, so corpora whose speakers are named alike
    need other names first.

    Args:
        train: what a model learns from, unpaired speech and text included.
        min_text_words: shorter texts are not compared; "yes" may well be on both sides.
    """
    sets = {"train": list(train), "test": list(test)}
    unknown = {
        kind: sum(_value(item, kind, 0) is None for items in sets.values() for item in items)
        for kind in by
        if kind != "id"
    }
    leaks = []
    for kind in by:
        first: dict[str, str] = {}
        for item in sets["train"]:
            value = _value(item, kind, min_text_words)
            if value is not None:
                first.setdefault(value, item.id)
        shared: dict[str, list[str]] = {}
        for item in sets["test"]:
            value = _value(item, kind, min_text_words)
            if value is not None and value in first:
                shared.setdefault(value, []).append(item.id)
        leaks += [Leak(kind, value, first[value], tuple(ids)) for value, ids in shared.items()]
    return LeakageReport(tuple(leaks), len(sets["train"]), len(sets["test"]), unknown)


def _value(item: Utterance, kind: Kind, min_text_words: int) -> str | None:
    if kind == "id":
        return item.id
    if kind == "speaker":
        return item.speaker
    if item.text is None:
        return None
    words = plain_text(item.text)
    return words if words and len(words.split()) >= min_text_words else None


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
