"""The checkpoints of the encoder tests serve here too."""

from features.conftest import tiny_checkpoint

__all__ = ["tiny_checkpoint"]
