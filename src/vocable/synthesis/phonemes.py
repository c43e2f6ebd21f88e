"""English text to phonemes, word by word, in the symbols of Kokoro and hibari; and back from durations to times.

    "The old farmer."  ->  a phonemizer  ->  (The, "ði") (old, "ˈOld") (farmer, "fˈɑɹməɹ", ".")
    -> join_words -> "ði ˈOld fˈɑɹməɹ." -> frames of each symbol -> word_times, phone_times

A phonemizer is any function from a text to words with their phonemes. There are three: `hibari` (the extra `voice`:
a port of misaki, Kokoro's own, without GPL parts), `espeak-ng` (espeak_phonemes.py: a program), and `given`, for text
that is phonemes already, as for other languages. Next stage: text_to_speech.py, or a synthesiser of testsets/.
"""

import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError, missing_extra
from vocable.types import Phone, Word

Accent = Literal["en-us", "en-gb"]
PhonemizerName = Literal["hibari", "espeak-ng", "given"]

PAUSES = ",.;:!?…—"
"""Punctuation that the synthesisers read as a pause; one mark at most follows a word."""
QUOTES = '"“”„«»()[]{}'
"""Punctuation without a sound."""
SYMBOL_RATE = 40
"""Frames of durations per second."""
LEAD_FRAMES = 2
"""The sound of a symbol comes about 50 ms before its place in the sum of durations. Measured: units of Whisper tiny.en
know most about phones that are moved by 48 ms, and after pauses the sound begins 45 ms before the phone (median)."""
STRESS_MARKS = "ˈˌ"
LENGTH_MARKS = "ːʰʲ"
PAUSE_PHONE = "sil"


class WordPhonemes(NamedTuple):
    """A word, its phonemes in Kokoro's symbols, and the pause mark after it ("" for none)."""

    word: str
    phonemes: str
    pause: str


Phonemizer = Callable[[str], list[WordPhonemes]]
"""Anything that reads text; raises ConfigError where it holds no word, or one that cannot be read."""


def open_phonemizer(name: PhonemizerName | None = None, accent: Accent = "en-us") -> Phonemizer:
    """Open a phonemizer; without a name, hibari where it is installed, else espeak-ng.

    Raises:
        MissingDependencyError: it is not installed.
    """
    name = name or default_phonemizer()
    if name == "given":
        return read_given
    if name == "hibari":
        return functools.partial(phonemize_with_hibari, accent=accent)
    from vocable.synthesis import espeak_phonemes

    return functools.partial(espeak_phonemes.phonemize, accent=accent)


def default_phonemizer() -> PhonemizerName:
    """The phonemizer that is used where none is named."""
    try:
        metadata.version("hibari-tts")
    except metadata.PackageNotFoundError:
        return "espeak-ng"
    return "hibari"


def read_given(text: str) -> list[WordPhonemes]:
    """Read text that is phonemes already: words between spaces, each a pause mark at its end at most.

    Raises:
        ConfigError: there are none.
    """
    words: list[WordPhonemes] = []
    for token in text.split():
        phonemes = token.rstrip(PAUSES)
        pause = token[len(phonemes) : len(phonemes) + 1]
        if phonemes:
            words.append(WordPhonemes(phonemes, phonemes, pause))
        elif words and not words[-1].pause:
            words[-1] = words[-1]._replace(pause=pause)
    return _some(words, text)


def phonemize_with_hibari(text: str, accent: Accent = "en-us") -> list[WordPhonemes]:
    """Return the phonemes of every English word, by the phonemizer of the package hibari-tts.

    Numbers, dates, times, units and abbreviations are read out; the words that come back are those of the text, so
    that "7:30" is one word with the phonemes of two. Words without sound are left out.

    Raises:
        MissingDependencyError: the package is not installed.
        ConfigError: no word, or letters of another script than the Latin one.
    """
    text = " ".join(re.sub(r"(—|--|–(?!\d))", " — ", text.replace("’", "'").replace("...", "…")).split())
    foreign = next((char for char in text if char.isalpha() and "LATIN" not in unicodedata.name(char, "")), None)
    if foreign is not None:
        raise ConfigError(
            f"{text[:60]!r} has the letter {foreign!r}, which is not of the Latin script; hibari reads English. Give "
            "phonemes instead of text for other languages (phonemizer 'given')."
        )
    words = [bare for token in text.split() if (bare := bare_word(token))]
    text = without_shouting(text)
    normalise, g2p = _hibari(accent)
    groups: list[list[Any]] = [[]]
    unquoted = re.sub(f"[{re.escape(QUOTES)}]", " ", text)  # it takes a quotation mark before a word for a part of it
    for token in g2p.phonemize_tokens(g2p.tokenize(normalise(unquoted))):
        groups[-1].append(token)
        if token.whitespace:
            groups.append([])
    spoken: list[WordPhonemes] = []
    for group in groups:
        written = "".join(token.text for token in group)
        phonemes = "".join(token.phonemes or "" for token in group)
        sounds = "".join(char for char in phonemes if char not in PAUSES + QUOTES).strip()
        after = phonemes[len(phonemes.rstrip(PAUSES + QUOTES + " ")) :] if sounds else phonemes
        pause = next((char for char in after if char in PAUSES), "")
        if sounds:
            spoken.append(WordPhonemes(bare_word(written) or written, sounds, pause))
        elif pause and spoken and not spoken[-1].pause:
            spoken[-1] = spoken[-1]._replace(pause=pause)
    return _some(assign_words(words, spoken), text)


