"""Unit subwords: SentencePiece over strings of units, so that one token spans several units.

    units 7 2 9 7 2   <->   text, one private character a unit   <->   subwords [7 2] [9] [7 2]

SUTLM (Chou et al., 2023, arXiv:2310.08715) reads units this way ("SP 10k"): tokens then cover spans more like those of
text. Which SentencePiece model and longest piece it used is unread; both are settings here. Every unit is also a
subword by itself, so that any string of units can be written and read back. Next: joint_vocabulary.py.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import sentencepiece
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.files import replace_file
from vocable.sequences.vocabulary import check_ids
from vocable.splits import hash_place
from vocable.tokens.fingerprint import check_fingerprint, fingerprint
from vocable.tokens.runs import Runs, collapse_runs, expand_runs
from vocable.tokens.streams import choose_stream, streams_of_card
from vocable.types import SpeechTokens, Utterance

PRIVATE_AREAS = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
"""Unicode's private use areas: characters that mean nothing by themselves. Unit 0 is the first, and so on."""
MAX_UNITS = sum(last - first + 1 for first, last in PRIVATE_AREAS)
MODEL_NAME = "subwords.model"
CARD_NAME = "subwords.json"
FORMAT = 1
# Units in a training line. SentencePiece's BPE counts places in a line with 16 bits. Its unigram model, made for words,
# finds next to nothing in long lines: on 22 minutes of speech, with 1,000 subwords asked for, 292 in whole utterances
# and 1,000 in lines of 32 (docs/decisions.md).
LINE_UNITS = {"bpe": 4096, "unigram": 32}

Over = Literal["runs", "frames"]
_CHARACTERS = np.concatenate([np.arange(first, last + 1, dtype=np.uint32) for first, last in PRIVATE_AREAS])


