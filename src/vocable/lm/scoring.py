"""Score documents: the negative log-likelihood of each under a language model.

Three conventions at the boundaries are in use, and they change results (sWUGGY most), so every call names one:

    boundary    row           scored       used by
    none        a b c         b c          TWIST's example code, SALMon's baselines
    bos         <s> a b c     a b c        GSLM-style suites
    bos_eos     <s> a b c <s> a b c <s>    slamkit

Sums and counts come back apart: whether to divide is the benchmark's choice, and a first-order effect.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.lm.packed import token_losses
from vocable.sequences.packing import concatenate, token_budget_batches

Boundary = Literal["none", "bos", "bos_eos"]


class DocumentNLL(NamedTuple):
    """Summed negative log-likelihood (nats) and number of scored tokens of each document."""

    nll: Float[Tensor, " documents"]
    num_tokens: Int[Tensor, " documents"]

    @property
    def mean(self) -> Float[Tensor, " documents"]:
        """Negative log-likelihood per scored token."""
        return self.nll / self.num_tokens


def document_nll(
    model: nn.Module,
    documents: Sequence[Int[Tensor, " _"]],
    boundary: Boundary,
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
    max_tokens: int = 4096,
) -> DocumentNLL:
    """Score each document by itself; packing makes no difference but rounding.

    Args:
        model: a Hugging Face causal LM.
        documents: token ids without start and end symbols.
        boundary: which symbols are added and scored; see the module's table.
        bos_id: start symbol; None takes the model config's.
        eos_id: end symbol; None takes the model config's.
        max_tokens: tokens scored in one forward pass; a longer document is a pass of its own.

    Raises:
        ConfigError: a document leaves nothing to score, is longer than the model's positions, or a symbol is missing.
    """
    losses = token_nll(model, documents, boundary, bos_id=bos_id, eos_id=eos_id, max_tokens=max_tokens)
    return DocumentNLL(
        torch.stack([loss.double().sum() for loss in losses]) if losses else torch.zeros(0, dtype=torch.float64),
        torch.tensor([len(loss) for loss in losses], dtype=torch.long),
    )


@torch.inference_mode()
def token_nll(
    model: nn.Module,
    documents: Sequence[Int[Tensor, " _"]],
    boundary: Boundary,
    *,
    bos_id: int | None = None,
    eos_id: int | None = None,
    max_tokens: int = 4096,
) -> list[Float[Tensor, " _"]]:
    """Return, for each document, the negative log-likelihood of each scored token, in order; see `document_nll`."""
    if boundary not in get_args(Boundary):
        raise ConfigError(f"boundary is {boundary!r}; known: {', '.join(get_args(Boundary))}.")
    rows = _add_boundaries(model, documents, boundary, bos_id, eos_id)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    scores: list[Tensor] = [torch.empty(0)] * len(rows)
    for batch in token_budget_batches([len(row) for row in rows], max_tokens):
        losses = token_losses(model, concatenate([rows[i] for i in batch]).to(device))
        for index, part in zip(batch, losses.cpu().split([len(rows[i]) - 1 for i in batch])):
            scores[index] = part
    model.train(was_training)
    return scores


def _add_boundaries(
    model: nn.Module, documents: Sequence[Tensor], boundary: Boundary, bos_id: int | None, eos_id: int | None
) -> list[Tensor]:
    before = _symbol(model, "bos", bos_id) if boundary != "none" else torch.empty(0, dtype=torch.long)
    after = _symbol(model, "eos", eos_id) if boundary == "bos_eos" else torch.empty(0, dtype=torch.long)
    longest = getattr(model.config, "max_position_embeddings", None)
    rows = []
    for index, document in enumerate(documents):
        row = torch.cat([before, document.cpu().long(), after])
        if len(row) < 2:
            raise ConfigError(
                f"Document {index} has {len(document)} tokens: with boundary {boundary!r} nothing in it can be scored."
            )
        if longest is not None and len(row) > longest:
            raise ConfigError(
                f"Document {index} has {len(row)} tokens with its boundary symbols, the model {longest} positions. "
                "Cut the document, or use a model with a longer context."
            )
        rows.append(row)
    return rows


def _symbol(model: nn.Module, kind: str, given: int | None) -> Tensor:
    symbol = given if given is not None else getattr(model.config, f"{kind}_token_id", None)
    if symbol is None:
        raise ConfigError(
            f"The model's config names no {kind}_token_id; pass {kind}_id, or score with boundary 'none'."
        )
    return torch.tensor([symbol])
