"""Let a model continue prompts that were cut from utterances, in each modality; and the random control.

    prompt half, cell  ->  new text (t2t, u2t), or new units (u2u, t2u)

Each utterance and cell has its own seed, so that a continuation does not depend on what else is in the run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.half_models import HalfModel
from vocable.evaluation.half_rows import MODALITIES, Cell, TextHalfRows
from vocable.evaluation.halves import CutUtterance
from vocable.lm.generation import GenerationConfig, TokenRules, continue_rows, start_rows
from vocable.lm.spoken import Segment, SpokenLM
from vocable.types import SpeechTokens


class Made(NamedTuple):
    """One continuation: text, or units."""

    text: str | None
    tokens: SpeechTokens | None
    num_tokens: int
    """New tokens, without the end symbol."""
    stopped: str


def continue_halves(
    model: HalfModel,
    utterances: Sequence[CutUtterance],
    cell: Cell,
    config: GenerationConfig,
    *,
    max_text_tokens: int,
    seed: int,
    on_made: Callable[[Mapping[str, Made]], None] = lambda made: None,
) -> list[Made]:
    """Continue the prompt half of every utterance.

    Args:
        model: of `load_half_model`.
        utterances: whose prompts are continued.
        cell: modality of prompt and continuation.
        config: sampling, lengths of speech, guards; its seed is not used.
        max_text_tokens: longest text.
        seed: with the utterance's id and the cell, decides what is drawn.
        on_made: called with the continuations of every batch, by the utterance's id.

    Raises:
        ConfigError: the model cannot say how long its units last.
        NumericsError: the model returned NaN.
    """
    made: dict[str, Made] = {}
    waiting = sorted(utterances, key=lambda one: _size(one, cell))  # prompts of like length waste least in a batch
    for start in range(0, len(waiting), config.batch_size):
        block = waiting[start : start + config.batch_size]
        seeds = [stable_seed(seed, one.id, cell) for one in block]
        if model.loaded is None:
            found = _continue_text(model, block, config, max_text_tokens, seeds)
        else:
            found = _continue_spoken(model.loaded, block, cell, config, max_text_tokens, seeds)
        batch = {one.id: new for one, new in zip(block, found, strict=True)}
        made |= batch
        on_made(batch)
    return [made[one.id] for one in utterances]


def random_words(utterances: Sequence[CutUtterance], seed: int) -> list[str]:
    """For each utterance, words drawn by how often continuations hold them; as many as its own continuation has."""
    words = [one.continuation.text.split() for one in utterances]
    known = [word for found in words for word in found]
    texts = []
    for one, own in zip(utterances, words):
        rng = np.random.default_rng(stable_seed(seed, one.id, "random words"))
        texts.append(" ".join(known[place] for place in rng.integers(0, len(known), len(own))))
    return texts


def _size(one: CutUtterance, cell: Cell) -> int:
    if cell[0] == "u" and one.prompt.tokens is not None:
        return one.prompt.tokens.codes.shape[1]
    return len(one.prompt.text)


def _continue_spoken(
    lm: SpokenLM,
    block: Sequence[CutUtterance],
    cell: Cell,
    config: GenerationConfig,
    max_text_tokens: int,
    seeds: Sequence[int],
) -> list[Made]:
    reads, writes = cell[0] == "t", cell[2] == "t"
    prompts = [[Segment(text=one.prompt.text) if reads else Segment(tokens=one.prompt.tokens)] for one in block]
    replies = lm.continue_(prompts, config, to=MODALITIES[cell[2]], max_text_tokens=max_text_tokens, seeds=seeds)
    return [
        Made(
            reply.text if writes else None,
            None if writes else reply.tokens,
            len(reply.token_ids),
            reply.stopped,
        )
        for reply in replies
    ]


def _continue_text(
    model: HalfModel,
    block: Sequence[CutUtterance],
    config: GenerationConfig,
    max_text_tokens: int,
    seeds: Sequence[int],
) -> list[Made]:
    """Text after text, from a text model; its own symbols are not drawn but for the end."""
    assert isinstance(model.rows, TextHalfRows)
    tokenizer, lm = model.rows.tokenizer, _causal(model.model)
    size = len(lm.get_input_embeddings().weight)
    end = next(one for one in (tokenizer.eos_token_id, tokenizer.bos_token_id) if one is not None)
    written = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    banned = torch.tensor([token not in written and token != end for token in range(size)])
    rules = TokenRules(
        banned=banned, seconds=torch.zeros(size), end_id=end, pad_id=end, max_text_tokens=max_text_tokens
    )
    rows = start_rows([model.rows.prompt(one.prompt, "t2t").tolist() for one in block], config, seeds)
    continue_rows(lm, rows, config, rules)
    texts = [tokenizer.decode(row.tokens, clean_up_tokenization_spaces=False) for row in rows]
    return [Made(text, None, len(row.tokens), row.stopped or "context") for text, row in zip(texts, rows)]


def _causal(model: Any) -> Any:
    """The model as transformers knows it: what follows asks for more than a module has."""
    return model
