"""From the words of a text to what is said for them.

    "In 1984, O'Brien paid $5."  ->  in | nineteen eighty four | o'brien | paid | five dollars

A word of the text is what stands between spaces. Everything that is read otherwise than it is written leaves a note;
only punctuation that has no sound is passed over without one.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from vocable.recognition.numbers import NUMBER, spell_number

ENGLISH_SYMBOLS = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "#": "number", "°": "degrees"}
ENGLISH_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
"""Said after the number that follows the sign."""
ENGLISH_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
READ_AS_NOTHING = "/\\"
"""Punctuation that some readers say ("and slash or"): passed over, with a note."""
MINUS = "-\u2212"
"""Read as "minus" at the start of a word, before a digit."""
APOSTROPHES = "'’ʼ"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    """A word of the text, and what is said for it."""

    word: str
    """As in the text, without punctuation around it."""
    spoken: tuple[str, ...]
    """Words in lower case, of letters and inner apostrophes; none where nothing in the word has a known sound."""
    notes: tuple[str, ...] = ()
    """What was read otherwise than written, and why."""


def spoken_words(text: str, language: str = "en") -> list[SpokenWord]:
    """Split a text at spaces, and say how each word is read.

    Args:
        text: the transcript.
        language: decides how numbers, symbols and titles are read; only "en" has symbols and titles.

    Returns:
        One entry per word, also for those of which nothing is spoken, such as a dash that stands alone.
    """
    return [_spoken_word(word, language) for word in unicodedata.normalize("NFC", text).split()]


def comparable(word: str, language: str = "en") -> tuple[str, ...]:
    """Return the spoken form of one or several words of another program, to compare with that of a text."""
    return tuple(part for spoken in spoken_words(word, language) for part in spoken.spoken)


def _spoken_word(word: str, language: str) -> SpokenWord:
    english = language.lower().startswith("en")
    spoken: list[str] = []
    notes: list[str] = []
    currencies: list[str] = []
    position = 0
    while position < len(word):
        number = NUMBER.match(word, position)
        length = number.end() - position if number else max(_letters(word[position:]), 1)
        part = word[position : position + length]
        if number:
            words = spell_number(number, language)
            if english and position == 1 and word[0] in MINUS and words:
                part, words = word[0] + part, f"minus {words}"
            notes.append(_note_on_number(part, words, language))
            spoken += [*_bare_words(words or "", language), *currencies]
            currencies = []
        elif _is_letter(part[0]):
            plain = "".join("'" if char in APOSTROPHES else char for char in part.lower())
            read = ENGLISH_TITLES.get(plain, plain) if english else plain
            notes += [f"{part!r} is read as {read!r}"] if read != plain else []
            spoken.append(read)
        elif english and part in ENGLISH_CURRENCIES:
            currencies.append(ENGLISH_CURRENCIES[part])
            notes.append(f"{part!r} is read as {ENGLISH_CURRENCIES[part]!r}")
        elif english and part in ENGLISH_SYMBOLS:
            spoken.append(ENGLISH_SYMBOLS[part])
            notes.append(f"{part!r} is read as {ENGLISH_SYMBOLS[part]!r}")
        elif not (_is_silent(part) or (part in MINUS and position == 0 and word[1:2].isdigit())):
            notes.append(f"{part!r} has no known sound and is passed over")
        position += length
    if not spoken and not currencies and not notes:
        notes.append("nothing in it is spoken")
    return SpokenWord(word=_without_edges(word), spoken=(*spoken, *currencies), notes=tuple(notes))


def _note_on_number(part: str, words: str | None, language: str) -> str:
    if words is None:
        return (
            f"the number {part} cannot be spelled for the language {language!r}: pip install 'vocable[align]' may help"
        )
    return f"the number {part} is read as {words!r}"


def _bare_words(text: str, language: str) -> list[str]:
    """What a speller returned, in our form: no hyphens or commas."""
    return [word for spoken in spoken_words(text, language) for word in spoken.spoken] if text else []


def _letters(text: str) -> int:
    """How long the run of letters at the start is; an apostrophe belongs to it between two letters."""
    length = 0
    for index, char in enumerate(text):
        inner = char in APOSTROPHES and index == length > 0 and _is_letter(text[index + 1 : index + 2])
        if not (_is_letter(char) or inner):
            break
        length = index + 1
    return length


def _is_letter(char: str) -> bool:
    return bool(char) and char not in APOSTROPHES and unicodedata.category(char)[0] in "LM"


def _is_silent(char: str) -> bool:
    if char in READ_AS_NOTHING:
        return False
    return char in APOSTROPHES or unicodedata.category(char)[0] in "PZC" or unicodedata.category(char) == "Sk"


def _without_edges(word: str) -> str:
    """Drop silent punctuation at both ends; a word of nothing else stays as it is."""
    kept = [index for index, char in enumerate(word) if not _is_silent(char) and char not in READ_AS_NOTHING]
    kept += [index for index, char in enumerate(word) if char in ENGLISH_SYMBOLS]
    return word[min(kept) : max(kept) + 1] if kept else word
