"""From the words of a text to what is said for them.

    "In 1984, O'Brien paid $5."  ->  in | nineteen eighty four | o'brien | paid | five dollars

A word of the text is what stands between spaces. Everything that is read otherwise than it is written leaves a note;
only punctuation that has no sound is passed over without one. English numbers are spelled here; those of other
languages by the library num2words, which is optional (LGPL).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

ENGLISH_SYMBOLS = {"&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "#": "number", "°": "degrees"}
ENGLISH_CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
"""Said after the number that follows the sign."""
ENGLISH_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
READ_AS_NOTHING = "/\\"
"""Punctuation that some readers say ("and slash or"): passed over, with a note."""
MINUS = "-\u2212"
"""Read as "minus" at the start of a word, before a digit."""
APOSTROPHES = "'’ʼ"

NUMBER = re.compile(
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.(?P<decimals>\d+))?(?P<ordinal>(?:st|nd|rd|th)(?!\w))?", re.I
)
"""A number as English writes it: commas between thousands, a point before decimals, st, nd, rd or th after ordinals."""

ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ("", "thousand", "million", "billion", "trillion")
IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
YEARS = (range(1100, 2000), range(2010, 2100))
"""Bare numbers that are read as years: in pairs of digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    """A word of the text, and what is said for it."""

    word: str
    """As in the text, without punctuation around it."""
    spoken: tuple[str, ...]
    """Words in lower case, of letters and inner apostrophes; none where nothing in the word has a known sound."""
    notes: tuple[str, ...] = ()
    """Words that were read otherwise than written, and why."""


SOUNDS = (
    "applause|audience|breath|cough|cries|crosstalk|crying|gasp|giggl|inaudible|indistinct|laugh|music|noise|pause|sigh|"
    "silence|singing|sniff|throat|unclear|unintelligible|whisper"
)
"""How words begin that name a sound when they stand in parentheses, alone or with one word more."""
TAG = re.compile(
    rf"\[[^\[\]]*\]|<[^<>\s][^<>]*>|\{{[^{{}}]*\}}|\((?:[^()\s]+\s)?(?:{SOUNDS})\w*(?:\s[^()\s]+)?\)"
    r"|(?<!\S)speaker\s*\d+\s*:(?!\S)",
    re.I,
)
"""Words of a transcript that nobody says: [noise], <unk>, {breath}, (coughs), SPEAKER 1:"""


def spoken_words(text: str, language: str = "en") -> list[SpokenWord]:
    """Split a text at spaces, and say how each word is read.

    Args:
        language: decides how numbers, symbols and titles are read; only "en" has symbols and titles.

    Returns:
        One entry per word, also for those of which nothing is spoken, such as a dash that stands alone, or a tag.
    """
    text = unicodedata.normalize("NFC", text)
    tags = [range(*tag.span()) for tag in TAG.finditer(text)]
    if not tags:
        return [_spoken_word(word, language) for word in text.split()]
    hidden = {place for tag in tags for place in tag}
    said = "".join(" " if place in hidden else char for place, char in enumerate(text))
    words = []
    for match in re.finditer(r"\S+", text):
        rest = said[match.start() : match.end()]
        if rest == match[0]:
            words.append(_spoken_word(rest, language))
            continue
        read = _spoken_word("".join(rest.split()), language)
        notes = (f"{match[0]!r} is, or holds, a tag of the transcript, which nobody says",)
        notes += read.notes if read.spoken else ()
        words.append(SpokenWord(word=_without_edges(match[0]), spoken=read.spoken, notes=notes))
    return words


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
            spoken += [*comparable(words or "", language), *currencies]  # in our form: no hyphens or commas
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


def spell_number(match: re.Match[str], language: str = "en") -> str | None:
    """Return the words of a number that `NUMBER` matched; None where no speller for `language` is at hand.

    English: no "and" after hundreds; four bare digits from 1100 to 1999 and from 2010 to 2099 are a year; digits that
    begin with a zero, or have more than 15 places, are read one by one. Other readings are as good: what was chosen is
    in the report of the alignment.
    """
    digits, decimals, ordinal = match["digits"], match["decimals"], match["ordinal"]
    if not language.lower().startswith("en"):
        return _by_library(digits, decimals, bool(ordinal), language)
    bare = digits.replace(",", "")
    if (len(bare) > 1 and int(bare[0]) == 0) or len(bare) > 15:
        words = _one_by_one(bare)
    elif len(digits) == 4 and not (decimals or ordinal) and any(int(bare) in years for years in YEARS):
        words = _year(int(bare))
    else:
        words = english_cardinal(int(bare))
    if decimals:
        return " ".join([*words, "point", *_one_by_one(decimals)])
    return " ".join(_ordinal(words) if ordinal else words)


def english_cardinal(value: int) -> list[str]:
    """Spell 0 to 10**15 - 1: 1105 -> one thousand one hundred five."""
    if value < 20:
        return [ONES[value]]
    if value < 100:
        return [TENS[value // 10], *(english_cardinal(value % 10) if value % 10 else [])]
    if value < 1000:
        return [ONES[value // 100], "hundred", *(english_cardinal(value % 100) if value % 100 else [])]
    power = (len(str(value)) - 1) // 3
    above, below = divmod(value, 1000**power)
    return [*english_cardinal(above), SCALES[power], *(english_cardinal(below) if below else [])]


def _year(value: int) -> list[str]:
    century, rest = divmod(value, 100)
    if rest == 0:
        return [*english_cardinal(century), "hundred"]
    return [*english_cardinal(century), *(["oh"] if rest < 10 else []), *english_cardinal(rest)]


def _ordinal(words: list[str]) -> list[str]:
    last = words[-1]
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return [*words[:-1], IRREGULAR_ORDINALS.get(last, regular)]


def _one_by_one(digits: str) -> list[str]:
    return [ONES[int(digit)] for digit in digits]


def _by_library(digits: str, decimals: str | None, ordinal: bool, language: str) -> str | None:
    try:
        from num2words import num2words
    except ImportError:
        return None
    bare = digits.replace(",", "")
    try:
        value = float(f"{bare}.{decimals}") if decimals else int(bare)
        words = num2words(value, to="ordinal" if ordinal else "cardinal", lang=language)
    except (NotImplementedError, OverflowError):  # a language it does not know; a number too large for it
        return None
    return None if any(char.isdigit() for char in words) else words
