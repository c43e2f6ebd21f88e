"""Text and word vectors to units, one after another: the network of the unit decoder.

    tokens of the text -> embedding -> causal encoder --------+
    word vectors, copied to their tokens -> causal encoder ---+-- weighted sum -> joint_1 ... joint_N
    [SOS] [speaker] joint_1 ... joint_N [TASK] unit_1 ... unit_T  -> causal transformer -> unit_1 ... unit_T [EOS]

Source: Tseng et al., 2025, arXiv:2504.07053, section 3.1.2, with the sizes of its published code; the text-to-unit
model is that of CosyVoice (Du et al., 2024, arXiv:2407.05407). Without word vectors it is that model alone, the
published first stage: nothing of the other path or of the sum is computed.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vocable.errors import ConfigError
from vocable.lm.sampling import draw, next_token_probabilities
from vocable.systems.taste.aggregator import spread_words
from vocable.systems.taste.relative_transformer import BlockConfig, RelativeTransformer

SOS, TASK = 0, 1
"""Rows of the table of symbols."""
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNetworkConfig:
    """Sizes; the defaults are the published ones."""

    text_encoder: BlockConfig = field(default_factory=lambda: BlockConfig(num_blocks=3))
    word_encoder: BlockConfig = field(default_factory=lambda: BlockConfig(num_blocks=2))
    """The encoder of word vectors, each copied to all tokens of its word."""
    language_model: BlockConfig = field(default_factory=lambda: BlockConfig(num_blocks=7))
    """The transformer that writes units."""
    embedding_dim: int = 512
    """Width of the embeddings of the text, and of word vectors before their encoder."""
    speaker_dim: int = 256
    """Length of speaker vectors: Resemblyzer's. The paper's CAM++ has 192."""
    normalise: bool = False
    """Whether text and words are brought to unit variance before they are added: in the paper yes, and in the published
    settings of the continuous stage; no in those of the quantized one."""

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "speaker_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"network.{name} is {getattr(self, name)}; it must be at least 1.")


class UnitScores(NamedTuple):
    """Scores of the next unit, at all places where one is due, row after row."""

    logits: Float[Tensor, "targets classes"]
    targets: Int[Tensor, " targets"]
    """What comes next: units, and after the last of each row the end symbol, which is the last class."""


class UnitNetwork(nn.Module):
    """The network; see the module."""

    def __init__(self, config: UnitNetworkConfig, word_dim: int, vocabulary_size: int, codebook_size: int) -> None:
        super().__init__()
        self.config, self.end = config, codebook_size
        width = config.language_model.width
        self.text_embedding = nn.Embedding(vocabulary_size, config.embedding_dim)
        self.text_encoder = RelativeTransformer(config.text_encoder, config.embedding_dim, "swish")
        self.text_out = nn.Linear(config.text_encoder.width, width)
        self.word_in = nn.Linear(word_dim, config.embedding_dim)
        self.word_encoder = RelativeTransformer(config.word_encoder, config.embedding_dim, "swish")
        self.word_out = nn.Linear(config.word_encoder.width, width)
        self.balance = nn.Parameter(torch.ones(2))
        self.symbols = nn.Embedding(2, width)
        self.speaker = nn.Linear(config.speaker_dim, width)
        self.unit_embedding = nn.Embedding(codebook_size, width)
        self.language_model = RelativeTransformer(config.language_model, width, "relu")
        self.head = nn.Linear(width, codebook_size + 1)

    def encode(
        self,
        ids: Int[Tensor, "batch tokens"],
        word_ids: Int[Tensor, "batch tokens"],
        vectors: Float[Tensor, "batch words word_dim"] | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Return what the language model is told of each token; padding (-1) stands at the end, and means nothing."""
        text = self.text_out(self.text_encoder(self.text_embedding(ids.clamp(min=0))))
        if vectors is None:
            return text
        words = self.word_out(self.word_encoder(self.word_in(spread_words(vectors, word_ids))))
        if self.config.normalise:
            text, words = (functional.layer_norm(one, one.shape[-1:]) for one in (text, words))
        of_words, of_text = self.balance.softmax(0)
        return of_words * words + of_text * text

    def prefix(
        self, joint: Float[Tensor, "tokens width"], speaker: Float[Tensor, " speaker_dim"]
    ) -> Float[Tensor, "positions width"]:
        """Return what stands before the units of one text."""
        who = self.speaker(functional.normalize(speaker, dim=0))
        return torch.cat([self.symbols.weight[SOS][None], who[None], joint, self.symbols.weight[TASK][None]])

    def scores(
        self,
        joint: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        speaker: Float[Tensor, "batch speaker_dim"],
        units: Sequence[Int[Tensor, " _units"]],
    ) -> UnitScores:
        """Score the units of each text, given those before them.

        Args:
            joint: See `encode`.
            mask: True for tokens.
            speaker: Speaker vectors of any length above 0.
            units: Units of each text.
        """
        rows, places, targets = [], [], []
        for index, own in enumerate(units):
            before = self.prefix(joint[index, mask[index]], speaker[index])
            rows.append(torch.cat([before, self.unit_embedding(own)]))
            places.append(torch.arange(len(before) - 1, len(rows[-1]), device=own.device))
            targets.append(functional.pad(own, (0, 1), value=self.end))
        states = self.language_model(pad_sequence(rows, batch_first=True))
        wanted = torch.cat([states[index, own] for index, own in enumerate(places)])
        return UnitScores(self.head(wanted), torch.cat(targets))

    @torch.no_grad()
    def write(
        self,
        prefix: Float[Tensor, "positions width"],
        least: int,
        most: int,
        top_k: int | None,
        generator: torch.Generator,
    ) -> Int[Tensor, " units"]:
        """Draw units from the `top_k` likeliest until the end symbol: at least `least` and at most `most`."""
        units: list[int] = []
        steps = self.step(prefix, most)
        logits = next(steps)
        while len(units) < most:
            banned = torch.zeros(1, self.end + 1, dtype=torch.bool)
            banned[0, self.end] = len(units) < least
            shares = next_token_probabilities(logits[None], banned, temperature=1.0, top_k=top_k, top_p=None)
            drawn = int(draw(shares, [generator])[0])
            if drawn == self.end:
                break
            units.append(drawn)
            if len(units) < most:
                logits = steps.send(drawn)
        return torch.tensor(units, dtype=torch.int64)

    def step(
        self, prefix: Float[Tensor, "positions width"], most: int
    ) -> Generator[Float[Tensor, " classes"], int, None]:
        """Yield the scores of the next unit, and go on with the unit that is sent; `most` of them at most."""
        cache = self.language_model.new_cache(len(prefix) + most)
        inputs = prefix[None]
        while True:
            unit = yield self.head(self.language_model(inputs, cache)[0, -1]).float().cpu()
            inputs = self.unit_embedding.weight[unit][None, None]
