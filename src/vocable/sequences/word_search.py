"""Find words in a text that somebody names: by themselves or several in a row, and which of several alike."""

from collections.abc import Callable, Sequence
from typing import Any

from vocable.errors import ConfigError


def find_words(
    words: Sequence[str],
    wanted: Sequence[str],
    nth: Any = None,
    key: Callable[[str], str] = str.casefold,
    purpose: str = "to change",
    example: str = "nth: 1",
) -> range:
    """Find some words in a row among those of a text, and return their places.

    Args:
        words: Words of the text.
        wanted: The words to find.
        nth: Which one, from 1, where they are there several times.
        key: Words are the same where this is.
        purpose: For messages, what they are wanted for.
        example: For messages, how to say which one.

    Raises:
        ConfigError: they are not there; or several times, and `nth` does not say which.
    """
    keys, keys_wanted = [key(word) for word in words], [key(word) for word in wanted]
    size = len(wanted)
    places = [place for place in range(len(words) - size + 1) if keys[place : place + size] == keys_wanted]
    name, noun, be = repr(" ".join(wanted)), *(("word", "is") if size == 1 else ("words", "are"))
    if not places:
        raise ConfigError(f"There {be} no {noun} {name} {purpose}. Words: {', '.join(words)}.")
    if nth is None and len(places) > 1:
        raise ConfigError(f"The {noun} {name} {be} there {len(places)} times; say which one, such as {example}.")
    number = 1 if nth is None else nth
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(places):
        raise ConfigError(f"nth is {nth!r}; the {noun} {name} {be} there {len(places)} times: 1 to {len(places)}.")
    return range(places[number - 1], places[number - 1] + size)


def plain_letters(word: str) -> str:
    """Return the letters and digits of a word, without case: words with the same ones are the same word."""
    return "".join(letter for letter in word.casefold() if letter.isalnum())
