"""Edit speech by the word: what is said, and how each word of it is spoken.

    words with codes + edits  ->  apply_edits  ->  words with codes, each with its place in the original

    take      seven miles, from another recording   same words, its codes
    replace   seven by eight                        another word, with a delivery
    insert    good before morning                   one more word, with a delivery
    delete    very
    change    miles: longer, higher, louder         same word, same codes, and a change on top

Codes say how a word is spoken: its delivery. Words that no edit names keep theirs, to the bit. All edits name words of
the speech as it was, so their order does not matter, and two edits of one word are refused, save changes, which add up.

A word is named by its letters, without case and punctuation; `the#2` is the second "the". A new word takes over the
punctuation around what it replaces where it has none.

Source: swapping the tokens of a word between two recordings of one text, TASTE (Tseng et al., 2025, arXiv:2504.07053,
section 4.1). Differs: the paper swaps and does no more; text edits and changes are ours.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

from vocable.errors import ConfigError
from vocable.sequences.word_search import find_words, plain_letters
from vocable.sequences.word_tokens import split_words
from vocable.systems.taste.speech_decoder import WordChange

Delivery = Literal["neighbour", "same", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredWord:
    """A word and how it is spoken."""

    word: str
    """The word, with its punctuation."""
    codes: tuple[int, ...] | None
    """Code of each level; None where nothing is known of its delivery."""
    change: WordChange = field(default_factory=WordChange)
    """Change on top of what the codes say."""

    def like(self, giver: "DeliveredWord") -> "DeliveredWord":
        """Return this word, spoken as another one is."""
        return replace(giver, word=self.word)


class Edited(NamedTuple):
    """What edits made of some words."""

    words: tuple[DeliveredWord, ...]
    places: tuple[int | None, ...]
    """For each word its place in the original, or the place of the word that it replaces; None for one more word."""


class Sheet:
    """The words of a speech, and what edits do to each before the result is written out."""

    def __init__(
        self, words: Sequence[DeliveredWord], others: Mapping[str, Sequence[DeliveredWord]] | None = None
    ) -> None:
        """Begin without edits.

        Args:
            words: The speech.
            others: Words of other recordings, by the name that edits call them.
        """
        self.words, self._others = tuple(words), dict(others or {})
        self._edits: dict[int, Edit] = {}
        self._changes: dict[int, WordChange] = {}
        self._givers: dict[int, DeliveredWord] = {}
        self._removed: set[int] = set()
        self._replacements: dict[int, list[DeliveredWord]] = {}
        self._inserted: dict[int, list[DeliveredWord]] = {}

    def find(self, wanted: str, purpose: str = "to change") -> range:
        """Return the places of words that are named as `good morning` or `the#2`."""
        return _find(self.words, wanted, purpose)

    def other(self, recording: str | None) -> Sequence[DeliveredWord]:
        """Return the words of another recording; None: of this one."""
        return self.words if recording is None else self._others[recording]

    def change(self, places: range, change: WordChange) -> None:
        """Make words longer, higher, louder, on top of other changes."""
        for place in places:
            self._changes[place] = self._changes.get(place, WordChange()).then(change)

    def deliver(self, places: range, givers: Iterable[DeliveredWord], edit: "Edit") -> None:
        """Give words the delivery of others."""
        self._claim(places, edit)
        self._givers |= zip(places, givers, strict=True)

    def replace(self, places: range, words: Sequence[DeliveredWord], edit: "Edit") -> None:
        """Put other words, or none, where some words stand."""
        self._claim(places, edit)
        self._removed |= set(places)
        self._replacements[places.start] = list(words)

    def insert(self, place: int, words: Sequence[DeliveredWord], edit: "Edit") -> None:
        """Put words before the word at a place, or after the last.

        Raises:
            ConfigError: other words were put there.
        """
        if place in self._inserted:
            raise ConfigError(
                f"Two edits put words in the same place: {edit.name}; and before it, "
                f"{' '.join(word.word for word in self._inserted[place])!r}. Insert them together."
            )
        self._inserted[place] = list(words)

    def result(self) -> Edited:
        """Write out what the edits made.

        Raises:
            ConfigError: edits contradict each other, or no word is left.
        """
        for place in self._removed & self._changes.keys():
            raise ConfigError(
                f"The word {self.words[place].word!r} is to be changed, but another edit takes it away "
                f"({self._edits[place].name}). Give the new word's change with that edit, or in a second step."
            )
        for place, words in self._inserted.items():
            around = [self._edits.get(place - 1), self._edits.get(place)]
            if around[0] is around[1] and {place - 1, place} <= self._removed:
                raise ConfigError(
                    f"{' '.join(word.word for word in words)!r} is to stand between words that another edit takes away "
                    f"({around[1].name if around[1] else ''}). Put it into that edit."
                )
        written: list[tuple[DeliveredWord, int | None]] = []
        for place in range(len(self.words) + 1):
            written += [(word, None) for word in self._inserted.get(place, ())]
            gone = self._span_from(place)
            for index, word in enumerate(self._replacements.get(place, ())):
                written.append((word, place + index if index < gone else None))
            if place < len(self.words) and place not in self._removed:
                written.append((self._kept(place), place))
        if not written:
            raise ConfigError("The edits leave no word to say. Leave out one that deletes.")
        return Edited(tuple(word for word, _ in written), tuple(place for _, place in written))

    def _kept(self, place: int) -> DeliveredWord:
        kept = self.words[place].like(self._givers.get(place, self.words[place]))
        return replace(kept, change=kept.change.then(self._changes.get(place, WordChange())))

    def _span_from(self, place: int) -> int:
        """Return how many words from a place on were taken away by one edit."""
        edit, last = self._edits.get(place), place
        while edit is not None and self._edits.get(last) is edit:
            last += 1
        return last - place

    def _claim(self, places: range, edit: "Edit") -> None:
        for place in places:
            if place in self._edits:
                raise ConfigError(
                    f"Two edits are of the word {self.words[place].word!r}: {self._edits[place].name}; {edit.name}. "
                    "Each word can be taken, replaced or deleted once; do the second one in a second step."
                )
            self._edits[place] = edit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit(ABC):
    """One edit, which names its words."""

    key: ClassVar[str]
    """Field that names the words, and by which a list of edits tells the kinds apart."""

    @property
    def name(self) -> str:
        """The edit in a few words, for messages."""
        return f"{self.key} {getattr(self, self.key)!r}"

    @property
    def description(self) -> str:
        """All that the edit does, for readers."""
        return self.name

    @property
    def outside(self) -> Mapping[str, str | None]:
        """The other recording that it needs, if any, with its text where that is given."""
        return {}

    @abstractmethod
    def apply(self, sheet: Sheet) -> None:
        """Note on the sheet what is to happen.

        Raises:
            ConfigError: its words are not there, or another edit is of them.
        """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delete(Edit):
    """Leave words out."""

    key = "delete"
    delete: str
    """Words that go."""

    def apply(self, sheet: Sheet) -> None:
        """See Edit."""
        sheet.replace(sheet.find(self.delete, "to delete"), [], self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChangingEdit(Edit):
    """An edit after which words can be longer, higher, louder."""

    stretch: float = 1.0
    """How many times as long each word is."""
    semitones: float = 0.0
    """How much higher; below 0, lower."""
    decibels: float = 0.0
    """How much louder; below 0, softer."""

    def __post_init__(self) -> None:
        _ = self.word_change  # checks the values

    @property
    def description(self) -> str:
        """See Edit."""
        parts = [f"{self.stretch:g} times as long"] * (self.stretch != 1)
        parts += [f"{self.semitones:+g} semitones"] * (self.semitones != 0)
        parts += [f"{self.decibels:+g} dB"] * (self.decibels != 0)
        return f"{self.name}{': ' * bool(parts)}{', '.join(parts)}"

    @property
    def word_change(self) -> WordChange:
        """The change to each word."""
        return WordChange(stretch=self.stretch, semitones=self.semitones, decibels=self.decibels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change(ChangingEdit):
    """Speak words longer, higher, louder, and otherwise as they are."""

    key = "change"
    change: str
    """Words that change."""

    def apply(self, sheet: Sheet) -> None:
        """See Edit."""
        sheet.change(sheet.find(self.change), self.word_change)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutsideEdit(ChangingEdit):
    """An edit that can take the delivery of words from another recording."""

    recording: str | None = None
    """The other recording: an audio file, or what an earlier edit wrote. None: this one."""
    text: str | None = None
    """Text of the other recording; None: as the recogniser hears it."""

    @property
    def outside(self) -> Mapping[str, str | None]:
        """See Edit."""
        return {} if self.recording is None else {self.recording: self.text}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Take(OutsideEdit):
    """Speak words as another recording does, or as other words of this one are spoken."""

    key = "take"
    take: str
    """Words that get another delivery."""
    like: str | None = None
    """As many words whose delivery they get; None: the same words."""

    @property
    def name(self) -> str:
        """See Edit."""
        like = f" like {self.like!r}" if self.like else ""
        return f"take {self.take!r}{like}{f' from {self.recording}' if self.recording else ''}"

    def apply(self, sheet: Sheet) -> None:
        """See Edit."""
        places = sheet.find(self.take, "to take a delivery for")
        givers = sheet.other(self.recording)
        if self.recording is None and self.like is None:
            given = places
        else:
            wanted = self.like or " ".join(plain(sheet.words[place].word) for place in places)
            where = f"in {self.recording} to take the delivery of" if self.recording else "to take the delivery of"
            given = _find(givers, wanted, where)
        if len(given) != len(places):
            raise ConfigError(
                f"Deliveries go word by word, but {self.take!r} and {self.like!r} are {len(places)} and {len(given)} "
                "words. Name as many."
            )
        sheet.deliver(places, [givers[place] for place in given], self)
        sheet.change(places, self.word_change)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewWordsEdit(OutsideEdit):
    """An edit that brings new words."""

    delivery: Delivery = "neighbour"
    """Whose delivery a new word gets. neighbour: that of the word that it replaces or stands beside (with more new
    words than old, the last is used again). same: that of the same word elsewhere, the nearest one here or the first
    in `recording`. none: nothing is said of it, and its vector is 0."""

    def deliver(self, sheet: Sheet, text: str, beside: Sequence[int], place: int) -> list[DeliveredWord]:
        """Return the new words.

        Raises:
            ConfigError: there are none, or the same word is not there.
        """
        new = split_words(text)
        if not new:
            raise ConfigError(f"{self.name}: there is no new word. To leave words out, delete them.")
        delivered = []
        for index, word in enumerate(new):
            giver = self._giver(sheet, word, beside[min(index, len(beside) - 1)], place)
            delivered.append(replace(giver, word=word, change=giver.change.then(self.word_change)))
        return delivered

    def _giver(self, sheet: Sheet, word: str, neighbour: int, place: int) -> DeliveredWord:
        if self.delivery == "none":
            return DeliveredWord(word=word, codes=None)
        if self.delivery == "neighbour":
            return sheet.words[neighbour]
        givers = sheet.other(self.recording)
        alike = [index for index, giver in enumerate(givers) if plain(giver.word) == plain(word)]
        if not alike:
            where = self.recording or "the recording"
            raise ConfigError(
                f"{self.name}: the word {word!r} is nowhere in {where}, so its delivery is not known. Choose the "
                "delivery of a neighbour, or none."
            )
        nearest = alike[0] if self.recording else min(alike, key=lambda index: abs(index - place))
        return givers[nearest]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replace(NewWordsEdit):
    """Say other words in place of some."""

    key = "replace"
    replace: str
    """Words that go."""
    by: str
    """Words that come."""

    @property
    def name(self) -> str:
        """See Edit."""
        return f"replace {self.replace!r} by {self.by!r}"

    def apply(self, sheet: Sheet) -> None:
        """See Edit."""
        places = sheet.find(self.replace, "to replace")
        words = self.deliver(sheet, self.by, places, places.start)
        _lend_marks(words, sheet.words[places[0]].word, sheet.words[places[-1]].word)
        sheet.replace(places, words, self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Insert(NewWordsEdit):
    """Say more words, before or after some."""

    key = "insert"
    insert: str
    """Words that come."""
    before: str | None = None
    """Words that they stand before."""
    after: str | None = None
    """Words that they stand after, instead."""

    @property
    def name(self) -> str:
        """See Edit."""
        places = {"before": self.before, "after": self.after}
        return " ".join([f"insert {self.insert!r}", *(f"{key} {value!r}" for key, value in places.items() if value)])

    def apply(self, sheet: Sheet) -> None:
        """See Edit."""
        if (self.before is None) == (self.after is None):
            raise ConfigError(f"{self.name} needs a place: `before` some words, or `after` some, one of both.")
        if self.before is not None:
            beside = (place := sheet.find(self.before, "to insert before").start)
        else:
            place = sheet.find(self.after or "", "to insert after").stop
            beside = place - 1
        sheet.insert(place, self.deliver(sheet, self.insert, [beside], place), self)


KINDS: dict[str, type[Edit]] = {kind.key: kind for kind in (Take, Replace, Insert, Delete, Change)}
"""Edits by the key that names their words."""


def apply_edits(
    words: Sequence[DeliveredWord],
    edits: Iterable[Edit],
    others: Mapping[str, Sequence[DeliveredWord]] | None = None,
) -> Edited:
    """Edit speech.

    Args:
        words: The words and their codes.
        edits: All name words as they are before any edit.
        others: Words of the recordings that edits name.

    Raises:
        ConfigError: words are not there, or there several times; edits contradict each other; or no word is left.
    """
    sheet = Sheet(words, others)
    for edit in edits:
        edit.apply(sheet)
    return sheet.result()


def plain(word: str) -> str:
    """Return what makes a word the same word: its letters, or all of it where it has none."""
    return plain_letters(word) or word


def _find(words: Sequence[DeliveredWord], wanted: str, purpose: str) -> range:
    number = re.fullmatch(r"(.*\S)#(\d+)", wanted.strip())
    names = split_words(number[1] if number else wanted)
    if not names:
        raise ConfigError(f"An edit names no word {purpose}.")
    nth = int(number[2]) if number else None
    return find_words([one.word for one in words], names, nth, plain, purpose, f"{' '.join(names)}#1")


def _lend_marks(words: list[DeliveredWord], first: str, last: str) -> None:
    """Give new words the punctuation around the old ones, on each side where they have none."""
    before, after = re.match(r"\W*", first), re.search(r"\W*$", last)
    assert before and after  # both match nothing, too
    if words[0].word[0].isalnum() and before[0] != first:
        words[0] = replace(words[0], word=before[0] + words[0].word)
    if words[-1].word[-1].isalnum() and after[0] != last:
        words[-1] = replace(words[-1], word=words[-1].word + after[0])
