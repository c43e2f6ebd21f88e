"""Where to compute, unless the user says: decided here for every command and benchmark."""

from __future__ import annotations


def best_device(device: str | None = None) -> str:
    """Return `device` where one is named, else cuda where there is a GPU, else cpu."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")
