"""The token ids of a language model that reads text and speech: text where it was, then one block for speech.

    id   0 ... text_size - 1   text_size ...                       ... size - 1
         text, as before       <U> <T> <U2T> <T2U> <E>             units, or unit subwords

The text tokenizer is left as it is: no token is added to it, and ids of the block never reach it. The special symbols
are those of SUTLM (Chou et al., 2023, arXiv:2310.08715), as far as its notation is known: openers for units and for
text, switch symbols, an end symbol. Next: joint_layouts.py.
"""

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.sequences.spans import Modality
from vocable.sequences.subwords import UnitSubwords
from vocable.sequences.vocabulary import SPECIAL, SPEECH, TEXT, Vocabulary, check_ids
from vocable.tokens.fingerprint import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialNames:
    """How special symbols are written where people read them; their order is that of their ids."""

    unit_open: str = "<U>"
    text_open: str = "<T>"
    unit_to_text: str = "<U2T>"
    text_to_unit: str = "<T2U>"
    end: str = "<E>"

    def __post_init__(self) -> None:
        names = self.all()
        if "" in names or len(set(names)) < len(names):
            raise ConfigError(f"The special symbols are named {', '.join(map(repr, names))}; each needs its own name.")

    def all(self) -> tuple[str, ...]:
        """Return the names in the order of their ids."""
        return tuple(getattr(self, item.name) for item in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointVocabulary(Vocabulary):
    """Which token id each piece of text, special symbol and speech token has."""

    modalities: ClassVar[tuple[Modality, ...]] = ("speech", "text")

    kind: Literal["joint"] = "joint"
    text_size: int
    """Ids kept for text, from 0 on: all rows of the text model's table, also those that its tokenizer never uses."""
    codebook_size: int
    """Distinct units."""
    num_subwords: int | None = None
    """Unit subwords that stand in the place of units; None: the block holds the units themselves."""
    names: SpecialNames = field(default_factory=SpecialNames)
    text_fingerprint: str | None = None
    """Fingerprint of the text tokenizer (`text_tokenizer_fingerprint`); None: not checked."""
    subwords_fingerprint: str | None = None
    """Fingerprint of the unit subwords; None without subwords, or: not checked."""

    def __post_init__(self) -> None:
        if self.text_size < 1 or self.codebook_size < 2:
            raise ConfigError(
                f"vocabulary.text_size is {self.text_size} and codebook_size {self.codebook_size}; they must be at "
                "least 1 and 2. A model without text has a UnitVocabulary."
            )
        if self.num_subwords is not None and self.num_subwords < self.codebook_size:
            raise ConfigError(
                f"vocabulary.num_subwords is {self.num_subwords}; the {self.codebook_size} units are subwords too."
            )

    @property
    def unit_open_id(self) -> int:
        """Opens a stretch of speech."""
        return self.text_size

    @property
    def text_open_id(self) -> int:
        """Opens a stretch of text."""
        return self.text_size + 1

    @property
    def unit_to_text_id(self) -> int:
        """Stands between speech and the text after it."""
        return self.text_size + 2

    @property
    def text_to_unit_id(self) -> int:
        """Stands between text and the speech after it."""
        return self.text_size + 3

    @property
    def end_id(self) -> int:
        """Closes a document."""
        return self.text_size + 4

    @property
    def pad_id(self) -> int:
        """For programs that must pad: the end symbol, which is masked there. Packed rows hold no padding."""
        return self.end_id

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the special symbols, in the order of `SpecialNames`."""
        return tuple(range(self.text_size, self.text_size + len(self.names.all())))

    @property
    def speech_offset(self) -> int:
        """Id of unit 0, or of subword 0."""
        return self.text_size + len(self.names.all())

    @property
    def num_speech(self) -> int:
        """Units or unit subwords."""
        return self.codebook_size if self.num_subwords is None else self.num_subwords

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return self.speech_offset + self.num_speech

    @property
    def classes(self) -> Int[Tensor, " vocabulary"]:
        """Class of each id: `TEXT`, `SPEECH` or `SPECIAL`, as `lm.branches.tree_nll` takes them."""
        ids = torch.arange(self.size)
        special = (ids >= self.text_size) & (ids < self.speech_offset)
        return torch.where(special, SPECIAL, torch.where(ids < self.text_size, TEXT, SPEECH))

    def is_text(self, token_ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Say which ids are text."""
        return (token_ids >= 0) & (token_ids < self.text_size)

    def is_speech(self, token_ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Say which ids are units or unit subwords."""
        return (token_ids >= self.speech_offset) & (token_ids < self.size)

    def is_special(self, token_ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Say which ids are special symbols."""
        return (token_ids >= self.text_size) & (token_ids < self.speech_offset)

    def is_switch(self, token_ids: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Say which ids announce a modality: openers and switch symbols, but not the end."""
        return self.is_special(token_ids) & (token_ids != self.end_id)

    def speech_ids(self, speech: Int[Tensor, " positions"]) -> Int[Tensor, " positions"]:
        """Shift units, or unit subwords, to token ids.

        Raises:
            ConfigError: one is outside the block.
        """
        kind = "Unit" if self.num_subwords is None else "Subword"
        check_ids(speech, self.num_speech, kind, f"the vocabulary's {self.num_speech}")
        return speech.long() + self.speech_offset

    def speech(self, token_ids: Int[Tensor, " positions"]) -> Int[Tensor, " speech"]:
        """Drop everything that is not speech, and shift the rest back to units or unit subwords."""
        return token_ids[self.is_speech(token_ids)].long() - self.speech_offset

    def text_ids(self, ids: Int[Tensor, " positions"]) -> Int[Tensor, " positions"]:
        """Check ids of the text tokenizer: text keeps its ids.

        Raises:
            ConfigError: one is beyond the text part.
        """
        if len(ids) and not bool(self.is_text(ids).all()):
            raise ConfigError(
                f"The text tokenizer gave the id {int(ids[~self.is_text(ids)][0])}, but ids from {self.text_size} on "
                "are not text. Make the vocabulary for this tokenizer (joint_vocabulary)."
            )
        return ids.long()

    def name(self, token_id: int) -> str | None:
        """Return the name of a special symbol; None for any other id."""
        return self.names.all()[token_id - self.text_size] if token_id in self.special_ids else None

    def bans(self, *, speech: bool = True, text: bool = True) -> Bool[Tensor, " vocabulary"]:
        """Say which ids a continuation in some modalities must never hold. The end symbol is always allowed; openers
        and switch symbols are when both modalities are."""
        ids = torch.arange(self.size)
        allowed = (
            (self.is_speech(ids) & speech) | (self.is_text(ids) & text) | (self.is_switch(ids) & (speech and text))
        )
        allowed[self.end_id] = True
        return ~allowed


def joint_vocabulary(
    text_tokenizer: Any, units: UnitSubwords | int, *, text_rows: int | None = None, names: SpecialNames | None = None
) -> JointVocabulary:
    """Make the vocabulary for a text tokenizer and the units, or unit subwords, of a speech tokenizer.

    Args:
        units: unit subwords, or the codebook size.
        text_rows: rows of the text model's table, where they are more than the tokenizer has ids (tables are often
            padded); None: as many as the tokenizer has.

    Raises:
        ConfigError: fewer rows than the tokenizer has ids.
    """
    used = max(len(text_tokenizer), max(text_tokenizer.get_vocab().values(), default=-1) + 1)
    if text_rows is not None and text_rows < used:
        raise ConfigError(
            f"The text model has {text_rows} rows, its tokenizer {used} ids. They do not belong together."
        )
    over_units = not isinstance(units, UnitSubwords)
    return JointVocabulary(
        text_size=text_rows or used,
        codebook_size=units if over_units else units.card.codebook_size,
        num_subwords=None if over_units else units.size,
        names=names or SpecialNames(),
        text_fingerprint=text_tokenizer_fingerprint(text_tokenizer),
        subwords_fingerprint=None if over_units else units.fingerprint,
    )


def text_tokenizer_fingerprint(text_tokenizer: Any) -> str:
    """Name a Hugging Face tokenizer by what decides its ids: its rules where they are known, else its vocabulary."""
    backend = getattr(text_tokenizer, "backend_tokenizer", None)
    if backend is None:
        return fingerprint({"vocabulary": text_tokenizer.get_vocab()})
    rules = json.loads(backend.to_str())
    return fingerprint({key: value for key, value in rules.items() if key not in ("truncation", "padding", "version")})
