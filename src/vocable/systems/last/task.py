"""What the training loop needs to know of LAST: batches, the loss and its parts, what is logged, what is saved.

CropStream -> LastModel -> LossSum (parts: NLL, reconstruction, gradient norms) -> metrics.jsonl
                                                                                -> best/, last/: a LastTokenizer
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.features import FeatureEncoder
from vocable.systems.last.batches import CropStream, FeatureBatch, cut_clips, group_crops, read_batch
from vocable.systems.last.clips import Clips
from vocable.systems.last.config import LastConfig
from vocable.systems.last.model import LastModel, LastOutput, gradient_norms
from vocable.systems.last.tokenizer import LastTokenizer
from vocable.tokens import processes
from vocable.tokens.code_usage import CodeStatistics, CodeUsage, usage_metrics
from vocable.training.task import AdamWTask, DataSize, LossSum

LOSSES = ("nll", "change_nll", "reconstruction", "commitment")
GRADIENTS = ("nll_gradient", "reconstruction_gradient", "quantizer_gradient")
LAST_STEP = 2**62  # validation weighs the terms as at the end of all schedules, so that its losses can be compared


class LastTask(AdamWTask):
    """Training of a LAST tokenizer, for the loop in training/loop.py; its tokens are frames."""

    part_names: tuple[str, ...] = (*LOSSES, *GRADIENTS)
    target_name = "frame"

    def __init__(
        self, model: LastModel, encoder: FeatureEncoder, config: LastConfig, train: Clips, valid: Clips | None = None
    ) -> None:
        """Plan the data.

        Args:
            model: encoder, quantizer, adapter and decoder around the language model.
            encoder: the frozen speech encoder that the features are of; saved by name with the tokenizer.
            config: the recipe.
            train: features to train on.
            valid: features to validate on; those of one validation are in memory together.

        Raises:
            ConfigError: crops are longer than the language model's positions, or there is nothing to train on.
        """
        positions = getattr(model.lm.config, "max_position_embeddings", None)
        frames = config.training.crop_frames
        if positions is not None and frames > positions:
            raise ConfigError(
                f"training.crop_frames is {frames}, but {config.lm.text_model} has {positions} positions. "
                "Use shorter crops."
            )
        super().__init__(model, config.training)
        self.quantizer = model.quantizer
        self.encoder, self.config, self.train, self.valid = encoder, config, train, valid
        limits = {"crop_frames": frames, "batch_frames": config.training.batch_frames}
        self.stream = CropStream(train, **limits, seed=config.training.seed)
        self.valid_plan = (
            [] if valid is None else group_crops(cut_clips(valid.lengths, frames), config.training.batch_frames)
        )
        self.num_steps = 0
        self._usage: CodeStatistics | None = None
        limit = config.model.quantizer
        self._valid_counts = torch.zeros(limit.codebook_size, dtype=torch.int64)
        self._valid_usage = CodeUsage(limit.codebook_size, 1, limit.collapse_perplexity, limit.collapse_top_share)
        self._measuring = False

    def data_sizes(self) -> dict[str, DataSize]:
        """Count clips; their seconds are frames at the rate of the encoder."""
        found, rate = {"train": self.train, "valid": self.valid}, self.encoder.frame_rate
        return {name: DataSize(len(one.names), "clip", sum(one.lengths) / rate) for name, one in found.items() if one}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[FeatureBatch]:
        """Return this process's share of the next batches; the loop asks once a step."""
        every = self.config.gradient_norms_every
        self._measuring = every is not None and self.num_steps % every == 0
        self.num_steps += 1
        return self.stream.next_batches(count, process, num_processes)

    def validation_batches(self, process: int, num_processes: int) -> list[FeatureBatch]:
        """Return this process's share of the validation batches, and begin to count their units."""
        self._valid_counts.zero_()
        if self.valid is None:
            return []
        return [read_batch(self.valid, crops) for crops in self.valid_plan[process::num_processes]]

    def num_targets(self, batch: FeatureBatch) -> int:
        """Count frames."""
        return int(batch.mask.sum())

    def loss_sum(self, model: nn.Module, batch: FeatureBatch) -> LossSum:
        """Sum the loss over frames; once in a while, also measure the gradients of its terms."""
        training = model.training
        output: LastOutput = model(batch.features, batch.mask, self.num_steps - 1 if training else LAST_STEP)
        parts = loss_parts(output)
        if training:
            self._usage = self.quantizer.usage.last_window or output.quantized.statistics  # few frames use few units
            if self._measuring:
                self._measuring = False
                parts |= {f"{name}_gradient": (norm, 1) for name, norm in gradient_norms(output).items()}
        else:
            codes = output.quantized.codes[batch.mask]
            self._valid_counts += torch.bincount(codes, minlength=len(self._valid_counts)).cpu()
        return LossSum(output.loss * output.num_frames, parts)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return means of the losses and of the gradients' norms, and how much of the codebook is in use."""
        values = super().training_metrics(parts)
        if self._usage is not None:
            values |= usage_metrics(self._usage)
        return values

    def validation_metrics(
        self, loss_sum: float, num_targets: int, parts: Mapping[str, tuple[float, int]]
    ) -> dict[str, float]:
        """Return the loss per frame, its parts, the NLL per second of audio, and usage over all validation frames."""
        values = {"loss": loss_sum / num_targets, **{name: total / count for name, (total, count) in parts.items()}}
        values["nll_per_second"] = values["nll"] * self.encoder.frame_rate
        usage = usage_metrics(self._valid_usage.add(processes.add_up(self._valid_counts)))  # one window a validation
        return {**values, **{name: value for name, value in usage.items() if name != "revived"}}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the tokenizer: the speech side only."""
        assert isinstance(model, LastModel)
        LastTokenizer.of_model(model, self.encoder, self.config).save_pretrained(folder)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, the steps of the schedule, and the window in which usage is counted."""
        return {"stream": self.stream.state_dict(), "step": self.num_steps, "usage": self.quantizer.usage.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.stream.load_state_dict(state["stream"])
        self.num_steps = state["step"]
        self.quantizer.usage.load_state_dict(state["usage"])

    def identity(self) -> dict[str, Any]:
        """Describe the data, the model and both frozen networks."""
        config = self.config
        return {
            "data": {"train": self.train.describe(), "valid": None if self.valid is None else self.valid.describe()},
            "encoder": self.encoder.description(),
            "model": config_to_dict(config.model),
            "lm": config_to_dict(config.lm),
            "streamed": not config.cache_features,
        }


def loss_parts(output: LastOutput) -> dict[str, tuple[float, int]]:
    """Sums over frames of the unweighted terms, and over how many; a part without frames is left out."""
    codes, frames = output.quantized.codes, output.num_frames
    changed = int(((codes[:, 1:] != codes[:, :-1]) & (codes[:, 1:] >= 0)).sum())
    found = {"reconstruction": output.reconstruction, "commitment": output.commitment}
    if output.lm_was_run:
        found["nll"] = output.nll
    parts = {name: (float(value.detach()) * frames, frames) for name, value in found.items()}
    if output.lm_was_run and changed:
        parts["change_nll"] = (float(output.change_nll) * changed, changed)
    return parts
