"""Collapse runs of repeated units, and undo it.

    frames  7 7 7 2 2 9   <->   units 7 2 9, durations 3 2 1

Neighbouring frames of speech often share a unit. Language models read the collapsed units (TWIST, Hassid et al., 2023,
arXiv:2305.13009); vocoders need the durations back, or predict them. Next stage: sequences/.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.types import SpeechTokens


class Runs(NamedTuple):
    """Units without neighbouring repeats, and how many frames each one lasts."""

    units: Int[Tensor, " runs"]
    durations: Int[Tensor, " runs"]


def collapse_runs(units: Int[Tensor, " frames"]) -> Runs:
    """Merge neighbouring equal units; no frames give no runs. Durations are int64, in frames, at least 1."""
    runs, durations = torch.unique_consecutive(units, return_counts=True)
    return Runs(runs, durations)


def expand_runs(runs: Runs) -> Int[Tensor, " frames"]:
    """Repeat every unit for its duration: the inverse of `collapse_runs`.

    Raises:
        ValueError: units and durations differ in length, or a duration is below 1.
    """
    units, durations = runs
    if units.shape != durations.shape:
        raise ValueError(f"{len(units)} units, but {len(durations)} durations: there must be one duration per unit.")
    if len(durations) and int(durations.min()) < 1:
        raise ValueError(f"A run has duration {int(durations.min())}; every run lasts at least 1 frame.")
    return torch.repeat_interleave(units, durations)


def frames_of(tokens: SpeechTokens) -> Int[Tensor, "levels frames"]:
    """Return one column per frame of the only stream, with collapsed runs expanded."""
    if tokens.durations is None:
        return tokens.codes
    return torch.repeat_interleave(tokens.codes, tokens.durations, dim=1)
