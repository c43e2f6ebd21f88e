"""A small speech decoder that learns how long each word lasts, and speaks each as a tone of that length."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AlignmentError, ConfigError
from vocable.systems.taste.speech_decoder import DecoderLoss, SpeechDecoder, SpokenWords, register_decoder
from vocable.types import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainDecoderConfig:
    kind: Literal["plain"] = "plain"
    width: int = 8
    speaker_dim: int = 12

    def build(self, word_dim, reader):
        return PlainDecoder(self, word_dim)


@register_decoder
class PlainDecoder(SpeechDecoder):
    kind = "plain"
    part_names = ("seconds_error",)
    sample_rate = 8_000
    measured = 0
    """Calls of `targets`, of all decoders."""

    def __init__(self, config, word_dim):
        super().__init__()
        self.config, self.word_dim = config, word_dim
        self.letters = nn.Embedding(40, config.width)
        self.words = nn.Linear(word_dim, config.width, bias=False)
        self.speaker = nn.Linear(config.speaker_dim, config.width)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(config.width, 1)

    def targets(self, utterance, waveform, words):
        PlainDecoder.measured += 1
        if utterance.words is None:
            raise AlignmentError(f"{utterance.id}: there are no words with times.")
        assert len(utterance.words) == len(words)
        return {"seconds": torch.tensor([one.end - one.start for one in utterance.words])}

    def targets_key(self):
        return {}

    def predict(self, batch):
        sizes = torch.zeros(batch.mask.shape, dtype=torch.int64, device=batch.mask.device)
        for row, words in enumerate(batch.texts):
            sizes[row, : len(words)] = torch.tensor([min(len(word), 39) for word in words])
        hidden = self.letters(sizes) + self.speaker(batch.speaker)[:, None]
        if batch.vectors is not None:
            assert batch.vectors.shape[:2] == batch.mask.shape and not batch.vectors[~batch.mask].any()
            hidden = hidden + self.words(batch.vectors)
        return self.out(self.drop(hidden.tanh()))[..., 0]

    def loss(self, batch, targets):
        wanted = nn.utils.rnn.pad_sequence([one["seconds"] for one in targets], batch_first=True)
        error = (self.predict(batch) - wanted)[batch.mask]
        count = int(batch.mask.sum())
        return DecoderLoss(error.square().sum(), count, {"seconds_error": (float(error.detach().abs().sum()), count)})

    def speak(self, words, vectors, speaker, changes=None, seed=0):
        if vectors is not None and len(vectors) != len(words):
            raise ConfigError("other numbers of words and vectors")
        sizes = self.letters(torch.tensor([min(len(word), 39) for word in words]))
        hidden = sizes + self.speaker(speaker.vector) + (0 if vectors is None else self.words(vectors))
        seconds = self.out(hidden.tanh())[:, 0].clamp(0.05, 2)
        ends = seconds.cumsum(0).tolist()
        times = torch.arange(int(ends[-1] * self.sample_rate)) / self.sample_rate
        spoken = [Word(word=word, start=a, end=b) for word, a, b in zip(words, [0.0, *ends], ends)]
        return SpokenWords(0.3 * (2 * torch.pi * 200 * times).sin(), tuple(spoken))

    def saved_config(self):
        return {"config": config_to_dict(self.config), "word_dim": self.word_dim}

    @classmethod
    def from_saved(cls, config, tensors):
        decoder = cls(config_from_dict(PlainDecoderConfig, config["config"]), config["word_dim"])
        decoder.load_state_dict(tensors)
        return decoder.eval()
