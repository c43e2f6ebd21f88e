"""LAST: a speech tokenizer trained through a frozen text language model (Turetzky and Adi, 2024, arXiv:2409.03701).

    features of a frozen speech encoder (batch, frames, feature_dim)
      -> encoder, learnable    (batch, frames, dim)              features/frame_transformer.py
      -> vector quantizer      units (batch, frames) and entries  tokens/quantizers/vector.py
      -> adapter               (batch, frames, embedding width)   adapter.py
      -> frozen text LM        (batch, frames, hidden width)
      -> head of the adapter   scores of the next unit
      and, from the entries: decoder -> the frozen features again

    loss = -log p(next unit) + lambda * (|decoded - features|^2 + beta * |encoded - entry|^2)

The units become easy for the language model to predict; decoding keeps them from becoming one unit for all.
Only encoder and quantizer are needed to tokenize. The paper's hyperparameters are not known to us: each is a field.
"""

from vocable.systems.last.config import LastConfig
from vocable.systems.last.model import LastModel
from vocable.systems.last.tokenizer import LastTokenizer
from vocable.systems.last.training import SYSTEM, LastData, build_model, prepare_data, train_from_speech

__all__ = [
    "SYSTEM",
    "LastConfig",
    "LastData",
    "LastModel",
    "LastTokenizer",
    "build_model",
    "prepare_data",
    "train_from_speech",
]
