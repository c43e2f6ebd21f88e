"""ABX error of units or features on phones in context, within and across speakers, with intervals.

    items + frames  ->  cells (phone pair, context, speakers)  ->  error per cell  ->  mean over contexts, over
    speakers, over phone pairs

Averages are taken in that order, so that no frequent context, speaker or phone counts more than others: as in
ZeroSpeech 2021 (Nguyen et al., 2020, arXiv:2011.11588). Across speakers, contexts and speakers of X are averaged
together first. 0.5 is chance, 0 perfect. Where frames are longer than phones, below about 12.5 Hz, ABX says nothing.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vocable.errors import ConfigError, missing_extra
from vocable.evaluation.abx_items import AbxItem, Context, Speakers, cut_frames, plan_cells
from vocable.evaluation.metrics.abx import DISTANCES, AbxCell, TokenDistances, cell_errors, check_frames
from vocable.evaluation.results import EvaluationResult, Score
from vocable.registry import look_up

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.evaluation.frame_sources import FrameSource

Kernel = Literal["auto", "torch", "fastabx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbxConfig:
    """What is compared, and how."""

    speakers: tuple[Speakers, ...] = ("within", "across")
    """X by the speaker of A and B, or by another; one score each."""
    distance: str | None = None
    """Of frames: angular, euclidean, kl_symmetric or identical; None takes identical for codes, angular for vectors."""
    context: Context = "within"
    """Compare phones between the same neighbours only, or any."""
    max_group: int | None = 10
    """Tokens of a phone, context and speaker; more are drawn from. None takes all."""
    max_x_speakers: int | None = 5
    """Speakers of X for each A and B, across speakers. None takes all."""
    kernel: Kernel = "auto"
    """Who computes: fastabx, torch (our own), or auto: fastabx where it is installed and knows the distance."""
    num_resamples: int = 500
    """Of the bootstrap."""
    seed: int = 0
    """Of draws and bootstrap."""

    def __post_init__(self) -> None:
        if not self.speakers or set(self.speakers) - {"within", "across"}:
            raise ConfigError(f"speakers is {', '.join(self.speakers)!r}; it is within, across, or both.")
        if self.distance is not None:
            look_up("ABX distance", self.distance, DISTANCES)
        look_up("ABX kernel", self.kernel, dict.fromkeys(("auto", "torch", "fastabx")))
        look_up("ABX context", self.context, dict.fromkeys(("within", "any")))
        if self.max_group is not None and self.max_group < 2:
            raise ConfigError(f"max_group is {self.max_group}; two tokens of a phone are the least to compare.")
        if self.num_resamples < 1 or (self.max_x_speakers is not None and self.max_x_speakers < 1):
            raise ConfigError("num_resamples and max_x_speakers are at least 1.")


def evaluate_abx(
    items: Sequence[AbxItem],
    frames: FrameSource,
    config: AbxConfig | None = None,
    *,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Cut items out of their files, compare them, and average.

    Args:
        items: what to compare.
        frames: file names and their frames.
        config: see `AbxConfig`.
        device: where distances are computed.
        on_progress: called with 1 after each file.

    Raises:
        ConfigError: no two phones can be compared, or the distance does not fit the frames.
        MissingDependencyError: kernel is "fastabx" and it is not installed.
    """
    config = config or AbxConfig()
    started = time.perf_counter()
    reasons: Counter[str] = Counter()
    kept, tokens = _cut(items, frames, reasons, on_progress)
    distance = config.distance or ("angular" if tokens and tokens[0].is_floating_point() else "identical")
    check_frames(tokens, distance)
    kernel = _choose_kernel(config.kernel, distance, tokens)
    scores, rows, measurements = {}, [], {}
    for speakers in config.speakers:
        cells = plan_cells(kept, speakers, config.context, config.max_group, config.max_x_speakers, config.seed)
        if cells:
            errors = _fastabx_errors if kernel == "fastabx" else _own_errors
            found = errors(cells, tokens, distance, device)
            weights = _CellTable(cells, found).weights()
            rows += [_row(cell, speakers, *numbers) for cell, *numbers in zip(cells, found, weights)]
            scores[speakers] = abx_score(cells, found, speakers, config.num_resamples, config.seed)
        else:
            reasons[f"no cell {speakers} speakers"] += 1
        measurements |= _measure(cells, speakers)
    if not scores:
        raise ConfigError(
            f"{len(kept)} of {len(items)} items have frames, and no speaker says two phones in one context often "
            "enough to compare. Use more speech per speaker, or context 'any'."
        )
    return EvaluationResult(
        benchmark="abx",
        scores=scores,
        conventions=_conventions(config, distance, kernel, frames.frame_rate),
        fingerprints=dict(frames.fingerprints),
        weights={},
        seed=config.seed,
        seconds=time.perf_counter() - started,
        excluded=dict(reasons + frames.excluded),
        notes=_notes(frames.frame_rate),
        measurements={"num_items": len(kept), **measurements},
        items=rows,
    )


