"""Train a causal language model on documents of token ids.

documents -> packed rows -> next-token loss inside each document -> out/best: a Hugging Face folder with its card

A model of speech and text logs the loss of each modality, and validation by source, besides the loss of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.frozen import has_new_rows, merge_new_rows
from vocable.lm.lora import has_lora, merge_lora
from vocable.lm.packed import enable_packing, token_losses
from vocable.sequences.lazy import Lazy, document_lengths
from vocable.sequences.packing import IGNORED_LABEL, Document, PackedBatch, pack_documents
from vocable.sequences.subwords import UnitSubwords
from vocable.sequences.vocabulary import SPECIAL, SPEECH, TEXT
from vocable.training.config import AdamWTrainingConfig
from vocable.training.data import EpochStream, PackedStream, RowStream
from vocable.training.loop import TrainingResult, train
from vocable.training.task import AdamWTask, DataSize, LossSum

CLASS_NAMES = {TEXT: "text", SPEECH: "speech", SPECIAL: "symbols"}
Epochs = Callable[[int], Sequence[Document]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LMTrainingConfig(AdamWTrainingConfig):
    """A run that trains a language model on packed documents."""

    context_tokens: int = 1024
    """Longest document; longer ones are cut, and every remainder is kept."""
    tokens_per_batch: int = 4096
    """Positions in one packed row, i.e. in one forward pass."""

    def __post_init__(self) -> None:
        AdamWTrainingConfig.__post_init__(self)
        self.require_at_least(context_tokens=2, tokens_per_batch=2)
        if self.context_tokens > self.tokens_per_batch:
            raise ConfigError(
                f"training.context_tokens is {self.context_tokens}, longer than a packed row "
                f"(training.tokens_per_batch, {self.tokens_per_batch}). Make rows at least as long."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JointParts:
    """Parts that a model of speech and text is trained and saved with, besides its documents."""

    text_tokenizer: Any = None
    """Saved beside the model."""
    subwords: UnitSubwords | None = None
    """Saved beside the model."""
    unpredicted: Bool[Tensor, " vocabulary"] | None = None
    """Ids that are read but never predicted, such as switch symbols; None: all are."""


NO_PARTS = JointParts()


def train_lm(
    model: PreTrainedModel,
    train_documents: Sequence[Document] | Epochs,
    valid_documents: Sequence[Document] | Mapping[str, Sequence[Document]],
    config: LMTrainingConfig,
    out: Path,
    card: LMCard,
    *,
    valid_seconds: float | None = None,
    joint: JointParts = NO_PARTS,
    train_seconds: float | None = None,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train `model` in place, and write the best and the last one to `out`.

    Args:
        model: a causal LM whose vocabulary fits the documents.
        train_documents: token ids, start and end symbols included; may read its items lazily. Or a function of the
            epoch, for documents that are drawn anew in each. `MaskedDocument`s say which tokens the loss counts.
        valid_documents: as many as should be scored at each validation; may be empty. By source, the loss of each
            source is logged too.
        config: budgets, optimiser, logging.
        out: the run's folder; a run that is there already is resumed if it is the same one.
        card: written beside the model.
        valid_seconds: audio that the validation documents stand for; adds the loss per second of audio to the logs,
            which, unlike the loss per token, can be compared between tokenizers. With several sources: audio of the
            source `unit-only`, and its loss.
        joint: of a model of speech and text.
        train_seconds: audio that the training documents stand for, to be shown.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        ConfigError: a document has ids outside the model's vocabulary, or `context_tokens` exceeds its positions.
        OutputError: `out` holds another run.
        NumericsError: the loss became NaN or infinite.
    """
    task = LanguageModelTask(model, train_documents, valid_documents, config, card, valid_seconds, joint, train_seconds)
    return train(task, config, out, stop_at_step=stop_at_step, show=show)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """A packed row of validation documents, and which source they are of."""

    row: PackedBatch
    source: str | None = None

    def to(self, device: torch.device | str) -> "SourceRow":
        """Return the same on `device`."""
        return replace(self, row=self.row.to(device))


