"""ABX error of units or features on phones in context, within and across speakers, with intervals.

    items + frames  ->  cells (phone pair, context, speakers)  ->  error per cell  ->  mean over contexts, over
    speakers, over phone pairs

Averages are taken in that order, so that no frequent context, speaker or phone counts more than others: as in
ZeroSpeech 2021 (Nguyen et al., 2020, arXiv:2011.11588). Across speakers, contexts and speakers of X are averaged
together first. 0.5 is chance, 0 perfect. Where frames are longer than phones, below about 12.5 Hz, ABX says nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vocable.errors import ConfigError, missing_extra
from vocable.evaluation.abx_items import (
    AbxItem,
    Context,
    Span,
    Speakers,
    cut_frames,
    items_from_manifest,
    plan_cells,
    read_item_file,
)
from vocable.evaluation.bootstrap import bootstrap
from vocable.evaluation.metrics.abx import DISTANCES, AbxCell, TokenDistances, cell_errors, check_frames
from vocable.evaluation.results import Score, score_between
from vocable.evaluation.runner import Benchmark, Item, Items, SampledConfig, TokensConfig
from vocable.evaluation.token_sources import FrameSource, TokenSource, encoder_frames, stored_frames, token_frames
from vocable.registry import look_up

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Literal["auto", "torch", "fastabx"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbxConfig(TokensConfig):
    """Frames to compare, and the conventions. Give one of tokens, tokenizer, encoder and features."""

    manifest: Path
    """The utterances (JSONL); their ids are the file names of the items. Without items, its phones are used."""
    encoder: str | None = None
    """Name or folder of a feature encoder: compare its features."""
    layer: int = 2
    """Layer of the encoder."""
    features: Path | None = None
    """Folder of <id>.npy files, each (frames, dim)."""
    frame_rate: float | None = None
    """Frames per second of these files."""
    items: Path | None = None
    """A ZeroSpeech .item file. Without it, items are all phones of the manifest that have two neighbours."""
    span: Span = "triphone"
    """Unit of comparison in the manifest's phones: the phone with both neighbours, or the phone alone."""
    speakers: Literal["both", "within", "across"] = "both"
    """X by the speaker of A and B (within), by another (across), or both scores."""
    distance: str | None = None
    """Distance of frames: angular, euclidean, kl_symmetric or identical. Without it, identical for units, angular for
    features."""
    context: Context = "within"
    """Compare phones between the same neighbours only (within), or any."""
    max_group: int | None = 10
    """Most tokens of a phone, context and speaker; of more, some are drawn. None takes all."""
    max_x_speakers: int | None = 5
    """Most speakers of X for each A and B, across speakers. None takes all."""
    kernel: Kernel = "auto"
    """Who computes: fastabx, torch (our own), or auto: fastabx where it is installed and knows the distance."""
    num_resamples: int = 500
    """Resamples of the bootstrap."""

    def __post_init__(self) -> None:
        SampledConfig.__post_init__(self)
        if self.speakers not in ("both", "within", "across"):
            raise ConfigError(f"speakers is {self.speakers!r}; it is within, across, or both.")
        if self.distance is not None:
            look_up("ABX distance", self.distance, DISTANCES)
        look_up("ABX kernel", self.kernel, dict.fromkeys(("auto", "torch", "fastabx")))
        look_up("ABX context", self.context, dict.fromkeys(("within", "any")))
        if self.max_group is not None and self.max_group < 2:
            raise ConfigError(f"max_group is {self.max_group}; two tokens of a phone are the least to compare.")
        if self.max_x_speakers is not None and self.max_x_speakers < 1:
            raise ConfigError(f"max_x_speakers is {self.max_x_speakers}; it must be at least 1.")


