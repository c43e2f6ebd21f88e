"""Spell numbers as they are read aloud.

    42 -> forty two      1984 -> nineteen eighty four      3.5 -> three point five      21st -> twenty first

English is spelled here; other languages by the library num2words, which is optional (LGPL).
"""

from __future__ import annotations

import re

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
