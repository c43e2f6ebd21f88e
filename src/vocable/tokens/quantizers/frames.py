"""Frames of a padded batch, in and out: what every quantizer does before and after the choice of codes.

(batch, frames, dim), mask  ->  the unmasked frames, clip by clip or all together  ->  back in their places
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vocable.errors import ConfigError

PADDING_CODE = -1
"""The code of masked frames."""


def check_features(features: Tensor, mask: Tensor | None, dim: int) -> None:
    """Refuse features of another width, and a mask of another shape.

    Raises:
        ConfigError: it is so.
    """
    if features.shape[-1] != dim:
        raise ConfigError(
            f"Features have {features.shape[-1]} dimensions, but quantizer.dim is {dim}: use the "
            "encoder that it was made for."
        )
    if mask is not None and mask.shape != features.shape[:2]:
        raise ConfigError(
            f"The mask has shape {tuple(mask.shape)}, the features {tuple(features.shape)}: the mask needs one "
            "value per frame, (batch, frames)."
        )


def unmasked_frames(
    features: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None, by_clip: bool
) -> list[Tensor]:
    """Return the unmasked frames in float32: clip by clip, or all together (faster).

    A clip by itself is computed with the same bits whatever shares its batch.
    """
    if not by_clip or not len(features):
        return [(features.flatten(0, 1) if mask is None else features[mask]).float()]
    clips = list(features) if mask is None else [clip[real] for clip, real in zip(features, mask)]
    return [clip.to(torch.float32, copy=True) for clip in clips]  # fresh: as in KMeans.assign


def join(clips: list[Tensor]) -> Tensor:
    """Put the frames of clips one after another."""
    return clips[0] if len(clips) == 1 else torch.cat(clips)


def spread(values: Tensor, mask: Tensor | None, features: Tensor, padding: int) -> Tensor:
    """Put one value or vector per unmasked frame in its place in the batch."""
    shape = (*features.shape[:2], *values.shape[1:])
    if mask is None:
        return values.reshape(shape)
    placed = values.new_full(shape, padding)
    placed[mask] = values
    return placed
