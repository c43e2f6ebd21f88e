"""Choose the next token of each row: penalties, temperature, top-k, top-p, one random stream per row."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def penalise_repeats(
    logits: Float[Tensor, "rows vocabulary"], histories: Sequence[Sequence[int]], penalty: float
) -> Float[Tensor, "rows vocabulary"]:
    """Make tokens of each row's history less likely; penalty 1 changes nothing.

    Source: CTRL (Keskar et al., 2019, arXiv:1909.05858), section 4.1, in the form of transformers: positive logits are
    divided by the penalty, negative ones multiplied.
    """
    if penalty == 1:
        return logits
    logits = logits.clone()
    for row, history in enumerate(histories):
        seen = torch.tensor(sorted(set(history)), dtype=torch.long, device=logits.device)
        values = logits[row, seen]
        logits[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
    return logits


def next_token_probabilities(
    logits: Float[Tensor, "rows vocabulary"],
    banned: Bool[Tensor, "rows vocabulary"],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Float[Tensor, "rows vocabulary"]:
    """Return the distribution that the next token is drawn from, in float64; temperature 0 puts all on the best token.

    Top-k first, then top-p (Holtzman et al., 2020, arXiv:1904.09751): the fewest tokens that hold at least `top_p` of
    what is left. Of equally likely tokens at the edge, those with lower ids stay.
    """
    logits = logits.double().masked_fill(banned, -torch.inf)
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranked = logits.gather(-1, order) / temperature
    if top_k is not None:
        ranked[:, top_k:] = -torch.inf
    ranked = ranked.softmax(-1)
    if top_p is not None:
        mass_before = ranked.cumsum(-1) - ranked
        ranked = ranked.masked_fill(mass_before >= top_p, 0.0)
    ranked = ranked / ranked.sum(-1, keepdim=True)
    return torch.zeros_like(ranked).scatter(-1, order, ranked)


def draw(
    probabilities: Float[Tensor, "rows vocabulary"], generators: Sequence[torch.Generator]
) -> Int[Tensor, " rows"]:
    """Draw one token per row with that row's own generator, so that a row's draws do not depend on its batch mates."""
    uniform = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    cumulative = probabilities.cpu().cumsum(-1)
    chosen = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    last = (probabilities.cpu() > 0).long().cumsum(-1).argmax(-1)  # the last token that can be drawn at all
    return torch.minimum(chosen, last)
