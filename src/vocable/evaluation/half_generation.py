"""Let a model continue prompts that were cut from utterances, in each modality; and the random control.

    prompt half, cell  ->  new text (t2t, u2t), or new units (u2u, t2u)

Each utterance and cell has its own seed, so that a continuation does not depend on what else is in the run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vocable.evaluation.continuation import stable_seed
from vocable.evaluation.halves import MODALITIES, Cell, CutUtterance, HalfModel
from vocable.lm.generation import GenerationConfig
from vocable.lm.spoken import Reply
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
        prompts = [[one.prompt.segment(cell[0])] for one in block]
        assert model.lm is not None
        found = model.lm.continue_(
            prompts, config, to=MODALITIES[cell[2]], max_text_tokens=max_text_tokens, seeds=seeds
        )
        batch = {one.id: _made(new, cell) for one, new in zip(block, found, strict=True)}
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


def _made(reply: Reply, cell: Cell) -> Made:
    text, tokens = (reply.text, None) if cell[2] == "t" else (None, reply.tokens)
    return Made(text, tokens, len(reply.token_ids), reply.stopped)
