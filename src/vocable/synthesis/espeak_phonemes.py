"""English text to phonemes with the program espeak-ng, word by word, in the symbols of Kokoro and hibari.

    "on the hill"  ->  espeak-ng "ɔnðə hˈɪl"  ->  (on, "ɔn") (the, "ðə") (hill, "hˈɪl")

espeak-ng runs as a separate program. It writes some neighbouring words as one ("on the" becomes ɔnðə); the phonemes
of each word alone, aligned to those of the clause, tell where one ends. Other phonemizers: phonemes.py.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import unicodedata

from vocable.errors import ConfigError, MissingDependencyError
from vocable.synthesis.phonemes import PAUSES, Accent, WordPhonemes, without_shouting

# Kokoro writes a diphthong or an affricate as one symbol (Kokoro-82M model card; phoneme inventory of the misaki
# project). espeak-ng joins the two halves with the tie ^ that we ask for.
IPA = "ʔˌn̩ ʔn̩  ʔn  e^ɪ a^ɪ a^ʊ ɔ^ɪ d^ʒ t^ʃ ə^l n̩  ɚ  ɐ r x ç ɬ ʔ e"
KOKORO = "tᵊn tᵊn tᵊn A   I   W   Y   ʤ   ʧ   ᵊl  ᵊn əɹ ə ɹ k k l t A"
SHARED_SYMBOLS = dict(zip(IPA.split(), KOKORO.split(), strict=True)) | {"ʲ": ""}
ACCENT_SYMBOLS: dict[str, dict[str, str]] = {
    "en-us": {"o^ʊ": "O", "ɜːɹ": "ɜɹ", "ɜː": "ɜɹ", "ɪ^ə": "iə", "i^ə": "iə", "ɾ": "T", "ː": ""},
    "en-gb": {"ə^ʊ": "Q", "o^ʊ": "Q", "e^ə": "ɛː", "i^ə": "ɪə", "ɪ^ə": "ɪə", "ɾ": "t"},
}

STRESSED = {"I": "ˌI"}
"""Words that espeak-ng leaves without stress and that Kokoro then swallows: of five "I" that Whisper base missed, it
heard all five once they had secondary stress."""


def phonemize(text: str, accent: Accent = "en-us") -> list[WordPhonemes]:
    """Return the phonemes of every word of `text`.

    Raises:
        MissingDependencyError: espeak-ng is not installed.
        ConfigError: the text holds no word.
    """
    clauses = split_clauses(text)
    if not clauses:
        raise ConfigError(f"{text!r} holds no word to speak.")
    spoken: list[WordPhonemes] = []
    quiet = [words for words, _ in split_clauses(without_shouting(text))]
    for (words, pause), read in zip(clauses, quiet, strict=True):
        phonemes = _clause_phonemes(read, accent)
        pauses = [""] * (len(words) - 1) + [pause]
        spoken += [WordPhonemes(*parts) for parts in zip(words, phonemes, pauses)]
    spoken = [word._replace(phonemes=STRESSED.get(word.word, word.phonemes)) for word in spoken]
    return [word for word in spoken if word.phonemes]


def split_clauses(text: str) -> list[tuple[list[str], str]]:
    """Split a text into clauses of bare words, each with the pause mark that ends it ("" at the end of the text)."""
    clauses: list[tuple[list[str], str]] = []
    words: list[str] = []
    for token in re.sub(r"(—|–|--)", " — ", text.replace("’", "'").replace("...", "…")).split():
        word = token.strip("".join(char for char in set(token) if not char.isalnum()))
        tail = token[token.rfind(word) + len(word) :] if word else token
        pause = next((char for char in tail if char in PAUSES), "")
        if word:
            words.append(word)
        if pause and words:
            clauses.append((words, pause))
            words = []
    return clauses + ([(words, "")] if words else [])


def to_kokoro(ipa: str, accent: Accent) -> str:
    """Rewrite what `espeak-ng --ipa --tie=^` prints in Kokoro's symbols, longest match first."""
    table = SHARED_SYMBOLS | ACCENT_SYMBOLS[accent]
    ipa = unicodedata.normalize("NFC", re.sub(r"\([a-z-]+\)", "", ipa))
    pattern = "|".join(re.escape(symbols) for symbols in sorted(table, key=len, reverse=True))
    kokoro = re.sub(pattern, lambda match: table[match[0]], ipa)
    return "".join(char for char in kokoro if char != "^" and not unicodedata.combining(char))


def align_words(clause: str, words: list[str]) -> list[str]:
    """Cut the phonemes of a clause into words, by the cheapest alignment to the phonemes of each word alone.

    A space may be dropped or added at half the price of a phoneme, and never stands for one.
    """
    reference = [(symbol, index) for index, word in enumerate(words) for symbol in word + " "][:-1]
    rows, columns = len(clause) + 1, len(reference) + 1
    cost = [[0.0] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            if i or j:
                cost[i][j] = min(price for price, _, _ in _edits(cost, clause, reference, i, j))
    parts: list[list[str]] = [[] for _ in words]
    i, j = rows - 1, columns - 1
    while i or j:
        _, before_i, before_j = min(_edits(cost, clause, reference, i, j))
        if before_i < i and clause[i - 1] != " ":
            parts[reference[max(j, 1) - 1][1]].append(clause[i - 1])
        i, j = before_i, before_j
    return ["".join(reversed(part)) for part in parts]


def _edits(
    cost: list[list[float]], clause: str, reference: list[tuple[str, int]], i: int, j: int
) -> list[tuple[float, int, int]]:
    """The ways to reach cell (i, j): price so far, and the cell before."""
    ways = []
    if i:
        ways.append((cost[i - 1][j] + (0.5 if clause[i - 1] == " " else 1.0), i - 1, j))
    if j:
        ways.append((cost[i][j - 1] + (0.5 if reference[j - 1][0] == " " else 1.0), i, j - 1))
    if i and j:
        ours, theirs = clause[i - 1], reference[j - 1][0]
        if ours == theirs:
            ways.append((cost[i - 1][j - 1], i - 1, j - 1))
        elif " " not in (ours, theirs):
            ways.append((cost[i - 1][j - 1] + (1.0 if _is_stress(ours) == _is_stress(theirs) else 2.5), i - 1, j - 1))
    return ways


def _is_stress(symbol: str) -> bool:
    return symbol in "ˈˌ"


def _clause_phonemes(words: list[str], accent: Accent) -> list[str]:
    alone = [to_kokoro(_espeak(word, accent), accent).replace(" ", "") for word in words]
    together = align_words(to_kokoro(_espeak(" ".join(words), accent), accent), alone)
    lost = any(not part.strip("ˈˌ") and single for part, single in zip(together, alone))
    return alone if lost else together


@functools.lru_cache(maxsize=20_000)
def _espeak(text: str, accent: Accent) -> str:
    program = shutil.which("espeak-ng")
    if program is None:
        raise MissingDependencyError(
            "Turning English text into phonemes needs the program espeak-ng, which is not on the path. "
            "Install it: apt install espeak-ng (Debian, Ubuntu), brew install espeak-ng (macOS). Or do without it: "
            "pip install 'vocable[voice]', and name the phonemizer hibari or none."
        )
    command = [program, "-q", "--ipa", "--tie=^", "-v", accent, "--stdin"]
    result = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    if result.returncode != 0:
        raise ConfigError(f"espeak-ng could not read {text!r}: {result.stderr.strip()}")
    return " ".join(result.stdout.split())