def assign_words(words: Sequence[str], spoken: Sequence[WordPhonemes]) -> list[WordPhonemes]:
    """Give the phonemes of a text that was rewritten (7:30 -> seven thirty) back to the words that it had.

    Words that both have, whatever their case, keep theirs; between them, words in the text share what was spoken, in
    order. Words to which nothing falls are left out; what falls to none, at a place where the text has no word, goes to
    the word before.
    """
    result: list[list[WordPhonemes]] = [[] for _ in words]
    written = [word.casefold() for word in words]
    matcher = difflib.SequenceMatcher(None, written, [word.word.casefold() for word in spoken], autojunk=False)
    for _, start, end, first, last in matcher.get_opcodes():
        for index in range(first, last):
            owner = start + (index - first) * (end - start) // (last - first) if end > start else max(start - 1, 0)
            if owner < len(result):
                result[owner].append(spoken[index])
    return [
        WordPhonemes(word, " ".join(part.phonemes for part in parts), parts[-1].pause)
        for word, parts in zip(words, result, strict=True)
        if parts
    ]


def without_shouting(text: str) -> str:
    """Return a text in lower case, but for the word "I", where it has no lower-case letter; others as they are.

    Phonemizers spell words in capitals letter by letter, as abbreviations, unless they know them: NORTHANGER, and IT.
    Beside words in lower case that is right (BBC), but many transcripts are in capitals throughout.
    """
    if any(char.islower() for char in text):
        return text
    return re.sub(r"\bi\b", "I", text.lower())


def bare_word(token: str) -> str:
    """A token without the punctuation around it; "" where it has no letter and no digit, unless it is a lone symbol."""
    bare = token.strip("".join(char for char in set(token) if not char.isalnum()))
    return bare or (token if token in ("&", "%", "+", "=", "@", "#", "$") else "")


def join_words(words: Sequence[WordPhonemes]) -> tuple[str, list[tuple[int, int]]]:
    """Join words as the synthesisers read them; return the string, and (first, one past the last) symbol per word."""
    text, spans = "", []
    for word in words:
        text += " " if text else ""
        spans.append((len(text), len(text) + len(word.phonemes)))
        text += word.phonemes + word.pause
    return text, spans


def split_long(words: Sequence[WordPhonemes], max_symbols: int) -> list[list[WordPhonemes]]:
    """Split words into parts of at most so many symbols each, after pauses where that is possible.

    Raises:
        ConfigError: one word has more symbols.
    """
    parts: list[list[WordPhonemes]] = []
    rest = list(words)
    while rest:
        sizes = np.cumsum([len(word.phonemes + word.pause) + 1 for word in rest]) - 1
        fits = int((sizes <= max_symbols).sum())
        if fits == 0:
            raise ConfigError(f"The word {rest[0].word[:40]!r} has more than {max_symbols} phonemes.")
        if fits < len(rest):
            fits = next((count for count in range(fits, 0, -1) if rest[count - 1].pause), fits)
        parts.append(rest[:fits])
        rest = rest[fits:]
    return parts


def word_times(
    words: Sequence[str], spans: Sequence[tuple[int, int]], durations: np.ndarray, first_frame: int = 0
) -> tuple[Word, ...]:
    """Turn frames per symbol into word times in seconds.

    A space with no pause mark before it is no silence: both neighbours get half of it.
    """
    edges = first_frame + np.concatenate([[0], np.cumsum(durations)])
    starts = [float(edges[first]) for first, _ in spans]
    ends = [float(edges[last]) for _, last in spans]
    for index in range(len(spans) - 1):
        if spans[index + 1][0] - spans[index][1] == 1:
            starts[index + 1] = ends[index] = (starts[index + 1] + ends[index]) / 2
    return tuple(Word(word=w, start=s / SYMBOL_RATE, end=e / SYMBOL_RATE) for w, s, e in zip(words, starts, ends))


def phone_times(symbols: str, durations: np.ndarray, first_frame: int = 0) -> tuple[Phone, ...]:
    """Turn frames per symbol into phone times in seconds.

    The frames of a stress mark go to the phone after it, those of a length mark to the phone before it, and a space
    with no pause mark beside it is shared by its neighbours as in `word_times`. A pause mark, with the space after it,
    is the phone `PAUSE_PHONE`. What lies before the first symbol and after the last has no phone.
    """
    phones: list[list] = []  # phone, first frame, one past the last
    position, waiting, shared = float(first_frame), None, 0.0
    for symbol, frames in zip(symbols, durations.tolist()):
        start, position = position, position + frames
        if symbol in STRESS_MARKS:
            waiting = start if waiting is None else waiting
        elif symbol in LENGTH_MARKS and phones:
            phones[-1][2] = position
        elif symbol == " " and phones:
            shared = 0.0 if phones[-1][0] == PAUSE_PHONE else frames / 2
            phones[-1][2] = position - shared
        else:
            begin = (start if waiting is None else waiting) - shared
            phones.append([PAUSE_PHONE if symbol in PAUSES else symbol, begin, position])
            waiting, shared = None, 0.0
    return tuple(Phone(phone=phone, start=start / SYMBOL_RATE, end=end / SYMBOL_RATE) for phone, start, end in phones)


def _some(words: list[WordPhonemes], text: str) -> list[WordPhonemes]:
    if not words:
        raise ConfigError(f"{text!r} holds no word to speak.")
    return words


@functools.lru_cache(maxsize=2)
def _hibari(accent: Accent) -> tuple[Callable[[str], str], Any]:
    """The function that writes numbers and the like out, and the grapheme-to-phoneme converter."""
    try:
        from hibari.g2p import G2P
        from hibari.g2p.normalize import normalize
    except ImportError as error:
        raise missing_extra("hibari-tts", "voice", "Turning English text into phonemes") from error
    return normalize, G2P(british=accent == "en-gb")
