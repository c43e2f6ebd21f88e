"""The best path of a label sequence through the posteriors of a CTC model.

    log posteriors (frames, vocabulary)  +  labels c a t  ->  frame spans  c 3..5  a 9..10  t 12..14

A path gives each frame one label or the blank; runs of one label count once, and equal neighbours in the sequence need
a blank between them. Source: connectionist temporal classification (Graves et al., 2006, ICML, "Connectionist Temporal
Classification: Labelling Unsegmented Sequence Data with Recurrent Neural Networks", section 4.1), with the maximum in
place of the sum. Next stage: words.py.
"""

import itertools
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vocable.errors import AlignmentError


class CTCPath(NamedTuple):
    """The best path of one utterance."""

    spans: Int[Tensor, "labels 2"]
    """First frame of each label, and one past its last."""
    frame_log_probs: Float[Tensor, " frames"]
    """Log posterior of what the path chose, frame by frame."""


def ctc_viterbi(
    log_probs: Float[Tensor, "batch frames vocabulary"],
    labels: Sequence[Sequence[int]],
    num_frames: Sequence[int] | None = None,
    blank: int = 0,
) -> list[CTCPath]:
    """Find the most probable path of each label sequence; all states and all utterances of a frame at once.

    Computed in the precision of `log_probs`, half precision in float32. Of equally probable paths, seen from the end,
    the one is taken that stays where it is before it steps back, and steps before it skips a blank.

    Args:
        log_probs: log posteriors; frames past `num_frames` may hold anything.
        labels: the label ids of each utterance, without blanks.
        num_frames: frames of each utterance; None means all.

    Raises:
        AlignmentError: a sequence is empty, names an id that the vocabulary lacks or the blank, or needs more frames
            than there are; the posteriors hold NaN, or give every path the probability zero.
    """
    if not log_probs.dtype.is_floating_point:
        raise AlignmentError(f"log_probs are {log_probs.dtype}; expected log posteriors in floating point.")
    log_probs = log_probs.float() if log_probs.dtype in (torch.float16, torch.bfloat16) else log_probs
    frames = [log_probs.shape[1]] * len(labels) if num_frames is None else list(num_frames)
    if not len(labels) == len(frames) == log_probs.shape[0]:
        raise AlignmentError(
            f"There are posteriors of {log_probs.shape[0]} utterances, {len(labels)} label sequences and "
            f"{len(frames)} lengths; they must be equally many."
        )
    for row, (sequence, length) in enumerate(zip(labels, frames)):
        _check(sequence, length, log_probs[row], blank)
    if not len(labels):
        return []
    lengths = torch.tensor(frames, device=log_probs.device)
    num_labels = torch.tensor([len(sequence) for sequence in labels], device=log_probs.device)
    states = _with_blanks(labels, blank).to(log_probs.device)  # (batch, states)
    scores, moves = _forward(log_probs, states, lengths, blank)
    for row, sequence in enumerate(labels):
        if scores[row, 2 * len(sequence) - 1 : 2 * len(sequence) + 1].max() == float("-inf"):
            raise AlignmentError(
                f"Utterance {row} of the batch: every path of the labels has the probability 0. Is this its text?"
            )
    paths = _trace_back(scores, moves, num_labels)  # (batch, frames), state of each frame
    chosen = log_probs[:, : paths.shape[1]].gather(2, states.gather(1, paths)[:, :, None])[:, :, 0]
    results = []
    for row, (sequence, length) in enumerate(zip(labels, frames)):
        path, label_states = paths[row, :length].contiguous(), 2 * torch.arange(len(sequence), device=paths.device) + 1
        spans = torch.stack([torch.searchsorted(path, label_states, right=right) for right in (False, True)], dim=1)
        results.append(CTCPath(spans, chosen[row, :length]))
    return results