class Abx(Benchmark[AbxConfig]):
    """Phone ABX, within and across speakers, of units or features: error rates with 95 % intervals.

    X and A are one phone, B another, all between the same two neighbours: how often is X nearer to B? 0.5 is chance.
    Writes abx.json and abx.items.parquet (the error of every phone pair, context and speaker). Give one of tokens,
    tokenizer, encoder and features.

    vocable evaluate abx --manifest dev.jsonl --tokenizer units --out results/units
    vocable evaluate abx --manifest dev.jsonl --encoder openai/whisper-tiny.en --layer 2 --out results/features
    """

    name, Config, counted = "abx", AbxConfig, "contexts"

    def items(self) -> Iterator[Item]:
        """Cut tokens out of their files, and compare them cell by cell."""
        config, device = self.config, self.run.device
        frames = self.run.open("frames", self._frames)
        wanted = self._wanted()
        kept, tokens = self._cut(wanted, frames)
        self.how_many = f"{len(kept)} of {len(wanted)}"
        self.num_tokens, self.frame_rate = len(kept), frames.frame_rate
        self.distance = config.distance or ("angular" if tokens and tokens[0].is_floating_point() else "identical")
        check_frames(tokens, self.distance)
        self.kernel = _choose_kernel(config.kernel, self.distance, tokens)
        self.speakers: tuple[Speakers, ...] = ("within", "across") if config.speakers == "both" else (config.speakers,)
        for speakers in self.speakers:
            cells = plan_cells(kept, speakers, config.context, config.max_group, config.max_x_speakers, config.seed)
            if not cells:
                self.run.excluded[f"no cell {speakers} speakers"] += 1
                continue
            compute = _fastabx_errors if self.kernel == "fastabx" else _own_errors
            errors = compute(cells, tokens, self.distance, device)
            weights = _CellTable(cells, errors).weights()
            yield from (_row(cell, speakers, *numbers) for cell, *numbers in zip(cells, errors, weights))

    def _wanted(self) -> list[AbxItem]:
        """The tokens to compare, from an item file or from the phones of the manifest."""
        path, span = self.config.items, self.config.span
        if path is not None:
            return self.run.open("items", lambda: read_item_file(path))
        return self.run.open("items", lambda: items_from_manifest(self.run.utterances(), span))

    def _frames(self) -> FrameSource:
        config, run = self.config, self.run
        given = sum(name is not None for name in (config.tokens, config.tokenizer, config.encoder, config.features))
        if given != 1:
            raise ConfigError(f"Give one of tokens, tokenizer, encoder and features; there are {given}.")
        wanted = {item.file for item in self._wanted()}
        if not wanted:
            raise ConfigError(
                f"{config.manifest}: no line holds phones and a speaker. Pass an item file with --items, or add to the "
                'lines "phones": [{"phone": ..., "start": ..., "end": ...}].'
            )
        utterances = [utterance for utterance in run.utterances() if utterance.id in wanted]
        if config.encoder is not None:
            return encoder_frames(utterances, config.encoder, config.layer, run.device)
        if config.features is not None:
            return stored_frames(utterances, config.features, config.frame_rate)
        return token_frames(TokenSource(utterances, config.tokens, run.tokenizer(), config.stream))

    def _cut(self, items: Sequence[AbxItem], frames: FrameSource) -> tuple[list[AbxItem], list[Tensor]]:
        """Items that have frames, and these, in the order of `items`."""
        wanted: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            wanted.setdefault(item.file, []).append(index)
        found: dict[int, Tensor] = {}
        seen = set()
        for file, table in self.run.watch("Cutting items", frames, len(wanted)):
            seen.add(file)
            for index in wanted.get(file, ()):
                cut = cut_frames(table, items[index], frames.frame_rate)
                if cut is None:
                    self.run.excluded["item shorter than a frame, or beyond the end of its file"] += 1
                else:
                    found[index] = cut.cpu()
        missing = sum(len(rows) for file, rows in wanted.items() if file not in seen)
        if missing:
            self.run.excluded["item of a file without frames"] += missing
        self.run.excluded.update(frames.excluded)
        self.run.fingerprints.update(frames.fingerprints)
        order = sorted(found)
        return [items[index] for index in order], [found[index] for index in order]

    def nothing(self, reasons: str) -> ConfigError:
        """Say what there would have to be more of."""
        return ConfigError(
            f"{self.how_many} items have frames, and no speaker says two phones in one context often "
            "enough to compare. Use more speech per speaker, or context 'any'."
        )

    def scores(self, items: Items) -> dict[str, Score]:
        """Average the cells, within and across speakers."""
        scores = {}
        for speakers in self.speakers:
            if rows := [item for item in items if item["speakers"] == speakers]:
                errors = np.array([row["error"] for row in rows])
                scores[speakers] = abx_score([row["_cell"] for row in rows], errors, speakers, **self.draws)
        return scores

    def conventions(self) -> dict[str, Any]:
        """Frames that are compared, and how errors are averaged."""
        return {
            "speakers": list(self.speakers),
            "distance": self.distance,
            "alignment": "dynamic time warping, cost divided by path length",
            "context": self.config.context,
            "frame_rate": self.frame_rate,
            "frames_of_an_item": "centres, (i + 0.5) / frame_rate, from onset to offset, both included",
            "max_group": self.config.max_group,
            "max_x_speakers": self.config.max_x_speakers,
            "ties": 0.5,
            "kernel": self.kernel,
            "average": "contexts (across: and speakers of X), then speakers, then ordered phone pairs",
            "interval": "percentile bootstrap over contexts, and over speakers",
            "num_resamples": self.config.num_resamples,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """How much was compared."""
        found: dict[str, Any] = {"num_items": self.num_tokens}
        for speakers in self.speakers:
            rows = [item for item in items if item["speakers"] == speakers]
            found |= {
                f"num_cells_{speakers}": len(rows),
                f"num_triples_{speakers}": sum(row["num_triples"] for row in rows),
                f"num_contexts_{speakers}": len({row["_cell"].context for row in rows}),
                f"num_phone_pairs_{speakers}": len({(row["phone_a"], row["phone_b"]) for row in rows}),
            }
        return found

    def notes(self, items: Items) -> list[str]:
        """Warn of frames that are longer than phones."""
        if self.frame_rate >= 12.5:
            return []
        return [f"At {self.frame_rate:g} frames a second phones are shorter than frames: this ABX says little."]


def abx_score(
    cells: Sequence[AbxCell], errors: np.ndarray, speakers: Speakers, num_resamples: int = 500, seed: int = 0
) -> Score:
    """Average the errors of cells; intervals over contexts (drawn again with all their cells) and over speakers."""
    table = _CellTable(cells, errors)
    return score_between(
        table.mean(np.ones(len(cells)), np.ones(table.num_speakers)),
        len(cells),
        bootstrap(table.over_contexts, table.num_contexts, num_resamples, seed=seed),
        bootstrap(table.over_speakers, table.num_speakers, num_resamples, seed=seed),
        table.num_speakers,
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
        errors, there = _means(self._errors, cell_weights, self._group, self._num_groups)
        group_weights = there * speaker_weights[self._speaker_of_group]
        errors, there = _means(errors, group_weights, self._pair_of_group, self._num_pairs)
        return float(errors[there].mean()) if there.any() else float("nan")

    def weights(self) -> np.ndarray:
        """How much each cell counts in `mean`, (cells,); they sum to 1."""
        in_group = np.bincount(self._group, minlength=self._num_groups)
        in_pair = np.bincount(self._pair_of_group, minlength=self._num_pairs)
        return 1 / (in_group[self._group] * in_pair[self._pair_of_group[self._group]] * self._num_pairs)

    def over_contexts(self, draws: np.ndarray) -> np.ndarray:
        """The mean with each context counted as often as a row of `draws` says."""
        everybody = np.ones(self.num_speakers)
        return np.array([self.mean(times[self._context], everybody) for times in draws.astype(float)])

    def over_speakers(self, draws: np.ndarray) -> np.ndarray:
        """The mean with each speaker counted so often, as speaker of A and B and as speaker of X.

        Across speakers it is NaN where one speaker was drawn alone, who has nobody to compare with.
        """
        every_cell = np.ones(len(self._errors))
        return np.array(
            [self.mean(every_cell if self._within else times[self._x_speaker], times) for times in draws.astype(float)]
        )


def _means(
    values: np.ndarray, weights: np.ndarray, groups: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of each group, and whether it has any weight."""
    total = np.bincount(groups, weights, num_groups)
    sums = np.bincount(groups, weights * values, num_groups)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0), total > 0


def _numbered(names: Sequence[Any]) -> tuple[np.ndarray, int]:
    numbers: dict[Any, int] = {}
    rows = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    return rows, len(numbers)


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
        "_cell": cell,
    }
