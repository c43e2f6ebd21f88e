"""The best CTC path, against all paths of small problems and against the total probability."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from vocable.errors import AlignmentError
from vocable.recognition.ctc import ctc_viterbi, min_frames


def posteriors(num_frames: int, vocabulary: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (2 * torch.randn(1, num_frames, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)
    )


def collapse(path: tuple[int, ...], blank: int) -> list[int]:
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def all_paths(log_probs: torch.Tensor, labels: list[int], blank: int) -> dict[tuple[int, ...], float]:
    """Every way to give each frame a symbol that reads as `labels`, with its log probability."""
    rows = log_probs.tolist()
    return {
        path: sum(row[symbol] for row, symbol in zip(rows, path))
        for path in itertools.product(range(log_probs.shape[1]), repeat=len(rows))
        if collapse(path, blank) == labels
    }


def spans_of(path: tuple[int, ...], blank: int) -> list[list[int]]:
    runs, position = [], 0
    for symbol, group in itertools.groupby(path):
        length = len(list(group))
        if symbol != blank:
            runs.append([position, position + length])
        position += length
    return runs


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 1), min_size=1, max_size=4),
    num_frames=st.integers(1, 7),
    blank=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_the_best_of_all_paths_is_found(labels, num_frames, blank, seed):
    labels = [(label + blank + 1) % 3 for label in labels]  # any two symbols that are not the blank
    log_probs = posteriors(num_frames, 3, seed)
    paths = all_paths(log_probs[0], labels, blank)
    if not paths:
        assert num_frames < min_frames(labels)
        with pytest.raises(AlignmentError, match=f"need at least {min_frames(labels)} frames"):
            ctc_viterbi(log_probs, [labels], blank=blank)
        return
    best = max(paths, key=paths.__getitem__)
    (found,) = ctc_viterbi(log_probs, [labels], blank=blank)
    assert found.spans.tolist() == spans_of(best, blank)
    assert float(found.frame_log_probs.sum()) == pytest.approx(paths[best], abs=1e-12)
    assert found.frame_log_probs.tolist() == [row[s] for row, s in zip(log_probs[0].tolist(), best)]
    total = math.log(math.fsum(map(math.exp, paths.values())))
    loss = functional.ctc_loss(
        log_probs.transpose(0, 1), torch.tensor([labels]), [num_frames], [len(labels)], blank=blank, reduction="sum"
    )
    assert -float(loss) == pytest.approx(total, abs=1e-10)  # the oracle enumerates what CTC sums over
    assert float(found.frame_log_probs.sum()) <= -float(loss) + 1e-12


def test_with_as_many_frames_as_needed_the_path_is_the_whole_probability():
    labels = [1, 1, 2, 3, 3]
    log_probs = posteriors(min_frames(labels), 4)
    (found,) = ctc_viterbi(log_probs, [labels])
    loss = functional.ctc_loss(log_probs.transpose(0, 1), torch.tensor([labels]), [7], [5], reduction="sum")
    assert found.spans.tolist() == [[0, 1], [2, 3], [3, 4], [4, 5], [6, 7]]
    assert float(found.frame_log_probs.sum()) == pytest.approx(-float(loss), abs=1e-12)


def test_a_batch_gives_what_each_utterance_gives_alone():
    lengths, labels = [40, 9, 23], [[1, 2, 2, 3, 1, 4], [3], [4, 4, 4, 1]]
    log_probs = torch.full((3, 40, 5), float("nan"), dtype=torch.float32)  # padding may hold anything
    for row, length in enumerate(lengths):
        log_probs[row, :length] = posteriors(length, 5, seed=row, dtype=torch.float32)
    together = ctc_viterbi(log_probs, labels, lengths)
    for row, length in enumerate(lengths):
        (alone,) = ctc_viterbi(log_probs[row : row + 1, :length], [labels[row]])
        assert torch.equal(together[row].spans, alone.spans)
        assert torch.equal(together[row].frame_log_probs, alone.frame_log_probs)


def test_long_recordings_and_other_precisions():
    labels = [1 + index % 7 for index in range(150)]
    log_probs = posteriors(600, 8)
    (exact,) = ctc_viterbi(log_probs, [labels])
    assert exact.frame_log_probs.dtype == torch.float64
    reread = torch.zeros(600, dtype=torch.long)
    for label, (first, end) in zip(labels, exact.spans.tolist()):
        reread[first:end] = label
    assert collapse(tuple(reread.tolist()), 0) == labels
    assert torch.equal(exact.frame_log_probs, log_probs[0].gather(1, reread[:, None])[:, 0])
    assert ctc_viterbi(log_probs.half(), [labels])[0].frame_log_probs.dtype == torch.float32


def test_of_equal_paths_the_choice_is_fixed():
    (found,) = ctc_viterbi(torch.full((1, 6, 3), -math.log(3)), [[1, 2]])
    assert found.spans.tolist() == [[0, 1], [1, 6]]  # stays in the last label as long as there is room before it


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ([], {}, "there is no text to align"),
        ([0], {}, "The label 0 has no place in a vocabulary of 4 with the blank 0"),
        ([4], {}, "The label 4 has no place"),
        ([1, 1, 1], {}, "3 labels need at least 5 frames, but there are 4: the text is too long"),
        ([1, 2], {"num_frames": [9]}, "num_frames is 9; the posteriors have 4 frames"),
        ([1], {"blank": 7}, "with the blank 7"),
    ],
)
def test_errors_say_what_is_wrong(labels, changes, message):
    with pytest.raises(AlignmentError, match=message):
        ctc_viterbi(posteriors(4, 4), [labels], **changes)


def test_posteriors_that_are_none_are_refused():
    with pytest.raises(AlignmentError, match="hold NaN"):
        ctc_viterbi(torch.full((1, 4, 3), float("nan")), [[1]])
    impossible = posteriors(4, 3)
    impossible[:, :, 1] = float("-inf")
    with pytest.raises(AlignmentError, match="probability 0"):
        ctc_viterbi(impossible, [[1, 2]])
    with pytest.raises(AlignmentError, match="equally many"):
        ctc_viterbi(posteriors(4, 3), [[1], [2]])
