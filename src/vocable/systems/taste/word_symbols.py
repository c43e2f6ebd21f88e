"""Words of a text and the phonemes that they are spoken with: which symbol belongs to which word.

    "Well — it's 7:30."  ->  words Well, —, it's, 7:30.  ->  Well "wˈɛl" —   it's "ɪts"   7:30 "sˈɛvən θˈɜɹTi" .
                         ->  symbols "wˈɛl— ɪts sˈɛvən θˈɜɹTi."; their words 0 0 0 0 0 0 2 2 2 2 3 3 ...

A word is what blanks separate (sequences/word_tokens.py). A phonemizer may find several in it, or none, where it is all
punctuation. The pause after a word belongs to the word.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.synthesis.phonemes import PAUSES, Phonemizer, WordPhonemes, bare_word, join_words, split_long


class WordSymbols(NamedTuple):
    """Words as a phonemizer found them."""

    spoken: tuple[WordPhonemes, ...]
    """Words with a sound; the last one ends with a pause mark."""
    owners: tuple[int, ...]
    """For each of them, the number of the text's word that it is, or is a part of."""

    @property
    def text(self) -> str:
        """All symbols, as synthesisers read them."""
        return join_words(self.spoken)[0]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and one past the last symbol of each spoken word, its pause mark left out."""
        return join_words(self.spoken)[1]

    def symbol_owners(self) -> list[int]:
        """Return the text's word of each symbol, and of the end marks before the first and after the last."""
        owners = [self.owners[0]]
        for word, owner in zip(self.spoken, self.owners, strict=True):
            owners += [owner] * (len(word.phonemes + word.pause) + 1)  # the space after it, or the last end mark
        return owners

    def with_commas(self, places: Collection[int]) -> "WordSymbols":
        """Put a comma after these spoken words, unless they have a mark."""
        marked = (
            word._replace(pause=word.pause or ",") if index in places else word
            for index, word in enumerate(self.spoken)
        )
        return self._replace(spoken=tuple(marked))

    def pauses_of(self, text: str) -> "WordSymbols | None":
        """Return the words with the pause marks of a string of symbols; None where it holds other phonemes."""
        place, spoken = 0, []
        for word in self.spoken:
            if not text.startswith(word.phonemes, place) or (spoken and text[place - 1] != " "):
                return None
            place += len(word.phonemes)
            pause = text[place : place + 1] if text[place : place + 1] in [*PAUSES] else ""
            spoken.append(word._replace(pause=pause))
            place += len(pause) + 1
        return self._replace(spoken=tuple(spoken)) if place - 1 == len(text) else None

    def parts(self, max_symbols: int) -> "list[WordSymbols]":
        """Split into parts of at most so many symbols each, after pauses where that is possible.

        Raises:
            ConfigError: one word has more.
        """
        parts, first = [], 0
        for part in split_long(self.spoken, max_symbols):
            parts.append(WordSymbols(tuple(part), self.owners[first : first + len(part)]))
            first += len(part)
        return parts


def read_words(words: Sequence[str], phonemizer: Phonemizer) -> WordSymbols:
    """Read words that blanks separate.

    Raises:
        ConfigError: no word has a sound, or one cannot be read.
    """
    letters = [_letters(word) for word in words]
    joined, owners = "".join(letters), [index for index, part in enumerate(letters) for _ in part]
    spoken, found, place = phonemizer(" ".join(words)), [], 0
    for word in spoken:
        start = joined.find(part := _letters(word.word), place)
        if start < 0 or not part:
            text = " ".join(words)
            raise ConfigError(f"The phonemizer read the word {word.word!r}, which is not in {text[:60]!r}.")
        found.append(owners[start])
        place = start + len(part)
    last = spoken[-1]
    return WordSymbols((*spoken[:-1], last._replace(pause=last.pause or ".")), tuple(found))


def _letters(word: str) -> str:
    """Letters and digits, or the symbol that is read out (&)."""
    bare = bare_word(word)
    return "".join(char for char in bare.casefold() if char.isalnum()) or bare
