"""Word and character error rate between what should be heard and what a recogniser heard.

    reference  the cat  sat down          substitutions + deletions + insertions
    heard      the hat  sat     here  ->  --------------------------------------  =  3 / 4
                   sub      del ins                 reference words

Both texts pass through one normaliser first, since recognisers write "$5" and "Mr." where a transcript says "five
dollars" and "mister". Alignment and counting are jiwer's.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from vocable.errors import ConfigError, missing_extra
from vocable.evaluation.results import Score, ratio_score
from vocable.registry import look_up

_IN_BRACKETS, _IN_PARENTHESES = re.compile(r"[<\[][^>\]]*[>\]]"), re.compile(r"\(([^)]+?)\)")
Level = Literal["word", "character"]
LEVELS: tuple[Level, ...] = ("word", "character")


class ErrorCounts(NamedTuple):
    """Edits that turn the reference into the hypothesis, and the length of the reference."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.deletions + self.insertions


class AlignedText(NamedTuple):
    """A stretch of two aligned texts; `kind` is equal, substitute, delete or insert."""

    kind: str
    reference: str
    hypothesis: str


def normalise_english(text: str) -> str:
    """Lower case, no punctuation, numbers as digits: the normaliser of the Whisper paper without its spelling list.

    In this order: lower case; text in brackets or parentheses and the fillers hmm, mm, mhm, mmm, uh, um removed;
    contractions and titles spelt out (won't -> will not, mr -> mister); diacritics and punctuation removed; spelt
    numbers become digits (twenty one -> 21, eighteen o three -> 1803), keeping currency signs, percent and ordinals.
    British and American spellings are kept apart (colour is not color). "o" and "oh" beside numbers read as zero.

    Source: Robust Speech Recognition via Large-Scale Weak Supervision (Radford et al., 2022, arXiv:2212.04356),
    appendix C; the implementation is that of transformers. Differs: the list of British spellings is empty; text
    without a letter or digit becomes "".
    """
    return _only_if_words(_english_normaliser()(text))


def normalise_basic(text: str) -> str:
    """For other languages: lower case, brackets and punctuation removed, diacritics kept.

    Source: the basic normaliser of the Whisper paper, as transformers has it. Differs: marks stay with their letters,
    where Whisper's makes spaces of those that Unicode does not compose, which cuts words of Hindi, Tamil, Thai or
    vocalised Hebrew and Arabic into pieces.
    """
    text = _IN_PARENTHESES.sub("", _IN_BRACKETS.sub("", text.lower()))
    kept = (" " if unicodedata.category(char)[0] in "SP" else char for char in unicodedata.normalize("NFKC", text))
    # again in lower case: compatibility forms, as mathematical letters, become capitals by NFKC
    return _only_if_words(" ".join("".join(kept).lower().split()))


def normalise_none(text: str) -> str:
    """Only runs of white space become one space: case and punctuation count."""
    return " ".join(text.split())


NORMALISERS: dict[str, Callable[[str], str]] = {
    "english": normalise_english,
    "basic": normalise_basic,
    "none": normalise_none,
}


def count_errors(reference: str, hypothesis: str, level: Level = "word", normaliser: str = "english") -> ErrorCounts:
    """Count the edits between two texts.

    Args:
        hypothesis: what was heard; empty text counts every reference word as deleted.
        level: "word", or "character" (spaces count as characters).
        normaliser: applied to both; a name in `NORMALISERS`.

    Returns:
        Counts whose `reference_length` is 0 when the normalised reference is empty: such an item has no error rate.

    Raises:
        ConfigError: `level` is unknown.
        UnknownNameError: `normaliser` is unknown.
        MissingDependencyError: jiwer is not installed.
    """
    normalise = look_up("text normaliser", normaliser, NORMALISERS)
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if level not in LEVELS:
        raise ConfigError(f"level is {level!r}; it must be 'word' or 'character'.")
    if not reference:  # jiwer refuses it; each heard word or character is an insertion
        return ErrorCounts(0, 0, len(hypothesis.split() if level == "word" else hypothesis), 0)
    jiwer = _jiwer()
    process = jiwer.process_words if level == "word" else jiwer.process_characters
    found = process(reference, hypothesis)
    length = found.hits + found.substitutions + found.deletions
    return ErrorCounts(found.substitutions, found.deletions, found.insertions, length)


def error_columns(
    column: str, reference: str | None, hypothesis: str, normaliser: str = "english"
) -> dict[str, int | None]:
    """Count the errors in words and in characters, in columns that `column_error_rate` and 'vocable compare' read.

    Without a reference, every column holds None.
    """
    found: dict[str, int | None] = {}
    for level in LEVELS:
        counts = None if reference is None else count_errors(reference, hypothesis, level, normaliser)
        found |= {f"{column}_{level}_{part}": getattr(counts, part, None) for part in ErrorCounts._fields}
    return found


def column_error_rate(
    items: Sequence[Mapping[str, Any]], column: str, *, meaning: str, seed: int = 0, num_resamples: int = 2000
) -> Score:
    """All errors over all reference words (or characters), with 95 % intervals over utterances and over speakers.

    Items hold the counts in columns: `<column>_substitutions`, and so on. Long utterances weigh more, as is usual; it
    is not the mean of the utterances' rates. Can exceed 1.
    """
    counts = [ErrorCounts(*(item[f"{column}_{part}"] for part in ErrorCounts._fields)) for item in items]
    sums = [count.errors for count in counts], [count.reference_length for count in counts]
    speakers = [item["speaker"] for item in items]
    return ratio_score(*sums, speakers, better="lower", meaning=meaning, seed=seed, num_resamples=num_resamples)


def align_texts(reference: str, hypothesis: str, normaliser: str = "english") -> list[AlignedText]:
    """Cut two normalised texts into stretches that are equal, substituted, deleted or inserted, in reading order."""
    normalise = look_up("text normaliser", normaliser, NORMALISERS)
    reference, hypothesis = normalise(reference), normalise(hypothesis)
    if not reference:
        return [AlignedText("insert", "", hypothesis)] if hypothesis else []
    (chunks,) = _jiwer().process_words(reference, hypothesis).alignments
    said, heard = reference.split(), hypothesis.split()
    return [
        AlignedText(
            chunk.type,
            " ".join(said[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in chunks
    ]


def _only_if_words(text: str) -> str:
    return text.strip() if re.search(r"\w", text) else ""


@functools.cache
def _english_normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def _jiwer():
    try:
        import jiwer
    except ImportError as error:
        raise missing_extra("jiwer", "eval", "Word error rate") from error
    return jiwer