def min_frames(labels: Sequence[Hashable]) -> int:
    """Frames that a sequence needs at least: one a label, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))


def _check(labels: Sequence[int], num_frames: int, log_probs: Float[Tensor, "frames vocabulary"], blank: int) -> None:
    total, vocabulary = log_probs.shape
    if not 0 <= num_frames <= total:
        raise AlignmentError(f"num_frames is {num_frames}; the posteriors have {total} frames.")
    if not len(labels):
        raise AlignmentError("The label sequence is empty: there is no text to align.")
    wrong = [label for label in labels if not 0 <= label < vocabulary or label == blank]
    if wrong or not 0 <= blank < vocabulary:
        raise AlignmentError(
            f"The label {wrong[0] if wrong else blank} has no place in a vocabulary of {vocabulary} with the blank "
            f"{blank}. Were labels and posteriors made with the same vocabulary?"
        )
    if num_frames < min_frames(labels):
        raise AlignmentError(
            f"{len(labels)} labels need at least {min_frames(labels)} frames, but there are {num_frames}: the text is "
            "too long for the audio. Is it the text of this recording?"
        )
    if torch.isnan(log_probs[:num_frames]).any():
        raise AlignmentError("The posteriors hold NaN. Run the model in float32.")


def _with_blanks(labels: Sequence[Sequence[int]], blank: int) -> Int[Tensor, "batch states"]:
    """`c a t` -> `_ c _ a _ t _`; shorter rows end in more blanks, which no path of theirs enters."""
    states = torch.full((len(labels), 2 * max(map(len, labels)) + 1), blank)
    for row, sequence in enumerate(labels):
        states[row, 1 : 2 * len(sequence) : 2] = torch.tensor(list(sequence))
    return states


def _forward(
    log_probs: Float[Tensor, "batch frames vocabulary"],
    states: Int[Tensor, "batch states"],
    lengths: Int[Tensor, " batch"],
    blank: int,
) -> tuple[Float[Tensor, "batch states"], Int[Tensor, "frames batch states"]]:
    """Best log probability of ending in each state, and how many states each frame went up to get there."""
    nowhere = float("-inf")
    skippable = torch.zeros_like(states, dtype=torch.bool)
    skippable[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    scores = log_probs[:, 0].gather(1, states)
    scores[:, 2:] = nowhere
    num_frames = int(lengths.max())
    moves = torch.zeros((num_frames, *states.shape), dtype=torch.int8, device=states.device)
    for frame in range(1, num_frames):
        best, move = _best_predecessor(scores, skippable)
        running = (frame < lengths)[:, None]
        scores = torch.where(running, best + log_probs[:, frame].gather(1, states), scores)
        moves[frame] = torch.where(running, move, 0)
    return scores, moves


def _best_predecessor(
    scores: Float[Tensor, "batch states"], skippable: Bool[Tensor, "batch states"]
) -> tuple[Float[Tensor, "batch states"], Int[Tensor, "batch states"]]:
    nowhere = float("-inf")
    step = functional.pad(scores[:, :-1], (1, 0), value=nowhere)
    skip = functional.pad(scores[:, :-2], (2, 0), value=nowhere).masked_fill(~skippable, nowhere)
    move = torch.zeros_like(skippable, dtype=torch.int8)
    best = scores
    for distance, other in ((1, step), (2, skip)):
        move = torch.where(other > best, distance, move).to(torch.int8)
        best = torch.maximum(best, other)
    return best, move


def _trace_back(
    scores: Float[Tensor, "batch states"], moves: Int[Tensor, "frames batch states"], num_labels: Int[Tensor, " batch"]
) -> Int[Tensor, "batch frames"]:
    """Follow the moves from the better of the two last states: the last label, or the blank after it."""
    last_label = 2 * num_labels[:, None] - 1  # (batch, 1)
    ends_in_blank = scores.gather(1, last_label + 1) > scores.gather(1, last_label)
    state = last_label + ends_in_blank
    path = []
    for frame_moves in reversed(moves.unbind()):
        path.append(state)
        state = state - frame_moves.gather(1, state)
    return torch.cat(path[::-1], dim=1)
