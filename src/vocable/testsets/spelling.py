"""Spell pseudo-words, for synthesisers that read letters only.

    letters and phones of a lexicon -> which letters stand for which phone -> k|i|tt|e|n with T -> F:  k|i|ff|e|n

Letters are aligned to phones by hard expectation maximisation, which begins with the letters that stand near a phone
more often than chance: a phone is written with no letter up to three. Only the letters of replaced phones change. In a
language with deep spelling the synthesiser may read something else than the phones; one that takes phones is better.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from vocable.testsets.lexicon import Lexicon, Pronunciation, split_mark

MAX_LETTERS = 3
FLOOR = math.log(1e-6)
UNSEEN = {0: -8.0, 1: 0.0, 2: -3.0, 3: -6.0}
"""Log scores by number of letters before anything is known: one letter a phone is likeliest."""


class Speller:
    """Which letters stand for which phone in a lexicon."""

    def __init__(self, lexicon: Lexicon, num_words: int = 4000, num_rounds: int = 3, seed: int = 0):
        entries = [(word, variants[0]) for word, variants in lexicon.pronunciations.items() if word.isalpha()]
        if len(entries) > num_words:
            entries = random.Random(seed).sample(entries, num_words)
        self._near = _association(entries)
        self._scores: dict[tuple[str, str], float] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        for _ in range(num_rounds):
            self._counts = Counter()
            for word, phones in entries:
                chunks = self.align(word, phones)
                self._counts.update(zip((split_mark(phone)[0] for phone in phones), chunks or ()))
            totals: Counter[str] = Counter()
            for (sound, _), count in self._counts.items():
                totals[sound] += count
            self._scores = {pair: math.log(count / totals[pair[0]]) for pair, count in self._counts.items()}

    def align(self, word: str, phones: Sequence[str]) -> list[str] | None:
        """Cut a word into the letters of each phone; None when it has more letters than the phones can take."""
        best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
        for phone in phones:
            sound, row = split_mark(phone)[0], dict[int, tuple[float, int]]()
            for start, (score, _) in best[-1].items():
                for end in range(start, min(start + MAX_LETTERS, len(word)) + 1):
                    total = score + self._score(sound, word[start:end])
                    if end not in row or total > row[end][0]:
                        row[end] = (total, start)
            best.append(row)
        if len(word) not in best[-1]:
            return None
        chunks, end = [], len(word)
        for row in reversed(best[1:]):
            start = row[end][1]
            chunks.append(word[start:end])
            end = start
        return chunks[::-1]

    def spell(self, word: str, phones: Pronunciation, pseudo: Pronunciation) -> str:
        """Spell `pseudo`, which differs from `phones` in some places, after the spelling of `word`."""
        chunks = self.align(word, phones) or [self._usual(split_mark(phone)[0], phone) for phone in phones]
        return "".join(
            chunk if old == new else self._usual(split_mark(new)[0], chunk)
            for chunk, old, new in zip(chunks, phones, pseudo)
        )

    def _score(self, sound: str, chunk: str) -> float:
        if not self._scores:
            return UNSEEN[len(chunk)] + sum(self._near.get((sound, letter), 0.0) for letter in chunk)
        return self._scores.get((sound, chunk), FLOOR + UNSEEN[len(chunk)])

    def _usual(self, sound: str, instead_of: str) -> str:
        """The commonest letters for a sound; of those with as many letters as before, if they are common enough."""
        known = [(count, chunk) for (known, chunk), count in self._counts.items() if known == sound and chunk]
        if not known:
            return sound.lower()
        most = max(known)
        alike = [entry for entry in known if len(entry[1]) == len(instead_of) and entry[0] * 5 >= most[0]]
        return max(alike or [most])[1]


def _association(entries: Sequence[tuple[str, Pronunciation]]) -> dict[tuple[str, str], float]:
    """Log of how much oftener a letter stands beside a phone, at its place in the word, than the two are frequent."""
    together: defaultdict[tuple[str, str], float] = defaultdict(float)
    letters: defaultdict[str, float] = defaultdict(float)
    sounds: defaultdict[str, float] = defaultdict(float)
    for word, phones in entries:
        for place, phone in enumerate(phones):
            sound = split_mark(phone)[0]
            for where, letter in enumerate(word):
                distance = (place + 0.5) / len(phones) * len(word) - (where + 0.5)
                weight = math.exp(-(distance**2))
                together[sound, letter] += weight
                letters[letter] += weight
                sounds[sound] += weight
    total = sum(letters.values())
    return {
        (sound, letter): math.log(count * total / (sounds[sound] * letters[letter]))
        for (sound, letter), count in together.items()
    }
