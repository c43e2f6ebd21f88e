"""From a labelled set to rows of token ids, spoken and written, with the word that each position belongs to.

    labels + tokens + text  ->  {"speech": examples, "text": examples} for train, dev and test; the unusable are counted

    spoken   <U> 5 9 9 2 4 <E>        written   <T> Tom sang in Os lo . <E>
    word      -  0 0 1 1 2  -                    -  0   1    2  3  3  3  -

A unit belongs to the word that has most of its frames, a unit subword to the word of most of its units, a text token to
the word that has most of its characters (ties: the earlier word). Symbols belong to none (-1). Next: heads.py.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.slue.labelled_set import SPLITS, LabelledSet, Labels
from vocable.evaluation.slue.metrics import Span, spoken_spans, written_spans
from vocable.evaluation.unusable import UnusableError
from vocable.lm.spoken import Segment, SpokenLM
from vocable.sequences.spans import Modality
from vocable.sequences.word_slices import word_borders
from vocable.types import SpeechTokens, Utterance, Word

TextCase = Literal["as_is", "lower"]
NO_WORD = -1


class TaskRow(NamedTuple):
    """A row, and the words that a head may say something about."""

    token_ids: Int[Tensor, " positions"]
    words: Int[Tensor, " positions"]
    """Index of the word that each position belongs to; `NO_WORD` for symbols, and where words are not known."""
    text: str
    """Text in which `spans` count characters."""
    spans: tuple[Span, ...]
    """Span of each word; none where words are not known."""


class RowMaker:
    """Makes rows for one language model: its opener, the content, its end symbol."""

    def __init__(self, lm: SpokenLM, text_case: TextCase = "as_is") -> None:
        """Take the model."""
        self.lm, self.text_case = lm, text_case
        self.modalities: tuple[Modality, ...] = lm.modalities

    def spoken(self, utterance: Utterance, text: str, tokens: SpeechTokens, frame_rate: float | None) -> TaskRow:
        """Make a row of speech; without words in the utterance, a row without words."""
        if tokens.num_frames == 0:
            raise UnusableError("no tokens: audio too short")
        parts = self.lm.unit_durations(tokens)
        sizes = torch.tensor([len(part) for part in parts])
        words, spans = _words_of_speech(utterance.words, text, torch.cat(parts), sizes, tokens.num_frames, frame_rate)
        return self._row(Segment(tokens=tokens), words, text, spans)

    def written(self, text: str) -> TaskRow:
        """Make a row of text.

        Raises:
            ConfigError: the model reads no text, or its text tokenizer does not say where tokens lie.
        """
        if self.text_case == "lower":  # letter by letter: places in the text stay
            text = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
        if not text.strip():
            raise UnusableError("the text is empty")
        spans = written_spans(text)
        words = torch.tensor([word_of_characters(spans, *place) for place in self.lm.text_spans(text)])
        return self._row(Segment(text=text), words, text, spans)

    def _row(self, segment: Segment, words: Tensor, text: str, spans: tuple[Span, ...]) -> TaskRow:
        row = self.lm.row([segment])
        of_row = torch.full((len(row.token_ids),), NO_WORD)
        of_row[slice(*row.bounds[0])] = words.long()
        return TaskRow(row.token_ids, of_row, text, spans)


def words_of_frames(
    words: Sequence[Word],
    durations: Int[Tensor, " units"],
    sizes: Int[Tensor, " positions"],
    num_frames: int,
    frame_rate: float,
) -> Int[Tensor, " positions"]:
    """Return the word of each position.

    Args:
        durations: frames of each unit.
        sizes: units of each position: 1, or the number in a subword.
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


class Example(NamedTuple):
    """A row and what is known about it."""

    row: TaskRow
    labels: Labels


Split = Mapping[Modality, Sequence[Example]]


class Speech(NamedTuple):
    """Tokens by utterance."""

    tokens: Mapping[str, SpeechTokens]
    frame_rate: float | None
    """Frames per second; needed for entities."""


class SlueExamples(NamedTuple):
    """The rows of one task."""

    splits: Mapping[str, Split]
    excluded: Mapping[str, int]
    """Utterances that were left out, by reason."""


def make_examples(
    labelled: LabelledSet,
    task: str,
    maker: RowMaker,
    speech: Speech,
    *,
    context_tokens: int | None = None,
    max_train: int | None = None,
    seed: int = 0,
) -> SlueExamples:
    """Make all rows of a task; an utterance that lacks one modality is left out of both, so that cells compare.

    Args:
        context_tokens: longest row that the model reads; longer ones are left out.
        max_train: at most so many train utterances, drawn by `seed`.
        seed: see `max_train`.

    Raises:
        ConfigError: a split has no usable utterance; the message names the reasons.
    """
    excluded: Counter[str] = Counter(labelled.excluded)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        found = labelled.split(split, task)
        if split == "train" and max_train is not None and max_train < len(found):
            found = random.Random(seed).sample(found, max_train)
        reasons: Counter[str] = Counter()
        made: dict[Modality, list[Example]] = {modality: [] for modality in maker.modalities}
        for labels in found:
            try:
                rows = _rows(labelled, labels, task, maker, speech, context_tokens)
            except UnusableError as error:
                reasons[str(error)] += 1
                continue
            for modality, row in rows.items():
                made[modality].append(Example(row, labels))
        if not all(made.values()):
            why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items()) or "none is labelled for it"
            raise ConfigError(f"No utterance of the split {split!r} can be used for {task}: {why}.")
        excluded += reasons
        splits[split] = made
    return SlueExamples(splits, dict(excluded))


def _rows(
    labelled: LabelledSet,
    labels: Labels,
    task: str,
    maker: RowMaker,
    speech: Speech,
    context_tokens: int | None,
) -> dict[Modality, TaskRow]:
    rows: dict[Modality, TaskRow] = {}
    utterance = labelled.utterances[labels.id]
    for modality in maker.modalities:
        if modality == "text":
            row = maker.written(labels.text)
        else:
            tokens = speech.tokens.get(labels.id)
            if tokens is None:
                raise UnusableError("no speech tokens")
            row = maker.spoken(utterance, labels.text, tokens, speech.frame_rate)
        if task == "entities" and not row.spans:
            raise UnusableError(
                "no word times, which entities in speech need: vocable align"
                if not utterance.words
                else "the words of the manifest are not those of the labelled text"
            )
        if context_tokens is not None and len(row.token_ids) > context_tokens:
            raise UnusableError(f"longer than the model's {context_tokens} positions")
        rows[modality] = row
    return rows
