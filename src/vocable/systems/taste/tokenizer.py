"""The tokenizer by word: a recording and its text become one position of codes per word.

    clip with text -> pieces of at most 30 s -> states of two layers, tokens of the words -> codes (levels, words)

Long recordings are cut at pauses (pieces.py); each piece is read by itself, from a prompt of its own. A tokenizer that
was trained with a speech decoder has it with it, and speaks its tokens (speech.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vocable.config import config_to_dict
from vocable.errors import AlignmentError, AssetError, ConfigError, FingerprintError
from vocable.features import EncoderConfig, load_encoder
from vocable.features.whisper import WhisperEncoder
from vocable.recognition.transcribe import Transcriber
from vocable.sequences.word_tokens import WordTextTokenizer, WordTokens, split_words
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.model import WordEncoder, load_reader, load_word_encoder
from vocable.systems.taste.pieces import Piece, check_amount, cut_pieces, time_words
from vocable.systems.taste.speech import SPEECH, WordSynthesizer
from vocable.tokens.fingerprint import fingerprint, tensor_sha256
from vocable.tokens.tokenizer import SpeechTokenizer, register_tokenizer
from vocable.tokens.unit_tokenizer import load_saved_encoder
from vocable.types import Clip, SpeechTokens, Stream, Word

TASTE_VERSION = 1
"""Goes up when the same waveform, text and weights give other codes than before; part of the fingerprint."""
TRAINING_ONLY = ("average_counts", "average_sums", "num_batches")
"""Buffers of the quantizer that encoding has no use for."""


@register_tokenizer("taste")
class TasteTokenizer(SpeechTokenizer):
    """One position per word; words are those of the text, split at blanks, with their punctuation.

    The text comes with the clip or, once `transcribe_with` has been called, from a recogniser. Word times are not
    needed; where a clip has them, they tell where to cut a long recording, and the tokens carry them. Without, the
    times of a word are those of the piece that it lies in: nothing closer is known.

    An empty text gives no positions. Silence, and speech in another language than the prompt's, are encoded like
    anything else. A text that nobody could speak in the time is refused; any other mismatch goes unnoticed.
    """

    def __init__(
        self, encoder: WhisperEncoder, reader: WordTextTokenizer, words: WordEncoder, config: TasteConfig
    ) -> None:
        if not encoder.is_whole:
            raise ConfigError(
                f"encoder.layer is {encoder.layer}, but keys are states of the last layer of {encoder.name!r}, after "
                "its norm. Set it to the number of its layers."
            )
        self.encoder, self.reader, self.config = encoder, reader, config
        self.words = words.requires_grad_(False).eval().to(encoder.device)
        self.needs_text = True
        self._transcriber: Transcriber | None = None
        self._speech: WordSynthesizer | None = None
        self._fingerprint = fingerprint(
            {
                "taste_version": TASTE_VERSION,
                "encoder": {key: value for key, value in encoder.description().items() if key != "name"},
                "shallow_layer": config.shallow_layer,
                "window_seconds": self.window_seconds,
                "attend_padding": config.aggregator.attend_padding,
                "num_heads": words.aggregator.shape.num_heads,
                "prompt": words.aggregator.prompt.tolist(),
                "vocabulary": fingerprint(reader.tokenizer.get_vocab()),
                "quantizer": config_to_dict(config.quantizer) if not hasattr(config.quantizer, "level") else None,
                "weights_sha256": tensor_sha256(_weights(words)),
            }
        )

    @classmethod
    def of_checkpoint(cls, config: TasteConfig, device: str = "cpu") -> "TasteTokenizer":
        """Make an untrained tokenizer of a Whisper checkpoint.

        Raises:
            AssetError: the checkpoint cannot be found, or lacks weights.
            ConfigError: it is no Whisper model, or the settings do not fit it.
        """
        reader = load_reader(config.encoder.name)
        return cls(_load_whisper(config.encoder, device), reader, load_word_encoder(config, reader), config)

    @property
    def name(self) -> str:
        """See SpeechTokenizer."""
        return self.config.name

    @property
    def sample_rate(self) -> int:
        """See SpeechTokenizer."""
        return self.encoder.sample_rate

    @property
    def streams(self) -> tuple[Stream, ...]:
        """One stream, `words`, without a rate."""
        return (Stream(name="words", codebook_sizes=self.words.quantizer.codebook_sizes, rate=None),)

    @property
    def fingerprint(self) -> str:
        """See SpeechTokenizer."""
        return self._fingerprint

    @property
    def window_seconds(self) -> float:
        """Longest recording that is read in one piece."""
        return self.encoder.num_samples(self.encoder.window_frames) / self.sample_rate

    @property
    def speech(self) -> WordSynthesizer | None:
        """What speaks its tokens; None where it was trained without, or not at all."""
        return self._speech

    @speech.setter
    def speech(self, speech: WordSynthesizer) -> None:
        self._speech = self.synthesizer = speech

    def transcribe_with(self, transcriber: Transcriber | None) -> None:
        """Take the text of clips that come without one from a recogniser; None: ask for the text again.

        Raises:
            ConfigError: it reads another sample rate.
        """
        if transcriber is not None and transcriber.sample_rate != self.sample_rate:
            raise ConfigError(
                f"{transcriber.name} reads {transcriber.sample_rate} Hz, the tokenizer {self.name!r} "
                f"{self.sample_rate} Hz. Choose a recogniser with the same rate."
            )
        self._transcriber, self.needs_text = transcriber, transcriber is None

    @torch.inference_mode()
    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        """Return the codes of each clip's words, clip by clip.

        Raises:
            AlignmentError: the text is too long for the recording, or does not fit the words with times.
            ManifestError: the text holds broken characters.
        """
        return [self._encode(clip) for clip in clips]

    def _encode(self, clip: Clip) -> SpeechTokens:
        text = clip.text
        if text is None:
            assert self._transcriber is not None  # `encode` has checked
            text = self._transcriber.transcribe([clip.waveform])[0]
        words = split_words(text)
        check_amount(words, clip.waveform.numel(), self.sample_rate)
        times = None if clip.words is None else time_words(words, clip.words)
        pieces = cut_pieces(clip.waveform, self.sample_rate, words, times, self.window_seconds)
        codes = [self._encode_piece(clip.waveform[one.start : one.stop], words[one.first : one.last]) for one in pieces]
        none = torch.zeros(len(self.words.quantizer.codebook_sizes), 0, dtype=torch.int64)
        return SpeechTokens(
            codes=torch.cat([none, *codes], dim=1),
            words=self._times_of_pieces(words, pieces) if times is None else times,
            spans=torch.arange(len(words))[:, None] + torch.tensor([0, 1]),
        )

    def _encode_piece(self, waveform: Tensor, words: Sequence[str]) -> Int[Tensor, "levels words"]:
        tokens = self.reader.encode(words)
        self._check_tokens(tokens, words, waveform.numel())
        last, shallow = self.encoder.encode_layers(
            waveform, (self.encoder.layer, self.config.shallow_layer), self.config.aggregator.attend_padding
        )
        ids, word_ids = (one[None].to(self.encoder.device) for one in tokens)
        return self.words.encode(ids, word_ids, last[None], shallow[None])[0].cpu()

    def _check_tokens(self, tokens: WordTokens, words: Sequence[str], num_samples: int) -> None:
        most = self.words.aggregator.most_tokens
        if len(tokens.ids) > most:
            raise AlignmentError(
                f"The words {words[0]!r} to {words[-1]!r} are {len(tokens.ids)} tokens in "
                f"{num_samples / self.sample_rate:.1f} s of sound, but {self.encoder.name!r} has positions for {most}. "
                "Does the text belong to the recording? Otherwise cut it into shorter utterances."
            )

    def _times_of_pieces(self, words: Sequence[str], pieces: Sequence[Piece]) -> tuple[Word, ...]:
        return tuple(
            Word(word=word, start=one.start / self.sample_rate, end=one.stop / self.sample_rate)
            for one in pieces
            for word in words[one.first : one.last]
        )

    def saved_config(self) -> dict[str, Any]:
        """Return the settings, and what the encoder and the borrowed weights of Whisper's decoder were."""
        return {
            "taste": config_to_dict(self.config),
            "encoder": self.encoder.description(),
            "borrowed_sha256": _borrowed_sha256(self.words),
            **({} if self._speech is None else {"speech": self._speech.saved_config()}),
        }

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the weights that are not Whisper's, and those of the speech decoder."""
        learned = self.words.learned_names()
        own = {name: tensor for name, tensor in _weights(self.words).items() if name in learned}
        return own | ({} if self._speech is None else self._speech.saved_tensors())

    @classmethod
    def from_saved(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str, source: str
    ) -> "TasteTokenizer":
        """Load the encoder by its name, check that it and its decoder are those of old, and add the rest."""
        settings, encoder = load_saved_encoder(TasteConfig, config, "taste", device, source)
        reader = load_reader(settings.encoder.name)
        words = load_word_encoder(settings, reader)
        if _borrowed_sha256(words) != config.get("borrowed_sha256"):
            raise FingerprintError(
                f"{source}: the decoder found under {settings.encoder.name!r} is not the one that the tokenizer was "
                "trained on. Get that checkpoint, or train a new tokenizer."
            )
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(SPEECH)}
        tokenizer = cls(as_whisper(encoder), reader, _restore(words, own, source), settings)
        if "speech" in config:
            speech = {name: tensor for name, tensor in tensors.items() if name.startswith(SPEECH)}
            tokenizer.speech = WordSynthesizer.from_saved(tokenizer, config["speech"], speech)
        return tokenizer


