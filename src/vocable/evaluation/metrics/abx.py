"""ABX: is a token X of phone A nearer to another token of A than to one of phone B? Distances and error rates.

    frames of x, frames of y  ->  frame distances  ->  dynamic time warping  ->  one distance per pair
    cell (A tokens, B tokens, X tokens)  ->  share of triples (a, b, x) with d(a, x) > d(b, x), ties one half

Source: Schatz et al., 2013, "Evaluating speech features with the Minimal-Pair ABX task"; conventions of ZeroSpeech 2021
(Nguyen et al., 2020, arXiv:2011.11588): a path's cost is divided by its length, the angle by pi. Computed in float64,
so that equal sequences of units tie exactly.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.registry import look_up

BATCH_CELLS = 1 << 20
"""Frame distances held at once."""
CHUNK_PAIRS = 1 << 17
"""Pairs of tokens whose distances are held at once."""
KL_FLOOR = 1e-6
"""Added to probabilities inside the logarithm."""


class AbxCell(NamedTuple):
    """Tokens to compare, by number: of phone A and of phone B, in one context and by one speaker; X is of phone A."""

    phone_a: str
    phone_b: str
    context: tuple[str, str]
    speaker: str
    """Speaker of A and B."""
    x_speaker: str
    """Speaker of X; within speakers, `speaker`."""
    a: tuple[int, ...]
    b: tuple[int, ...]
    x: tuple[int, ...]
    """Within speakers, the same as `a`; a token is never compared with itself."""

    @property
    def num_triples(self) -> int:
        """Comparisons (a, b, x) with a and x different tokens."""
        return len(self.b) * sum(a != x for a in self.a for x in self.x)


def angular_distance(x: Float[Tensor, "pairs n dim"], y: Float[Tensor, "pairs m dim"]) -> Float[Tensor, "pairs n m"]:
    """Angle between frames, divided by pi. A frame of zeros lies at a right angle to every other."""
    cosines = functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).mT
    return cosines.clamp(-1, 1).acos() / torch.pi


def euclidean_distance(x: Float[Tensor, "pairs n dim"], y: Float[Tensor, "pairs m dim"]) -> Float[Tensor, "pairs n m"]:
    """Length of the difference of frames, from the differences themselves, so that equal frames are at exactly 0."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def kl_distance(x: Float[Tensor, "pairs n dim"], y: Float[Tensor, "pairs m dim"]) -> Float[Tensor, "pairs n m"]:
    """Symmetric Kullback-Leibler divergence of probabilities, (KL(x, y) + KL(y, x)) / 2, in nats."""
    log_x, log_y = (x + KL_FLOOR).log(), (y + KL_FLOOR).log()
    own = (x * log_x).sum(-1)[:, :, None] + (y * log_y).sum(-1)[:, None, :]
    return (own - x @ log_y.mT - log_x @ y.mT).clamp(min=0) / 2


def identical_distance(x: Int[Tensor, "pairs n books"], y: Int[Tensor, "pairs m books"]) -> Float[Tensor, "pairs n m"]:
    """How many codes of two frames differ; 0 or 1 with one codebook."""
    return (x[:, :, None] != y[:, None]).sum(-1).double()


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "angular": angular_distance,
    "euclidean": euclidean_distance,
    "kl_symmetric": kl_distance,
    "identical": identical_distance,
}
"""Distances of single frames by name; all are symmetric."""


