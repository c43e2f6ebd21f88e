"""Speech tokens to the token ids that a language model reads, and back; many short documents in one row.

SpeechTokens -> layout.build -> token_ids -> pack_documents -> PackedBatch -> lm/
SpeechTokens, words, text -> joint layout -> token_ids -> Mixture -> ...
"""

from vocable.sequences.layouts import LAYOUTS, Layout, UnitsLayout, layout_from_card
from vocable.sequences.packing import MaskedDocument, concatenate, pack_documents
from vocable.sequences.vocabulary import UnitVocabulary

__all__ = [
    "LAYOUTS",
    "Layout",
    "MaskedDocument",
    "UnitVocabulary",
    "UnitsLayout",
    "concatenate",
    "layout_from_card",
    "pack_documents",
]
