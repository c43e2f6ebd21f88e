"""How one example becomes one row of token ids, and back.

    SpeechTokens  7 7 7 2 2 9   <->   token_ids  <s> 9 4 11 <s>

A layout is a value with `build` and `revert`; what uses it (packing, training, generation) sees token ids only. Layouts
for text and for speech mixed with text are in joint_layouts.py; the table here names them all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import ConfigError
from vocable.registry import look_up
from vocable.sequences.joint_layouts import JOINT_LAYOUTS, JointLayout
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.vocabulary import UnitVocabulary, Vocabulary
from vocable.sequences.word_layout import WordLayout, WordVocabulary
from vocable.tokens.runs import Runs, collapse_runs, expand_runs
from vocable.types import SpeechTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsLayout:
    """Units only, as TWIST reads them (arXiv:2305.13009): the start symbol, units, the end symbol."""

    vocabulary: UnitVocabulary
    collapsed: bool = True
    """Merge runs of equal units. The durations are then not in the row, and `revert` cannot return them."""
    bos: bool = True
    """Open each document with the start symbol."""
    eos: bool = True
    """Close each document with the end symbol."""

    @property
    def vocabulary_size(self) -> int:
        """Units, padding, and the symbol that opens and closes a document."""
        return self.vocabulary.size

    def build(self, example: SpeechTokens) -> Int[Tensor, " positions"]:
        """Turn the tokens of one utterance into one document.

        Raises:
            ConfigError: a unit is outside the vocabulary.
        """
        units = example.units
        if self.collapsed:
            units = collapse_runs(units).units
        elif example.durations is not None:
            units = expand_runs(Runs(units, example.durations))
        boundary = torch.tensor([self.vocabulary.bos_eos_id])
        return torch.cat([boundary[: self.bos], self.vocabulary.token_ids(units.cpu()), boundary[: self.eos]])

    def revert(self, token_ids: Int[Tensor, " positions"]) -> SpeechTokens:
        """Return the units of a document; special symbols are dropped.

        When runs were collapsed, each position is a run and `durations` is None: a vocoder predicts them.
        """
        return SpeechTokens(codes=self.vocabulary.units(token_ids)[None])

    def card(self) -> dict[str, Any]:
        """Return the layout as JSON values."""
        return {"name": "units", **config_to_dict(self)}


Layout = UnitsLayout | JointLayout | WordLayout
"""Builds rows from examples, reverts them, and describes itself in a card."""
LAYOUTS: dict[str, type[Layout]] = {"units": UnitsLayout, **JOINT_LAYOUTS, "words": WordLayout}
VOCABULARIES: dict[str, type[Vocabulary]] = {
    "units": UnitVocabulary,
    "joint": JointVocabulary,
    "words": WordVocabulary,
}
"""By the `kind` in a language model's card."""


def layout_from_card(card: Mapping[str, Any]) -> Layout:
    """Make the layout that `card()` described.

    Raises:
        UnknownNameError: no layout has this name.
        ConfigError: a setting is unknown or out of range.
    """
    settings = {key: value for key, value in card.items() if key != "name"}
    kind = look_up("layout", card["name"], LAYOUTS)
    return config_from_dict(kind, settings, source="layout card")


def vocabulary_from_card(card: Mapping[str, Any]) -> Vocabulary:
    """Make the vocabulary that a language model's card describes.

    Raises:
        UnknownNameError: no vocabulary is of this kind.
        ConfigError: a setting is unknown or out of range.
    """
    return config_from_dict(look_up("vocabulary", card.get("kind", "units"), VOCABULARIES), card, source="vocabulary")


def change_layout(layout: Layout, settings: Mapping[str, Any]) -> Layout:
    """Return the layout with other settings, nested as in a yaml, e.g. `{"spans": {"kind": "poisson"}}`; not bound.

    Another kind of spans starts from its own defaults.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    card = layout.card()
    for key, value in settings.items():
        if key not in card or key == "name":
            known = ", ".join(sorted(card.keys() - {"name", "vocabulary"}))
            raise ConfigError(f"The layout {card['name']!r} has no setting {key!r}. Known: {known}.")
        before = card[key]
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            same = "kind" not in value or value["kind"] == before.get("kind")
            value = {**before, **value} if same else dict(value)
        card[key] = value
    return layout_from_card(card)
