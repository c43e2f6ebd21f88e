"""Rows of token ids that say which positions are scored, and their log-likelihoods under a causal language model.

    segments -> row  <s> 5 9 2 | 7 7 3 <s>       scored  . . . . | x x x x
    rows -> every different row once, what several begin with once -> one score each, also by modality

model.py makes rows, branches.py reads them. A row has one stream here; a model of several streams has its own rows and
scores.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.branches import Tree, join_rows, tree_nll
from vocable.sequences.vocabulary import SPECIAL, SPEECH, TEXT

MIN_SHARED_TOKENS = 16
"""A prefix shorter than this is read twice: handling the fork costs more than reading it."""
CLASS_NAMES = {SPEECH: "speech", TEXT: "text", SPECIAL: "symbol"}

Progress = Callable[[int, int], None]
"""Called with what was done since the last call, and the total."""


class Row(NamedTuple):
    """Token ids, boundary symbols included, and which of them are scored."""

    token_ids: Int[Tensor, " positions"]
    scored: Bool[Tensor, " positions"]
    """Never the first: nothing predicts it."""
    bounds: tuple[tuple[int, int], ...] = ()
    """First position of each segment's content, and one past its last."""

    @property
    def num_scored(self) -> int:
        """Positions that are scored."""
        return int(self.scored.sum())


class RowScore(NamedTuple):
    """Summed negative log-likelihood (nats) and number of scored positions of a row."""

    nll: float
    num_tokens: int
    by_modality: Mapping[str, tuple[float, int]] = {}
    """The same for the positions of each modality ("speech", "text", "symbol"), where it has any."""

    def of(self, modality: str) -> "RowScore":
        """Return the score of one modality alone.

        Raises:
            ConfigError: the row has nothing of it.
        """
        if modality not in self.by_modality:
            has = ", ".join(self.by_modality) or "nothing"
            raise ConfigError(f"A row has no part {modality!r} to score; it has {has}.")
        return RowScore(*self.by_modality[modality], {modality: self.by_modality[modality]})


def join_parts(before: Tensor, parts: Sequence[tuple[Tensor, Tensor]], after: Tensor, ending_only: bool = False) -> Row:
    """Make a row of the symbols before it, the mark and content of each segment, and the symbols after it.

    It is scored from the second position on, or with `ending_only` from the content of the last segment on.
    """
    pieces, bounds, stop = [before], list[tuple[int, int]](), len(before)
    for mark, content in parts:
        pieces += [mark, content]
        bounds.append((stop + len(mark), stop + len(mark) + len(content)))
        stop = bounds[-1][1]
    token_ids = torch.cat([*pieces, after])
    first = bounds[-1][0] if ending_only else 1
    return Row(token_ids, torch.arange(len(token_ids)) >= max(first, 1), tuple(bounds))


def score_rows(
    model: Any,
    rows: Sequence[Row],
    *,
    classes: Int[Tensor, " vocabulary"] | None = None,
    masked: bool = False,
    share_prefixes: bool = True,
    max_tokens: int = 4096,
    on_progress: Progress | None = None,
) -> list[RowScore]:
    """Score the scored positions of each row.

    Args:
        rows: what to score; equal ones are read once.
        classes: modality of each token id, for scores by modality; None: all is text.
        masked: take each token's probability among the ids of its own class alone.
        share_prefixes: read what several rows begin with once. Changes no score but by rounding.
        on_progress: told how many groups of rows that share a beginning, or rows alone, each forward pass scored.
    """
    different = {tuple(row.token_ids.tolist()): row.token_ids for row in rows}
    shared = share_rows(list(different), max_tokens) if share_prefixes else [[key] for key in different]
    trees = [_tree([different[key] for key in keys]) for keys in shared]
    homes = {key: (tree, branch) for tree, keys in enumerate(shared) for branch, key in enumerate(keys)}
    watch = None if on_progress is None else lambda count: on_progress(count, len(trees))
    losses = tree_nll(model, trees, max_tokens=max_tokens, classes=classes if masked else None, on_progress=watch)
    scores = []
    for row in rows:
        tree, branch = homes[tuple(row.token_ids.tolist())]
        found = torch.cat([losses[tree].prefix, losses[tree].branches[branch]]).double()[row.scored[1:]]
        kinds = torch.full((len(found),), TEXT) if classes is None else classes[row.token_ids[row.scored]]
        by_modality = {
            name: (float(found[kinds == kind].sum()), int((kinds == kind).sum()))
            for kind, name in CLASS_NAMES.items()
            if bool((kinds == kind).any())
        }
        scores.append(RowScore(float(found.sum()), len(found), by_modality))
    return scores


def share_rows(rows: Sequence[tuple[int, ...]], max_tokens: int) -> list[list[tuple[int, ...]]]:
    """Put rows that begin alike together, so that few tokens are read in all.

    In alphabetical order, rows with a common beginning stand side by side; runs of neighbours are cut so that most is
    saved. The rows of a run share `MIN_SHARED_TOKENS` at least, and take `max_tokens` at most, the beginning once.

    Args:
        rows: all different; none is empty.
        max_tokens: limit of a run of two rows or more.

    Returns:
        The rows of each run; every row is in one.
    """
    order = sorted(rows)
    common = [0] + [_num_common(first, second) for first, second in itertools.pairwise(order)]
    saved = [0] * (len(order) + 1)  # by the best way to cut the rows before this place
    starts = list(range(len(order)))  # where the last run begins in it, for each row that is its last
    for last in range(len(order)):
        saved[last + 1] = saved[last]
        shared, length = len(order[last]), len(order[last])
        for first in range(last - 1, -1, -1):
            shared = min(shared, common[first + 1])
            length += len(order[first])
            spared = (last - first) * shared
            if shared < MIN_SHARED_TOKENS or length - spared > max_tokens:
                break
            if saved[first] + spared > saved[last + 1]:
                saved[last + 1], starts[last] = saved[first] + spared, first
    runs, stop = [], len(order)
    while stop:
        start = starts[stop - 1]
        runs.append(order[start:stop])
        stop = start
    return runs


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the tokens that two rows begin with alike."""
    places = range(min(len(first), len(second)))
    return next((place for place in places if first[place] != second[place]), len(places))


def _tree(rows: Sequence[Tensor]) -> Tree:
    return join_rows(rows) if len(rows) > 1 else Tree(rows[0][:1], (rows[0][1:],))
