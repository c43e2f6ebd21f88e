"""Rows of two streams: tokens of a text, and the codes of its words, a word later.

    words (a) (b c) (d) with codes E0 E1 E2, at a delay of one word

    reads      <s>   a     b     c     d     pad
               pad   pad   E0    E0    E1    E2
    predicts   a     b     c     d     </s>  -
               -     E0    -     E1    E2    -

The codes of a word are predicted when its last token has been read, together with the first token of the next word,
and read from then on, until those of the next word are there. `pad` are learned vectors (lm/word_model.py).

Source: TASLM, the language model of TASTE (Tseng et al., 2025, arXiv:2504.07053), as its published code lays rows out;
the paper's equations have no delay. Differs: the text ends with an end symbol that is predicted like a token, where the
HF code has none and the research code gives it codes of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.config import config_to_dict
from vocable.errors import ConfigError, ManifestError
from vocable.sequences.joint_vocabulary import text_tokenizer_fingerprint
from vocable.sequences.packing import IGNORED_LABEL
from vocable.sequences.spans import Modality
from vocable.sequences.vocabulary import TEXT, Vocabulary
from vocable.sequences.word_tokens import WordTextTokenizer, split_words
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import SpeechTokens

NO_CODE = -1
"""Code where there is none: a row reads the pad vector there, or predicts nothing."""


class SpokenText(NamedTuple):
    """Words, and their codes where they are spoken."""

    words: tuple[str, ...]
    codes: Int[Tensor, "levels words"] | None

    @classmethod
    def of_tokens(cls, tokens: SpeechTokens, num_levels: int) -> "SpokenText":
        """Take the tokens of a tokenizer by word.

        Raises:
            ConfigError: they do not follow words, or have another number of levels.
            ManifestError: they have no words, or not one position for each.
        """
        if tokens.words is None or tokens.spans is None:
            raise ConfigError(
                "These tokens do not follow words. The language model reads those of the text-aligned tokenizer that "
                "it was trained with: vocable tokenize"
            )
        if tokens.codes.shape[0] != num_levels:
            raise ConfigError(f"The tokens have {tokens.codes.shape[0]} levels, the language model reads {num_levels}.")
        words = tuple(word.word for word in tokens.words)
        places = torch.arange(len(words))[:, None] + torch.tensor([0, 1])
        if tokens.codes.shape[1] != len(words) or not torch.equal(tokens.spans.cpu(), places):
            raise ManifestError(
                f"{len(words)} words have {tokens.codes.shape[1]} positions; each word has one. Tokenize again."
            )
        return cls(words, tokens.codes)


@dataclass(frozen=True, slots=True)
class WordRow:
    """A row of both streams, and what is predicted at each of its positions. Stands wherever a document does."""

    token_ids: Int[Tensor, " positions"]
    """Text tokens that are read; `pad_id` after the end of the text."""
    codes: Int[Tensor, "positions levels"]
    """Codes that are read; -1 for the pad vector."""
    next_ids: Int[Tensor, " positions"]
    """Token that is predicted; -100 where none is."""
    next_codes: Int[Tensor, "positions levels"]
    """Codes that are predicted; -1 where none are."""
    bounds: tuple[tuple[int, int], ...] = ()
    """First position of each segment's tokens, and one past its last."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, part: slice) -> "WordRow":
        return WordRow(**{name: getattr(self, name)[part] for name in STREAMS}, bounds=self.bounds)

    def tolist(self) -> list[Any]:
        """Return what is read and predicted, to be described by."""
        return [getattr(self, name).tolist() for name in STREAMS]

    @property
    def num_scored(self) -> int:
        """Tokens and words that are predicted."""
        return int((self.next_ids != IGNORED_LABEL).sum() + (self.next_codes[:, 0] != NO_CODE).sum())


STREAMS = tuple(one.name for one in fields(WordRow))[:4]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordVocabulary(Vocabulary):
    """The ids of a text model as they are, and the codes of words beside them."""

    modalities: ClassVar[tuple[Modality, ...]] = ("speech", "text")

    kind: Literal["words"] = "words"
    text_size: int
    """Rows of the text model's table, also those that its tokenizer never uses."""
    open_id: int
    """Opens a row: the tokenizer's start symbol, or its end symbol where it has none."""
    close_id: int
    """Closes a row: the tokenizer's end symbol."""
    codebook_sizes: tuple[int, ...]
    """Codes of each level."""
    text_fingerprint: str | None = None
    """Fingerprint of the text tokenizer; None: not checked."""

    @property
    def num_levels(self) -> int:
        """Codes of a word."""
        return len(self.codebook_sizes)

    @property
    def size(self) -> int:
        """Rows of the embedding table."""
        return self.text_size

    @property
    def end_id(self) -> int:
        """Closes a row, by the name that all vocabularies have."""
        return self.close_id

    @property
    def pad_id(self) -> int:
        """Read after the end of the text; no row of the table, but a vector of its own."""
        return self.text_size

    @property
    def classes(self) -> Int[Tensor, " vocabulary"]:
        """All ids are text."""
        return torch.full((self.size,), TEXT)


