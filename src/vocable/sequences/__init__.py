"""Speech tokens to the token ids that a language model reads, and back; many short documents in one row.

SpeechTokens -> layout.build -> token_ids -> pack_documents -> PackedBatch -> lm/
SpeechTokens, words, text -> joint layout -> token_ids -> Mixture -> ...
"""

from vocable.sequences.layouts import LAYOUTS, Layout, UnitsLayout, layout_from_card
from vocable.sequences.packing import (
    MaskedDocument,
    PackedBatch,
    PackingReport,
    Piece,
    concatenate,
    cut_documents,
    pack_documents,
    plan_rows,
    token_budget_batches,
)
from vocable.sequences.vocabulary import UnitVocabulary

__all__ = [
    "LAYOUTS",
    "Layout",
    "MaskedDocument",
    "PackedBatch",
    "PackingReport",
    "Piece",
    "UnitVocabulary",
    "UnitsLayout",
    "concatenate",
    "cut_documents",
    "layout_from_card",
    "pack_documents",
    "plan_rows",
    "token_budget_batches",
]
