"""Quantizers that learn inside a network: vectors become codes, and codes vectors.

    frames.py         unmasked frames of a batch, and back
    vector.py         one codebook
    finite_scalar.py  a grid instead of a codebook
    residual.py       several codebooks in a row
    split.py          a semantic codebook beside a residual quantizer

Gradients, moving averages and usage of a codebook: gradient_estimators.py, codebook_training.py, code_usage.py above.
"""

from vocable.tokens.quantizers.finite_scalar import FiniteScalarConfig, FiniteScalarQuantizer
from vocable.tokens.quantizers.residual import QuantizedLevels, ResidualQuantizer, ResidualQuantizerConfig
from vocable.tokens.quantizers.split import SplitQuantized, SplitQuantizer, SplitQuantizerConfig
from vocable.tokens.quantizers.vector import Quantized, VectorQuantizer, VectorQuantizerConfig

__all__ = [
    "FiniteScalarConfig",
    "FiniteScalarQuantizer",
    "Quantized",
    "QuantizedLevels",
    "ResidualQuantizer",
    "ResidualQuantizerConfig",
    "SplitQuantized",
    "SplitQuantizer",
    "SplitQuantizerConfig",
    "VectorQuantizer",
    "VectorQuantizerConfig",
]
