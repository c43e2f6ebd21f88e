"""DistillMOS's checkpoint -> safetensors, and the sizes that its code fixes.

Source: Stahl & Gamper, 2025, arXiv:2502.05356.
"""

from __future__ import annotations

from pathlib import Path

from vocable.assets.converters.pickled import convert_checkpoint

CHECKPOINT = "distillmos-0.9.1/distillmos/weights/distill_mos_v7.pt"
CONFIG = {
    "sample_rate": 16000,
    "n_fft": 320,
    "hop_length": 160,
    "cnn_layers": 6,
    "cnn_channels": 256,
    "transformer_layers": 7,
    "transformer_dim": 200,
    "attention_heads": 8,
    "segment_samples": 122880,
    "max_segment_hop_samples": 16000,
}


def convert(unpacked: Path, folder: Path) -> None:
    """Write model.safetensors and config.json."""
    convert_checkpoint(unpacked / CHECKPOINT, "model", CONFIG, folder)