def word_vocabulary(text_tokenizer: Any, codebook_sizes: Sequence[int], text_rows: int) -> WordVocabulary:
    """Make the vocabulary of a text model and a tokenizer by word.

    Raises:
        ConfigError: the text tokenizer has no end symbol, or more ids than the model has rows.
    """
    begin, end = text_tokenizer.bos_token_id, text_tokenizer.eos_token_id
    if end is None:
        raise ConfigError("The text tokenizer names no end symbol, so texts could not end. Choose another text model.")
    if len(text_tokenizer) > text_rows:
        raise ConfigError(
            f"The text tokenizer has {len(text_tokenizer)} ids, the model {text_rows} rows. Do they belong together?"
        )
    return WordVocabulary(
        text_size=text_rows,
        open_id=end if begin is None else begin,
        close_id=end,
        codebook_sizes=tuple(codebook_sizes),
        text_fingerprint=text_tokenizer_fingerprint(text_tokenizer),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WordLayout:
    """Words become rows; bound to a text tokenizer, it can build them."""

    vocabulary: WordVocabulary
    delay: int = 1
    """Codes of a word lag so far behind its first token; 0: both are predicted at once (the paper's equations)."""
    delay_unit: Literal["word", "token"] = "word"
    """Whether the delay counts words or text tokens."""
    reader: Any = field(default=None, compare=False, repr=False)
    """`WordTextTokenizer`; see `bind`. Not part of the card."""

    def __post_init__(self) -> None:
        if self.delay < 0 or self.delay_unit not in ("word", "token"):
            raise ConfigError(
                f"layout.delay is {self.delay} and layout.delay_unit {self.delay_unit!r}; the delay is 0 or more, "
                "counted in 'word' or 'token'."
            )

    def bind(self, text_tokenizer: Any, name: str = "") -> "WordLayout":
        """Return the layout with the text tokenizer that it writes words with.

        Raises:
            FingerprintError: it is not that of the vocabulary.
            ConfigError: it does not give words back letter for letter.
        """
        found, expected = text_tokenizer_fingerprint(text_tokenizer), self.vocabulary.text_fingerprint
        if expected is not None:
            check_fingerprint(expected, found, "the language model's vocabulary", "the text tokenizer")
        return replace(self, reader=WordTextTokenizer(text_tokenizer, name))

    def card(self) -> dict[str, Any]:
        """Return the layout as JSON values."""
        values = config_to_dict(replace(self, reader=None))
        del values["reader"]
        return {"name": "words", **values}

    @property
    def words(self) -> WordTextTokenizer:
        """The text tokenizer."""
        if self.reader is None:
            raise ConfigError("The layout has no text tokenizer. Bind one: layout.bind(text_tokenizer)")
        return self.reader

    def due(self, place: int, starts: Sequence[int], next_starts_word: bool) -> int | None:
        """Return the word whose codes are predicted with the token at a place; it may be beyond the last word.

        Args:
            place: Place of the token, counted from 0 without the opening symbol.
            starts: Place of the first token of each word so far, that of this token left out.
            next_starts_word: Whether this token starts a word. What comes after the text counts as words of one token.
        """
        if self.delay_unit == "word" or self.delay == 0:
            word = len(starts) - self.delay
            return word if next_starts_word and word >= 0 else None
        first = place - self.delay
        return starts.index(first) if first in starts else None

    def build(
        self, parts: Sequence[SpokenText], *, opens: bool = True, closes: bool = True, ending_only: bool = False
    ) -> WordRow:
        """Make a row of words, of which some are spoken.

        Args:
            parts: Segments; words without codes are read with the pad vector, and no codes are predicted for them.
            opens: Whether the opening symbol comes first; without it, the first token is not predicted.
            closes: Whether the end symbol is predicted.
            ending_only: Predict the last segment alone, given what comes before.

        Raises:
            ConfigError: there are no words, a word has a blank in it, or a code is outside its codebook.
            ManifestError: the text tokenizer does not keep a word apart from others.
        """
        known = self.vocabulary
        tokens = [self._tokens(part) for part in parts]
        ids, starts = torch.cat([one.ids for one in tokens]), list[int]()
        bounds, counts = list[tuple[int, int]](), list[int]()
        for one in tokens:
            before = bounds[-1][1] if bounds else 0
            starts += (before + (one.starts).nonzero()[:, 0]).tolist()
            bounds.append((before, before + len(one.ids)))
            counts.append(len(starts))
        if not starts:
            raise ConfigError("There are no words to make a row of: the text is empty.")
        codes = self._codes(parts)
        scored_from = bounds[-1][0] if ending_only else 0
        first_word = (counts[-2] if len(counts) > 1 else 0) if ending_only else 0

        # places are counted from the first token; -1 is the opening symbol, what follows the text are pads
        due: dict[int, int] = {}
        num_words, begun, passed = len(starts), set(starts), list[int]()
        for place in range(len(ids) + self.delay):
            begins = place >= len(ids) or place in begun
            word = self.due(place, passed, begins)
            if word is not None and word < num_words:
                due[place - 1] = word
            if begins:
                passed.append(place)
        length = max(len(ids), max(due) + 2)

        offset = int(opens)
        token_ids = torch.full((offset + length,), known.pad_id)
        token_ids[:offset] = known.open_id
        token_ids[offset : offset + len(ids)] = ids
        next_ids = torch.full_like(token_ids, IGNORED_LABEL)
        first = max(scored_from, 1 - offset)
        next_ids[offset + first - 1 : offset + len(ids) - 1] = ids[first:]
        if closes:
            next_ids[offset + len(ids) - 1] = known.close_id
        read = torch.full((offset + length, known.num_levels), NO_CODE)
        next_codes = torch.full_like(read, NO_CODE)
        for at, word in sorted(due.items()):
            read[max(offset + at + 1, 0) :] = codes[word]
            if offset + at >= 0 and word >= first_word:
                next_codes[offset + at] = codes[word]
        moved = tuple((start + offset, stop + offset) for start, stop in bounds)
        return WordRow(token_ids, read, next_ids, next_codes, moved)

    def _tokens(self, part: SpokenText) -> "_Tokens":
        ids, word_ids = self.words.encode(part.words)
        starts = word_ids != torch.cat([torch.tensor([-1]), word_ids[:-1]])
        if not torch.equal(self.words.starts_word[ids], starts):
            wrong = int(word_ids[(self.words.starts_word[ids] != starts).nonzero()[0, 0]])
            raise ManifestError(
                f"The text tokenizer {self.words.name!r} does not keep the word {part.words[wrong]!r} apart: its first "
                "token, and no other, should begin with the blank. Leave the utterance out, or use another text model."
            )
        return _Tokens(ids, starts)

    def _codes(self, parts: Sequence[SpokenText]) -> Int[Tensor, "words levels"]:
        sizes = torch.tensor(self.vocabulary.codebook_sizes)
        found = []
        for part in parts:
            codes = part.codes
            if codes is None:
                found.append(torch.full((len(part.words), len(sizes)), NO_CODE))
                continue
            codes = codes.T.long().cpu()
            outside = (codes < 0) | (codes >= sizes)
            if bool(outside.any()):
                word, level = outside.nonzero()[0].tolist()
                raise ConfigError(
                    f"The word {part.words[word]!r} has the code {int(codes[word, level])} at level {level}, whose "
                    f"codebook has {int(sizes[level])} entries. Were these tokens made by the tokenizer that the "
                    "language model was made for?"
                )
            found.append(codes)
        return torch.cat(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWords:
    """Rows one after another in one row; `sequences/packing.py` for two streams."""

    token_ids: Int[Tensor, " positions"]
    codes: Int[Tensor, "positions levels"]
    next_ids: Int[Tensor, " positions"]
    next_codes: Int[Tensor, "positions levels"]
    lengths: tuple[int, ...]
    """Positions of each row."""

    @classmethod
    def of(cls, rows: Sequence[WordRow]) -> "PackedWords":
        """Put rows side by side."""
        streams = {name: torch.cat([getattr(row, name) for row in rows]) for name in STREAMS}
        return cls(**streams, lengths=tuple(len(row) for row in rows))

    @property
    def num_tokens(self) -> int:
        """Tokens that are predicted."""
        return int((self.next_ids != IGNORED_LABEL).sum())

    def to(self, device: torch.device | str) -> "PackedWords":
        """Return the same on `device`."""
        return PackedWords(**{name: getattr(self, name).to(device) for name in STREAMS}, lengths=self.lengths)


class _Tokens(NamedTuple):
    ids: Int[Tensor, " tokens"]
    starts: Bool[Tensor, " tokens"]


def drawable(reader: WordTextTokenizer, size: int, symbols: Sequence[int]) -> Bool[Tensor, " vocabulary"]:
    """Say which ids write a part of a word: a blank at most at their beginning, and no symbol.

    Args:
        reader: The text tokenizer.
        size: Rows of the model's table; those that the tokenizer does not use write nothing.
        symbols: Ids that are symbols.
    """
    writes = [
        text == " " or text.removeprefix(" ").split() == [text.removeprefix(" ")] for text in reader.pieces[:size]
    ]
    found = torch.tensor(writes + [False] * (size - len(writes)))
    found[list(symbols)] = False
    return found


def words_of(reader: WordTextTokenizer, token_ids: Int[Tensor, " tokens"]) -> list[str]:
    """Return the words that tokens write, one for each that begins; an empty string where nothing is left of it.

    Blanks that came together from several tokens are dropped, and letters composed, so that `split_words` finds each
    word again.
    """
    word_ids = reader.word_ids(token_ids)
    count = int(word_ids[-1]) + 1 if len(token_ids) else 0
    return ["".join(split_words(reader.decode(token_ids[word_ids == word]))) for word in range(count)]
