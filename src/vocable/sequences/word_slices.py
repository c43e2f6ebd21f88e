"""Which frames and which stretch of text belong to which word.

    words    |  the   |  cat  |         |   sat    |
    frames   0 0 0 0 0 0 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2

The boundary rule: words share out all frames, in order. Frame i covers the time from i to i + 1 frames, and its centre
decides. The pause between two words is cut in its middle (or goes to the word before, or after, it); what lies before
the first word is the first word's, what lies behind the last one the last word's. So every frame belongs to exactly one
word, and a run of equal units that crosses a border becomes two runs. A word too short for any centre gets the frame
nearest to it. Text is cut in front of the blanks before each word.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vocable.errors import ManifestError
from vocable.sequences.subwords import units_over
from vocable.types import SpeechTokens, Word

Pause = Literal["middle", "before", "after"]
OVERHANG_SECONDS = 0.5  # the last word may start this much behind the last frame: windows at the end, rounding


def word_borders(
    words: Sequence[Word], num_frames: int, frame_rate: float, pause: Pause = "middle"
) -> Int[Tensor, " borders"]:
    """Return where each word's frames begin, and `num_frames` at the end: word k has frames `[k]` to `[k + 1] - 1`.

    Args:
        words: with their times; words that overlap are cut in the middle of the overlap.
        num_frames: frames of the utterance.
        frame_rate: frames per second.
        pause: which word a pause belongs to: cut in the middle, or all to the word before it, or after it.

    Raises:
        ManifestError: there are no words, or fewer frames than words, or the words lie behind the last frame.
    """
    if not words:
        raise ManifestError("There are no word times to cut units by. Align first, or use a layout without words.")
    if num_frames < len(words):
        raise ManifestError(f"{len(words)} words share {num_frames} frames; each needs at least one.")
    if words[-1].start > num_frames / frame_rate + OVERHANG_SECONDS:
        raise ManifestError(
            f"The last word, {words[-1].word!r}, starts at {words[-1].start:g} s, but the units end at "
            f"{num_frames / frame_rate:g} s at {frame_rate:g} frames per second. Are words and units of one utterance?"
        )
    ends = np.array([word.end for word in words[:-1]])
    starts = np.array([word.start for word in words[1:]])
    cuts = {"middle": (ends + starts) / 2, "before": np.maximum(ends, starts), "after": np.minimum(ends, starts)}[pause]
    # first frame whose centre is not before the cut; the small number keeps 0.3 * 50 from being 15.000000000000002
    inner = np.ceil(cuts * frame_rate - 0.5 - 1e-6).astype(np.int64)
    borders = np.concatenate([[0], inner, [num_frames]])
    order = np.arange(len(borders))
    borders = np.maximum.accumulate(np.maximum(borders, order) - order) + order  # a frame at least for each, forwards,
    borders = np.minimum(borders, num_frames - order[::-1])  # and backwards
    return torch.from_numpy(borders)


def slice_frames(tokens: SpeechTokens, start: int, stop: int, *, collapsed: bool) -> SpeechTokens:
    """Return the units of frames `start` to `stop` - 1, with runs collapsed inside the slice or one a frame."""
    frames = units_over(tokens, "frames").units[start:stop]
    if not collapsed:
        return SpeechTokens(codes=frames[None])
    runs = units_over(SpeechTokens(codes=frames[None]), "runs")
    return SpeechTokens(codes=runs.units[None], durations=runs.durations)


def word_texts(text: str | None, words: Sequence[Word]) -> list[str]:
    """Cut a text into one piece a word, blanks in front: put together, the pieces are the text.

    The words must be in the text, in their order, with nothing but blanks and punctuation between them; case and the
    kind of apostrophe do not count. Where they are not, or where there is no text, the words themselves are the text,
    with single spaces.
    """
    starts = _places(text, words) if text is not None else None
    if text is None or starts is None:
        return [word.word if index == 0 else f" {word.word}" for index, word in enumerate(words)]
    cuts = [0, *(_before_blanks(text, start) for start in starts[1:]), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(cuts)]


def _places(text: str, words: Sequence[Word]) -> list[int] | None:
    """Where each word starts in the text; None when a letter or digit is in no word."""
    plain, end, starts = text.replace("’", "'"), 0, []
    for word in words:
        match = re.compile(re.escape(word.word.strip().replace("’", "'")), re.IGNORECASE).search(plain, end)
        if match is None or not match[0] or any(char.isalnum() for char in plain[end : match.start()]):
            return None
        starts.append(match.start())
        end = match.end()
    return None if any(char.isalnum() for char in plain[end:]) else starts


def _before_blanks(text: str, start: int) -> int:
    """Go back over opening punctuation to the blank that begins the word's stretch; without a blank, stay."""
    place = start
    while place > 0 and not text[place - 1].isspace() and not text[place - 1].isalnum():
        place -= 1
    if place == 0 or not text[place - 1].isspace():
        return start
    while place > 0 and text[place - 1].isspace():
        place -= 1
    return place
