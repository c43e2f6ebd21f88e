"""Which words of a sentence are spoken and which written, when a sequence alternates between the two.

    words    the cat sat on the mat by the door     seed, epoch, utterance id
    spans    [speech.....] [text.....] [speech]     <- decide

How SUTLM (Chou et al., 2023, arXiv:2310.08715) chose its spans is unread. The policies here are those of its
neighbours, and a coin at every border: Spirit-LM draws lengths from ranges, SIMS from a Poisson distribution.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError

Modality = Literal["speech", "text"]
First = Literal["random", "speech", "text"]


class Span(NamedTuple):
    """Words `start` to `stop` - 1 in one modality."""

    modality: Modality
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSpans:
    """Lengths drawn evenly from a range for each modality, in turn, until the words are used up."""

    kind: Literal["range"] = "range"
    speech_words: tuple[int, int] = (3, 8)
    """Fewest and most words of a spoken span. Spirit-LM: 5 to 15; shorter here, since SUTLM reads single sentences."""
    text_words: tuple[int, int] = (3, 8)
    """Fewest and most words of a written span. Spirit-LM: 10 to 30."""
    first: First = "random"
    """Which modality begins."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("speech_words", self.speech_words), ("text_words", self.text_words)):
            if not 1 <= low <= high:
                raise ConfigError(f"spans.{name} is {low} to {high}; the fewest must be at least 1, at most the most.")

    def plan(self, num_words: int, rng: np.random.Generator) -> list[Span]:
        """Divide the words into spans of alternating modality."""
        modality, lengths = _first(self.first, rng), []
        for index in range(num_words):  # at most a span a word
            if sum(lengths) >= num_words:
                break
            spoken = (modality == "speech") == (index % 2 == 0)
            low, high = self.speech_words if spoken else self.text_words
            lengths.append(int(rng.integers(low, high + 1)))
        return _alternate(modality, lengths, num_words)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSpans:
    """Spoken spans of Poisson length until a share of the words is spoken; the rest is written.

    SIMS (arXiv:2504.02398): mean 10, share 0.3. Our choices: a length of 0 counts as 1; the last span is shortened, so
    that the share is met (rounded up to whole words) and not exceeded; spans lie at random, apart from each other as
    long as there are written words enough to keep them so.
    """

    kind: Literal["poisson"] = "poisson"
    mean_words: float = 10.0
    speech_share: float = 0.3

    def __post_init__(self) -> None:
        if self.mean_words <= 0 or not 0 <= self.speech_share <= 1:
            raise ConfigError(
                f"spans.mean_words is {self.mean_words} and speech_share {self.speech_share}; the first must be above "
                "0, the second between 0 and 1."
            )

    def plan(self, num_words: int, rng: np.random.Generator) -> list[Span]:
        """Place spoken spans among the words."""
        left = int(np.ceil(self.speech_share * num_words - 1e-9))
        lengths = []
        while left > 0:
            lengths.append(min(left, max(1, int(rng.poisson(self.mean_words)))))
            left -= lengths[-1]
        written = num_words - sum(lengths)
        gaps = _gaps(written, len(lengths), rng)
        spans, place = [], 0
        for index, gap in enumerate(gaps):
            spans.append(Span("text", place, place := place + gap))
            if index < len(lengths):
                spans.append(Span("speech", place, place := place + lengths[index]))
        return merge_spans(spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class BernoulliSpans:
    """A coin at every word border: switch or stay. Spans have geometric lengths, 1 / `switch` words on average."""

    kind: Literal["bernoulli"] = "bernoulli"
    switch: float = 0.2
    """Probability of a switch at a border; with 0.5, each word's modality is a fair coin of its own."""
    first: First = "random"

    def __post_init__(self) -> None:
        if not 0 <= self.switch <= 1:
            raise ConfigError(f"spans.switch is {self.switch}; a probability lies between 0 and 1.")

    def plan(self, num_words: int, rng: np.random.Generator) -> list[Span]:
        """Throw the coins."""
        modality = _first(self.first, rng)
        switches = np.flatnonzero(rng.random(max(num_words - 1, 0)) < self.switch) + 1
        borders = [0, *switches.tolist(), num_words]
        return _alternate(modality, np.diff(borders).tolist(), num_words)


SpanPolicy = RangeSpans | PoissonSpans | BernoulliSpans


def plan_spans(policy: SpanPolicy, num_words: int, *, seed: int, epoch: int, id: str) -> list[Span]:
    """Divide the words of one utterance: the same for the same seed, epoch and id, drawn anew in each epoch.

    Raises:
        ConfigError: there are no words.
    """
    if num_words < 1:
        raise ConfigError(f"Utterance {id!r} has no words; there is nothing to alternate.")
    return policy.plan(num_words, random_numbers(seed, epoch, id))


def random_numbers(seed: int, epoch: int, id: str) -> np.random.Generator:
    """Return the random numbers of one utterance in one epoch; nothing else decides them."""
    digest = hashlib.sha256(f"{seed}\n{epoch}\n{id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Drop empty spans and join neighbours of one modality."""
    merged: list[Span] = []
    for span in spans:
        if span.start == span.stop:
            continue
        if merged and merged[-1].modality == span.modality:
            span = Span(span.modality, merged.pop().start, span.stop)
        merged.append(span)
    return merged


def _first(first: First, rng: np.random.Generator) -> Modality:
    coin: Modality = "speech" if rng.random() < 0.5 else "text"
    return coin if first == "random" else first


def _alternate(modality: Modality, lengths: Sequence[int], num_words: int) -> list[Span]:
    spans, start = [], 0
    other: Modality = "text" if modality == "speech" else "speech"
    for index, length in enumerate(lengths):
        stop = min(start + length, num_words)
        spans.append(Span(modality if index % 2 == 0 else other, start, stop))
        start = stop
    return merge_spans(spans)


def _gaps(written: int, num_spoken: int, rng: np.random.Generator) -> list[int]:
    """Share written words out before, between and after the spoken spans, at least one between two where they last."""
    inner = max(num_spoken - 1, 0)
    kept = min(inner, written)
    places = np.sort(rng.integers(0, written - kept + 1, size=num_spoken))
    gaps = np.diff(np.concatenate([[0], places, [written - kept]]))
    gaps[1 : 1 + kept] += 1
    return gaps.tolist()
