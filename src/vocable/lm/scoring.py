"""Score documents: the negative log-likelihood of each under a language model.

Three conventions at the boundaries are in use, and they change results (sWUGGY most), so every call names one:

    boundary    row           scored       used by
    none        a b c         b c          TWIST's example code, SALMon's baselines
    bos         <s> a b c     a b c        GSLM-style suites
    bos_eos     <s> a b c <s> a b c <s>    slamkit

Losses come back token by token: whether to divide their sum is the benchmark's choice, and a first-order effect.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.lm.branches import Tree, tree_nll

Boundary = Literal["none", "bos", "bos_eos"]


def token_nll(
    model: nn.Module,
    documents: Sequence[Int[Tensor, " _"]],
    boundary: Boundary,
    *,
    bos_id: int | None = None,
    max_tokens: int = 4096,
) -> list[Float[Tensor, " _"]]:
    """Return the negative log-likelihood, in nats, of each scored token of each document, read by itself.

    Args:
        documents: token ids without start and end symbols.
        boundary: which symbols are added and scored; see the module's table.
        bos_id: start symbol; None takes the model config's, which also names the end symbol.
        max_tokens: tokens scored in one forward pass; a longer document is a pass of its own.

    Raises:
        ConfigError: a document leaves nothing to score, is longer than the model's positions, or a symbol is missing.
    """
    if boundary not in get_args(Boundary):
        raise ConfigError(f"boundary is {boundary!r}; known: {', '.join(get_args(Boundary))}.")
    before = _symbol(model, "bos", bos_id) if boundary != "none" else torch.empty(0, dtype=torch.long)
    after = _symbol(model, "eos", None) if boundary == "bos_eos" else torch.empty(0, dtype=torch.long)
    trees = []
    for index, document in enumerate(documents):
        row = torch.cat([before, document.cpu().long(), after])
        if len(row) < 2:
            raise ConfigError(
                f"Document {index} has {len(document)} tokens: with boundary {boundary!r} nothing in it can be scored."
            )
        trees.append(Tree(row, ()))
    return [losses.prefix for losses in tree_nll(model, trees, max_tokens=max_tokens)]


def _symbol(model: nn.Module, kind: str, given: int | None) -> Tensor:
    symbol = given if given is not None else getattr(model.config, f"{kind}_token_id", None)
    if symbol is None:
        raise ConfigError(f"The model's config names no {kind}_token_id; score with boundary 'none', or set it.")
    return torch.tensor([symbol])
