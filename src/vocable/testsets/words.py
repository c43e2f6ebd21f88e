"""Words against pseudo-words, in any language with a pronouncing lexicon: pairs like those of sWUGGY.

    lexicon, counts -> words, evenly from the frequency bands -> a pseudo-word each -> planned pairs

sWUGGY: the ZeroSpeech 2021 benchmark (Nguyen et al., 2020, arXiv:2011.11588, section 3).
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vocable.errors import ConfigError
from vocable.testsets.lexicon import Lexicon, Pronunciation
from vocable.testsets.phonotactics import PseudoWord, PseudoWordConfig, PseudoWordMaker
from vocable.testsets.plan import PlannedPair, SpokenText, check_count, draw_evenly
from vocable.testsets.spelling import Speller

SPELLING_TRIALS = 5
"""Pseudo-words that are tried for a word until one is not spelled like a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordPairsConfig:
    """Which words are taken."""

    num_pairs: int = 400
    """Pairs of word and pseudo-word."""
    min_phones: int = 3
    """Fewest phones of a word."""
    max_phones: int = 9
    """Most phones of a word."""
    min_count: int | None = None
    """Fewest occurrences of a word in the counts. Without it, 1 where there are counts, so that no word is outside of
    the vocabulary."""
    seed: int = 0
    """Seed of the drawing of words and pseudo-words."""
    pseudo_words: PseudoWordConfig = field(default_factory=PseudoWordConfig)
    """How pseudo-words are made."""

    def __post_init__(self) -> None:
        check_count("num_pairs", self.num_pairs)
        if not 1 <= self.min_phones <= self.max_phones:
            raise ConfigError(
                f"min_phones is {self.min_phones}, max_phones {self.max_phones}: 1 <= min <= max must hold."
            )


class PlannedWords(NamedTuple):
    """The pairs, and how well they match (for the card)."""

    pairs: list[PlannedPair]
    matching: dict[str, Any]


def plan_word_pairs(lexicon: Lexicon, config: WordPairsConfig) -> PlannedWords:
    """Choose words, and make a pseudo-word for each; a word without a close one is skipped, and counted.

    Raises:
        ConfigError: no word is long and common enough, or there are counts to respect and none are known.
    """
    if config.min_count and not lexicon.counts:
        raise ConfigError(
            f"min_count is {config.min_count}, but the lexicon {lexicon.name} has no counts. Give a text to count "
            "words in: --counts FILE"
        )
    if config.min_count is None:
        config = replace(config, min_count=1 if lexicon.counts else 0)
    words = [word for word in lexicon.pronunciations if _is_eligible(word, lexicon, config)]
    maker, speller = PseudoWordMaker(lexicon, config.pseudo_words), Speller(lexicon, seed=config.seed)
    generator = random.Random(config.seed)
    pairs: list[PlannedPair] = []
    deltas: list[float] = []
    skipped = 0
    rows = _words_by_band(words, lexicon, config.seed)
    while rows and len(pairs) < config.num_pairs:
        band = next(iter(rows))
        row = rows.pop(band)
        while row:  # until a word of this band has a pseudo-word: bands stay even
            word = row.pop(0)
            phones = lexicon.pronunciations[word][0]
            found = _pseudo_word(word, phones, lexicon, maker, speller, generator)
            if found is not None:
                pseudo, spelling = found
                pairs.append(_pair(word, phones, spelling, pseudo.phones, band, len(pairs)))
                deltas.append(pseudo.delta)
                rows[band] = row  # last in the queue
                break
            skipped += 1
    if not pairs:
        raise ConfigError(
            f"The lexicon {lexicon.name} yields no pair: {len(words)} words have {config.min_phones} to "
            f"{config.max_phones} phones and a count of {config.min_count} or more, {skipped} of them no pseudo-word."
        )
    matching = {
        "min_count": config.min_count,
        "phone_model": "interpolated trigram, trained on the lexicon's pronunciations",
        "mean_abs_delta_log_p": round(statistics.fmean(map(abs, deltas)), 4),
        "mean_delta_log_p": round(statistics.fmean(deltas), 4),
        "max_abs_delta_log_p": round(max(map(abs, deltas)), 4),
        "mean_phones": round(statistics.fmean(len(pair.positive[0].phones or ()) for pair in pairs), 2),
        "num_words_without_pseudo_word": skipped,
    }
    return PlannedWords(pairs, matching)


def _words_by_band(words: list[str], lexicon: Lexicon, seed: int) -> dict[str | None, list[str]]:
    """The words of every frequency band, in random order."""
    rows: dict[str | None, list[str]] = {}
    for word in draw_evenly(words, None, key=lexicon.band, seed=seed):
        rows.setdefault(lexicon.band(word), []).append(word)
    return rows


def _pseudo_word(
    word: str,
    phones: Pronunciation,
    lexicon: Lexicon,
    maker: PseudoWordMaker,
    speller: Speller,
    generator: random.Random,
) -> tuple[PseudoWord, str] | None:
    """A pseudo-word and its spelling, which is no word either: `cave` would be read as one."""
    for _ in range(SPELLING_TRIALS):
        pseudo = maker.make(phones, generator)
        if pseudo is None:
            return None
        spelling = speller.spell(word, phones, pseudo.phones)
        if spelling not in lexicon.pronunciations:
            return pseudo, spelling
    return None


def _is_eligible(word: str, lexicon: Lexicon, config: WordPairsConfig) -> bool:
    """Letters only (with the vowel signs of scripts that have them), of the right length, common enough."""
    phones = lexicon.pronunciations[word][0]
    return (
        len(word) > 1
        and not any(char.isspace() or char.isdigit() or char in "'.-_" for char in word)
        and config.min_phones <= len(phones) <= config.max_phones
        and lexicon.counts.get(word, 0) >= (config.min_count or 0)
    )


def _pair(
    word: str, phones: Pronunciation, spelling: str, pseudo: Pronunciation, band: str | None, number: int
) -> PlannedPair:
    name = f"{number:04d}-{word}"
    return PlannedPair(
        id=name,
        positive=(SpokenText(text=word, phones=phones),),
        negative=(SpokenText(text=spelling, phones=pseudo),),
        group={"word": name} | ({} if band is None else {"band": band}),
        turn=number,
    )