def abx_score(
    cells: Sequence[AbxCell], errors: np.ndarray, speakers: Speakers, num_resamples: int = 500, seed: int = 0
) -> Score:
    """Average the errors of cells; intervals over contexts (drawn again with all their cells) and over speakers."""
    table = _CellTable(cells, errors)
    by_speaker = _interval(table.over_speakers, table.num_speakers, num_resamples, seed)
    by_context = _interval(table.over_contexts, table.num_contexts, num_resamples, seed)
    return Score(
        value=table.mean(np.ones(len(cells)), np.ones(table.num_speakers)),
        num_items=len(cells),
        low=by_context[0] if by_context else None,
        high=by_context[1] if by_context else None,
        num_speakers=table.num_speakers,
        speaker_low=by_speaker[0] if by_speaker else None,
        speaker_high=by_speaker[1] if by_speaker else None,
        better="lower",
        meaning=f"ABX error {speakers} speakers: mean over contexts, then speakers, then ordered phone pairs",
    )


class _CellTable:
    """Cells by number, for averaging them many times with other weights."""

    def __init__(self, cells: Sequence[AbxCell], errors: np.ndarray) -> None:
        self._errors = errors
        names = sorted({cell.speaker for cell in cells} | {cell.x_speaker for cell in cells})
        speakers = {name: index for index, name in enumerate(names)}
        self.num_speakers = len(names)
        self._context, self.num_contexts = _numbered([cell.context for cell in cells])
        pairs, self._num_pairs = _numbered([(cell.phone_a, cell.phone_b) for cell in cells])
        self._x_speaker = np.array([speakers[cell.x_speaker] for cell in cells])
        speaker = np.array([speakers[cell.speaker] for cell in cells])
        self._within = bool((speaker == self._x_speaker).all())
        self._group, self._num_groups = _numbered(list(zip(pairs.tolist(), speaker.tolist())))
        self._pair_of_group = np.zeros(self._num_groups, dtype=int)
        self._speaker_of_group = np.zeros(self._num_groups, dtype=int)
        self._pair_of_group[self._group], self._speaker_of_group[self._group] = pairs, speaker

    def mean(self, cell_weights: np.ndarray, speaker_weights: np.ndarray) -> float:
        """Mean over the cells of each phone pair and speaker, then over speakers, then over pairs; NaN when empty."""
        weight = np.bincount(self._group, cell_weights, self._num_groups)
        error = np.bincount(self._group, cell_weights * self._errors, self._num_groups)
        there = weight > 0
        group_error = np.divide(error, weight, out=np.zeros_like(error), where=there)
        group_weight = there * speaker_weights[self._speaker_of_group]
        weight = np.bincount(self._pair_of_group, group_weight, self._num_pairs)
        error = np.bincount(self._pair_of_group, group_weight * group_error, self._num_pairs)
        there = weight > 0
        return float((error[there] / weight[there]).mean()) if there.any() else float("nan")

    def weights(self) -> np.ndarray:
        """How much each cell counts in `mean`, (cells,); they sum to 1."""
        in_group = np.bincount(self._group, minlength=self._num_groups)
        in_pair = np.bincount(self._pair_of_group, minlength=self._num_pairs)
        return 1 / (in_group[self._group] * in_pair[self._pair_of_group[self._group]] * self._num_pairs)

    def over_contexts(self, times: np.ndarray) -> float:
        """With each context counted so many times."""
        return self.mean(times[self._context], np.ones(self.num_speakers))

    def over_speakers(self, times: np.ndarray) -> float:
        """With each speaker counted so many times, as speaker of A and B and as speaker of X."""
        of_x = np.ones(len(self._errors)) if self._within else times[self._x_speaker]
        return self.mean(of_x, times)


def _numbered(names: Sequence[Any]) -> tuple[np.ndarray, int]:
    numbers: dict[Any, int] = {}
    rows = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    return rows, len(numbers)


def _interval(
    statistic: Callable[[np.ndarray], float], size: int, num_resamples: int, seed: int
) -> tuple[float, float] | None:
    """95 % percentile bootstrap; None with fewer than two things to draw."""
    if size < 2:
        return None
    generator = np.random.default_rng(seed)
    shares = np.full(size, 1 / size)
    drawn = np.array([statistic(generator.multinomial(size, shares).astype(float)) for _ in range(num_resamples)])
    drawn = drawn[np.isfinite(drawn)]  # across speakers, one speaker drawn alone has nobody to compare with
    if not drawn.size:
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _cut(
    items: Sequence[AbxItem],
    frames: FrameSource,
    excluded: Counter[str],
    on_progress: Callable[[int], None] | None,
) -> tuple[list[AbxItem], list[Tensor]]:
    """Items that have frames, and these, in the order of `items`."""
    wanted: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        wanted.setdefault(item.file, []).append(index)
    found: dict[int, Tensor] = {}
    seen = set()
    for file, table in frames:
        seen.add(file)
        if on_progress is not None:
            on_progress(1)
        for index in wanted.get(file, ()):
            cut = cut_frames(table, items[index], frames.frame_rate)
            if cut is None:
                excluded["item shorter than a frame, or beyond the end of its file"] += 1
            else:
                found[index] = cut.cpu()
    missing = sum(len(rows) for file, rows in wanted.items() if file not in seen)
    if missing:
        excluded["item of a file without frames"] += missing
    order = sorted(found)
    return [items[index] for index in order], [found[index] for index in order]


