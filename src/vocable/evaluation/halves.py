"""Cut utterances in two at a word border: a prompt and what follows it, spoken and written, with the same cut.

    words   the    cat    sat    on     mats               share 0.5 of 5 words: 2 in the prompt
    text    "The cat"  |  " sat on mats."
    units    5 9 9 2 2 |   2 7 7 1 1 3 8                   a run of equal units over the cut becomes two runs

Source: context retrieval accuracy and PELM of SUTLM (Chou et al., 2023, arXiv:2310.08715) take a prompt and its
continuation from one sentence. Where the paper cuts is not known to us; here it is a share of the words. The rule for
units at a border is that of sequences/word_slices.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.unusable import UnusableError
from vocable.sequences.word_slices import Pause, slice_frames, word_borders, word_texts
from vocable.types import SpeechTokens, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class CutConfig:
    """Where utterances are cut."""

    share: float = 0.5
    """Share of the words that the prompt gets; of an odd number at 0.5, the continuation gets one more."""
    min_words: int = 2
    """Fewest words of prompt and of continuation; shorter utterances are left out, and counted."""
    pause: Pause = "middle"
    """Whose units the pause at the cut is: halved, or all of the prompt's (before), or the continuation's (after)."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"cut.share is {self.share}; it must be above 0 and below 1.")
        if self.min_words < 1:
            raise ConfigError(f"cut.min_words is {self.min_words}; a half needs at least 1 word.")


class Half(NamedTuple):
    """The prompt or the continuation."""

    text: str
    """Of a continuation: with the blank that divides it from the prompt."""
    num_words: int
    tokens: SpeechTokens | None = None
    """None where speech is not read."""


class CutUtterance(NamedTuple):
    """An utterance in two halves."""

    id: str
    speaker: str | None
    prompt: Half
    continuation: Half


class SpeechForm(NamedTuple):
    """How a model reads the speech of an utterance."""

    frame_rate: float
    """Frames per second of the tokens."""
    collapsed: bool
    """Merge runs of equal units, inside each half."""


def words_in_prompt(num_words: int, config: CutConfig) -> int:
    """Return how many words the prompt gets.

    Raises:
        UnusableError: there are too few words for two halves.
    """
    if num_words < 2 * config.min_words:
        raise UnusableError(f"fewer than {2 * config.min_words} words")
    # the small number keeps 0.3 * 10 from being 2
    return min(max(int(config.share * num_words + 1e-9), config.min_words), num_words - config.min_words)


def cut_utterance(
    utterance: Utterance,
    config: CutConfig,
    tokens: SpeechTokens | None = None,
    speech: SpeechForm | None = None,
    text_form: Literal["text", "words"] = "text",
) -> CutUtterance:
    """Cut one utterance.

    Args:
        utterance: with its words.
        config: where to cut.
        tokens: of the whole utterance; needed with `speech`.
        speech: how the model reads speech; None: it reads none.
        text_form: write the utterance's text (its words where it has none), or always the words, as a layout says.

    Raises:
        UnusableError: it cannot be cut; the message is the reason that is counted.
    """
    if not utterance.words:
        raise UnusableError("no word times")
    words = utterance.words
    count = words_in_prompt(len(words), config)
    pieces = word_texts(utterance.text if text_form == "text" else None, words)
    texts = "".join(pieces[:count]).strip(), "".join(pieces[count:]).rstrip()
    if not all(text.strip() for text in texts):
        raise UnusableError("a half has no text")
    spoken: tuple[SpeechTokens | None, SpeechTokens | None] = (None, None)
    if speech is not None:
        if tokens is None or tokens.num_frames == 0:
            raise UnusableError("no tokens: audio unreadable or refused")
        try:
            border = int(word_borders(words, tokens.num_frames, speech.frame_rate, config.pause)[count])
        except ManifestError as error:
            raise UnusableError("words and tokens do not fit each other") from error
        ends = (0, border), (border, tokens.num_frames)
        spoken = tuple(slice_frames(tokens, *end, collapsed=speech.collapsed) for end in ends)  # type: ignore[assignment]
    return CutUtterance(
        utterance.id,
        utterance.speaker,
        Half(texts[0], count, spoken[0]),
        Half(texts[1], len(words) - count, spoken[1]),
    )


def cut_all(
    utterances: Sequence[Utterance],
    cut: Callable[[Utterance], CutUtterance],
) -> tuple[list[CutUtterance], Counter[str]]:
    """Cut all that can be cut; return them with what was left out, counted by reason."""
    found, left_out = [], Counter[str]()
    for utterance in utterances:
        try:
            found.append(cut(utterance))
        except UnusableError as error:
            left_out[str(error)] += 1
    return found, left_out


def without_words(utterances: Sequence[Utterance], config: CutConfig) -> tuple[list[Utterance], Counter[str]]:
    """Drop what cannot be cut for its words alone, so that it need not be encoded; return the rest, and the reasons."""
    kept, left_out = [], Counter[str]()
    for utterance in utterances:
        try:
            cut_utterance(utterance, config)
            kept.append(utterance)
        except UnusableError as error:
            left_out[str(error)] += 1
    return kept, left_out


def reasons(left_out: Mapping[str, int]) -> str:
    """Write counts of reasons for an error message."""
    return ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "there are none"
