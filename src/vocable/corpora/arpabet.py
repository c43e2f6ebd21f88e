"""ARPAbet, the phones of CMUdict, in the symbols that the Kokoro synthesiser reads.

    K AE1 T  ->  kˈæt

Words and pseudo-words can so be spoken from phones, with no spelling between. Pronunciation is American whatever the
voice. Symbols: the Kokoro-82M model card and the phoneme inventory of the misaki project.
"""

from __future__ import annotations

from collections.abc import Sequence

from vocable.registry import look_up


def symbol_table(phones: str, symbols: str) -> dict[str, str]:
    """Return which symbol each phone has, from two rows of the same length with spaces between."""
    return dict(zip(phones.split(), symbols.split(), strict=True))


VOWELS = symbol_table(
    "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW",
    "ɑ  æ  ʌ  ɔ  W  I  ɛ  ɜɹ A  ɪ  i  O  Y  ʊ  u",
)
CONSONANTS = symbol_table(
    "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH",
    "b ʧ  d ð  f ɡ h  ʤ  k l m n ŋ  p ɹ s ʃ  t θ  v w j z ʒ",
)
REDUCED = {"AH": "ə", "ER": "əɹ"}
"""How vowels without stress sound where that is another symbol."""
STRESS = {"1": "ˈ", "2": "ˌ", "0": "", "": ""}


def is_arpabet(phones: Sequence[str]) -> bool:
    """Whether all phones are ARPAbet's, with or without stress digits."""
    return all(phone.rstrip("012") in VOWELS or phone in CONSONANTS for phone in phones)


def to_kokoro(phones: Sequence[str]) -> str:
    """Write phones in Kokoro's symbols, with the stress mark before its vowel.

    A word with no stress at all gets it on its first vowel: Kokoro swallows words without.

    Raises:
        UnknownNameError: a phone is not in ARPAbet.
    """
    digits = [phone.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for phone in phones]
    unstressed = not any(digit in ("1", "2") for digit in digits)
    symbols = ""
    for phone, digit in zip(phones, digits):
        base = phone.removesuffix(digit)
        if base in VOWELS:
            if unstressed:
                digit, unstressed = "1", False
            mark = look_up("stress digit", digit, STRESS)
            symbols += mark + (VOWELS[base] if mark else REDUCED.get(base, VOWELS[base]))
        else:
            symbols += look_up("ARPAbet phone", phone, CONSONANTS)
    return symbols
