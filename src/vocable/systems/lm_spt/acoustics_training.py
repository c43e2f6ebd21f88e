"""Train the predictor of acoustic levels (acoustics.py) on the token shards of a codec.

shards -> crops of both streams -> one level a batch, perhaps after a prompt of true codes -> cross-entropy
       -> out/best, out/last: folders that `load_synthesizer` opens
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.config import config_to_dict, save_config
from vocable.errors import ConfigError
from vocable.sequences.packing import shuffled
from vocable.sequences.spans import random_numbers
from vocable.systems.lm_spt.acoustics import (
    AcousticPredictor,
    Codes,
    PredictorConfig,
    codes_of,
    predictor_for,
    save_predictor,
)
from vocable.systems.stage import Run, Stage
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shard_columns import Pair
from vocable.tokens.shards import TokenShards
from vocable.training.config import AdamWTrainingConfig
from vocable.training.logs import read_metrics
from vocable.training.loop import TrainingResult
from vocable.training.loop import train as run_loop
from vocable.training.task import AdamWTask, DataSize, LossSum

Rows = Sequence[Pair]
"""Utterances with their tokens, read when they are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcousticsTrainingConfig(AdamWTrainingConfig):
    """A run that trains a predictor of acoustic levels. Its tokens are predicted codes."""

    batch_size: int = 16
    """Crops in a batch."""
    crop_frames: int = 125
    """Longest crop; shorter utterances are filled up with padding."""
    prompt_share: float = 0.5
    """Share of the crops that begin with a prompt, of which all levels are known: up to half of the crop."""

    def __post_init__(self) -> None:
        AdamWTrainingConfig.__post_init__(self)
        self.require_at_least(batch_size=1, crop_frames=2)
        if not 0 <= self.prompt_share <= 1:
            raise ConfigError(f"training.prompt_share is {self.prompt_share}; it must be between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcousticsConfig:
    """A predictor of acoustic levels, and how it is trained. Sizes and steps are our choices."""

    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    training: AcousticsTrainingConfig = field(default_factory=lambda: AcousticsTrainingConfig(max_steps=10_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeBatch:
    """Crops side by side, and which level of which frames is predicted."""

    semantic: Int[Tensor, "batch frames"]
    acoustic: Int[Tensor, "batch levels frames"]
    mask: Bool[Tensor, "batch frames"]
    prompt: Bool[Tensor, "batch frames"]
    levels: tuple[int, ...]
    """Levels that the loss counts."""

    def to(self, device: torch.device | str) -> "CodeBatch":
        """Return the same on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in ("semantic", "acoustic", "mask", "prompt")}
        return CodeBatch(**tensors, levels=self.levels)

    @property
    def num_targets(self) -> int:
        """Codes that are predicted."""
        return int((self.mask & ~self.prompt).sum()) * len(self.levels)


def collate(crops: Sequence[Codes], prompt_frames: Sequence[int], levels: Sequence[int]) -> CodeBatch:
    """Put crops side by side, padded with zeros at the end; the first `prompt_frames` of each are known."""
    lengths = torch.tensor([len(crop.semantic) for crop in crops])
    places = torch.arange(int(lengths.max()))
    semantic = torch.nn.utils.rnn.pad_sequence([crop.semantic for crop in crops], batch_first=True)
    acoustic = torch.nn.utils.rnn.pad_sequence([crop.acoustic.T for crop in crops], batch_first=True).mT
    return CodeBatch(
        semantic=semantic,
        acoustic=acoustic,
        mask=places < lengths[:, None],
        prompt=places < torch.tensor(prompt_frames)[:, None],
        levels=tuple(levels),
    )


class CropStream:
    """Endless batches of crops; which comes at which step follows from the seed alone."""

    def __init__(self, rows: Rows, config: AcousticsConfig, num_levels: int) -> None:
        """Plan the first epoch.

        Raises:
            ConfigError: there is nothing to train on.
        """
        if not len(rows):
            raise ConfigError("There are no tokens to train the predictor of acoustic levels on.")
        self.rows, self.config, self.num_levels, self.batch = rows, config, num_levels, 0
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def next_batches(self, count: int, process: int, num_processes: int) -> list[CodeBatch]:
        """Return this process's share of the next batches."""
        first = self.batch
        self.batch += count
        return [self.build(number) for number in range(first + process, first + count, num_processes)]

    def build(self, number: int) -> CodeBatch:
        """Return the batch of this number."""
        training = self.config.training
        draws = random_numbers(training.seed, number, "acoustics")
        crops, prompts = [], []
        for place in range(number * training.batch_size, (number + 1) * training.batch_size):
            utterance, tokens = self.rows[self._row(place)]
            codes = codes_of(tokens, self.config.predictor, f"Utterance {utterance.id!r}")
            start = int(draws.integers(max(1, len(codes.semantic) - training.crop_frames + 1)))
            kept = slice(start, start + training.crop_frames)
            crops.append(Codes(codes.semantic[kept], codes.acoustic[:, kept]))
            half = len(crops[-1].semantic) // 2
            prompts.append(int(draws.integers(1, half + 1)) if half and draws.random() < training.prompt_share else 0)
        return collate(crops, prompts, [int(draws.integers(self.num_levels))])

    def _row(self, place: int) -> int:
        epoch, index = divmod(place, len(self.rows))
        if self._order[0] != epoch:
            self._order = epoch, shuffled(len(self.rows), self.config.training.seed, epoch)
        return int(self._order[1][index])


class AcousticsTask(AdamWTask):
    """Cross-entropy of one acoustic level a batch, for the loop in training/loop.py."""

    target_name = "code"

    def __init__(
        self, model: AcousticPredictor, config: AcousticsConfig, train: Rows, valid: Rows, shards: TokenShards
    ) -> None:
        """Plan the data."""
        super().__init__(model, config.training)
        self.config, self.valid, self.shards = config, valid, shards
        self.stream = CropStream(train, config, model.num_levels)
        self.levels = [f"level{number}" for number in range(model.num_levels)]
        self.part_names: tuple[str, ...] = (*self.levels, *(f"{name}_correct" for name in self.levels))

    def data_sizes(self) -> dict[str, DataSize]:
        """Count utterances."""
        return {"train": DataSize(len(self.stream.rows)), "valid": DataSize(len(self.valid))}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[CodeBatch]:
        """Return this process's share of the next batches."""
        return self.stream.next_batches(count, process, num_processes)

    def validation_batches(self, process: int, num_processes: int) -> list[CodeBatch]:
        """Return the beginnings of this process's validation utterances, all levels of them, without a prompt."""
        size, limit = self.config.training.batch_size, self.config.training.crop_frames
        crops = []
        for utterance, tokens in self.valid:
            codes = codes_of(tokens, self.config.predictor, f"Utterance {utterance.id!r}")
            crops.append(Codes(codes.semantic[:limit], codes.acoustic[:, :limit]))
        groups = [crops[start : start + size] for start in range(0, len(crops), size)][process::num_processes]
        return [collate(group, [0] * len(group), range(len(self.levels))) for group in groups]

    def num_targets(self, batch: CodeBatch) -> int:
        """Count predicted codes."""
        return batch.num_targets

    def loss_sum(self, model: nn.Module, batch: CodeBatch) -> LossSum:
        """Sum the negative log-likelihood of the levels that count, over frames that are neither prompt nor padding."""
        wanted = batch.mask & ~batch.prompt
        total, parts = torch.zeros((), device=wanted.device), {}
        for level in batch.levels:
            logits = model(batch.semantic, batch.acoustic, level, batch.prompt, batch.mask)[wanted].float()
            codes = batch.acoustic[:, level][wanted]
            nll = functional.cross_entropy(logits, codes, reduction="sum")
            total = total + nll
            parts[self.levels[level]] = (float(nll.detach()), len(codes))
            parts[f"{self.levels[level]}_correct"] = (float((logits.argmax(-1) == codes).sum()), len(codes))
        if model.training:  # each step reads one level; with several processes, every parameter needs a gradient
            total = total + 0.0 * torch.stack([parameter.sum() for parameter in model.parameters()]).sum()
        return LossSum(total, parts)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return the loss per code of each level, `<level>_loss`, and the share of likeliest codes that are right."""
        means = {name: value / count for name, (value, count) in parts.items() if count}
        return {name if name.endswith("_correct") else f"{name}_loss": value for name, value in means.items()}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the predictor."""
        assert isinstance(model, AcousticPredictor)
        save_predictor(model, folder, self.shards.card)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data."""
        return {"batch": self.stream.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the data."""
        self.stream.batch = state["batch"]

    def identity(self) -> dict[str, Any]:
        """Describe model and data."""
        return {
            "predictor": config_to_dict(self.config.predictor),
            "data": {"fingerprint": self.shards.fingerprint, "train": len(self.stream.rows), "valid": len(self.valid)},
        }


def train(
    config: AcousticsConfig,
    shards: TokenShards,
    out: Path,
    valid_shards: TokenShards | None = None,
    *,
    valid_share: float = 0.02,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train a predictor of acoustic levels; a run that is in `out` already goes on.

    Args:
        config: the recipe's section `acoustics`.
        shards: training tokens, with both streams.
        out: the run's folder.
        valid_shards: validation tokens; None takes what is marked `valid`, or a share of the rest.
        valid_share: that share.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        ConfigError: the tokens lack one of the streams, or these have different rates.
        FingerprintError: the validation tokens were made by another tokenizer.
    """
    if valid_shards is None:
        rows, held_out = shards.divide(valid_share)
    else:
        check_fingerprint(shards.fingerprint, valid_shards.fingerprint, str(shards.folder), str(valid_shards.folder))
        rows, held_out = shards.training_rows(), valid_shards.validation_rows()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = predictor_for(config.predictor, shards.card)
    task = AcousticsTask(model, config, rows, held_out, shards)
    return run_loop(task, config.training, out, stop_at_step=stop_at_step, show=show)


class AcousticsStage(Stage):
    """Train a predictor of acoustic levels on tokens; for configs with `acoustics` and `valid_share`."""

    name = "acoustics"
    reads = ("tokens",)
    may_read = ("valid_tokens",)
    writes = ("acoustics",)
    shared = True

    def is_needed(self, config: Any) -> bool:
        """Whether the recipe has a predictor."""
        return config.acoustics is not None

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings of the predictor, and what decides who is held out."""
        return {"acoustics": config_to_dict(config.acoustics), "valid_share": config.valid_share}

    def progress(self, run: Run) -> str:
        """Say which step the log has reached."""
        steps = [line["step"] for line in read_metrics(run.path("acoustics"))]
        return f"step {steps[-1]}" if steps else "to do"

    def run(self, run: Run) -> str:
        """Train, and save the settings beside the predictor."""
        valid = run.find("valid_tokens")
        result = train(
            run.config.acoustics,
            TokenShards(run.path("tokens")),
            run.path("acoustics"),
            None if valid is None else TokenShards(valid),
            valid_share=run.config.valid_share,
        )
        save_config(run.config, run.out / "config.yaml")
        losses = [line["loss"] for line in result.valid_curve]
        held_out = [f"Held-out loss: {min(losses):.3f} nats per acoustic code"] if losses else []
        return "\n".join([*held_out, f"Predictor of acoustic levels: {result.best} (best), {result.last} (last)"])
