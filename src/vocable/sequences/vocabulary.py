"""Meaning of the token ids of a language model; here for one that reads nothing but units.

    id   0     1         2       3       ...
         pad   bos/eos   unit 0  unit 1  ...

One symbol opens and closes a document, as in TWIST's training code and slamkit.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.sequences.spans import Modality

TEXT, SPEECH, SPECIAL = 0, 1, 2
"""Classes of token ids (`Vocabulary.classes`)."""


def check_ids(ids: Int[Tensor, " positions"], size: int, kind: str, among: str) -> None:
    """Refuse ids that are not in a codebook, or in a set of subwords, of this size.

    Raises:
        ConfigError: an id is outside; the message names it as a `kind` outside what it should be `among`.
    """
    lowest, highest = (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)
    if lowest < 0 or highest >= size:
        raise ConfigError(
            f"{kind} {lowest if lowest < 0 else highest} is outside {among} (0 to {size - 1}). Were these tokens made "
            "by the tokenizer that the vocabulary was made for?"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Interface of every vocabulary. `layouts.VOCABULARIES` lists the kinds, by the name that a model's card has."""

    modalities: ClassVar[tuple[Modality, ...]] = ()
    """Modalities that a model of this kind reads and generates."""

    kind: str

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        raise NotImplementedError

    @property
    def end_id(self) -> int:
        """Closes every document."""
        raise NotImplementedError

    @property
    def classes(self) -> Int[Tensor, " vocabulary"]:
        """Class of each id: `TEXT`, `SPEECH` or `SPECIAL`, as `lm.branches.tree_nll` takes them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitVocabulary(Vocabulary):
    """Which token id each unit has, and which ids pad, open and close a document."""

    modalities: ClassVar[tuple[Modality, ...]] = ("speech",)

    kind: Literal["units"] = "units"
    codebook_size: int
    """Distinct units."""
    pad_id: int = 0
    bos_eos_id: int = 1
    """Opens and closes every document."""
    unit_offset: int = 2
    """Token id of unit 0. Published TWIST checkpoints carry their own (the config field `offset`)."""

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ConfigError(f"vocabulary.codebook_size is {self.codebook_size}; a codebook needs at least 2 entries.")
        if self.unit_offset < 0:
            raise ConfigError(f"vocabulary.unit_offset is {self.unit_offset}; token ids start at 0.")
        if self.pad_id == self.bos_eos_id:
            raise ConfigError(f"vocabulary.pad_id and vocabulary.bos_eos_id are both {self.pad_id}; they must differ.")
        units = range(self.unit_offset, self.unit_offset + self.codebook_size)
        for name, value in (("pad_id", self.pad_id), ("bos_eos_id", self.bos_eos_id)):
            if value < 0 or value in units:
                raise ConfigError(
                    f"vocabulary.{name} is {value}, which is negative or the id of a unit "
                    f"({units.start} to {units.stop - 1}). Choose an id below {units.start} or from {units.stop} on."
                )

    @property
    def end_id(self) -> int:
        """Closes every document, by the name that all vocabularies have."""
        return self.bos_eos_id

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return max(self.unit_offset + self.codebook_size, self.pad_id + 1, self.bos_eos_id + 1)

    @property
    def classes(self) -> Int[Tensor, " vocabulary"]:
        """`SPEECH` for units and the symbol around them, `TEXT` for all other ids, which a text model left there."""
        classes = self.is_unit(torch.arange(self.size)).long()
        classes[self.bos_eos_id] = SPEECH
        return classes

    def token_ids(self, units: Int[Tensor, " positions"]) -> Int[Tensor, " positions"]:
        """Shift units to token ids.

        Raises:
            ConfigError: a unit is outside the codebook; the message names it.
        """
        check_ids(units, self.codebook_size, "Unit", f"the vocabulary's {self.codebook_size} units")
        return units.long() + self.unit_offset

    def is_unit(self, token_ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Say which ids stand for units."""
        return (token_ids >= self.unit_offset) & (token_ids < self.unit_offset + self.codebook_size)

    def units(self, token_ids: Int[Tensor, " positions"]) -> Int[Tensor, " units"]:
        """Drop everything that is no unit, and shift the rest back."""
        return token_ids[self.is_unit(token_ids)].long() - self.unit_offset

    def bans(self, device: torch.device | str = "cpu") -> Bool[Tensor, " vocabulary"]:
        """Say which ids a generated continuation must never hold: all but units and the end symbol."""
        allowed = self.is_unit(torch.arange(self.size, device=device))
        allowed[self.bos_eos_id] = True
        return ~allowed
