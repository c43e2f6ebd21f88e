"""Cut what is longer than Whisper's window at pauses, so that every piece has its own words.

    recording of 70 s, 180 words  ->  0 to 28.4 s, words 0 to 70;  28.4 to 57.1 s, words 71 to 149;  ...

With word times, cuts lie between words, in the longest pause of a window's last seconds. Without, they lie where the
sound is quietest, and the words are shared out by their letters over the sound that is loud enough for speech: a cut
can then be some words off, and the words beside it are looked for in the wrong piece. Word times prevent that.

The published code fails above 30 s.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vocable.audio.pieces import QUIET, SEARCH_SECONDS, cut_at_quiet
from vocable.errors import AlignmentError
from vocable.sequences.word_search import plain_letters
from vocable.types import Word

OVERHANG_SECONDS = 0.5
"""The last word may start so much after the end of the recording: rounding."""
LETTERS_PER_SECOND, SPARE_LETTERS = 40.0, 20
"""Nobody speaks more letters than so many a second, and some more."""
MOST_SILENCE = 1.0
"""Seconds of silence at most that stay before and after the words of a piece, where times tell."""
FRAMES_PER_SECOND = 50


class Piece(NamedTuple):
    """A stretch of a recording and its words."""

    start: int
    """First sample."""
    stop: int
    """One past the last sample."""
    first: int
    """Number of its first word."""
    last: int
    """One past the number of its last word."""


def time_words(words: Sequence[str], timed: Sequence[Word]) -> tuple[Word, ...]:
    """Return the words of a text with times, from words that may be cut and spelt in other ways.

    Letters and digits decide, without case: both must have the same. A word that has none gets the time at which the
    word before it ends.

    Raises:
        AlignmentError: the letters differ.
    """
    letters = [plain_letters(word) for word in words]
    owners = [index for index, word in enumerate(timed) for _ in plain_letters(word.word)]
    if "".join(letters) != "".join(plain_letters(word.word) for word in timed):
        raise AlignmentError(
            f"The text has the words {_some(words)}, but the words with times are {_some([w.word for w in timed])}. "
            "Align again (vocable align), or leave the times out."
        )
    found, place, end = [], 0, timed[0].start if timed else 0.0
    for word, own in zip(words, letters, strict=True):
        start, place = place, place + len(own)
        times = (end, end) if not own else (timed[owners[start]].start, timed[owners[place - 1]].end)
        end = times[1]
        found.append(Word(word=word, start=times[0], end=end))
    return tuple(found)


def check_amount(words: Sequence[str], num_samples: int, sample_rate: int) -> None:
    """Refuse a text that is too long for its recording.

    Raises:
        AlignmentError: nobody could speak it so fast.
    """
    letters, seconds = sum(map(len, words)), num_samples / sample_rate
    if letters > LETTERS_PER_SECOND * seconds + SPARE_LETTERS:
        raise AlignmentError(
            f"The text has {letters} letters, {_some(words)}, but the recording lasts {seconds:.2f} s. They do not "
            "belong together: look at the manifest's text, start and duration."
        )


def cut_pieces(
    waveform: Float[Tensor, " samples"],
    sample_rate: int,
    words: Sequence[str],
    times: Sequence[Word] | None,
    longest_seconds: float,
) -> list[Piece]:
    """Return pieces of at most `longest_seconds`, one after another; pieces without words are left out.

    Raises:
        AlignmentError: times go backwards, a word starts after the end of the recording, or one alone is longer than a
            piece.
    """
    if not words:
        return []
    if waveform.numel() <= longest_seconds * sample_rate:
        return [Piece(0, waveform.numel(), 0, len(words))]
    if times is None:
        return _cut_by_sound(waveform, sample_rate, words, longest_seconds)
    return _cut_by_times(waveform.numel(), sample_rate, times, longest_seconds)


def _cut_by_times(num_samples: int, sample_rate: int, times: Sequence[Word], longest: float) -> list[Piece]:
    seconds = num_samples / sample_rate
    for before, after in itertools.pairwise(times):
        if after.start < before.start:
            raise AlignmentError(
                f"The word {after.word!r} starts at {after.start:g} s, before {before.word!r} ahead of it."
            )
    if times[-1].start > seconds + OVERHANG_SECONDS:
        raise AlignmentError(
            f"The last word, {times[-1].word!r}, starts at {times[-1].start:g} s, but the recording ends at "
            f"{seconds:g} s. Are words and recording of one utterance?"
        )
    # the pause `k` lies before word k, from where all words before it have ended to where it starts
    lows = [0.0, *itertools.accumulate((min(word.end, seconds) for word in times), max)]
    highs = [*(word.start for word in times), seconds]
    pieces, first, cut = [], 0, 0.0
    while first < len(times):
        begin = max(cut, highs[first] - MOST_SILENCE)
        end = begin + longest + 1e-9
        last = _last_word(first, end, lows, highs)
        if last == first:
            raise AlignmentError(
                f"The word {times[first].word!r} lasts from {times[first].start:g} s to {times[first].end:g} s, too "
                f"long for the {longest:g} s that Whisper hears at once. Align again, or leave the times out."
            )
        middle = (lows[last] + highs[last]) / 2
        cut = min(seconds if last == len(times) else middle, end)
        stop = min(cut, lows[last] + MOST_SILENCE)
        pieces.append(Piece(int(begin * sample_rate), min(int(stop * sample_rate), num_samples), first, last))
        first = last
    return pieces


def _last_word(first: int, end: float, lows: Sequence[float], highs: Sequence[float]) -> int:
    """Return one past the last word of a piece that may last up to `end`; `first` where not even one word fits."""
    within = [k for k in range(first + 1, len(lows)) if lows[k] <= end]
    if not within or within[-1] == len(lows) - 1:
        return within[-1] if within else first
    late = [k for k in within if lows[k] >= end - SEARCH_SECONDS]
    return max(late, key=lambda k: highs[k] - lows[k]) if late else within[-1]


def _cut_by_sound(
    waveform: Float[Tensor, " samples"], sample_rate: int, words: Sequence[str], longest: float
) -> list[Piece]:
    sizes = [piece.numel() for piece in cut_at_quiet(waveform, sample_rate, longest)]
    borders = np.cumsum([0, *sizes])
    spoken = _spoken_before(waveform, sample_rate, borders)
    letters = np.array([len(word) for word in words])
    middles = (np.cumsum(letters) - letters / 2) / letters.sum()
    cuts = [0, *np.searchsorted(middles, spoken[1:-1]).tolist(), len(words)]
    return [
        Piece(int(start), int(stop), first, last)
        for (start, stop), (first, last) in zip(itertools.pairwise(borders), itertools.pairwise(cuts), strict=True)
        if last > first
    ]


def _spoken_before(waveform: Tensor, sample_rate: int, borders: np.ndarray) -> np.ndarray:
    """Return the share of the loud frames that lie before each border; of the time, where nothing is loud."""
    frame = sample_rate // FRAMES_PER_SECOND
    levels = waveform.unfold(0, frame, frame).square().mean(-1).sqrt().cpu().numpy()
    loud = levels > QUIET * levels.max()
    before = np.concatenate([[0], np.cumsum(loud)])
    if not before[-1]:
        return borders / borders[-1]
    return before[np.minimum(borders // frame, len(loud))] / before[-1]


def _some(words: Sequence[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