def warped_distances(
    distances: Float[Tensor, "pairs n m"], lengths: Int[Tensor, " pairs"], other_lengths: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Cost of the cheapest monotone path through each table of frame distances, divided by the steps of the path.

    Steps go one frame ahead in either sequence or in both; of equally cheap ones the diagonal is taken, then the one
    along the second sequence, as in the ZeroSpeech 2021 code, since the choice decides the length of the path.

    Args:
        distances: padded tables; what lies outside `lengths` and `other_lengths` is not read.
        lengths: rows that count, at least 1.
        other_lengths: columns that count, at least 1.
    """
    num_pairs, n, m = distances.shape
    costs = distances.double().permute(1, 2, 0).contiguous()  # (n, m, pairs): a diagonal is a few long rows
    total = costs.new_full((n + 1, m + 1, num_pairs), torch.inf)
    steps = torch.zeros_like(total)
    total[0, 0] = 0
    for diagonal in range(n + m - 1):
        i = torch.arange(max(0, diagonal - m + 1), min(diagonal, n - 1) + 1, device=costs.device)
        j = diagonal - i
        both, second, first = (i, j), (i + 1, j), (i, j + 1)
        take_both = (total[both] <= total[second]) & (total[both] <= total[first])
        take_second = total[second] <= total[first]
        before = torch.where(take_both, total[both], torch.where(take_second, total[second], total[first]))
        length = torch.where(take_both, steps[both], torch.where(take_second, steps[second], steps[first]))
        total[i + 1, j + 1] = before + costs[i, j]
        steps[i + 1, j + 1] = length + 1
    pairs = torch.arange(num_pairs, device=costs.device)
    ends = lengths.long(), other_lengths.long(), pairs
    return total[ends] / steps[ends]


class TokenDistances:
    """Distances between tokens, each a stretch of frames, computed in batches of similar length.

    Args:
        frames: one tensor per token, (frames, dim), or integer codes (frames, num_codebooks); at least one frame each.

    Raises:
        UnknownNameError: no such distance.
        ConfigError: `identical` with vectors, another distance with codes, KL with something else than probabilities,
            or an empty token.
    """

    def __init__(self, frames: Sequence[Tensor], distance: str, device: str = "cpu") -> None:
        self._distance = look_up("ABX distance", distance, DISTANCES)
        check_frames(frames, distance)
        self._lengths = torch.tensor([len(token) for token in frames])
        self._starts = self._lengths.cumsum(0) - self._lengths
        joined = torch.cat(list(frames)).to(device)
        self._frames = joined.double() if joined.is_floating_point() else joined
        self._books = joined.shape[1] if distance == "identical" else 1

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances of tokens `first[i]` and `second[i]`, (pairs,) float64."""
        found = np.empty(len(first))
        rows, columns = self._lengths[first], self._lengths[second]
        order = np.lexsort((columns.numpy(), rows.numpy()))
        start = 0
        while start < len(order):
            # sorted by rows: the last one of a batch has the most rows
            size = max(1, BATCH_CELLS // int(rows.max() * columns.max()))
            chosen = order[start : start + size]
            found[chosen] = self._batch(torch.from_numpy(first[chosen]), torch.from_numpy(second[chosen]))
            start += size
        return found

    def _batch(self, first: Tensor, second: Tensor) -> np.ndarray:
        tables = self._distance(self._padded(first), self._padded(second))
        lengths = self._lengths[first], self._lengths[second]
        warped = warped_distances(tables, *(length.to(tables.device) for length in lengths))
        return (warped / self._books).cpu().numpy()

    def _padded(self, tokens: Tensor) -> Tensor:
        """Frames of some tokens, (tokens, longest, dim); what is over is the frames that follow."""
        longest = int(self._lengths[tokens].max())
        rows = self._starts[tokens][:, None] + torch.arange(longest)
        return self._frames[rows.clamp(max=len(self._frames) - 1).to(self._frames.device)]


def check_frames(frames: Sequence[Tensor], distance: str) -> None:
    """See that tokens hold what a distance compares; errors as for `TokenDistances`."""
    for token in frames:
        if token.ndim != 2 or not len(token):
            raise ConfigError(f"A token of shape {tuple(token.shape)} cannot be compared: (frames, dim), not empty.")
        if (distance == "identical") == token.is_floating_point():
            kind, fitting = ("vectors", "angular") if distance == "identical" else ("codes", "identical")
            raise ConfigError(f"The ABX distance {distance!r} does not compare {kind}. Use {fitting!r}.")
        if distance == "kl_symmetric" and (bool((token < 0).any()) or float((token.sum(1) - 1).abs().max()) > 1e-3):
            raise ConfigError("kl_symmetric compares probabilities: frames of numbers from 0 on that sum to 1.")


def cell_errors(cells: Sequence[AbxCell], distances: TokenDistances, num_tokens: int) -> np.ndarray:
    """Error of each cell: the share of triples where X is nearer to B than to A; a tie counts one half, (cells,).

    Distances that several cells need are computed once, within chunks of cells.
    """
    errors = np.empty(len(cells))
    start = 0
    while start < len(cells):
        stop, size = start, 0
        while stop < len(cells) and (size < CHUNK_PAIRS or stop == start):
            size += len(cells[stop].x) * (len(cells[stop].a) + len(cells[stop].b))
            stop += 1
        errors[start:stop] = _chunk_errors(cells[start:stop], distances, num_tokens)
        start = stop
    return errors


def _chunk_errors(cells: Sequence[AbxCell], distances: TokenDistances, num_tokens: int) -> np.ndarray:
    keys = [_pair_keys(cell.x, others, num_tokens) for cell in cells for others in (cell.a, cell.b)]
    needed = np.unique(np.concatenate([key.ravel() for key in keys]))
    values = distances.between(needed // num_tokens, needed % num_tokens)
    tables = [values[np.searchsorted(needed, key)] for key in keys]  # (x, a) and (x, b) in turn
    return np.array([_error(cell, tables[2 * i], tables[2 * i + 1]) for i, cell in enumerate(cells)])


def _pair_keys(x: Sequence[int], others: Sequence[int], num_tokens: int) -> np.ndarray:
    """One number per pair, (x, others). X comes first: of equally cheap paths, which is taken depends on the order."""
    return np.array(x, dtype=np.int64)[:, None] * num_tokens + np.array(others, dtype=np.int64)[None, :]


def _error(cell: AbxCell, to_a: np.ndarray, to_b: np.ndarray) -> float:
    """Share of wrong triples, of distances (x, a) and (x, b)."""
    worse = to_a[:, :, None] - to_b[:, None, :]  # (x, a, b)
    wrong = (worse > 0) + 0.5 * (worse == 0)
    allowed = np.array(cell.x)[:, None] != np.array(cell.a)[None, :]
    return float(wrong[allowed].mean())