@dataclass(frozen=True, slots=True, kw_only=True)
class SubwordConfig:
    """How subwords are found."""

    vocabulary_size: int = 10_000
    """Subwords, single units included. A small corpus may hold fewer; `UnitSubwords.size` says how many there are."""
    model: Literal["bpe", "unigram"] = "bpe"
    """Kind of SentencePiece model. Not known for SUTLM; of the same size, BPE's strings were shorter on speech."""
    over: Over = "runs"
    """Read units with their runs collapsed, or one unit a frame. Not known for SUTLM."""
    max_units: int = 16
    """Units in the longest subword; 16 is SentencePiece's own limit on characters."""
    training_share: float = 1.0
    """Share of the utterances, chosen by the hash of their id, that subwords are learned from."""
    num_threads: int = 1
    """Threads of SentencePiece. With several, sums of the unigram model run in another order."""

    def __post_init__(self) -> None:
        if self.vocabulary_size < 2 or self.max_units < 1 or self.num_threads < 1:
            raise ConfigError(
                f"subwords.vocabulary_size is {self.vocabulary_size}, max_units {self.max_units}, num_threads "
                f"{self.num_threads}; the first must be at least 2, the others at least 1."
            )
        if not 0 < self.training_share <= 1:
            raise ConfigError(f"subwords.training_share is {self.training_share}; it must be above 0 and at most 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubwordCard:
    """Description that a folder of subwords keeps of itself."""

    codebook_size: int
    """Units that subwords are made of."""
    over: Over
    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer that the units come from."""
    model_sha256: str
    config: SubwordConfig


class Subwords(NamedTuple):
    """The subwords of one utterance, and what each stands for."""

    ids: Int[Tensor, " subwords"]
    num_units: Int[Tensor, " subwords"]
    frames: Int[Tensor, "subwords 2"]
    """First frame of each, and one past its last."""

    def seconds(self, frame_rate: float) -> Float[Tensor, "subwords 2"]:
        """Return when each starts and ends."""
        return self.frames / frame_rate


def units_to_text(units: Int[Tensor, " units"]) -> str:
    """Write each unit as its private character.

    Raises:
        ConfigError: a unit is negative, or there are not that many private characters.
    """
    check_ids(units, MAX_UNITS, "Unit", f"Unicode's {MAX_UNITS:,} private characters")
    return _CHARACTERS[units.cpu().numpy()].astype("<u4").tobytes().decode("utf-32-le")


def text_to_units(text: str) -> Int[Tensor, " units"]:
    """Undo `units_to_text`.

    Raises:
        ConfigError: a character is not private.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    places = np.searchsorted(_CHARACTERS, characters)
    known = _CHARACTERS[np.minimum(places, MAX_UNITS - 1)] == characters
    if not known.all():
        raise ConfigError(f"{chr(characters[~known][0])!r} is not the character of a unit.")
    return torch.from_numpy(places)


class UnitSubwords:
    """A vocabulary of unit subwords: ids 0 to `size` - 1, reversible.

    Raises:
        ConfigError: the model lacks a unit of the codebook, or holds something that is no unit.
    """

    def __init__(self, model: bytes, card: SubwordCard) -> None:
        self.model = model
        self.card = card
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        pieces = [self._processor.IdToPiece(i) for i in range(1, self._processor.GetPieceSize())]  # 0: unknown
        units = [text_to_units(piece) for piece in pieces]
        self.lengths: Int[Tensor, " size"] = torch.tensor([len(piece) for piece in units])
        """Units in each subword."""
        self._units = torch.cat(units)
        self._starts = self.lengths.cumsum(0) - self.lengths
        singles = {int(piece[0]) for piece in units if len(piece) == 1}
        if singles != set(range(card.codebook_size)):
            raise ConfigError(
                f"The SentencePiece model knows {len(singles)} single units, the card says {card.codebook_size}. They "
                "do not belong together: fit the subwords again."
            )

    @classmethod
    def fit(
        cls,
        utterances: Iterable[tuple[Utterance, SpeechTokens]],
        tokenizer_card: Mapping[str, Any],
        config: SubwordConfig | None = None,
        *,
        on_utterance: Callable[[Utterance], None] | None = None,
    ) -> "UnitSubwords":
        """Learn subwords from tokens, e.g. from `TokenShards` and its `card`; the data are read once.

        Raises:
            ConfigError: several codebooks, a codebook that does not fit the private characters or the vocabulary, or
                a unit outside the codebook.
        """
        config = config or SubwordConfig()
        size = choose_stream(streams_of_card(tokenizer_card), None, "The tokenizer").codebook_size
        _check_sizes(size, config)
        lines = _training_lines(utterances, size, config, on_utterance)
        model = _train(lines, config)
        card = SubwordCard(
            codebook_size=size,
            over=config.over,
            tokenizer_fingerprint=tokenizer_card["fingerprint"],
            model_sha256=hashlib.sha256(model).hexdigest(),
            config=config,
        )
        return cls(model, card)

    @property
    def size(self) -> int:
        """Subwords."""
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Names exactly these subwords over exactly this tokenizer's units."""
        card = self.card
        return fingerprint({"sha": card.model_sha256, "over": card.over, "tokenizer": card.tokenizer_fingerprint})

    def encode(self, tokens: SpeechTokens) -> Subwords:
        """Turn units, frames or runs, into subwords.

        Tokens without durations count as one unit a frame, as everywhere (`SpeechTokens`); for subwords over runs they
        are collapsed first.

        Raises:
            ConfigError: a unit is outside the codebook.
        """
        units, durations = units_over(tokens, self.card.over)
        check_ids(units, self.card.codebook_size, "Unit", f"the codebook of {self.card.codebook_size} units")
        ids = torch.tensor(self._processor.EncodeAsIds(units_to_text(units)), dtype=torch.int64) - 1
        lengths = self.lengths[ids]
        ends = durations.cumsum(0)[lengths.cumsum(0) - 1] if len(ids) else torch.zeros(0, dtype=torch.int64)
        starts = torch.cat([ends.new_zeros(1), ends])[:-1]
        return Subwords(ids, lengths, torch.stack([starts, ends], dim=1))

    def decode(self, ids: Int[Tensor, " subwords"]) -> Int[Tensor, " units"]:
        """Return the units, over runs or frames as the subwords are; any string of ids can be decoded.

        Raises:
            ConfigError: an id is no subword.
        """
        ids = ids.cpu().long()
        check_ids(ids, self.size, "Id", f"the {self.size} subwords")
        lengths = self.lengths[ids]
        shift = self._starts[ids] - (lengths.cumsum(0) - lengths)
        return self._units[torch.arange(int(lengths.sum())) + torch.repeat_interleave(shift, lengths)]

    def check(self, tokenizer_fingerprint: str, what: str) -> None:
        """Refuse units of another tokenizer; `what` names them in the message.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        check_fingerprint(self.card.tokenizer_fingerprint, tokenizer_fingerprint, "The set of unit subwords", what)

    def save(self, folder: Path | str) -> Path:
        """Write the SentencePiece model and its card; return the folder.

        Raises:
            OutputError: the files cannot be written.
        """
        folder = Path(folder)
        values = {"format": FORMAT, "size": self.size, "fingerprint": self.fingerprint, **config_to_dict(self.card)}
        with replace_file(folder / MODEL_NAME) as file:
            file.write(self.model)
        with replace_file(folder / CARD_NAME) as file:
            file.write(json.dumps(values, indent=2).encode() + b"\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> "UnitSubwords":
        """Read what `save` wrote.

        Raises:
            AssetError: a file is missing or broken, of a newer format, or the two do not belong together.
        """
        folder = Path(folder)
        try:
            model = (folder / MODEL_NAME).read_bytes()
            values = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
            found = values.pop("format")
            del values["size"], values["fingerprint"]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise AssetError(
                f"{folder}: no unit subwords here ({error}). Make them: vocable subwords fit TOKENS {folder}"
            ) from error
        if found != FORMAT:
            raise AssetError(
                f"{folder / CARD_NAME}: format {found}, this version reads format {FORMAT}. Update vocable."
            )
        card = config_from_dict(SubwordCard, values, source=str(folder / CARD_NAME))
        if hashlib.sha256(model).hexdigest() != card.model_sha256:
            raise AssetError(f"{folder / MODEL_NAME} is not the model that {CARD_NAME} describes: copy both again.")
        return cls(model, card)


def units_over(tokens: SpeechTokens, over: Over) -> Runs:
    """Return units and their durations, one a run or one a frame."""
    durations = torch.ones_like(tokens.units) if tokens.durations is None else tokens.durations
    units = tokens.units.cpu().long()
    frames = expand_runs(Runs(units, durations.cpu().long()))
    return collapse_runs(frames) if over == "runs" else Runs(frames, torch.ones_like(frames))


def _check_sizes(codebook_size: int, config: SubwordConfig) -> None:
    if codebook_size > MAX_UNITS:
        raise ConfigError(
            f"The codebook has {codebook_size:,} units; Unicode has {MAX_UNITS:,} private characters. Subwords need a "
            "smaller codebook."
        )
    if config.vocabulary_size < codebook_size:
        raise ConfigError(
            f"subwords.vocabulary_size is {config.vocabulary_size}, but the {codebook_size} single units are subwords "
            f"too. Set it above {codebook_size}."
        )


def _training_lines(
    utterances: Iterable[tuple[Utterance, SpeechTokens]],
    codebook_size: int,
    config: SubwordConfig,
    on_utterance: Callable[[Utterance], None] | None,
) -> Iterator[str]:
    for unit in range(codebook_size):  # alone in a line: known to the model, next to nothing
        yield units_to_text(torch.tensor([unit]))
    for utterance, tokens in utterances:
        if on_utterance is not None:
            on_utterance(utterance)
        if utterance.split == "test" or hash_place(utterance.id) >= config.training_share:
            continue
        units = units_over(tokens, config.over).units
        check_ids(units, codebook_size, "Unit", f"the codebook of {codebook_size} units")
        for line in units.split(LINE_UNITS[config.model]):
            if len(line):
                yield units_to_text(line)


def _train(lines: Iterator[str], config: SubwordConfig) -> bytes:
    """Learn a model; what goes wrong while lines are read is raised as it is, not as SentencePiece words it."""
    problems: list[Exception] = []

    def guarded() -> Iterator[str]:
        try:
            yield from lines
        except Exception as error:
            problems.append(error)
            raise

    try:
        return _train_sentencepiece(guarded(), config)
    except RuntimeError as error:
        if problems:
            raise problems[0] from None
        raise ConfigError(f"SentencePiece could not learn {config.vocabulary_size} subwords: {error}") from error


def _train_sentencepiece(lines: Iterator[str], config: SubwordConfig) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=lines,
        model_writer=model,
        model_type=config.model,
        vocab_size=config.vocabulary_size + 1,  # and the unknown symbol, which units never need
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentencepiece_length=config.max_units,
        max_sentence_length=8 * max(LINE_UNITS.values()),  # in bytes; longer lines would be left out silently
        num_threads=config.num_threads,
        # a unit string has no spaces, scripts, digits or other spellings
        normalization_rule_name="identity",
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
