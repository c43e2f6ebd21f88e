"""A text model that also reads and predicts the codes of words (sequences/word_layout.py).

    text token -> embedding             \\                         /  head of the text model -> next token
                                          p_t x + p_a y -> network
    codes -> sum of their vectors -> map /                         \\  head of speech         -> codes of a word

p_a and p_t are the softmax of two learned numbers; they start so that the model is nearly the text model (p_a = 0.018).

Source: TASLM (Tseng et al., 2025, arXiv:2504.07053, section 3.2), and its published research code, which reads the sum
of the codes' vectors in the quantizer's own space, 256 wide, and not mapped out to the encoder's width.
Differs: vectors are divided by one number, so that those of the training words have unit variance; without it, their
length is whatever the tokenizer's is, and the share p_a means little.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vocable.errors import ConfigError
from vocable.lm.packed import embedded_states
from vocable.lm.sampling import draw, next_token_probabilities
from vocable.sequences.packing import IGNORED_LABEL
from vocable.sequences.word_layout import NO_CODE, PackedWords


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeHeadConfig:
    """All levels of a word's codes at once, by one linear layer ("token" in the paper)."""

    kind: Literal["codes"] = "codes"
    level_decay: float = 1.0
    """Weight of each level in the loss, as a share of the one before: 1 in the paper, 0.52 in its research code."""

    def __post_init__(self) -> None:
        if not self.level_decay > 0:
            raise ConfigError(f"model.head.level_decay is {self.level_decay}; it must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentHeadConfig:
    """A normal distribution of the sum of the codes' vectors, read as the nearest codes ("embed" in the paper).

    The mean is a linear map of the hidden state; the log variance is one learned vector for all words, at first 0. The
    loss is that of MELLE: the squared distance of a draw from the target, and the KL divergence from the normal
    distribution around the target with unit variance. Both are means over dimensions.
    Differs: the draw has its ordinary gradient; in the published code it has that of mean plus deviation.
    """

    kind: Literal["latent"] = "latent"
    distance_weight: float = 1.0
    """Weight of the squared distance. The paper does not state it; its research code has 1, its HF code 0.5."""
    kl_weight: float = 2.0
    """Weight of the KL divergence; 2 in the research code, 0.5 in the HF code."""
    kl: Literal["exact", "slipped"] = "exact"
    """`slipped`: the mean stands where the log variance belongs, as in the published research code."""
    reading: Literal["mean", "shifted"] = "mean"
    """Vector that codes are read from: the mean, or mean plus deviation, as the HF code evaluates, which is off by the
    deviation in every dimension. Drawn ones: `word_temperature` of the generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordModelConfig:
    """What is added to the text model."""

    fusion_start: tuple[float, float] = (-2.0, 2.0)
    """First values of the two numbers whose softmax weighs speech and text."""
    head: CodeHeadConfig | LatentHeadConfig = field(default_factory=CodeHeadConfig)
    """What predicts the codes of a word."""


Outputs = Float[Tensor, "words outputs"]
Codes = Int[Tensor, "words levels"]


class SpeechLoss(NamedTuple):
    """Loss of the speech of a batch, summed over words."""

    total: Float[Tensor, ""]
    correct: Int[Tensor, " levels"]
    """Number of words whose code would be right at each level."""
    distance: Float[Tensor, ""]
    """Squared distance between the predicted and the true vectors, mean over dimensions, summed over words."""


class WordPredictions(NamedTuple):
    """What a model says of a packed row."""

    logits: Float[Tensor, "tokens vocabulary"]
    """For every token that is predicted."""
    speech: Float[Tensor, "words outputs"]
    """Output of the speech head, for every word whose codes are predicted."""


class CodeSpace(nn.Module):
    """The frozen vectors of the codes of each level, which add up to that of a word."""

    vectors: Float[Tensor, "codes dim"]
    starts: Int[Tensor, " levels"]

    def __init__(self, tables: Sequence[Float[Tensor, "_codes dim"]]) -> None:
        super().__init__()
        self.sizes = tuple(len(table) for table in tables)
        self.register_buffer("vectors", torch.cat([table.detach().float() for table in tables]).clone())
        self.register_buffer("starts", torch.tensor([0, *self.sizes[:-1]]).cumsum(0), persistent=False)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.vectors.shape[1]

    @property
    def tables(self) -> tuple[Float[Tensor, "_codes dim"], ...]:
        """Vectors of each level."""
        return self.vectors.split(self.sizes)

    def forward(self, codes: Int[Tensor, "*words levels"]) -> Float[Tensor, "*words dim"]:
        """Add up the vectors of codes."""
        return functional.embedding(codes + self.starts, self.vectors).sum(-2)

    def nearest(self, vectors: Float[Tensor, "words dim"]) -> Int[Tensor, "words levels"]:
        """Return the code nearest to what the levels before left over, level by level.

        The sum of some codes' vectors need not lead back to them: a level may find an entry nearer to the sum.
        """
        rest, codes = vectors.float(), []
        for table in self.tables:
            codes.append(torch.cdist(rest, table).argmin(-1))
            rest = rest - table[codes[-1]]
        return torch.stack(codes, dim=-1)


class SpeechHead(nn.Module, ABC):
    """Predicts the codes of a word from a hidden state."""

    def __init__(self, space: CodeSpace) -> None:
        super().__init__()
        self.space = space

    @abstractmethod
    def loss(self, outputs: Outputs, codes: Codes) -> SpeechLoss:
        """Return the training loss, and how good the prediction is."""

    @abstractmethod
    def nll(self, outputs: Outputs, codes: Codes) -> Float[Tensor, " words"]:
        """Return the negative log-likelihood of each word's codes, in nats."""

    @abstractmethod
    def read(self, outputs: Outputs, temperature: float, generators: Sequence[torch.Generator]) -> Codes:
        """Return codes: the likeliest at temperature 0, else drawn with each word's generator."""


class CodeHead(SpeechHead):
    """See `CodeHeadConfig`."""

    def __init__(self, config: CodeHeadConfig, space: CodeSpace, width: int) -> None:
        super().__init__(space)
        self.config, self.sizes = config, space.sizes
        self.output = nn.Linear(width, sum(space.sizes))

    def forward(self, states: Float[Tensor, "words width"]) -> Outputs:
        """Return the logits of all levels, one after another."""
        return self.output(states)

    def loss(self, outputs: Outputs, codes: Codes) -> SpeechLoss:
        """Weighted sum of the levels' cross-entropies."""
        weights = self.config.level_decay ** torch.arange(len(self.sizes), device=outputs.device)
        best = torch.stack([level.argmax(-1) for level in outputs.split(self.sizes, -1)], -1)
        distance = (self.space(best) - self.space(codes)).square().mean(-1).sum()
        return SpeechLoss((self._losses(outputs, codes) * weights).sum(), (best == codes).sum(0), distance)

    def nll(self, outputs: Outputs, codes: Codes) -> Float[Tensor, " words"]:
        """Sum of the levels' cross-entropies."""
        return self._losses(outputs, codes).sum(-1)

    def read(self, outputs: Outputs, temperature: float, generators: Sequence[torch.Generator]) -> Codes:
        """Read each level by itself."""
        codes = []
        for level in outputs.float().cpu().split(self.sizes, -1):
            nothing = torch.zeros_like(level, dtype=torch.bool)
            chances = next_token_probabilities(level, nothing, temperature=temperature, top_k=None, top_p=None)
            codes.append(draw(chances, generators))
        return torch.stack(codes, -1)

    def _losses(self, outputs: Tensor, codes: Tensor) -> Float[Tensor, "words levels"]:
        levels = zip(outputs.float().split(self.sizes, -1), codes.unbind(-1), strict=True)
        return torch.stack([functional.cross_entropy(*level, reduction="none") for level in levels], -1)


class LatentHead(SpeechHead):
    """See `LatentHeadConfig`."""

    def __init__(self, config: LatentHeadConfig, space: CodeSpace, width: int) -> None:
        super().__init__(space)
        self.config = config
        self.mean = nn.Linear(width, space.dim)
        self.log_variance = nn.Parameter(torch.zeros(space.dim))

    def forward(self, states: Float[Tensor, "words width"]) -> Outputs:
        """Return the means."""
        return self.mean(states)

    def loss(self, outputs: Outputs, codes: Codes) -> SpeechLoss:
        """Weighted squared distance of a draw, and KL divergence."""
        mean, target, config = outputs.float(), self.space(codes), self.config
        drawn = mean + (0.5 * self.log_variance).exp() * torch.randn_like(mean)
        distance = (drawn - target).square().mean(-1).sum()
        kl = normal_kl(mean, mean if config.kl == "slipped" else self.log_variance[None], target).mean(-1).sum()
        found = self._read(mean)
        return SpeechLoss(
            config.distance_weight * distance + config.kl_weight * kl,
            (self.space.nearest(found) == codes).sum(0),
            (found - target).square().mean(-1).sum(),
        )

    def nll(self, outputs: Outputs, codes: Codes) -> Float[Tensor, " words"]:
        """Log density of the vector: unlike the published score, the loss without its draw, a likelihood."""
        errors = (outputs.float() - self.space(codes)).square() / self.log_variance.exp()
        return 0.5 * (errors + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def read(self, outputs: Outputs, temperature: float, generators: Sequence[torch.Generator]) -> Codes:
        """Quantize mean plus `temperature` deviations times standard normal numbers."""
        vectors = self._read(outputs.float())
        if temperature > 0:
            noise = torch.stack([torch.randn(outputs.shape[1], generator=one) for one in generators])
            vectors = outputs.float() + temperature * (0.5 * self.log_variance).exp() * noise.to(outputs.device)
        return self.space.nearest(vectors).cpu()

    def _read(self, mean: Tensor) -> Tensor:
        return mean + (0.5 * self.log_variance).exp() if self.config.reading == "shifted" else mean


def normal_kl(
    mean: Float[Tensor, "words dim"], log_variance: Float[Tensor, "#words dim"], target: Float[Tensor, "words dim"]
) -> Float[Tensor, "words dim"]:
    """Return KL(N(mean, variance) || N(target, 1)) of every dimension, in nats."""
    return 0.5 * (log_variance.exp() + (mean - target).square() - 1 - log_variance)


def make_head(config: CodeHeadConfig | LatentHeadConfig, space: CodeSpace, width: int) -> SpeechHead:
    """Make the head of speech."""
    return LatentHead(config, space, width) if isinstance(config, LatentHeadConfig) else CodeHead(config, space, width)


class WordModel(nn.Module):
    """A text model with fusion and speech head."""

    def __init__(self, lm: Any, tables: Sequence[Float[Tensor, "_codes dim"]], config: WordModelConfig) -> None:
        """Add to a causal language model, which is kept, what speech needs.

        Args:
            lm: Any Hugging Face causal LM, with low-rank adapters or without (lm/lora.py).
            tables: Vectors of the codes of each level.
            config: Fusion and head.

        Raises:
            ConfigError: the model changes its head's output, by a soft cap or a scale, say.
        """
        super().__init__()
        self.lm, self.settings = lm, config
        embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
        width, out_width = embedding.weight.shape[1], head.weight.shape[1]
        space = CodeSpace(tables)
        self.project = nn.Linear(space.dim, width)
        self.pad_audio = nn.Parameter(torch.zeros(space.dim))
        self.pad_text = nn.Parameter(torch.zeros(width))
        self.mix = nn.Parameter(torch.tensor(config.fusion_start))
        self.head = make_head(config.head, space, out_width)
        _check_head(lm)

    @property
    def space(self) -> CodeSpace:
        """Vectors of the codes."""
        return self.head.space

    @property
    def config(self) -> Any:
        """The text model's config."""
        return self.lm.config

    @property
    def dtype(self) -> torch.dtype:
        """Type of the text model's weights."""
        return self.lm.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.mix.device

    @property
    def weights(self) -> Float[Tensor, "2"]:
        """Shares of speech and text in the input, which add up to 1."""
        return self.mix.softmax(0)

    def embed(
        self, token_ids: Int[Tensor, "*positions"], codes: Int[Tensor, "*positions levels"]
    ) -> Float[Tensor, "*positions dim"]:
        """Return the input of the network."""
        spoken = (codes[..., :1] != NO_CODE).expand(*codes.shape[:-1], self.space.dim)
        audio = torch.where(spoken, self.space(codes.clamp(min=0)), self.pad_audio)
        speech, text = self.weights
        return speech * self.project(audio).to(self.dtype) + text * self.embed_text(token_ids)

    def embed_text(self, token_ids: Int[Tensor, "*positions"], lm: Any = None) -> Float[Tensor, "*positions dim"]:
        """Return the embeddings of tokens; one behind the table is the pad vector."""
        table = (self.lm if lm is None else lm).get_input_embeddings()
        size = len(table.weight)
        known = table(token_ids.clamp(max=size - 1))
        return torch.where((token_ids < size)[..., None], known, self.pad_text.to(known.dtype))

    def forward(self, batch: PackedWords) -> WordPredictions:
        """Predict every token and every word's codes that the rows ask for."""
        states = self.states(batch)
        text, speech = wanted(batch)
        return WordPredictions(
            self.lm.get_output_embeddings()(states[text]), self.head(states[speech].to(self.mix.dtype))
        )

    def states(self, batch: PackedWords) -> Float[Tensor, "positions width"]:
        """Return the final hidden states."""
        return embedded_states(self.lm, self.embed(batch.token_ids, batch.codes), batch.lengths)

    def text_logits(self, batch: PackedWords, lm: Any = None) -> Float[Tensor, "tokens vocabulary"]:
        """Return the logits of the same tokens from the text alone, without fusion.

        Args:
            lm: Text model that reads it; None: the one inside.
        """
        lm = self.lm if lm is None else lm
        states = embedded_states(lm, self.embed_text(batch.token_ids, lm), batch.lengths)
        return lm.get_output_embeddings()(states[wanted(batch)[0]])


def wanted(batch: PackedWords) -> tuple[Bool[Tensor, " positions"], Bool[Tensor, " positions"]]:
    """Say at which positions a token is predicted, and at which the codes of a word."""
    return batch.next_ids != IGNORED_LABEL, batch.next_codes[:, 0] != NO_CODE


def _check_head(lm: Any) -> None:
    """Compare the model's logits with those of its head, on one token; not where it has no weights yet."""
    if lm.device.type == "meta":
        return
    token = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
    was_training = lm.training
    with torch.no_grad():
        states = lm.eval().base_model(input_ids=token, use_cache=False).last_hidden_state
        same = torch.allclose(
            lm(input_ids=token, use_cache=False).logits, lm.get_output_embeddings()(states), rtol=1e-3
        )
    lm.train(was_training)
    if not same:
        raise ConfigError(
            f"{type(lm).__name__} changes the output of its head, which a text-aligned language model does not. Choose "
            "another text model, such as Llama, Qwen2.5 or SmolLM2."
        )
