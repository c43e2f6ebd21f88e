"""Train new vocabulary rows around a language model that stays as it is, bit for bit.

    token ids    text  ->  table as it was  \\                                /  head as it was  ->  text logits
                                              ->  network as it was, frozen  ->
                 units ->  new rows         /                                \\  new rows         ->  unit logits

    text model + new rows  ->  train_new_rows  ->  train  ->  merge_new_rows  ->  an ordinary model

So one text model serves text and speech, for units of any tokenizer. LAST (Turetzky and Adi, 2024, arXiv:2409.03701)
keeps its language model frozen in the same way.
Differs: LAST's adapters map codebook entries to the model's inputs; a free row for each unit can take any value that a
map of its entry gives, and needs no codebook.
"""

import copy
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from vocable.errors import ConfigError
from vocable.lm.lora import has_lora


class Joined(nn.Module):
    """An embedding or a head in two parts: frozen rows first, trained ones behind them."""

    def __init__(self, kept: Any, new: Any, dtype: torch.dtype):
        super().__init__()
        self.kept, self.new, self.dtype = kept, new, dtype
        self.num_kept = 0 if kept is None else len(kept.weight)

    @property
    def weight(self) -> Float[Tensor, "vocabulary dim"]:
        """Both parts as one table, of the frozen part's type."""
        return _joined(None if self.kept is None else self.kept.weight, self.new.weight, self.dtype)


class JoinedEmbedding(Joined):
    """A table in two parts."""

    def forward(self, token_ids: Int[Tensor, "*positions"]) -> Float[Tensor, "*positions dim"]:
        """Look ids up, each in its part. New rows always take part, so that all processes have gradients of them."""
        new = self.new((token_ids - self.num_kept).clamp(min=0)).to(self.dtype)
        if self.kept is None:
            return new
        kept = self.kept(token_ids.clamp(max=self.num_kept - 1))
        return torch.where((token_ids < self.num_kept)[..., None], kept, new)

    def merged(self) -> nn.Module:
        """Return the ordinary table."""
        return _copy(self.new if self.kept is None else self.kept, self.weight.detach(), None)


class JoinedHead(Joined):
    """An output head in two parts: scores of frozen rows first, then those of trained ones."""

    @property
    def bias(self) -> Float[Tensor, " vocabulary"] | None:
        """Both parts' biases, where the head has one."""
        if cast(Tensor | None, self.new.bias) is None:
            return None
        return _joined(None if self.kept is None else self.kept.bias, self.new.bias, self.dtype)

    def forward(self, hidden: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*positions vocabulary"]:
        """Score both parts. The frozen ones' product is that of the model as it was, to the bit."""
        new = self.new(hidden.to(self.new.weight.dtype))
        if self.kept is None:
            return new
        kept = self.kept(hidden)
        return torch.cat([kept, new.to(kept.dtype)], dim=-1)

    def merged(self) -> nn.Module:
        """Return the ordinary head."""
        bias = self.bias
        part = self.new if self.kept is None else self.kept
        return _copy(part, self.weight.detach(), None if bias is None else bias.detach())


def train_new_rows(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """Freeze a model in place but for the rows from id `first` on, of its embedding table and of its head.

    The new rows of table and head are learnt apart, also where the model ties the two: what a unit means to the network
    and when it comes next then need not be one vector. They are float32 whatever the model is, whose own type may
    therefore be bfloat16. Dropout is the model's own (`UnitLMConfig.dropout`). Save the result of `merge_new_rows`.

    Args:
        model: any Hugging Face causal LM whose vocabulary has grown, or was replaced, already (lm/surgery.py).
        first: id of the first row that is trained: a joint vocabulary's `text_size`; 0 where there is no text.

    Raises:
        ConfigError: there is no such row; the model has low-rank adapters, no head or one of another kind, or was
            given to this function before.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    _check(model, embedding, head, first)
    tied = head.weight is embedding.weight
    dtype = embedding.weight.dtype
    model.requires_grad_(False)
    old: nn.Parameter | None = None
    if first > 0:
        old = nn.Parameter(embedding.weight[:first].clone(), requires_grad=False)
    kinds: dict[Any, Any] = {embedding: JoinedEmbedding, head: JoinedHead}
    for module, kind in kinds.items():
        bias = getattr(module, "bias", None)
        kept = None
        if old is not None:
            weight = old if tied or module is embedding else module.weight[:first].clone()
            kept = _copy(module, weight, None if bias is None else bias[:first].clone()).requires_grad_(False)
        new = _copy(
            module, module.weight[first:].float().clone(), None if bias is None else bias[first:].float().clone()
        )
        _replace(model, module, kind(kept, new.requires_grad_(True), dtype))
    _untie(model)
    return model


def has_new_rows(model: nn.Module) -> bool:
    """Say whether `train_new_rows` was called on the model, and `merge_new_rows` is needed to save it."""
    return isinstance(model, PreTrainedModel) and isinstance(model.get_input_embeddings(), JoinedEmbedding)


def merge_new_rows(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model with ordinary tables, new rows behind the old ones; training can go on with `model`.

    A model that was tied is so no longer, since its new rows differ at both ends: on disk it is larger by one table.
    The network and the old rows have the bits that they had.

    Raises:
        ConfigError: the model has no new rows of its own.
    """
    if not has_new_rows(model):
        raise ConfigError("The model has no rows that are trained apart (train_new_rows); save it as it is.")
    merged = copy.deepcopy(model)
    for module in (merged.get_input_embeddings(), merged.get_output_embeddings()):
        assert isinstance(module, JoinedEmbedding | JoinedHead)
        _replace(merged, module, module.merged())
    return merged.requires_grad_(True)


def _check(model: PreTrainedModel, embedding: Any, head: Any, first: int) -> None:
    if has_new_rows(model):
        raise ConfigError("The model's new rows are trained apart already. Merge them first (merge_new_rows).")
    if has_lora(model):
        raise ConfigError("The model has low-rank adapters. Merge them first (merge_lora), or train these alone.")
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise ConfigError(
            f"{type(model).__name__} has the embedding {type(embedding).__name__} and the head {type(head).__name__}; "
            "new rows can be trained apart only of an Embedding and a Linear. Set lm.trained to all."
        )
    if not 0 <= first < embedding.num_embeddings:
        raise ConfigError(
            f"Rows from {first} on are to be trained, but the model has {embedding.num_embeddings}. Grow its "
            "vocabulary first (lm/surgery.py)."
        )


def _copy(module: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Copy an embedding or a head, of whatever subclass, with other rows."""
    parameters: dict[int, Any] = {id(module.weight): _parameter(weight)}
    if bias is not None:
        parameters[id(module.bias)] = _parameter(bias)
    found = copy.deepcopy(module, parameters)
    if isinstance(found, nn.Embedding):
        found.num_embeddings = len(weight)
        found.padding_idx = None  # an id of the whole table: in a part of it, another row would get no gradient
    else:
        found.out_features = len(weight)
    return found


def _parameter(values: Tensor) -> nn.Parameter:
    return values if isinstance(values, nn.Parameter) else nn.Parameter(values)


def _joined(kept: Tensor | None, new: Tensor, dtype: torch.dtype) -> Tensor:
    return new.to(dtype) if kept is None else torch.cat([kept, new.to(dtype)])


def _replace(model: nn.Module, old: Any, new: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is old)
    model.set_submodule(name, new)


def _untie(model: PreTrainedModel) -> None:
    """Let transformers know, so that it neither ties both tables again nor leaves one of them out of a file."""
    for settings in (model.config, model.config.get_text_config(decoder=True)):
        settings.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
