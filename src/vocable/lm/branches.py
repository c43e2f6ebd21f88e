"""Score several continuations of one prefix, reading the prefix once.

    tree    prefix ┬ branch a          row   prefix | branch a | branch b
                   └ branch b          each branch attends to the prefix and to itself

The two halves of a minimal pair, or the endings of a story, often begin with the same tokens. Trees of many shapes lie
side by side in one row, as documents do (packed.py); losses are those that each prefix + branch has alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.lm.packed import enable_packing
from vocable.sequences.packing import token_budget_batches


class Tree(NamedTuple):
    """A prefix and what may follow it."""

    prefix: Int[Tensor, " prefix"]
    """At least one token; the first is never scored."""
    branches: tuple[Tensor, ...]
    """Token ids of each continuation; a branch may be empty."""

    @property
    def num_tokens(self) -> int:
        """Positions that the tree takes in a row."""
        return len(self.prefix) + sum(len(branch) for branch in self.branches)

    @property
    def longest(self) -> int:
        """Positions of the prefix and its longest branch."""
        return len(self.prefix) + max((len(branch) for branch in self.branches), default=0)


class TreeNLL(NamedTuple):
    """Negative log-likelihood, in nats, of each token."""

    prefix: Float[Tensor, " scored"]
    """Values of the prefix without its first token."""
    branches: tuple[Tensor, ...]
    """Values of every token, for each branch."""


def join_rows(rows: Sequence[Int[Tensor, " _"]]) -> Tree:
    """Make a tree of rows: what all of them begin with is the prefix.

    Raises:
        ConfigError: the rows do not begin with the same token, or one is empty.
    """
    shortest = min(len(row) for row in rows)
    if shortest == 0 or any(int(row[0]) != int(rows[0][0]) for row in rows):
        raise ConfigError("Rows that share no first token make no tree; score them one by one.")
    head = torch.stack([row[:shortest] for row in rows])
    equal = (head == head[0]).all(dim=0)
    shared = int(equal.long().cumprod(dim=0).sum())
    return Tree(rows[0][:shared], tuple(row[shared:] for row in rows))


@torch.inference_mode()
def tree_nll(
    model: nn.Module,
    trees: Sequence[Tree],
    *,
    max_tokens: int = 4096,
    classes: Int[Tensor, " vocabulary"] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[TreeNLL]:
    """Score every token of every tree but the first of its prefix.

    Args:
        model: a Hugging Face causal LM; one whose attention cannot be packed reads each prefix + branch by itself.
        max_tokens: tokens in one forward pass; a longer tree is a pass of its own.
        classes: a class of each token id, e.g. speech or text; each token's probability is then taken among the ids
            of its own class only (the others' logits are masked). None: among all ids.
        on_progress: called after each forward pass with the number of trees that it scored.

    Raises:
        ConfigError: a prefix is empty, or a tree is longer than the model's positions.
    """
    _check(model, trees)
    found: list[TreeNLL]
    was_training = model.training
    model.eval()
    if not enable_packing(model):
        found = []
        for tree in trees:
            found.append(_score_apart(model, tree, classes))
            if on_progress is not None:
                on_progress(1)
    else:
        found = [TreeNLL(torch.empty(0), ())] * len(trees)
        forked = [index for index, tree in enumerate(trees) if len(tree.branches) > 1]
        plain = [index for index, tree in enumerate(trees) if len(tree.branches) <= 1]
        for kind in (forked, plain):
            for batch in token_budget_batches([trees[index].num_tokens for index in kind], max_tokens):
                chosen = [kind[place] for place in batch]
                for index, losses in zip(chosen, _score_row(model, [trees[i] for i in chosen], classes)):
                    found[index] = losses
                if on_progress is not None:
                    on_progress(len(chosen))
    model.train(was_training)
    return found


def _score_row(model: nn.Module, trees: Sequence[Tree], classes: Tensor | None) -> list[TreeNLL]:
    """One forward pass over trees side by side."""
    device = next(model.parameters()).device
    token_ids = torch.cat([part for tree in trees for part in (tree.prefix, *tree.branches)]).long()
    positions, before = _places(trees)
    logits = model(
        input_ids=token_ids[None].to(device),
        position_ids=positions[None].to(device),
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),  # ready: transformers builds none
        use_cache=False,
        **_shapes(trees),
    ).logits[0]
    scored = before >= 0
    losses = torch.zeros(len(token_ids))
    losses[scored] = _losses(logits, before[scored].to(device), token_ids[scored].to(device), classes).cpu()
    results, start = [], 0
    for tree in trees:
        lengths = [len(tree.prefix), *(len(branch) for branch in tree.branches)]
        prefix, *branches = losses[start : start + sum(lengths)].split(lengths)
        results.append(TreeNLL(prefix[1:], tuple(branches)))
        start += sum(lengths)
    return results


def _shapes(trees: Sequence[Tree]) -> dict[str, object]:
    """Return where trees begin, for the attention function; trees without a fork are plain documents."""
    if all(len(tree.branches) <= 1 for tree in trees):
        return {"document_lengths": tuple(tree.num_tokens for tree in trees)}
    return {"document_trees": [[len(tree.prefix), *(len(branch) for branch in tree.branches)] for tree in trees]}


def _places(trees: Sequence[Tree]) -> tuple[Tensor, Tensor]:
    """Position id of every token of a row, and the index of the token before it (-1 for the first of a tree)."""
    positions, before, start = [], [], 0
    for tree in trees:
        length = len(tree.prefix)
        positions.append(torch.arange(length))
        before.append(torch.arange(start - 1, start + length - 1))
        before[-1][0] = -1
        end_of_prefix, start = start + length - 1, start + length
        for branch in tree.branches:
            positions.append(torch.arange(length, length + len(branch)))
            previous = torch.arange(start - 1, start + len(branch) - 1)
            previous[:1] = end_of_prefix
            before.append(previous)
            start += len(branch)
    return torch.cat(positions), torch.cat(before)


def _losses(logits: Tensor, before: Tensor, targets: Tensor, classes: Tensor | None, block: int = 1024) -> Tensor:
    """Negative log-likelihood of `targets`, predicted at the places `before`; in blocks, since vocabularies are big."""
    parts = []
    for rows, wanted in zip(before.split(block), targets.split(block)):
        picked = logits[rows].float()
        if classes is not None:
            known = classes.to(logits.device)
            other = known[None, :] != known[wanted][:, None]
            picked[:, : len(known)] = picked[:, : len(known)].masked_fill(other, float("-inf"))
        parts.append(F.cross_entropy(picked, wanted, reduction="none"))
    return torch.cat(parts) if parts else torch.zeros(0)


def _score_apart(model: nn.Module, tree: Tree, classes: Tensor | None) -> TreeNLL:
    """The same losses from one plain forward pass per prefix + branch."""
    device, parts = next(model.parameters()).device, []
    for branch in tree.branches or (tree.prefix[:0],):
        row = torch.cat([tree.prefix, branch]).long().to(device)
        logits = model(input_ids=row[None], use_cache=False).logits[0]
        losses = _losses(logits, torch.arange(len(row) - 1, device=device), row[1:], classes).cpu()
        parts.append(losses.split([len(tree.prefix) - 1, len(branch)]))
    return TreeNLL(parts[0][0], tuple(after for _, after in parts) if tree.branches else ())


def _check(model: nn.Module, trees: Sequence[Tree]) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    for index, tree in enumerate(trees):
        if len(tree.prefix) == 0:
            raise ConfigError(f"Tree {index} has an empty prefix: there is nothing to predict its branches from.")
        if longest is not None and tree.longest > longest:
            raise ConfigError(
                f"Row {index} has {tree.longest} tokens, the model {longest} positions. Cut it, or use a model with a "
                "longer context."
            )
