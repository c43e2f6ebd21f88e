"""Let a model continue prompts that were cut from utterances, in each modality; and the random control.

    prompt half, cell  ->  new text (t2t, u2t), or new units (u2u, t2u)

Each utterance and cell has its own seed, so that a continuation does not depend on what else is in the run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from vocable.errors import ConfigError
from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.half_models import HalfModel
from vocable.evaluation.half_rows import MODALITIES, Cell, TextHalfRows, UnitHalfRows
from vocable.evaluation.halves import CutUtterance
from vocable.lm.checkpoint import LoadedLM
from vocable.lm.generation import GenerationConfig, TokenRules, continue_rows, generate_units, start_rows
from vocable.lm.joint_generation import continue_examples
from vocable.sequences.joint_rows import JointExample
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
        elif isinstance(model.rows, UnitHalfRows):
            found = _continue_units(model.loaded, model.rows, block, config, seeds)
        else:
            found = _continue_jointly(model.loaded, block, cell, config, max_text_tokens, seeds)
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


def _continue_jointly(
    lm: LoadedLM,
    block: Sequence[CutUtterance],
    cell: Cell,
    config: GenerationConfig,
    max_text_tokens: int,
    seeds: Sequence[int],
) -> list[Made]:
    examples = [JointExample(id=one.id, tokens=one.prompt.tokens, text=one.prompt.text) for one in block]
    prompt, to = MODALITIES[cell[0]], MODALITIES[cell[2]]
    replies = continue_examples(
        lm, examples, config, prompt=prompt, to=to, max_text_tokens=max_text_tokens, seeds=seeds
    )
    return [
        Made(
            reply.sequence.text if to == "text" else None,
            reply.sequence.tokens if to == "speech" else None,
            len(reply.continuation.token_ids),
            reply.continuation.stopped,
        )
        for reply in replies
    ]


def _continue_units(
    lm: LoadedLM, rows: UnitHalfRows, block: Sequence[CutUtterance], config: GenerationConfig, seeds: Sequence[int]
) -> list[Made]:
    if lm.card.unit_seconds is None:
        raise ConfigError("The language model's card has no unit durations, so lengths in seconds cannot be kept.")
    layout = rows.layout
    found = generate_units(
        lm.model,
        [layout.vocabulary.units(rows.continuation(one.prompt, "u2u")) for one in block],
        config,
        layout.vocabulary,
        torch.tensor(lm.card.unit_seconds),
        silence_units=lm.card.silence_units,
        seeds=seeds,
        bos=layout.bos,
    )
    return [Made(None, SpeechTokens(codes=one.units[None]), len(one.units), one.stopped) for one in found]


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
