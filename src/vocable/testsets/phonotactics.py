"""Pseudo-words: strings of phones that could be words of a language, and are none.

    K AE1 T  ->  K AE1 P ... K AE1 G: one phone in three is another one, every three in a row occur in some word

A pseudo-word has the length of its word, its pattern of consonants and vowels and its stress; every phone trigram in
it (word edges count) is in the lexicon, and its log-probability under a phone trigram model is close to the word's.
The idea is that of Wuggy (Keuleers & Brysbaert, 2010, doi:10.3758/BRM.42.3.627), with which sWUGGY was made. Differs:
phones are replaced instead of parts of syllables, so that no syllabified lexicon is needed.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.testsets.lexicon import Lexicon, Pronunciation, split_mark, unmarked

START, END = "<", ">"
WEIGHTS = (0.6, 0.3, 0.1)
"""Weights of the trigram, bigram and unigram estimates; fixed, since both halves of a pair need the same."""


class PhoneModel:
    """An interpolated phone trigram model of a list of pronunciations (Jelinek & Mercer, 1980); add-one unigrams."""

    def __init__(self, pronunciations: Iterable[Pronunciation]):
        self.trigrams: Counter[tuple[str, str, str]] = Counter()
        for phones in pronunciations:
            self.trigrams.update(trigrams(phones))
        self._bigrams: Counter[tuple[str, str]] = Counter()
        self._contexts: Counter[tuple[str, str]] = Counter()
        self._unigrams: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        for (first, second, third), count in self.trigrams.items():
            self._contexts[first, second] += count
            self._bigrams[second, third] += count
            self._before[second] += count
            self._unigrams[third] += count
        self._total = sum(self._unigrams.values()) + len(self._unigrams) + 1
        if not self.trigrams:
            raise ConfigError("A phone model needs at least one pronunciation.")

    def log_probability(self, phones: Sequence[str]) -> float:
        """Return the natural logarithm of the probability of a whole word, its end included."""
        return sum(math.log(self._probability(*trigram)) for trigram in trigrams(phones))

    def _probability(self, first: str, second: str, third: str) -> float:
        context, before = self._contexts[first, second], self._before[second]
        estimates = (
            self.trigrams[first, second, third] / context if context else 0.0,
            self._bigrams[second, third] / before if before else 0.0,
            (self._unigrams[third] + 1) / self._total,
        )
        return sum(weight * estimate for weight, estimate in zip(WEIGHTS, estimates))


def trigrams(phones: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield every three neighbours, with two marks before the word and one after it."""
    padded = (START, START, *phones, END)
    return zip(padded, padded[1:], padded[2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoWordConfig:
    """Limits of a pseudo-word."""

    changed_share: float = 1 / 3
    """Share of the phones that are replaced, at least one of them."""
    close_nats: float = 0.1
    """Pseudo-words whose log-probability differs from the word's by less are equally good: one is drawn."""
    max_nats: float = 0.5
    """A word without a pseudo-word this close is skipped."""
    num_position_sets: int = 12
    """Sets of positions that are tried, in random order."""

    def __post_init__(self) -> None:
        if not 0 < self.changed_share <= 1:
            raise ConfigError(f"changed_share is {self.changed_share}; it must be above 0 and at most 1.")
        if not 0 <= self.close_nats <= self.max_nats:
            raise ConfigError(
                f"close_nats is {self.close_nats}, max_nats {self.max_nats}; 0 <= close <= max must hold."
            )


class PseudoWord(NamedTuple):
    """A pseudo-word, and how far its log-probability is from that of its word, in nats."""

    phones: Pronunciation
    delta: float


class PseudoWordMaker:
    """Finds pseudo-words for the words of one lexicon."""

    def __init__(self, lexicon: Lexicon, config: PseudoWordConfig):
        self.config = config
        self.model = PhoneModel(phones for entries in lexicon.pronunciations.values() for phones in set(entries))
        self._vowels = lexicon.vowels
        self._taken = {unmarked(phones) for entries in lexicon.pronunciations.values() for phones in entries}
        self._alternatives: dict[tuple[bool, str], list[str]] = {}
        for phone in sorted({third for _, _, third in self.model.trigrams} - {END}):
            self._alternatives.setdefault(self.kind(phone), []).append(phone)

    def kind(self, phone: str) -> tuple[bool, str]:
        """Return what a phone may be replaced by: vowel or not, and its stress or tone."""
        sound, mark = split_mark(phone)
        return sound in self._vowels, mark

    def make(self, phones: Pronunciation, generator: random.Random) -> PseudoWord | None:
        """Return a pseudo-word for `phones` that was not returned before, or None when there is none close enough."""
        target = self.model.log_probability(phones)
        num_changes = max(1, round(len(phones) * self.config.changed_share))
        sets = list(itertools.combinations(range(len(phones)), num_changes))
        generator.shuffle(sets)
        found = []
        for positions in sets[: self.config.num_position_sets]:
            for candidate in self.variants(phones, frozenset(positions)):
                if unmarked(candidate) not in self._taken:
                    found.append(PseudoWord(candidate, self.model.log_probability(candidate) - target))
        if not found:
            return None
        close = [word for word in found if abs(word.delta) <= self.config.close_nats]
        chosen = generator.choice(close) if close else min(found, key=lambda word: (abs(word.delta), word.phones))
        if abs(chosen.delta) > self.config.max_nats:
            return None
        self._taken.add(unmarked(chosen.phones))
        return chosen

    def variants(self, phones: Pronunciation, positions: frozenset[int]) -> Iterator[Pronunciation]:
        """Yield all attested strings that differ from `phones` in exactly these positions, by phones of their kind."""

        def extend(done: tuple[str, ...]) -> Iterator[Pronunciation]:
            place = len(done) - 2
            if place == len(phones):
                if (done[-2], done[-1], END) in self.model.trigrams:
                    yield done[2:]
                return
            own = phones[place]
            choices = self._alternatives[self.kind(own)] if place in positions else [own]
            for phone in choices:
                same = split_mark(phone)[0] == split_mark(own)[0]
                if same == (place not in positions) and (*done[-2:], phone) in self.model.trigrams:
                    yield from extend((*done, phone))

        return extend((START, START))
