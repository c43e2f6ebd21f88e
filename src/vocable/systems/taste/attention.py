"""Where the aggregator looks when it reads a word, against when the word is spoken.

    weights of cross-attention, by layer and head -> centre of each token's -> mean by word, in seconds
        -> distance from the middle of the word; share of words within 0.1 s; share of neighbours in the right order

Nothing in training tells a head where words are: what is found here, the recogniser's decoder brought along or learned.
As a control the words of the text may be shuffled: what a head still finds then, it knows by the place in the text.

Source: the attention maps of TASTE (Tseng et al., 2025, arXiv:2504.07053), which are shown there, not measured.
"""

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.systems.taste.aggregator import Aggregator, Attention, average_words
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.types import Word

NEAR_SECONDS = 0.1


class HeadAlignment(NamedTuple):
    """How well a head's centres tell when words are spoken."""

    layer: int
    """Number among the layers that are kept."""
    head: int
    error_seconds: float
    """Mean distance of a word's centre from its middle."""
    near: float
    """Share of words whose centre is at most `NEAR_SECONDS` off."""
    rising: float
    """Share of neighbouring words whose centres follow each other as the words do."""


class SpokenClip(NamedTuple):
    """A recording that fits into Whisper's window, and its words."""

    waveform: Float[Tensor, " samples"]
    words: Sequence[Word]


@torch.no_grad()
def attention_centres(
    aggregator: Aggregator,
    ids: Int[Tensor, "1 tokens"],
    last: Float[Tensor, "1 frames dim"],
    shallow: Float[Tensor, "1 frames dim"],
) -> Float[Tensor, "layers heads tokens"]:
    """Return the mean place, in frames, that each head of each layer attends to for each token of one text."""
    centres: list[Tensor] = []

    def note(module: Attention, arguments: tuple[Any, ...]) -> None:
        queries, keys = (
            to(states).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for to, states in ((module.q_proj, arguments[0]), (module.k_proj, arguments[1]))
        )
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)[0]
        centres.append(weights @ torch.arange(weights.shape[-1], device=weights.device, dtype=weights.dtype))

    layers: Any = aggregator.layers
    hooks = [layer.encoder_attn.register_forward_pre_hook(note) for layer in layers]
    try:
        aggregator(ids, last, shallow)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(centres)[..., len(aggregator.prompt) :]


def align_heads(
    tokenizer: TasteTokenizer, clips: Iterable[SpokenClip], shuffle_seed: int | None = None
) -> list[HeadAlignment]:
    """Measure every head over the words of some clips, the best first.

    Args:
        tokenizer: Whose aggregator is looked at.
        clips: Recordings with times of words.
        shuffle_seed: With a seed, the aggregator reads the words of each clip in a random order, and the word at a
            place is still expected when the word of that place is spoken.

    Raises:
        ConfigError: there is no word.
    """
    gaps, orders = [], []
    for number, clip in enumerate(clips):
        if not clip.words:
            continue
        texts = [word.word for word in clip.words]
        if shuffle_seed is not None:
            random.Random(f"{shuffle_seed} {number}").shuffle(texts)
        centres = _word_centres(tokenizer, clip.waveform, texts)
        middles = torch.tensor([(word.start + word.end) / 2 for word in clip.words])
        gaps.append((centres - middles).abs())
        orders.append((centres.diff(dim=-1) > 0) == (middles.diff() > 0))
    if not gaps:
        raise ConfigError("There is no word whose place could be compared.")
    errors, rising = torch.cat(gaps, dim=-1), torch.cat(orders, dim=-1).double()
    table = [
        HeadAlignment(
            layer,
            head,
            float(errors[layer, head].mean()),
            float((errors[layer, head] <= NEAR_SECONDS).double().mean()),
            float(rising[layer, head].mean()) if rising.shape[-1] else float("nan"),
        )
        for layer in range(errors.shape[0])
        for head in range(errors.shape[1])
    ]
    return sorted(table, key=lambda one: one.error_seconds)


def _word_centres(
    tokenizer: TasteTokenizer, waveform: Tensor, texts: Sequence[str]
) -> Float[Tensor, "layers heads words"]:
    """Return seconds from the start of the clip."""
    tokens, encoder = tokenizer.reader.encode(texts), tokenizer.encoder
    layers = (encoder.layer, tokenizer.config.shallow_layer)
    keep = tokenizer.config.aggregator.attend_padding
    last, shallow = (states[None] for states in encoder.encode_layers(waveform, layers, keep))
    ids = tokens.ids[None].to(encoder.device)
    frames = attention_centres(tokenizer.words.aggregator, ids, last, shallow).cpu()  # (layers, heads, tokens)
    by_word = average_words(
        frames.flatten(0, 1)[..., None], tokens.word_ids.expand(frames[..., 0].numel(), -1), len(texts)
    )
    return (by_word[..., 0].unflatten(0, frames.shape[:2]) + 0.5) / encoder.frame_rate