class LanguageModelTask(AdamWTask):
    """Next-token prediction on packed rows, for the loop in training/loop.py."""

    def __init__(
        self,
        model: PreTrainedModel,
        train_documents: Sequence[Document] | Epochs,
        valid_documents: Sequence[Document] | Mapping[str, Sequence[Document]],
        config: LMTrainingConfig,
        card: LMCard,
        valid_seconds: float | None = None,
        joint: JointParts = NO_PARTS,
        train_seconds: float | None = None,
    ) -> None:
        """Plan the data, and make the model read packed rows; arguments and errors as in `train_lm`."""
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and config.context_tokens > positions:
            raise ConfigError(
                f"training.context_tokens is {config.context_tokens}, but the model has {positions} positions."
            )
        enable_packing(model)
        super().__init__(model, config)
        self.card, self.joint = card, joint
        self.train_seconds, self.valid_seconds = train_seconds, valid_seconds
        limits: dict[str, Any] = {"context_tokens": config.context_tokens, "max_tokens": config.tokens_per_batch}
        self.stream: RowStream = (
            EpochStream(train_documents, **limits)
            if callable(train_documents)
            else PackedStream(train_documents, **limits, seed=config.seed)
        )
        self.classes = card.vocabulary.classes if len(card.vocabulary.modalities) > 1 else None
        self.num_tokens = len(cast(Tensor, model.get_input_embeddings().weight))
        sources: Mapping[str | None, Sequence[Document]] = (
            {**valid_documents} if isinstance(valid_documents, Mapping) else {None: valid_documents}
        )
        places = [
            (source, rows, place)
            for source, documents in sources.items()
            for rows in [pack_documents(documents, config.tokens_per_batch, context_tokens=config.context_tokens)]
            for place in range(len(rows))
        ]
        self.held_out = list(sources.values())
        self.validation = Lazy(places, lambda at: SourceRow(row=self._prepared(at[1][at[2]]), source=at[0]))
        for _ in self.validation:  # a document that does not fit stops the run now, not at the first validation
            pass
        classes = () if self.classes is None else tuple(CLASS_NAMES.values())
        self.part_names: tuple[str, ...] = (*classes, *(name for name in sources if name is not None))

    def data_sizes(self) -> dict[str, DataSize]:
        """Count documents: of the first epoch where they are drawn anew, and those held out."""
        tokens = sum(int(document_lengths(documents).sum()) for documents in self.held_out)
        return {
            "train": self.stream.size()._replace(seconds=self.train_seconds),
            "valid": DataSize(sum(map(len, self.held_out)), "document", self.valid_seconds, tokens),
        }

    def next_batches(self, count: int, process: int, num_processes: int) -> list[PackedBatch]:
        """Return this process's share of the next rows."""
        return [self._prepared(row) for row in self.stream.next_rows(count, process, num_processes)]

    def validation_batches(self, process: int, num_processes: int) -> Sequence[SourceRow]:
        """Return this process's share of the validation rows."""
        return self.validation[process::num_processes]

    def num_targets(self, batch: PackedBatch | SourceRow) -> int:
        """Count predicted tokens."""
        return (batch.row if isinstance(batch, SourceRow) else batch).num_targets

    def loss_sum(self, model: nn.Module, batch: PackedBatch | SourceRow) -> LossSum:
        """Sum the negative log-likelihood over predicted tokens."""
        row, source = (batch.row, batch.source) if isinstance(batch, SourceRow) else (batch, None)
        losses = token_losses(model, row)
        total = losses.sum()
        parts = {} if self.classes is None else self._by_class(losses.detach(), row)
        if source is not None:
            parts[source] = float(total.detach()), len(losses)
        return LossSum(total, parts)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return the loss per token of each modality and source, `<part>_loss`."""
        return {f"{name}_loss": value / count for name, (value, count) in parts.items() if count}

    def validation_metrics(
        self, loss_sum: float, num_targets: int, parts: Mapping[str, tuple[float, int]]
    ) -> dict[str, float]:
        """Return the loss per token, and per second of audio where the seconds are known."""
        values = {"loss": loss_sum / num_targets, "nll_per_token": loss_sum / num_targets}
        values.update(self.training_metrics(parts))
        spoken = parts.get("unit-only", (0.0, 0))[0] if self.classes is not None else loss_sum
        if self.valid_seconds and spoken:
            values["nll_per_second"] = spoken / self.valid_seconds
        return values

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model and its card; low-rank adapters and rows that are trained apart are merged into it."""
        assert isinstance(model, PreTrainedModel)
        if has_lora(model):
            model = merge_lora(model)
        elif has_new_rows(model):
            model = merge_new_rows(model)
        save_lm(model, folder, self.card, text_tokenizer=self.joint.text_tokenizer, subwords=self.joint.subwords)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training rows."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the training rows."""
        self.stream.load_state_dict(state)

    def identity(self) -> dict[str, Any]:
        """Describe the data and the model's card."""
        card = config_to_dict(self.card)
        kept = ("vocabulary", "layout", "tokenizer_fingerprint", "training")
        return {"data": self.stream.describe(), "card": {name: card[name] for name in kept}}

    def _by_class(self, losses: Tensor, row: PackedBatch) -> dict[str, tuple[float, int]]:
        assert self.classes is not None
        labels = row.labels[0, 1:]
        classes = self.classes.to(losses.device)[labels[labels != IGNORED_LABEL]]
        sums = torch.zeros(len(CLASS_NAMES), device=losses.device).index_add_(0, classes, losses.float()).tolist()
        counts = torch.bincount(classes, minlength=len(CLASS_NAMES)).tolist()
        return {name: (sums[index], counts[index]) for index, name in CLASS_NAMES.items()}

    def _prepared(self, row: PackedBatch) -> PackedBatch:
        """Check the ids, and take out what is not predicted."""
        if int(row.token_ids.max()) >= self.num_tokens or int(row.token_ids.min()) < 0:
            raise ConfigError(
                f"A document holds token id {int(row.token_ids.max())} (least: {int(row.token_ids.min())}), the model "
                f"has {self.num_tokens} vocabulary rows. Replace its vocabulary first (lm/surgery.py)."
            )
        if self.joint.unpredicted is None:
            return row
        return replace(row, labels=row.labels.masked_fill(self.joint.unpredicted[row.token_ids], IGNORED_LABEL))
