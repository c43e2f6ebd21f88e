"""Resemblyzer's checkpoint -> safetensors, and the sizes that its code fixes.

Source: GE2E, Wan et al., 2018, arXiv:1710.10467.
"""

from __future__ import annotations

from pathlib import Path

from vocable.assets.converters.pickled import convert_checkpoint

CHECKPOINT = "resemblyzer-0.1.4/resemblyzer/pretrained.pt"
CONFIG = {
    "sample_rate": 16000,
    "num_mels": 40,
    "n_fft": 400,
    "hop_length": 160,
    "window_frames": 160,
    "lstm_layers": 3,
    "lstm_dim": 256,
    "embedding_dim": 256,
}


def convert(unpacked: Path, folder: Path) -> None:
    """Write model.safetensors and config.json."""
    convert_checkpoint(unpacked / CHECKPOINT, "model_state", CONFIG, folder)
