"""How long, how high and how loud: from symbols, the vectors of their words and the speaker.

    symbols             -> text encoder of the pretrained prosody network            \\
    vectors of words    -> norm, linear, copied to the symbols of each word, scaled   + -> ConvNeXt -> features
    vector of a speaker -> linear                                                    /
    features            -> log durations of symbols; whether a pause follows a word
    features repeated   -> pitch, voicing, energy, 80 a second

The start is the prosody network of synthesis/text_to_speech.py, which speaks well from text: everything that is added
starts at 0, but for the map of words' vectors, which starts small, so that its weights soon reach what they are to be.

Fusion is that of TASTE (Tseng et al., 2025, arXiv:2504.07053; a softmax over two learned scalars weighs the sum of text
and words), divided by the weight of the text, so that text alone stays as the pretrained network reads it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.synthesis.layers import ConvNeXtBlock
from vocable.synthesis.source_filter import VOICED_HZ
from vocable.synthesis.text_to_speech import ProsodyPredictor, two_a_frame

VOICED_SCALE_HZ = 30.0
"""F0 of the pretrained network above VOICED_HZ is a logit of voicing on this scale."""
SMALL = 0.02
"""First weights of the map of words' vectors, against those that a linear map usually begins with. With a small share
instead, of 0.018, the vectors were not yet of use after 200 steps."""
NO_PAUSE = -4.0
"""First logit of a pause that the text does not ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyNetworkConfig:
    """What is added to the pretrained prosody network."""

    speaker_dim: int = 256
    """Length of the speaker vectors."""
    balance: tuple[float, float] = (1.0, 1.0)
    """First weights, before the softmax, of words' vectors and of text; as published."""
    normalize: bool = True
    """Whether words' vectors are brought to mean 0 and variance 1 first, as in the paper; its code has both."""
    layers: int = 3
    """ConvNeXt blocks over symbols."""
    kernel_size: int = 5
    """Symbols that each block sees; odd."""
    dropout: float = 0.1
    """Share of the features that is left out in training."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"decoder.network.kernel_size is {self.kernel_size}; it must be odd.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"decoder.network.dropout is {self.dropout}; it is a share, from 0 to below 1.")


class Delivery(NamedTuple):
    """Pitch and energy, 80 frames a second."""

    semitones: Float[Tensor, "batch frames"]
    """Pitch above the speaker's median."""
    voiced: Float[Tensor, "batch frames"]
    """Logit."""
    energy: Float[Tensor, "batch frames"]


class ProsodyNetwork(nn.Module):
    """Durations, pauses, pitch and energy; see the module. What masks mark False cannot change the rest."""

    def __init__(
        self, config: ProsodyNetworkConfig, predictor: ProsodyPredictor, word_dim: int, median_hz: float
    ) -> None:
        """Take over a pretrained predictor, whose voice has this median pitch."""
        super().__init__()
        self.config, self.median_hz = config, median_hz
        dim = predictor.embed.in_features
        self.predictor = predictor
        self.from_vector, self.from_speaker = nn.Linear(word_dim, dim), nn.Linear(config.speaker_dim, dim)
        with torch.no_grad():
            self.from_vector.weight.mul_(SMALL)
            self.from_vector.bias.mul_(SMALL)
        self.balance = nn.Parameter(torch.tensor(config.balance))
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, 2 * dim, config.kernel_size, scale=0.0) for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.pause, self.frame_head = nn.Linear(dim, 1), nn.Linear(dim, 4)
        for layer in (self.from_speaker, self.pause, self.frame_head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.pause.bias, NO_PAUSE)

    def features(
        self,
        ids: Int[Tensor, "batch symbols"],
        owners: Int[Tensor, "batch symbols"],
        mask: Bool[Tensor, "batch symbols"],
        vectors: Float[Tensor, "batch words dim"] | None,
        speaker: Float[Tensor, "batch speaker_dim"],
    ) -> Float[Tensor, "batch symbols dim"]:
        """Join text, words and speaker, symbol by symbol.

        Args:
            ids: Symbols.
            owners: Word of each symbol; any number where `mask` is False.
            mask: True for symbols.
            vectors: Vectors of words; None: text alone.
            speaker: Speaker vectors.
        """
        text = self.predictor.text(ids, mask) + self.from_speaker(speaker)[:, None]
        if vectors is not None:
            if self.config.normalize:
                vectors = functional.layer_norm(vectors, vectors.shape[-1:])
            words = self.from_vector(vectors)
            rows = torch.arange(len(ids), device=ids.device)[:, None]
            share = (self.balance[0] - self.balance[1]).exp()
            text = text + share * words[rows, owners]
        features = self.dropout(text)
        for block in self.blocks:
            features = block(features * mask[..., None])
        return features

    def log_durations(
        self, features: Float[Tensor, "batch symbols dim"], mask: Bool[Tensor, "batch symbols"]
    ) -> Float[Tensor, "batch symbols"]:
        """Return log(1 + frames) of each symbol, 40 frames a second."""
        return self.predictor.log_durations(features, mask)

    def pauses(self, features: Float[Tensor, "*places dim"]) -> Float[Tensor, "*places"]:
        """Return the logit of a pause after each place: the last symbol of a word that has no pause mark."""
        return self.pause(features)[..., 0]

    def delivery(
        self, features: Float[Tensor, "batch symbols dim"], durations: Int[Tensor, "batch symbols"]
    ) -> tuple[Delivery, Bool[Tensor, "batch frames"]]:
        """Return pitch and energy for these durations, which are 0 after the end; and which frames there are."""
        items = [one.repeat_interleave(count, 0) for one, count in zip(features, durations, strict=True)]
        repeated = nn.utils.rnn.pad_sequence(items, batch_first=True)
        lengths = durations.sum(1)
        mask = torch.arange(repeated.shape[1], device=repeated.device) < lengths[:, None]
        frames = self.predictor.frames(repeated, mask)
        f0, energy = (values.float() for values in self.predictor.f0_and_energy(frames))
        pitch, voiced = two_a_frame(self.frame_head(frames)).float().unbind(-1)
        semitones = 12 / math.log(2) * (f0.clamp(min=VOICED_HZ) / self.median_hz).log() + pitch
        return (
            Delivery(semitones, (f0 - VOICED_HZ) / VOICED_SCALE_HZ + voiced, energy),
            mask.repeat_interleave(2, 1),
        )


def whole_frames(log_durations: Float[Tensor, " symbols"], sounds: Bool[Tensor, " symbols"]) -> Int[Tensor, " symbols"]:
    """Turn log(1 + frames) into whole frames whose sums stay near those predicted; sounds get one at least.

    Differs from `whole_durations`, which rounds each: recordings leave out many marks and short pauses, and half a
    frame of each, rounded up, would make speech slow.
    """
    ends = (log_durations.double().exp() - 1).clamp(min=0).cumsum(0).round().long()
    return torch.maximum(ends.diff(prepend=ends.new_zeros(1)), sounds.long())
