"""Utterances as rows of token ids, spoken or written, with the word that each position belongs to.

    spoken   <U> 5 9 9 2 4 <E>        written   <T> Tom sang in Os lo . <E>
    word      -  0 0 1 1 2  -                    -  0   1    2  3  3  3  -

A unit belongs to the word that has most of its frames, a unit subword to the word of most of its units, a text token to
the word that has most of its characters (ties: the earlier word). Symbols belong to none (-1). Next: heads.py.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.slue.words import Span, spoken_spans, written_spans
from vocable.evaluation.unusable import UnusableError
from vocable.lm.spoken import SpokenLM
from vocable.sequences.joint_layouts import JointLayout
from vocable.sequences.joint_rows import Part
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.subwords import units_over
from vocable.sequences.word_slices import word_borders
from vocable.types import SpeechTokens, Utterance, Word

Modality = Literal["speech", "text"]
TextCase = Literal["as_is", "lower"]
NO_WORD = -1


class TaskRow(NamedTuple):
    """A row, and the words that a head may say something about."""

    token_ids: Int[Tensor, " positions"]
    words: Int[Tensor, " positions"]
    """Index of the word that each position belongs to; `NO_WORD` for symbols, and where words are not known."""
    text: str
    """What `spans` count characters of."""
    spans: tuple[Span, ...]
    """Of each word; none where words are not known."""


class RowMaker(Protocol):
    """Makes rows for one language model."""

    modalities: tuple[Modality, ...]
    """That the model reads."""

    def spoken(self, utterance: Utterance, text: str, tokens: SpeechTokens, frame_rate: float | None) -> TaskRow:
        """Make a row of speech; without words in the utterance, a row without words."""
        ...

    def written(self, text: str) -> TaskRow:
        """Make a row of text."""
        ...


class JointRowMaker:
    """Rows for a model that reads speech and text: opener of the modality, content, end symbol."""

    modalities: tuple[Modality, ...] = ("speech", "text")

    def __init__(self, layout: JointLayout, text_case: TextCase = "as_is") -> None:
        """Take a bound layout; any of the joint ones, since only its vocabulary and its ids are used.

        Raises:
            ConfigError: the text tokenizer does not say where its tokens lie in a text.
        """
        if not getattr(layout.text_tokenizer, "is_fast", False):
            raise ConfigError("The model's text tokenizer is not a fast one, which knows where each token lies.")
        self.layout, self.text_case = layout, text_case

    def spoken(self, utterance: Utterance, text: str, tokens: SpeechTokens, frame_rate: float | None) -> TaskRow:
        """See `RowMaker`."""
        if tokens.num_frames == 0:
            raise UnusableError("no tokens: audio too short")
        known = self.layout.vocabulary
        ids = self.layout.ids_of(Part(tokens=tokens))
        units, durations = units_over(tokens, "runs" if self.layout.collapsed else "frames")
        sizes = torch.ones_like(units)
        if known.num_subwords is not None:
            sizes = self.layout.subwords.encode(tokens).num_units
        words, spans = _words_of_speech(utterance.words, text, durations, sizes, tokens.num_frames, frame_rate)
        return _close(known.unit_open_id, ids, known.end_id, words, text, spans)

    def written(self, text: str) -> TaskRow:
        """See `RowMaker`."""
        if self.text_case == "lower":  # letter by letter: places in the text stay
            text = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
        if not text.strip():
            raise UnusableError("the text is empty")
        known = self.layout.vocabulary
        encoded: Any = self.layout.text_tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = known.text_ids(torch.tensor(encoded["input_ids"], dtype=torch.int64))
        spans = written_spans(text)
        words = torch.tensor([word_of_characters(spans, *offset) for offset in encoded["offset_mapping"]])
        return _close(known.text_open_id, ids, known.end_id, words, text, spans)


class UnitRowMaker:
    """Rows for a model that reads units only: start symbol, units, end symbol; whatever the model's layout leaves out
    of these is left out."""

    modalities: tuple[Modality, ...] = ("speech",)

    def __init__(self, layout: UnitsLayout) -> None:
        """Take the layout that the model was trained with."""
        self.layout = layout

    def spoken(self, utterance: Utterance, text: str, tokens: SpeechTokens, frame_rate: float | None) -> TaskRow:
        """See `RowMaker`."""
        if tokens.num_frames == 0:
            raise UnusableError("no tokens: audio too short")
        ids = self.layout.build(tokens)
        _, durations = units_over(tokens, "runs" if self.layout.collapsed else "frames")
        ones = torch.ones_like(durations)
        words, spans = _words_of_speech(utterance.words, text, durations, ones, tokens.num_frames, frame_rate)
        none = torch.tensor([NO_WORD])
        return TaskRow(ids, torch.cat([none[: self.layout.bos], words, none[: self.layout.eos]]), text, spans)

    def written(self, text: str) -> TaskRow:
        """Refuse: see `modalities`."""
        raise ConfigError("The language model reads units only, no text.")


def row_maker(lm: SpokenLM, text_case: TextCase = "as_is") -> RowMaker:
    """Return what makes rows for a language model."""
    return JointRowMaker(lm.layout, text_case) if "text" in lm.modalities else UnitRowMaker(lm.layout)


def words_of_frames(
    words: Sequence[Word],
    durations: Int[Tensor, " units"],
    sizes: Int[Tensor, " positions"],
    num_frames: int,
    frame_rate: float,
) -> Int[Tensor, " positions"]:
    """Return the word of each position.

    Args:
        words: with their times.
        durations: frames of each unit.
        sizes: units of each position: 1, or the number in a subword.
        num_frames: of the utterance.
        frame_rate: frames per second.
    """
    inner = word_borders(words, num_frames, frame_rate)[1:-1]
    of_frame = torch.searchsorted(inner, torch.arange(num_frames), right=True)
    of_unit = torch.tensor([most_common(part.tolist()) for part in of_frame.split(durations.tolist())])
    return torch.tensor([most_common(part.tolist()) for part in of_unit.split(sizes.tolist())])


def most_common(words: Sequence[int]) -> int:
    """Return the word that occurs most often; the earlier of equals."""
    counts = Counter(words)
    return min(counts, key=lambda word: (-counts[word], word))


def word_of_characters(spans: Sequence[Span], start: int, stop: int) -> int:
    """Return the word that has most characters of `start` to `stop`; the earlier of equals, `NO_WORD` for blanks."""
    shares = [min(stop, last) - max(start, first) for first, last in spans]
    best = max(shares, default=0)
    return shares.index(best) if best > 0 else NO_WORD


def _words_of_speech(
    words: Sequence[Word] | None, text: str, durations: Tensor, sizes: Tensor, num_frames: int, rate: float | None
) -> tuple[Tensor, tuple[Span, ...]]:
    spans = spoken_spans(text, words) if words else None
    if not words or spans is None or rate is None:
        return torch.full((len(sizes),), NO_WORD), ()
    try:
        return words_of_frames(words, durations, sizes, num_frames, rate), spans
    except ManifestError as error:
        raise UnusableError("word times and tokens do not fit each other") from error


def _close(opener: int, ids: Tensor, end: int, words: Tensor, text: str, spans: tuple[Span, ...]) -> TaskRow:
    none = torch.tensor([NO_WORD])
    token_ids = torch.cat([torch.tensor([opener]), ids, torch.tensor([end])])
    return TaskRow(token_ids, torch.cat([none, words.long(), none]), text, spans)
