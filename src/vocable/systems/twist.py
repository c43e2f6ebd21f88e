"""TWIST: a language model over speech units that starts from a text model (Hassid et al., 2023, arXiv:2305.13009).

    speech -> HuBERT (or another encoder) -> k-means units, runs collapsed -> text LM with its vocabulary replaced
           -> new units -> unit vocoder -> speech

The method: discard the text vocabulary, draw a new table for units, keep all other weights, train everything.
Loss: -sum_t log p(u_t | u_<t), averaged over tokens; nothing auxiliary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from vocable.errors import ConfigError
from vocable.lm import surgery
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig
from vocable.lm.packed import token_losses
from vocable.lm.spoken import SpokenLM, open_lm
from vocable.lm.surgery import UnitLMConfig
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.lazy import LazyDocuments
from vocable.sequences.packing import PackedBatch
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.splits import check_valid_share
from vocable.systems.shared import LanguageModelStage, TokensStage, UnitsStage, lm_card
from vocable.systems.stage import Run, System
from vocable.tokens.fingerprint import check_fingerprint
from vocable.tokens.shard_columns import TokenRows
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.language_model import LMTrainingConfig, train_lm
from vocable.training.loop import TrainingResult
from vocable.types import SpeechTokens, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class TwistConfig:
    """Everything that a TWIST recipe sets."""

    system: Literal["twist"] = "twist"
    tokenizer: UnitTokenizerConfig = field(default_factory=UnitTokenizerConfig)
    kmeans_file: str | None = None
    """A published scikit-learn k-means file to use instead of fitting; it is read without unpickling code."""
    stream: str | None = None
    """Stream that the language model reads, where the tokenizer writes several; it has one code per position."""
    lm: UnitLMConfig = field(default_factory=UnitLMConfig)
    training: LMTrainingConfig
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    max_utterance_seconds: float | None = 25.0
    """Longer utterances lose their end, as in the paper (25 s); None keeps all. Tokens of words are all kept."""
    valid_share: float = 0.02
    """Share of the utterances, chosen by the hash of their id, to validate on where neither a validation set is given
    nor the manifest says who is held out (the paper: a random 2 %)."""

    def __post_init__(self) -> None:
        check_valid_share(self.valid_share)


class UnitDocuments(NamedTuple):
    """Rows for the language model, and how long each lasts."""

    token_ids: Sequence[Int[Tensor, " _"]]
    """Built when they are asked for."""
    seconds: Sequence[float]
    """Audio that each document stands for, to turn loss per token into loss per second; none where tokens follow
    words."""


def build_tokenizer(
    config: TwistConfig,
    utterances: Sequence[Utterance],
    device: str = "cpu",
    on_utterance: Callable[[Utterance], None] | None = None,
) -> UnitTokenizer:
    """Fit units on the utterances, or take the published k-means file that the config names."""
    if config.kmeans_file is not None:
        return UnitTokenizer.from_kmeans_file(config.tokenizer, config.kmeans_file, device)
    return UnitTokenizer.fit(utterances, config.tokenizer, device=device, on_utterance=on_utterance)


def build_layout(codebook_size: int) -> UnitsLayout:
    """Collapsed units between two end symbols."""
    return UnitsLayout(vocabulary=UnitVocabulary(codebook_size=codebook_size))


def build_sequences(
    shards: Iterable[tuple[Utterance, SpeechTokens]],
    layout: UnitsLayout,
    frame_rate: float | None,
    max_seconds: float | None = None,
) -> UnitDocuments:
    """Turn tokens into one document an utterance; what lies beyond `max_seconds` is left out."""
    rows = TokenRows.of(shards)
    if frame_rate is None:
        return UnitDocuments(token_ids=LazyDocuments(rows, lambda pair: layout.build(pair[1])), seconds=())

    def cut(pair: tuple[Utterance, SpeechTokens]) -> SpeechTokens:
        return pair[1] if max_seconds is None else first_seconds(pair[1], max_seconds, frame_rate)

    frames = rows.num_frames if max_seconds is None else rows.num_frames.clip(max=round(max_seconds * frame_rate))
    return UnitDocuments(
        token_ids=LazyDocuments(rows, lambda pair: layout.build(cut(pair))), seconds=(frames / frame_rate).tolist()
    )


def first_seconds(tokens: SpeechTokens, seconds: float, frame_rate: float) -> SpeechTokens:
    """Keep the runs (or frames) that lie within the first `seconds`; the last run is shortened."""
    limit = round(seconds * frame_rate)
    if tokens.durations is None:
        return SpeechTokens(codes=tokens.codes[:, :limit])
    ends = tokens.durations.cumsum(0)
    kept = ends - tokens.durations < limit
    durations = tokens.durations[kept] - (ends[kept] - limit).clamp(min=0)
    return SpeechTokens(codes=tokens.codes[:, kept], durations=durations)


def build_card(
    config: TwistConfig, layout: UnitsLayout, shards: TokenShards, tokenizer: SpeechTokenizer | None = None
) -> LMCard:
    """Describe the language model."""
    return lm_card(layout, shards, tokenizer, {"system": "twist", **config.lm.card()})


def build_lm(config: TwistConfig, layout: UnitsLayout) -> PreTrainedModel:
    """The text model with a unit vocabulary (warm), or its shape with random weights (cold)."""
    return surgery.build_lm(config.lm, layout.vocabulary)


def loss(model: PreTrainedModel, batch: PackedBatch) -> Float[Tensor, ""]:
    """Sum of -log p(u_t | u_<t) over the predicted tokens of a packed row, in nats."""
    return token_losses(model, batch).sum()


def train(
    config: TwistConfig,
    shards: TokenShards,
    out: Path,
    valid_shards: TokenShards | None = None,
    tokenizer: SpeechTokenizer | None = None,
) -> TrainingResult:
    """Train a unit language model on token shards; a run that is in `out` already goes on.

    Args:
        config: the recipe.
        shards: training tokens.
        out: the run's folder; `best/` and `last/` in it are Hugging Face folders.
        valid_shards: validation tokens; None takes what is marked `valid`, or `config.valid_share` of the rest.
        tokenizer: lets the card say which units are silence, for the silence guard.

    Raises:
        FingerprintError: the validation tokens, or the tokenizer, are not of the kind that the training tokens are.
        ConfigError: the tokens have several streams and none is chosen, or the stream has several codebooks.
    """
    shards = shards.stream(config.stream)
    if valid_shards is not None:
        valid_shards = valid_shards.stream(config.stream)
        check_fingerprint(shards.fingerprint, valid_shards.fingerprint, str(shards.folder), str(valid_shards.folder))
    if tokenizer is not None:
        tokenizer = tokenizer.matching(shards.fingerprint)
        check_fingerprint(shards.fingerprint, tokenizer.fingerprint, str(shards.folder), "the tokenizer")
    (stream,) = shards.streams
    layout = build_layout(stream.codebook_size)
    frame_rate, limit = stream.rate, config.max_utterance_seconds
    if valid_shards is None:
        rest, held_out = shards.divide(config.valid_share)
    else:
        rest, held_out = shards.training_rows(), valid_shards.validation_rows()
    documents = build_sequences(rest, layout, frame_rate, limit)
    valid = build_sequences(held_out, layout, frame_rate, limit)
    return train_lm(
        build_lm(config, layout),
        documents.token_ids,
        valid.token_ids,
        config.training,
        out,
        build_card(config, layout, shards, tokenizer),
        valid_seconds=sum(valid.seconds) or None,
        train_seconds=sum(documents.seconds),
    )


def load_published(folder: Path, tokenizer: SpeechTokenizer, seconds_per_unit: float = 1 / 19.4) -> SpokenLM:
    """Read a published TWIST checkpoint: a causal LM whose config field `offset` is the token id of unit 0.

    The published folder does not say which tokenizer it was trained on: the caller vouches for `tokenizer`. Prompts get
    no start symbol, as in the published example. `seconds_per_unit` is 1 / (collapsed units per second); 19.4 units/s
    follows from the published token counts (67 M for LibriSpeech's 960 h).

    Raises:
        ConfigError: the config has no `offset`, or the table is too small for the tokenizer's units.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    offset = getattr(model.config, "offset", None)
    if offset is None:
        raise ConfigError(f"{folder}/config.json has no 'offset'; this is not a published TWIST checkpoint.")
    size = tokenizer.codebook_size
    if offset + size > model.config.vocab_size:
        raise ConfigError(
            f"{folder} has {model.config.vocab_size} rows, of which units begin at {offset}; the tokenizer "
            f"{tokenizer.name!r} has {size} units, which do not fit."
        )
    special = [model.config.pad_token_id, model.config.eos_token_id, model.config.bos_token_id]
    free = [i for i in special if i is not None and not offset <= i < offset + size]
    free += [i for i in range(model.config.vocab_size) if not offset <= i < offset + size and i not in free]
    end = model.config.eos_token_id if model.config.eos_token_id in free else free[0]
    pad = next(i for i in free if i != end)
    vocabulary = UnitVocabulary(codebook_size=size, unit_offset=offset, bos_eos_id=end, pad_id=pad)
    layout = UnitsLayout(vocabulary=vocabulary, bos=False, eos=False)
    card = LMCard(
        vocabulary=vocabulary,
        layout=layout.card(),
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_card=tokenizer.card(),
        unit_seconds=(seconds_per_unit,) * size,
        training={"system": "twist", "published": str(folder)},
    )
    return open_lm(LoadedLM(model, card), folder, tokenizer)


def _train_stage(
    run: Run, shards: TokenShards, valid_shards: TokenShards | None, tokenizer: SpeechTokenizer | None
) -> TrainingResult:
    return train(run.config, shards, run.path("lm"), valid_shards, tokenizer)


SYSTEM = System(
    name="twist", config=TwistConfig, stages=(UnitsStage(), TokensStage(), LanguageModelStage(_train_stage))
)
