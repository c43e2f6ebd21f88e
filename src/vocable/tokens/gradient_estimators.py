"""Carry gradients past a choice that has none: the step from a vector to its codebook entry.

    forward:   vectors -> entries, exactly
    backward:  gradient of the entries -> gradient of the vectors, unchanged (straight-through) or turned (rotation)

No gradient reaches the entries on this way: a codebook learns by its own loss or by moving averages.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

GradientEstimator = Literal["straight_through", "rotation"]
SMALLEST_NORM = 1e-6
"""Shorter vectors have no direction worth the name: they take the straight-through gradient."""


def estimate_gradient(
    vectors: Float[Tensor, "*frames code_dim"], entries: Float[Tensor, "*frames code_dim"], estimator: GradientEstimator
) -> Float[Tensor, "*frames code_dim"]:
    """Return the entries, to the bit, with the gradient of the chosen estimator to `vectors`."""
    return straight_through(vectors, entries) if estimator == "straight_through" else rotate(vectors, entries)


def straight_through(
    vectors: Float[Tensor, "*frames code_dim"], entries: Float[Tensor, "*frames code_dim"]
) -> Float[Tensor, "*frames code_dim"]:
    """Return the entries; their gradient goes to `vectors` as it is.

    Source: Bengio et al., 2013, arXiv:1308.3432; VQ-VAE (van den Oord et al., 2017, arXiv:1711.00937, section 3.2).
    Differs: the result is the entries to the bit, unlike `vectors + (entries - vectors)` with its rounding.
    """
    return entries.detach() + (vectors - vectors.detach())


def rotate(
    vectors: Float[Tensor, "*frames code_dim"], entries: Float[Tensor, "*frames code_dim"]
) -> Float[Tensor, "*frames code_dim"]:
    """Return the entries, as the vectors turned and scaled onto them by a map that counts as constant.

    With e a vector and q its entry: q = s R e, where s = |q| / |e|, and R = I - 2 r r^T + 2 q' e'^T turns the direction
    e' of e into the direction q' of q; r is the direction of e' + q'. The gradient of e is s R^T times that of q, so it
    keeps its angle: to e it is the angle that the gradient of q has to q.

    Source: Fifty et al., 2024, arXiv:2410.06424, section 4.
    Differs: the result is the entries to the bit; where e or q is (almost) zero the gradient goes straight through.
    """
    start, end = vectors.detach(), entries.detach()
    start_norms = torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    end_norms = torch.linalg.vector_norm(end, dim=-1, keepdim=True)
    directed = (start_norms > SMALLEST_NORM) & (end_norms > SMALLEST_NORM)
    start_directions = start / start_norms.clamp(min=SMALLEST_NORM)
    end_directions = end / end_norms.clamp(min=SMALLEST_NORM)
    between = torch.nn.functional.normalize(start_directions + end_directions, dim=-1)
    along_between = (vectors * between).sum(-1, keepdim=True)
    along_start = (vectors * start_directions).sum(-1, keepdim=True)
    turned = vectors - 2 * along_between * between + 2 * along_start * end_directions
    scaled = turned * (end_norms / start_norms.clamp(min=SMALLEST_NORM))
    return straight_through(torch.where(directed, scaled, vectors), end)
