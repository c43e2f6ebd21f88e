"""Let any Hugging Face causal LM read packed rows, with attention inside each document and no mask in memory.

    row  aaaabbccc  ->  one causal attention per document: a x a, b x b, c x c

`enable_packing` registers an attention function with transformers' AttentionInterface and makes the model use it. The
rest of the network works position by position, and position ids restart, so a document's logits are those it has alone.
Models that compute attention in their own way (BLOOM, for one) read the documents as the rows of a padded batch
instead, right-padded, which a causal model cannot see: equally exact, but slower.
"""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vocable.sequences.packing import IGNORED_LABEL, PackedBatch, concatenate

IMPLEMENTATION = "vocable_packed"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # arguments of attention that plain SDPA does not know

logger = logging.getLogger(__name__)
_reads_packed: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_packed_calls = 0


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads positions dim"],
    key: Float[Tensor, "batch key_heads key_positions dim"],
    value: Float[Tensor, "batch key_heads key_positions value_dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_lengths: Sequence[int] | None = None,
    document_trees: Sequence[Sequence[int]] | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch positions heads value_dim"], None]:
    """Attend within each document of a row, or each tree (branches.py); with neither, be transformers' SDPA.

    Raises:
        NotImplementedError: the model wants something that SDPA does not do (soft caps, attention sinks).
    """
    if document_lengths is None and document_trees is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    wanted = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if wanted:
        raise NotImplementedError(f"{type(module).__name__} uses {', '.join(wanted)} in attention.")
    global _packed_calls
    _packed_calls += 1
    settings = {"scale": scaling, "dropout": dropout, "window": kwargs.get("sliding_window")}
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # grouped-query attention: share each key head
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if document_trees is not None:
        return attend_trees(query, key, value, document_trees, **settings), None
    assert document_lengths is not None
    attend = attend_padded if query.is_cuda else attend_by_length
    return attend(query, key, value, document_lengths, **settings), None


def attend_by_length(
    query: Float[Tensor, "1 heads positions dim"],
    key: Float[Tensor, "1 heads positions dim"],
    value: Float[Tensor, "1 heads positions value_dim"],
    document_lengths: Sequence[int],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
) -> Float[Tensor, "1 positions heads value_dim"]:
    """One attention call per run of equally long documents: no wasted arithmetic, best on a CPU."""
    runs = [(length, len(list(run))) for length, run in groupby(document_lengths)]
    sizes = [length * count for length, count in runs]
    outputs = []
    # split, not slices: the backward of slices would fill one row-sized gradient per document
    for (length, count), *parts in zip(runs, *(x[0].split(sizes, dim=1) for x in (query, key, value))):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)  # (count, heads, length, dim)
        output = _causal_attention(q, k, v, scale, dropout, window)
        outputs.append(output.transpose(1, 2).flatten(0, 1))  # (count * length, heads, dim)
    return torch.cat(outputs)[None]


def attend_padded(
    query: Float[Tensor, "1 heads positions dim"],
    key: Float[Tensor, "1 heads positions dim"],
    value: Float[Tensor, "1 heads positions value_dim"],
    document_lengths: Sequence[int],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
) -> Float[Tensor, "1 positions heads value_dim"]:
    """One attention call for all documents, right-padded for the duration of the call: few kernels, best on a GPU."""
    where, real = _padded_index(tuple(document_lengths), query.device)
    q, k, v = (x[0][:, where].transpose(0, 1) for x in (query, key, value))  # (documents, heads, longest, dim)
    output = _causal_attention(q, k, v, scale, dropout, window)
    return output.transpose(1, 2)[real][None]


def attend_trees(
    query: Float[Tensor, "1 heads positions dim"],
    key: Float[Tensor, "1 heads positions dim"],
    value: Float[Tensor, "1 heads positions value_dim"],
    trees: Sequence[Sequence[int]],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
) -> Float[Tensor, "1 positions heads value_dim"]:
    """Causal attention where several branches continue one prefix and do not see each other.

    `trees` holds, for each tree of the row, the length of its prefix and of each branch: prefix, branch, branch, ...
    """
    outputs = []
    parts = zip(*(x.split([sum(tree) for tree in trees], dim=2) for x in (query, key, value)))
    for (prefix, *branches), (q, k, v) in zip(trees, parts):
        whole = prefix + (branches[0] if branches else 0)  # the prefix and its first branch are one document
        outputs.append(_causal_attention(q[:, :, :whole], k[:, :, :whole], v[:, :, :whole], scale, dropout, window))
        start = whole
        for length in branches[1:]:
            seen_k, seen_v = (torch.cat([x[:, :, :prefix], x[:, :, start : start + length]], dim=2) for x in (k, v))
            distance = torch.arange(prefix, prefix + length)[:, None] - torch.arange(prefix + length)[None]
            mask = ((distance >= 0) & (distance < (window or prefix + length))).to(q.device)
            outputs.append(
                F.scaled_dot_product_attention(
                    q[:, :, start : start + length], seen_k, seen_v, attn_mask=mask, dropout_p=dropout, scale=scale
                )
            )
            start += length
    return torch.cat(outputs, dim=2).transpose(1, 2)


