"""ARPAbet, the phones of CMUdict, in the symbols that the Kokoro synthesiser reads.

    K AE1 T  ->  kˈæt

Words and pseudo-words can so be spoken from phones, with no spelling between. Pronunciation is American whatever the
voice. Symbols: the Kokoro-82M model card and the phoneme inventory of the misaki project.
"""

from __future__ import annotations

from collections.abc import Sequence

from vocable.registry import look_up

VOWELS = {
    "AA": "ɑ",
    "AE": "æ",
    "AH": "ʌ",
    "AO": "ɔ",
    "AW": "W",
    "AY": "I",
    "EH": "ɛ",
    "ER": "ɜɹ",
    "EY": "A",
    "IH": "ɪ",
    "IY": "i",
    "OW": "O",
    "OY": "Y",
    "UH": "ʊ",
    "UW": "u",
}
CONSONANTS = {
    "B": "b",
    "CH": "ʧ",
    "D": "d",
    "DH": "ð",
    "F": "f",
    "G": "ɡ",
    "HH": "h",
    "JH": "ʤ",
    "K": "k",
    "L": "l",
    "M": "m",
    "N": "n",
    "NG": "ŋ",
    "P": "p",
    "R": "ɹ",
    "S": "s",
    "SH": "ʃ",
    "T": "t",
    "TH": "θ",
    "V": "v",
    "W": "w",
    "Y": "j",
    "Z": "z",
    "ZH": "ʒ",
}
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