def _load_whisper(config: EncoderConfig, device: str) -> WhisperEncoder:
    return as_whisper(load_encoder(config, device))


def as_whisper(encoder: Any) -> WhisperEncoder:
    if not isinstance(encoder, WhisperEncoder):
        raise ConfigError(
            f"encoder.name is {encoder.name!r}, which has no decoder to read it with. Take a Whisper model."
        )
    return encoder


def _weights(words: WordEncoder) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in words.state_dict().items() if not name.endswith(TRAINING_ONLY)}


def _borrowed_sha256(words: WordEncoder) -> str:
    learned = words.learned_names()
    return tensor_sha256({name: tensor for name, tensor in _weights(words).items() if name not in learned})


def _restore(words: WordEncoder, tensors: Mapping[str, Tensor], source: str) -> WordEncoder:
    """Put saved weights in their places; they compute in float32 whatever the stored type."""
    wanted = {name: tensor for name, tensor in _weights(words).items() if name in words.learned_names()}
    wrong = sorted(wanted.keys() ^ tensors.keys())
    wrong += [name for name in sorted(wanted.keys() & tensors.keys()) if wanted[name].shape != tensors[name].shape]
    if wrong:
        raise AssetError(
            f"{source}: weights and settings of the tokenizer do not fit ({wrong[0]} and {len(wrong) - 1} others). "
            "Copy or download the folder again."
        )
    words.load_state_dict({**words.state_dict(), **tensors})
    return words