def enable_packing(model: nn.Module) -> bool:
    """Make `model` read packed rows; return whether attention runs per document (else: as a padded batch)."""
    if model not in _reads_packed:
        _reads_packed[model] = _try_packing(model)
        if not _reads_packed[model]:
            logger.warning(
                "%s does not take its attention from transformers' AttentionInterface: packed rows are read as padded "
                "batches, with equal results at lower speed.",
                type(model).__name__,
            )
    return _reads_packed[model]


def packed_logits(model: nn.Module, batch: PackedBatch) -> Float[Tensor, "positions vocabulary"]:
    """Return next-token logits for every position of a packed row.

    `model` may be wrapped for several processes (DDP), if `enable_packing` saw it before.
    """
    if enable_packing(getattr(model, "module", model)):
        return model(**packed_inputs(batch), use_cache=False).logits[0]
    token_ids, mask = padded_rows(batch)
    return model(input_ids=token_ids, attention_mask=mask, use_cache=False).logits[mask.bool()]


def packed_inputs(batch: PackedBatch) -> dict[str, Any]:
    """Return the arguments of a causal LM's `forward` for a packed row."""
    # transformers takes a mask of four axes for one that is ready, and builds none; packed_attention ignores it
    ready = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.token_ids.device)
    return {
        "input_ids": batch.token_ids,
        "position_ids": batch.position_ids,
        "attention_mask": ready,
        "document_lengths": batch.lengths,
    }


def padded_rows(batch: PackedBatch) -> tuple[Int[Tensor, "documents longest"], Int[Tensor, "documents longest"]]:
    """Lay the documents of a packed row out as a right-padded batch; return token ids and mask (1: real)."""
    where, real = _padded_index(batch.lengths, batch.token_ids.device)
    return batch.token_ids[0][where], real.long()


def token_losses(model: nn.Module, batch: PackedBatch) -> Float[Tensor, " targets"]:
    """Return the negative log-likelihood, in nats, of every token that `batch.labels` ask for, in their order."""
    logits = packed_logits(model, batch)
    labels = batch.labels[0, 1:]
    wanted = labels != IGNORED_LABEL
    return F.cross_entropy(logits[:-1][wanted].float(), labels[wanted], reduction="none")


def hidden_states(model: nn.Module, documents: Sequence[Int[Tensor, " _"]]) -> list[Float[Tensor, "positions dim"]]:
    """Return the final hidden states of each document (after the last norm), read side by side in one pass."""
    reads_packed = enable_packing(model)
    batch = concatenate(documents).to(next(model.parameters()).device)
    network: Any = getattr(model, "base_model", model)
    if reads_packed:
        states = network(**packed_inputs(batch), use_cache=False).last_hidden_state[0]
    else:
        token_ids, mask = padded_rows(batch)
        states = network(input_ids=token_ids, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]
    return list(states.split(list(batch.lengths)))


def embedded_states(
    model: nn.Module, embeddings: Float[Tensor, "positions dim"], lengths: Sequence[int]
) -> Float[Tensor, "positions width"]:
    """Return the final hidden states of documents that are given as vectors, side by side in one row."""
    network: Any = getattr(model, "base_model", model)
    if enable_packing(model):
        places = torch.cat([torch.arange(length) for length in lengths])[None].to(embeddings.device)
        ready = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeddings.device)
        inputs = {"position_ids": places, "attention_mask": ready, "document_lengths": tuple(lengths)}
        return network(inputs_embeds=embeddings[None], **inputs, use_cache=False).last_hidden_state[0]
    where, real = _padded_index(tuple(lengths), embeddings.device)
    states = network(inputs_embeds=embeddings[where], attention_mask=real.long(), use_cache=False).last_hidden_state
    return states[real]


def _causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float, window: int | None
) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scale)
    position = torch.arange(length, device=query.device)
    distance = position[:, None] - position[None]
    mask = (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale)


def _padded_index(lengths: tuple[int, ...], device: torch.device) -> tuple[Int[Tensor, "documents longest"], Tensor]:
    """Return, for each place of the padded batch, its position in the row (0 for padding), and which are real."""
    counts = torch.tensor(lengths, device=device)
    place = torch.arange(max(lengths), device=device)[None]
    real = place < counts[:, None]
    start = counts.cumsum(0) - counts
    return torch.where(real, start[:, None] + place, 0), real


def _try_packing(model: Any) -> bool:
    """Switch the attention function, and see whether a forward pass on two tiny documents reaches it in every layer."""
    before = getattr(model.config, "_attn_implementation", None)
    was_training = model.training
    probe = concatenate([torch.zeros(1, dtype=torch.long), torch.zeros(2, dtype=torch.long)])
    probe = probe.to(next(model.parameters()).device)
    try:
        model.set_attn_implementation(IMPLEMENTATION)
        calls = _packed_calls
        with torch.no_grad():
            model.eval()(**packed_inputs(probe), use_cache=False)
        if _packed_calls - calls == model.config.get_text_config(decoder=True).num_hidden_layers:
            return True
    except Exception as error:  # whatever stops a model from packing, the padded form still reads it
        logger.debug("%s cannot pack: %s", type(model).__name__, error)
    finally:
        model.train(was_training)
    if before is not None:
        model.set_attn_implementation(before)
    return False


AttentionInterface.register(IMPLEMENTATION, packed_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
