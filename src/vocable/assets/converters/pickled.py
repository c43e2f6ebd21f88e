"""PyTorch's pickled checkpoints -> safetensors. Read with `weights_only=True`, so that no code in them can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocable.errors import AssetError


def convert_checkpoint(checkpoint: Path, key: str, config: dict[str, Any], folder: Path) -> None:
    """Write `checkpoint[key]` as model.safetensors, with its names unchanged, and `config` as config.json.

    Raises:
        AssetError: the checkpoint has no such entry, or it is no table of tensors.
    """
    import torch
    from safetensors.torch import save_file

    state = torch.load(checkpoint, map_location="cpu", weights_only=True).get(key)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise AssetError(f"{checkpoint}: has no table of tensors {key!r}.")
    tensors = {name: value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
