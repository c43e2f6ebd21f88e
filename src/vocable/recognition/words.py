"""From the words of a text to the labels of a CTC model, and from timed words to the words of a manifest.

spoken words + vocabulary      ->  labels, and the word that each belongs to
spans of the labels            ->  time and confidence of each word, None where a word has no label
words with and without times   ->  `WordTimes`: every word has a time, and what was interpolated is marked
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vocable.errors import AlignmentError, ConfigError
from vocable.recognition.aligner import Timed, WordNote
from vocable.recognition.ctc import CTCPath
from vocable.recognition.normalise import SpokenWord
from vocable.types import Word

MAX_MISSING = 0.5
"""Share of the spoken words that may go without a time of their own before an utterance is given up."""
MOVED_SECONDS = 0.1
"""Times that are moved by more than this, to lie in order and inside the utterance, leave a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordTimes:
    """The words of an utterance in the order of its text, all with times."""

    words: tuple[Word, ...]
    confidence: tuple[float | None, ...]
    """One per word; None for interpolated words, and where the aligner gives none."""
    interpolated: tuple[int, ...]
    """Indices of the words that were not found: their times share the gap between their neighbours by letters."""
    notes: tuple[WordNote, ...]

    def record(self) -> dict[str, Any]:
        """Return the fields that a manifest line keeps beside the words."""
        return {
            "confidence": [None if value is None else round(value, 4) for value in self.confidence],
            "interpolated": list(self.interpolated),
            "notes": [note._asdict() for note in self.notes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCVocabulary:
    """The symbols that a CTC model writes, each a single character, and two special ones."""

    symbols: Mapping[str, int]
    blank: int
    delimiter: int | None = None
    """Written between words; None where the model writes none."""

    def __post_init__(self) -> None:
        if self.blank == self.delimiter:
            raise ConfigError(f"The blank and the word delimiter are the same symbol, {self.blank}.")


class WordLabels(NamedTuple):
    """The label sequence of an utterance."""

    labels: list[int]
    owners: list[int | None]
    """Index of the word that each label belongs to; None for delimiters."""
    notes: list[WordNote]


def word_labels(words: Sequence[SpokenWord], vocabulary: CTCVocabulary, strict: bool = False) -> WordLabels:
    """Write the spoken words in the symbols of a CTC model.

    A letter is looked up as it is, in upper case, in lower case, then without its accents. One that the vocabulary
    lacks is left out of its word, with a note (an apostrophe without one: it has no sound).

    Raises:
        AlignmentError: there is nothing to align; with `strict`, also a missing symbol.
    """
    labels: list[int] = []
    owners: list[int | None] = []
    notes: list[WordNote] = []
    for index, word in enumerate(words):
        for part in word.spoken:
            found = []
            for symbol in part:
                ids, plain = _look_up(symbol, vocabulary.symbols)
                if not ids and symbol == "'":  # no sound of its own
                    continue
                if not ids and strict:
                    raise AlignmentError(
                        f"The vocabulary lacks {symbol!r}, of the word {word.word!r}. It has "
                        f"{_some(vocabulary.symbols)}. Without strict, the letter is left out and noted."
                    )
                if not ids:
                    notes.append(WordNote(index, word.word, f"the vocabulary lacks {symbol!r}: it is left out"))
                if ids and plain != symbol:
                    notes.append(WordNote(index, word.word, f"{symbol!r} is aligned as {plain!r}"))
                found += ids
            if found and labels and vocabulary.delimiter is not None:
                labels.append(vocabulary.delimiter)
                owners.append(None)
            labels += found
            owners += [index] * len(found)
    if not labels:
        text = " ".join(word.word for word in words)
        raise AlignmentError(
            f"Nothing of the text {text[:60]!r} can be written in the model's symbols, {_some(vocabulary.symbols)}."
        )
    return WordLabels(labels, owners, notes)


def times_from_path(
    path: CTCPath, owners: Sequence[int | None], num_words: int, frame_rate: float, offset: float = 0.0
) -> list[Timed | None]:
    """Read the time of each word off a path.

    A word lasts from the first frame of its first label to the end of the last frame of its last label; frame i lasts
    from i / frame_rate + offset to (i + 1) / frame_rate + offset. Its confidence is the geometric mean of the path's
    posteriors over the frames of its labels: neither blanks nor delimiters count. CTC models are peaky: they write a
    label when they are sure of it, so words may begin late and end early by some frames.
    """
    times: list[Timed | None] = []
    for word in range(num_words):
        spans = [(int(a), int(b)) for (a, b), owner in zip(path.spans.tolist(), owners) if owner == word]
        if not spans:
            times.append(None)
            continue
        logs = [value for a, b in spans for value in path.frame_log_probs[a:b].tolist()]
        confidence = math.exp(math.fsum(logs) / len(logs))
        first, end = spans[0][0], spans[-1][1]
        times.append(Timed(first / frame_rate + offset, end / frame_rate + offset, confidence))
    return times


def complete_times(
    words: Sequence[SpokenWord],
    times: Sequence[Timed | None],
    duration: float,
    notes: Sequence[WordNote] = (),
    max_missing: float = MAX_MISSING,
) -> WordTimes:
    """Give every word a time, in order and inside the utterance, and gather what there is to know.

    Args:
        times: one per word; None where the aligner did not find it.
        max_missing: largest share of words with a spoken form that may be missing.

    Raises:
        AlignmentError: more words are missing.
    """
    spoken = [index for index, word in enumerate(words) if word.spoken]
    missing = [index for index in spoken if times[index] is None]
    if len(missing) == len(spoken) or len(missing) > max_missing * len(spoken):
        names = ", ".join(repr(words[index].word) for index in missing[:5])
        raise AlignmentError(
            f"{len(missing)} of {len(spoken)} words were not found ({names or 'there is no word'}"
            f"{', ...' if len(missing) > 5 else ''}). Is this the text of this recording?"
        )
    all_notes = [WordNote(index, word.word, note) for index, word in enumerate(words) for note in word.notes]
    all_notes += notes
    ordered, moved = _in_order(times, duration)
    all_notes += [WordNote(index, words[index].word, "its time is moved to keep the order") for index in moved]
    filled = _fill(ordered, [max(sum(map(len, word.spoken)), 1) for word in words], duration)
    for index, time in enumerate(times):
        if time is None and words[index].spoken:
            all_notes.append(WordNote(index, words[index].word, "was not found: its time is interpolated"))
        if time is not None and time.note is not None:
            all_notes.append(WordNote(index, words[index].word, time.note))
    return WordTimes(
        words=tuple(
            Word(word=word.word, start=round(start, 4), end=round(end, 4)) for word, (start, end) in zip(words, filled)
        ),
        confidence=tuple(None if time is None else time.confidence for time in times),
        interpolated=tuple(index for index, time in enumerate(times) if time is None),
        notes=tuple(sorted(all_notes, key=lambda note: note.index)),
    )


def _look_up(symbol: str, symbols: Mapping[str, int]) -> tuple[list[int], str]:
    """The labels of a letter, and the letter that they stand for."""
    base = "".join(char for char in unicodedata.normalize("NFD", symbol) if unicodedata.category(char)[0] != "M")
    for plain in (symbol, base):
        for written in (plain, plain.upper(), plain.lower()):
            if written and all(char in symbols for char in written):
                return [symbols[char] for char in written], plain
    return [], symbol


def _some(symbols: Mapping[str, int]) -> str:
    shown = sorted(symbols)[:40]
    return " ".join(shown) + (" ..." if len(symbols) > len(shown) else "")


def _in_order(times: Sequence[Timed | None], duration: float) -> tuple[list[tuple[float, float] | None], list[int]]:
    """Times inside the utterance, no word starting before its predecessor; and which were moved noticeably."""
    ordered: list[tuple[float, float] | None] = []
    moved, latest = [], 0.0
    for index, time in enumerate(times):
        if time is None:
            ordered.append(None)
            continue
        start = min(max(time.start, latest), duration)
        end = min(max(time.end, start), duration)
        if max(abs(start - time.start), abs(end - time.end)) > MOVED_SECONDS:
            moved.append(index)
        ordered.append((start, end))
        latest = start
    return ordered, moved


def _fill(
    times: Sequence[tuple[float, float] | None], letters: Sequence[int], duration: float
) -> list[tuple[float, float]]:
    """Let each run of words without times share the gap between its neighbours, by letters."""
    filled: list[tuple[float, float]] = []
    for index, time in enumerate(times):
        if time is not None:
            filled.append(time)
            continue
        run = next((later for later in range(index, len(times)) if times[later] is not None), len(times))
        following = times[run] if run < len(times) else None
        start = filled[-1][1] if filled else 0.0
        end = duration if following is None else following[0]
        if end < start:  # the neighbours overlap
            start = end = max(end, filled[-1][0]) if filled else end
        share = letters[index] / sum(letters[index:run])
        filled.append((start, start + (end - start) * share))
    return filled
