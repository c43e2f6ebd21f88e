"""A rough pronunciation for an English word that no dictionary has, good enough to find the word in its audio.

    quenelles -> K W EH N EH L EH S

One phone a letter or group of letters, longest group first; no claim to be right. In forced alignment a rough guess
does far less harm than leaving the word out, which spoils the times of its neighbours (docs/experiments.md).
"""

from __future__ import annotations

import unicodedata

GROUPS = {
    "tch": "CH", "igh": "AY", "sch": "S K", "tio": "SH AH", "sio": "SH AH", "ch": "CH", "sh": "SH", "th": "TH",
    "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "qu": "K W", "gh": "", "kn": "N", "wr": "R", "ee": "IY", "ea": "IY",
    "oo": "UW", "ou": "AW", "ow": "OW", "oa": "OW", "oy": "OY", "oi": "OY", "ai": "EY", "ay": "EY", "au": "AO",
    "aw": "AO", "ew": "UW", "er": "ER", "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R", "ce": "S", "ci": "S IH",
    "cy": "S IY", "ge": "JH", "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH",
    "i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S",
    "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
"""Letters to ARPAbet phones without stress. Our own table."""


def guess_phones(word: str) -> str | None:
    """Return phones in ARPAbet, separated by spaces; None for a word without a Latin letter."""
    letters = "".join(
        char for char in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(char)[0] == "L"
    )
    if not all(char in GROUPS for char in letters):
        return None  # another script
    undoubled = "".join(
        char for index, char in enumerate(letters) if char in "eo" or char != letters[index - 1 : index]
    )
    if len(undoubled) > 3 and word.lower()[-1] == "e" == undoubled[-1] and undoubled[-2] not in "aeiou":
        undoubled = undoubled[:-1]  # silent
    phones, position = [], 0
    while position < len(undoubled):
        length = next(n for n in (3, 2, 1) if undoubled[position : position + n] in GROUPS)
        phones.append(GROUPS[undoubled[position : position + length]])
        position += length
    return " ".join(phone for phone in phones if phone) or None
