"""Does generated text repeat itself, its neighbours, or its prompt?

    auto-BLEU   n-grams of a text that occur again in the same text       stuttering
    self-BLEU   n-grams of a text that occur in the other texts            always the same answer
    VERT        sqrt(self-BLEU2 * auto-BLEU2)                              both
    copy rate   longest stretch of words taken from the prompt             parroting

A language model gets a low perplexity by repeating itself or its prompt, so generative perplexity is never reported
without these. All are shares from 0 to 1 (papers print them times 100); lower is more diverse.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

from vocable.errors import ConfigError, missing_extra

Averaging = Literal["arithmetic", "geometric"]
Words = Sequence[str]


def plain_words(text: str) -> list[str]:
    """Words in lower case without punctuation but apostrophes: what the recogniser of the GSLM protocol writes."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("\u2019", "'"))


def nltk_words(text: str) -> list[str]:
    """NLTK's word tokens, as in Slam: case counts, punctuation marks are words, "don't" is two of them.

    Raises:
        MissingDependencyError: nltk is not installed.
    """
    try:
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise missing_extra("nltk", "eval", "auto-BLEU as in Slam") from error
    return NLTKWordTokenizer().tokenize(text)


def auto_bleu_gslm(words: Words, max_order: int = 2, averaging: Averaging = "geometric") -> float:
    """Share of n-grams that occur elsewhere in the text, averaged over the orders 1 to `max_order`.

    An occurrence that overlaps the n-gram is not elsewhere: "a a a" has no repeated bigram. Fewer than two words: 0.

    Source: On Generative Spoken Language Modeling from Raw Audio (Lakhotia et al., 2021, arXiv:2102.01192), in the form
    of its published evaluation code, which prints both averages for the orders 2 and 3.
    Differs: an order that the text is too short for counts as 0; there it is NaN.
    """
    if len(words) < 2:
        return 0.0
    return _average([_repeated_share(words, n, overlapping=False) for n in range(1, max_order + 1)], averaging)


def auto_bleu_slam(words: Words, order: int = 2) -> float:
    """Share of n-grams of one order that occur more than once; overlapping ones count: "a a a" has two.

    Source: Slamming (Maimon et al., 2025, arXiv:2502.15814), in the form of its code: bigrams of `nltk_words`. A text
    too short for a bigram gets 0, as there.
    """
    return _repeated_share(words, order, overlapping=True)


def self_bleu(texts: Sequence[Words], max_order: int = 2, averaging: Averaging = "geometric") -> list[float]:
    """BLEU of each text against all others as its references, without the brevity penalty.

    Counts are clipped by the largest count in one reference. Without smoothing: the geometric average is 0 where an
    order has no match. The time is linear in the number of words: of each n-gram only the two texts are remembered
    that hold it most often.

    Source: Zhu et al., 2018, "Texygen", arXiv:1802.01886; without brevity penalty and with both averages in the
    evaluation code of GSLM (arXiv:2102.01192).

    Raises:
        ConfigError: there are fewer than two texts.
    """
    if len(texts) < 2:
        raise ConfigError(f"self-BLEU compares texts with each other; there are {len(texts)}, at least 2 are needed.")
    by_order = [_precisions_against_others(texts, n) for n in range(1, max_order + 1)]
    return [_average(list(precisions), averaging) for precisions in zip(*by_order)]


def vert(self_bleu2: float, auto_bleu2: float) -> float:
    """Geometric mean of self-BLEU2 and auto-BLEU2 ("diversity"; source: GSLM, arXiv:2102.01192)."""
    return math.sqrt(self_bleu2 * auto_bleu2)


def copy_rate(prompt: Words, words: Words) -> float | None:
    """Longest n-gram that text and prompt share, in words, as a share of the text; None for an empty text.

    1 means that the whole text stands in the prompt. It is to be read beside the perplexity of prompt and text
    together (PELM of SUTLM, Chou et al., 2023, arXiv:2310.08715), which repeating the prompt lowers.
    """
    if not words:
        return None
    match = SequenceMatcher(None, list(prompt), list(words), autojunk=False).find_longest_match()
    return match.size / len(words)


def _ngrams(words: Words, order: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]


def _repeated_share(words: Words, order: int, overlapping: bool) -> float:
    grams = _ngrams(words, order)
    if not grams:
        return 0.0
    first = {gram: place for place, gram in reversed(list(enumerate(grams)))}
    last = {gram: place for place, gram in enumerate(grams)}
    distance = 1 if overlapping else order
    repeated = [place - first[gram] >= distance or last[gram] - place >= distance for place, gram in enumerate(grams)]
    return sum(repeated) / len(grams)


def _precisions_against_others(texts: Sequence[Words], order: int) -> list[float]:
    """For each text, the share of its n-grams that the others hold, clipped by the most that one of them holds."""
    counts = [Counter(_ngrams(words, order)) for words in texts]
    most: dict[tuple[str, ...], list[tuple[int, int]]] = {}  # n-gram -> (count, text), the two largest
    for owner, count in enumerate(counts):
        for gram, times in count.items():
            most[gram] = sorted([*most.get(gram, []), (times, owner)], reverse=True)[:2]
    shares = []
    for owner, count in enumerate(counts):
        matched = sum(
            min(times, next((other for other, whose in most[gram] if whose != owner), 0))
            for gram, times in count.items()
        )
        shares.append(matched / max(count.total(), 1))
    return shares


def _average(shares: Sequence[float], averaging: Averaging) -> float:
    if averaging == "arithmetic":
        return sum(shares) / len(shares)
    if averaging == "geometric":
        return math.prod(shares) ** (1 / len(shares))
    raise ConfigError(f"averaging is {averaging!r}; known: arithmetic, geometric.")