def _own_errors(cells: Sequence[AbxCell], tokens: Sequence[Tensor], distance: str, device: str) -> np.ndarray:
    return cell_errors(cells, TokenDistances(tokens, distance, device), len(tokens))


def _fastabx_errors(cells: Sequence[AbxCell], tokens: Sequence[Tensor], distance: str, device: str) -> np.ndarray:
    """The same errors from fastabx (float32), for exactly these cells."""
    import polars
    import torch
    from fastabx import Dataset, Score, Task
    from fastabx.accessor import InMemoryAccessor

    ends = np.cumsum([len(token) for token in tokens])
    stretches = {i: (int(end) - len(token), int(end)) for i, (end, token) in enumerate(zip(ends, tokens))}
    dtype = torch.float32 if tokens[0].is_floating_point() else torch.int64
    accessor = InMemoryAccessor(stretches, torch.cat(list(tokens)).to(dtype), torch.device(device))
    dataset = Dataset(labels=polars.DataFrame({"token": range(len(tokens))}), accessor=accessor)
    table = polars.DataFrame(
        {
            "index_a": [list(cell.a) for cell in cells],
            "index_b": [list(cell.b) for cell in cells],
            "index_x": [list(cell.x) for cell in cells],
            "header": [str(index) for index in range(len(cells))],
            "description": [str(index) for index in range(len(cells))],
        }
    )
    symmetric = all(cell.a == cell.x for cell in cells)
    task = Task.from_cells(dataset, table, is_symmetric=symmetric)
    return Score(task, distance, progress=False).cells["score"].to_numpy().astype(float)  # type: ignore[arg-type]


def _choose_kernel(kernel: Kernel, distance: str, tokens: Sequence[Tensor]) -> str:
    installed = importlib.util.find_spec("fastabx") is not None
    fits = distance != "identical" or all(token.shape[1] == 1 for token in tokens)
    if kernel == "fastabx" and not installed:
        raise missing_extra("fastabx", "eval", "The ABX kernel 'fastabx' (Python 3.12 and later)")
    if kernel == "fastabx" and not fits:
        raise ConfigError("fastabx compares one code per frame, and these tokens have several. Use the kernel 'torch'.")
    return "fastabx" if kernel == "fastabx" or (kernel == "auto" and installed and fits) else "torch"


def _row(cell: AbxCell, speakers: str, error: float, weight: float) -> dict[str, Any]:
    """A cell; the score is the sum of `weighted_error` over the sum of `weight`."""
    before, after = cell.context
    return {
        "id": f"{speakers}|{cell.phone_a}-{cell.phone_b}|{before}_{after}|{cell.speaker}|{cell.x_speaker}",
        "speakers": speakers,
        "phone_a": cell.phone_a,
        "phone_b": cell.phone_b,
        "context": f"{before}_{after}",
        "speaker": cell.speaker,
        "x_speaker": cell.x_speaker,
        "num_triples": cell.num_triples,
        "error": float(error),
        "weight": float(weight),
        "weighted_error": float(weight * error),
    }


def _measure(cells: Sequence[AbxCell], speakers: str) -> dict[str, int]:
    return {
        f"num_cells_{speakers}": len(cells),
        f"num_triples_{speakers}": sum(cell.num_triples for cell in cells),
        f"num_contexts_{speakers}": len({cell.context for cell in cells}),
        f"num_phone_pairs_{speakers}": len({(cell.phone_a, cell.phone_b) for cell in cells}),
    }


def _conventions(config: AbxConfig, distance: str, kernel: str, frame_rate: float) -> dict[str, Any]:
    return {
        "speakers": list(config.speakers),
        "distance": distance,
        "alignment": "dynamic time warping, cost divided by path length",
        "context": config.context,
        "frame_rate": frame_rate,
        "frames_of_an_item": "centres, (i + 0.5) / frame_rate, from onset to offset, both included",
        "max_group": config.max_group,
        "max_x_speakers": config.max_x_speakers,
        "ties": 0.5,
        "kernel": kernel,
        "average": "contexts (across: and speakers of X), then speakers, then ordered phone pairs",
        "interval": "percentile bootstrap over contexts, and over speakers",
        "num_resamples": config.num_resamples,
    }


def _notes(frame_rate: float) -> list[str]:
    if frame_rate >= 12.5:
        return []
    return [f"At {frame_rate:g} frames a second phones are shorter than frames: this ABX says little."]
