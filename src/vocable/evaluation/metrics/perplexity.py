"""How likely a text language model finds what was said: generative perplexity of transcripts.

    prompt "the cat sat"  continuation "on the mat"

    alone          p(on the mat)                 the continuation by itself
    given_prompt   p(on the mat | the cat sat)   continuation tokens only, behind the prompt
    with_prompt    p(the cat sat on the mat)     all tokens: GenPPL of Slam (arXiv:2502.15814), PELM of SUTLM
                                                 (Chou et al., 2023, arXiv:2310.08715)

With the prompt inside, the score mixes how hard the prompt is with how good the continuation is, and repeating the
prompt lowers it. Papers also sum texts up in three ways, which differ by factors; all are reported:

    arithmetic      mean of the perplexities of texts       a few absurd texts decide
    geometric       exp(mean of mean NLLs)                  Slam's GenPPL; GSLM's mean log-probability (2102.01192)
    token_weighted  exp(sum of NLLs / number of tokens)     PELM; long texts count more
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.evaluation.results import Score, mean_score, ratio_score
from vocable.lm.scoring import token_nll
from vocable.lm.text_lm import TextLM

BATCH_TOKENS = 1024
"""Tokens in one forward pass; the logits of a text model's vocabulary are what fills the memory."""


class TextNLL(NamedTuple):
    """Summed negative log-likelihood of a text, in nats, and the number of scored tokens."""

    nll: float
    num_tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.nll / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp of nats per token."""
        return math.exp(self.mean)


class ContinuationNLL(NamedTuple):
    """A continuation scored behind its prompt; see the module's table."""

    given_prompt: TextNLL
    with_prompt: TextNLL


def text_nll(lm: TextLM, texts: Sequence[str], max_tokens: int = BATCH_TOKENS) -> list[TextNLL | None]:
    """Score each text by itself; None where nothing in it can be scored (empty, or one token without start symbol).

    Texts are packed, each with its own attention, so that batching changes no score but for rounding.

    Raises:
        ConfigError: a text is longer than the model's context.
    """
    rows = [lm.token_ids(text.strip()) for text in texts]
    fewest = 1 if lm.opening == "bos" else 2
    kept = [index for index, row in enumerate(rows) if len(row) >= fewest]
    losses = token_nll(lm.model, [rows[i] for i in kept], lm.opening, bos_id=lm.bos_id, max_tokens=max_tokens)
    scores: list[TextNLL | None] = [None] * len(rows)
    for index, loss in zip(kept, losses):
        scores[index] = TextNLL(float(loss.double().sum()), len(loss))
    return scores


def continuation_nll(
    lm: TextLM, prompts: Sequence[str], texts: Sequence[str], max_tokens: int = BATCH_TOKENS
) -> list[ContinuationNLL | None]:
    """Score each text behind its prompt, a space between; None where prompt or text is empty.

    A token belongs to the continuation when it ends behind the prompt, so a token that spans both counts as new.

    Raises:
        ConfigError: prompts and texts are not equally many; prompt and text are longer than the model's context.
    """
    if len(prompts) != len(texts):
        raise ConfigError(f"{len(prompts)} prompts for {len(texts)} texts; give one each.")
    pairs = [(prompt.strip(), text.strip()) for prompt, text in zip(prompts, texts)]
    kept = [index for index, (prompt, text) in enumerate(pairs) if prompt and text]
    joined = [" ".join(pairs[index]) for index in kept]
    rows = [lm.token_ids(text) for text in joined]
    losses = token_nll(lm.model, rows, lm.opening, bos_id=lm.bos_id, max_tokens=max_tokens) if rows else []
    scores: list[ContinuationNLL | None] = [None] * len(pairs)
    for index, text, loss in zip(kept, joined, losses):
        ends = [
            end
            for _, end in lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]
        num_new = sum(end > len(pairs[index][0]) for end in ends)
        new = loss.double()[-num_new:]
        scores[index] = ContinuationNLL(
            TextNLL(float(new.sum()), len(new)), TextNLL(float(loss.double().sum()), len(loss))
        )
    return scores


def perplexity_scores(
    texts: Sequence[TextNLL],
    speakers: Sequence[Hashable | None] | None = None,
    *,
    meaning: str,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Score]:
    """Sum texts up in three ways, each with its interval over texts (and speakers); keys as in the module's table."""
    how = {"seed": seed, "num_resamples": num_resamples}
    means = [text.mean for text in texts]
    perplexities = [text.perplexity for text in texts]
    sums, counts = [text.nll for text in texts], [float(text.num_tokens) for text in texts]
    said = {
        "arithmetic": f"{meaning}; mean of the texts' perplexities",
        "geometric": f"{meaning}; exp of the mean of nats per token",
        "token_weighted": f"{meaning}; exp of all nats over all tokens",
    }
    geometric = mean_score(means, speakers, better="lower", meaning=said["geometric"], **how)
    weighted = ratio_score(sums, counts, speakers, better="lower", meaning=said["token_weighted"], **how)
    return {
        "arithmetic": mean_score(perplexities, speakers, better="lower", meaning=said["arithmetic"], **how),
        "geometric": map_score(geometric, math.exp),
        "token_weighted": map_score(weighted, math.exp),
    }


def map_score(score: Score, function: Callable[[float], float]) -> Score:
    """Apply a rising function to a score and its intervals: percentiles move with it."""
    ends = ("value", "low", "high", "speaker_low", "speaker_high")
    values = {name: getattr(score, name) for name in ends}
    return dataclasses.replace(
        score, **{name: None if value is None else function(value) for name, value in values.items()}
    )
