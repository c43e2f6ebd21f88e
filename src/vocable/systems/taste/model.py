"""Aggregator and quantizer together, what training trains and the tokenizer uses; and both from a Whisper checkpoint.

states of two layers (batch, frames, dim), tokens (batch, tokens) with their words
  -> aggregator -> mean by word (batch, words, dim) -> quantizer -> vectors of words -> copied to all their tokens
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.assets import resolve
from vocable.errors import ConfigError
from vocable.features.loading import load_checkpoint
from vocable.registry import look_up
from vocable.sequences.text_tokenizers import load_text_tokenizer
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.systems.taste.aggregator import NO_WORD, Aggregator, DecoderShape, average_words, spread_words
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.quantizer import Codebooks, Grid, build_quantizer
from vocable.tokens.quantizers import QuantizedLevels

MULTILINGUAL_SIZE = 51_865
"""Whisper's vocabularies of at least so many tokens have languages (as OpenAI's code tells them apart)."""


class WordVectors(NamedTuple):
    """Vectors of the words of a batch."""

    words: Float[Tensor, "batch words dim"]
    """Before the quantizer; 0 where there is no word."""
    mask: Bool[Tensor, "batch words"]
    """True for words."""
    quantized: QuantizedLevels | None
    """What the quantizer made of them; None where it was left out."""
    tokens: Float[Tensor, "batch tokens dim"]
    """The vector of its word for every token: the quantized one, where there is one; 0 for padding."""


class WordEncoder(nn.Module):
    """The part of the tokenizer that learns."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, aggregator: Aggregator, config: TasteConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(aggregator.shape.dim))
        self.register_buffer("deviation", torch.ones(aggregator.shape.dim))
        self.config = config
        self.aggregator = aggregator
        self.quantizer: Codebooks | Grid = build_quantizer(config.quantizer, aggregator.shape.dim)

    def forward(
        self,
        ids: Int[Tensor, "batch tokens"],
        word_ids: Int[Tensor, "batch tokens"],
        last: Float[Tensor, "batch frames dim"],
        shallow: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
        quantize: bool = True,
    ) -> WordVectors:
        """Return the vectors of words, and of the tokens of each word.

        Args:
            ids: Tokens of the texts in Whisper's vocabulary; -1 after the end.
            word_ids: Word of each token, from 0; -1 after the end.
            last: States of the encoder's last layer.
            shallow: States of the shallow layer.
            frame_mask: True for real frames; None: all.
            quantize: Whether vectors pass the quantizer; without, they are continuous (the published second stage).
        """
        words, mask = self.words(ids, word_ids, last, shallow, frame_mask)
        quantized = self.quantizer(words, mask) if quantize else None
        chosen = words if quantized is None else quantized.quantized
        return WordVectors(words, mask, quantized, spread_words(chosen, word_ids))

    @torch.no_grad()
    def encode(
        self,
        ids: Int[Tensor, "batch tokens"],
        word_ids: Int[Tensor, "batch tokens"],
        last: Float[Tensor, "batch frames dim"],
        shallow: Float[Tensor, "batch frames dim"],
        frame_mask: Bool[Tensor, "batch frames"] | None = None,
    ) -> Int[Tensor, "batch levels words"]:
        """Return the codes of words, -1 where there is none; arguments as in `forward`."""
        return self.quantizer.encode(*self.words(ids, word_ids, last, shallow, frame_mask))

    def words(
        self, ids: Tensor, word_ids: Tensor, last: Tensor, shallow: Tensor, frame_mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch words dim"], Bool[Tensor, "batch words"]]:
        """Return the mean vector of each word, and which rows are words; arguments as in `forward`."""
        vectors = self.aggregator(ids, last, shallow, frame_mask)
        counts = word_ids.amax(1) + 1
        num_words = int(counts.max())
        mask = torch.arange(num_words, device=word_ids.device) < counts[:, None]
        averages = (average_words(vectors, word_ids, num_words) - self.mean) / self.deviation
        return averages * mask[..., None], mask

    @property
    def is_standardized(self) -> bool:
        """Whether `standardize` has been called, in this training or in the one that the weights are from."""
        return bool((self.mean != 0).any())

    @torch.no_grad()
    def standardize(self, words: Float[Tensor, "words dim"]) -> None:
        """Set mean and deviation of each number to those of words; what never changes keeps its scale."""
        own = words * self.deviation + self.mean
        deviation = own.std(0)
        self.mean.copy_(own.mean(0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))

    def learned_names(self) -> set[str]:
        """Return the names of the weights that are not Whisper's: trained parameters, and the quantizer's state."""
        own = {f"aggregator.{name}" for name in self.aggregator.trained_names()}
        return own | {"mean", "deviation"} | {name for name in self.state_dict() if name.startswith("quantizer.")}


def load_reader(name: str) -> WordTextTokenizer:
    """Load the text tokenizer of a Whisper checkpoint.

    Raises:
        AssetError: it cannot be found.
        ConfigError: it is not byte-level.
    """
    return WordTextTokenizer(load_text_tokenizer(name), name)


def load_word_encoder(config: TasteConfig, reader: WordTextTokenizer) -> WordEncoder:
    """Make the aggregator of a checkpoint's decoder, and a new quantizer.

    Raises:
        AssetError: the checkpoint cannot be found, or lacks weights.
        ConfigError: it has no such layers, or does not know the language.
    """
    from transformers import WhisperModel

    folder = Path(resolve(config.encoder.name))
    whisper = load_checkpoint(WhisperModel, folder, {"encoder_layers": 0}, ("encoder.",))
    shape = DecoderShape.of(whisper.config)
    prompt = whisper_prompt(reader, config.language, _is_multilingual(folder, shape), config.encoder.name)
    aggregator = Aggregator(shape, config.aggregator, prompt)
    aggregator.start_from(whisper.decoder)
    return WordEncoder(aggregator, config)


def whisper_prompt(reader: WordTextTokenizer, language: str, multilingual: bool, name: str) -> list[int]:
    """Return the tokens that stand before every text: start, language, task, no time stamps.

    An English-only model has neither language nor task in its prompt, though its vocabulary has symbols for them.

    Raises:
        ConfigError: the model does not know the language, or is no recogniser.
        UnknownNameError: there is no such language.
    """
    symbols: Any = reader.tokenizer.get_vocab()
    if not multilingual and language != "en":
        raise ConfigError(f"{name} knows English only, not {language!r}. Choose a multilingual checkpoint.")
    languages = {key[2:-2]: key for key in symbols if key.startswith("<|") and len(key) <= 7 and key[2:-2].islower()}
    between = [look_up("language", language, languages), "<|transcribe|>"] if multilingual else []
    wanted = ["<|startoftranscript|>", *between, "<|notimestamps|>"]
    missing = [symbol for symbol in wanted if symbol not in symbols]
    if missing:
        raise ConfigError(
            f"The text tokenizer of {name} has no symbol {missing[0]}; it is not that of a Whisper model."
        )
    return [symbols[symbol] for symbol in wanted]


def _is_multilingual(folder: Path, shape: DecoderShape) -> bool:
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(settings.get("is_multilingual", shape.vocabulary_size >= MULTILINGUAL_SIZE))


def pad_words(items: list[Int[Tensor, " _tokens"]]) -> Int[Tensor, "batch tokens"]:
    """Join ids or word ids of several texts to a batch, with -1 after the end."""
    return nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=NO_WORD)
