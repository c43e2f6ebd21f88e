"""Train a causal language model on documents of token ids.

documents -> packed rows -> next-token loss inside each document -> out/best: a Hugging Face folder with its card
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.packed import enable_packing, token_losses
from vocable.sequences.packing import PackedBatch, pack_documents
from vocable.training.config import TrainingConfig
from vocable.training.data import PackedStream
from vocable.training.loop import TrainingResult, describe_documents, train


def train_lm(
    model: PreTrainedModel,
    train_documents: Sequence[Tensor],
    valid_documents: Sequence[Tensor],
    config: TrainingConfig,
    out: Path,
    card: LMCard,
    *,
    valid_seconds: float | None = None,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train `model` in place, and write the best and the last one to `out`.

    Args:
        model: a causal LM whose vocabulary fits the documents.
        train_documents: token ids, start and end symbols included; may read its items lazily.
        valid_documents: as many as should be scored at each validation; may be empty.
        config: budgets, optimiser, logging.
        out: the run's folder; a run that is there already is resumed if it is the same one.
        card: written beside the model.
        valid_seconds: audio that the validation documents stand for; adds the loss per second of audio to the logs,
            which, unlike the loss per token, can be compared between tokenizers.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        ConfigError: a document has ids outside the model's vocabulary, or `context_tokens` exceeds its positions.
        OutputError: `out` holds another run.
        NumericsError: the loss became NaN or infinite.
    """
    task = LanguageModelTask(model, train_documents, valid_documents, config, card, valid_seconds)
    return train(task, config, out, stop_at_step=stop_at_step, show=show)


class LanguageModelTask:
    """Next-token prediction on packed rows, for the loop in training/loop.py."""

    def __init__(
        self,
        model: PreTrainedModel,
        train_documents: Sequence[Tensor],
        valid_documents: Sequence[Tensor],
        config: TrainingConfig,
        card: LMCard,
        valid_seconds: float | None = None,
    ) -> None:
        """Plan the data, and make the model read packed rows; arguments and errors as in `train_lm`."""
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and config.context_tokens > positions:
            raise ConfigError(
                f"training.context_tokens is {config.context_tokens}, but the model has {positions} positions."
            )
        enable_packing(model)
        self.model: nn.Module = model
        self.card = card
        self.documents = train_documents
        self.stream = PackedStream(
            train_documents, context_tokens=config.context_tokens, max_tokens=config.tokens_per_batch, seed=config.seed
        )
        self.validation = list(
            pack_documents(valid_documents, config.tokens_per_batch, context_tokens=config.context_tokens)
        )
        self.valid_seconds = valid_seconds
        self.num_tokens = len(cast(Tensor, model.get_input_embeddings().weight))
        for row in self.validation:
            self._check_ids(row)

    def next_batches(self, count: int, process: int, num_processes: int) -> list[PackedBatch]:
        """Return this process's share of the next rows."""
        rows = self.stream.next_rows(count, process, num_processes)
        for row in rows:
            self._check_ids(row)
        return rows

    def validation_batches(self, process: int, num_processes: int) -> list[PackedBatch]:
        """Return this process's share of the validation rows."""
        return self.validation[process::num_processes]

    def num_targets(self, batch: PackedBatch) -> int:
        """Count predicted tokens."""
        return batch.num_targets

    def loss_sum(self, model: nn.Module, batch: PackedBatch) -> Tensor:
        """Sum the negative log-likelihood over predicted tokens."""
        return token_losses(model, batch).sum()

    def validation_metrics(self, loss_sum: float, num_targets: int) -> dict[str, float]:
        """Return the loss per token, and per second of audio where the seconds are known."""
        values = {"loss": loss_sum / num_targets, "nll_per_token": loss_sum / num_targets}
        if self.valid_seconds:
            values["nll_per_second"] = loss_sum / self.valid_seconds
        return values

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model and its card."""
        assert isinstance(model, PreTrainedModel)
        save_lm(model, folder, self.card)

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
        return {"data": describe_documents(self.documents), "card": {name: card[name] for name in kept}}

    def _check_ids(self, row: PackedBatch) -> None:
        if int(row.token_ids.max()) >= self.num_tokens or int(row.token_ids.min()) < 0:
            raise ConfigError(
                f"A document holds token id {int(row.token_ids.max())} (least: {int(row.token_ids.min())}), the model "
                f"has {self.num_tokens} vocabulary rows. Replace its vocabulary first (lm/surgery.py)."
            )
