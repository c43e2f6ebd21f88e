"""ARPAbet in Kokoro's symbols, by hand; and every symbol is one that the model has, where it is cached."""

import json

import pytest

from vocable.corpora.arpabet import CONSONANTS, VOWELS, is_arpabet, to_kokoro
from vocable.errors import UnknownNameError


@pytest.mark.parametrize(
    ("phones", "symbols"),
    [
        ("K AE1 T", "kˈæt"),
        ("AH0 B AH1 V", "əbˈʌv"),  # without stress another vowel
        ("P AA1 P Y AH0 L EY2 T", "pˈɑpjəlˌAt"),
        ("B ER1 D ER0", "bˈɜɹdəɹ"),
        ("DH AH0", "ðˈʌ"),  # a word needs a stress
        ("S IH T IY", "sˈɪti"),
    ],
)
def test_by_hand(phones, symbols):
    assert to_kokoro(phones.split()) == symbols


def test_unknown_phones_are_named():
    with pytest.raises(UnknownNameError, match="Unknown ARPAbet phone 'X'"):
        to_kokoro(["X"])
    assert is_arpabet(["K", "AE1"]) and not is_arpabet(["k", "a"])


@pytest.mark.asset("kokoro")
def test_kokoro_knows_every_symbol():
    from vocable.assets import resolve

    vocabulary = json.loads((resolve("kokoro") / "vocab.json").read_text(encoding="utf-8"))
    for phone in [*CONSONANTS, *(f"{vowel}{digit}" for vowel in VOWELS for digit in "012")]:
        assert set(to_kokoro(["B", phone])) <= set(vocabulary), phone
