"""TASLM: a text model learns to read and predict the codes of words beside its text.

    token shards with words + tokenizer -> rows (sequences/word_layout.py) -> text model with fusion and speech head
        -> CE + KL to the text model itself on text, the head's loss on speech -> out/best, out/last

Source: Tseng et al., 2025, arXiv:2504.07053, sections 3.2 and 4; and its two published implementations, "research" and
"HF". The KL term, without which fine-tuning on transcripts costs the text model some of what it knows, is in both and
not in the paper. Differs: sums over tokens and over words are weighed, not their means, so that the result does not
depend on how utterances are batched; and the KL leaves out where the text ends, of which the text model knows nothing.
"""

import copy
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vocable.config import config_to_dict
from vocable.errors import ConfigError, ManifestError
from vocable.lm.checkpoint import LMCard
from vocable.lm.lora import LoraConfig, add_lora, has_lora, lora_off
from vocable.lm.word_checkpoint import WordModelCard, load_base, save_words
from vocable.lm.word_model import WordModel, WordModelConfig
from vocable.sequences.joint_rows import JointExample
from vocable.sequences.lazy import Lazy, LazyDocuments
from vocable.sequences.packing import pack_documents
from vocable.sequences.text_tokenizers import load_text_tokenizer
from vocable.sequences.word_layout import PackedWords, SpokenText, WordLayout, WordRow, word_vocabulary
from vocable.systems.joint import choose_tokens, divide_examples
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.tokens.fingerprint import tensor_sha256
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer
from vocable.training.data import PackedStream
from vocable.training.language_model import LMTrainingConfig
from vocable.training.loop import TrainingResult
from vocable.training.loop import train as run_loop
from vocable.training.task import AdamWTask, DataSize, LossSum


@dataclass(frozen=True, slots=True, kw_only=True)
class TaslmLossConfig:
    """Weights of the parts of the loss, which is a sum over text tokens and words, divided by the text tokens."""

    text_weight: float = 0.5
    """Weight of both text parts; 0.5 in the published code."""
    speech_weight: float = 0.5
    """Weight of the speech head's loss; 0.5 in the published code."""
    cross_entropy: float = 0.1
    """Share of the cross-entropy in the text part: 0.1 in the HF code, 1 in the research code."""
    divergence: float = 0.9
    """Share of the KL divergence to the text model on the text alone: 0.9 in the HF code, 1 in the research code (there
    of the first 80,000 ids), 0 in the paper."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "speech_weight", "cross_entropy", "divergence"):
            if getattr(self, name) < 0:
                raise ConfigError(f"taslm.loss.{name} is {getattr(self, name)}; it must be 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaslmConfig:
    """A text-aligned language model, and how it is trained."""

    text_model: str = "HuggingFaceTB/SmolLM2-135M"
    """Text model that it starts from; the paper's is meta-llama/Llama-3.2-1B."""
    lora: LoraConfig | None = field(default_factory=lambda: LoraConfig(rank=64, alpha=128.0, dropout=0.05))
    """Low-rank adapters on all linear layers but the head, as published (HF); None: the whole text model is trained."""
    model: WordModelConfig = field(default_factory=WordModelConfig)
    delay: int = 1
    """Codes of a word lag so far behind its first token; 0: both are predicted at once."""
    delay_unit: Literal["word", "token"] = "word"
    """Whether the delay counts words, as published, or text tokens."""
    unit_variance: bool = True
    """Divide the codes' vectors by one number, so that those of the training words have unit variance."""
    loss: TaslmLossConfig = field(default_factory=TaslmLossConfig)
    training: LMTrainingConfig = field(
        default_factory=lambda: LMTrainingConfig(max_steps=10_000, context_tokens=256, learning_rate=5e-5, seed=0)
    )
    """Utterances whose rows are longer than `context_tokens` are left out; the published code has a limit of 150 tokens
    against transcripts that a recogniser made up."""


class TaslmData(NamedTuple):
    """Utterances that rows can be made of."""

    layout: WordLayout
    train: Lazy[JointExample]
    valid: Lazy[JointExample]
    seconds_per_token: float | None
    """Mean seconds of speech for each text token; None where the shards do not say how long utterances are."""


def build_row(layout: WordLayout, example: JointExample) -> WordRow:
    """Make the row of an utterance.

    Raises:
        ManifestError: it has no words, or the text tokenizer does not keep one apart.
        ConfigError: its tokens do not follow words, or are of another tokenizer.
    """
    assert example.tokens is not None
    part = SpokenText.of_tokens(example.tokens, layout.vocabulary.num_levels)
    if not part.words:
        raise ManifestError(f"Utterance {example.id!r} has no words: its text is empty.")
    return layout.build([part])


def build_data(
    config: TaslmConfig,
    layout: WordLayout,
    shards: TokenShards,
    valid_shards: TokenShards | None,
    valid_share: float,
    report: Callable[[str], None] = print,
) -> TaslmData:
    """Find the utterances that can be used.

    Raises:
        ConfigError: none can, or the tokens do not follow words.
        ManifestError: a validation sentence is among the training sentences.
    """
    limit = config.training.context_tokens
    kept = []
    for examples in divide_examples(shards, valid_shards, valid_share, report=report):
        usable, unusable = array("q"), list[str]()
        for number, example in enumerate(examples):
            try:
                length = len(build_row(layout, example))
                if length > limit:
                    raise ManifestError(
                        f"Utterance {example.id!r} makes a row of {length} tokens; training.context_tokens is {limit}."
                    )
                usable.append(number)
            except ManifestError as error:
                unusable.append(str(error))
        if unusable:
            report(f"{len(unusable)} of {len(examples)} utterances are left out, e.g.: {unusable[0]}")
        if not usable and not kept:
            reason = unusable[0] if unusable else "There are no utterances."
            raise ConfigError(f"No utterance can be trained on. {reason}")
        kept.append(examples.take(usable))
    return TaslmData(layout, kept[0], kept[1], _seconds_per_token(layout, shards))


def _seconds_per_token(layout: WordLayout, shards: TokenShards, most: int = 1000) -> float | None:
    """Divide the length of the first utterances by their text tokens."""
    seconds, tokens = 0.0, 0
    for number in range(min(most, len(shards))):
        utterance, found = shards[number]
        if utterance.duration is not None and found.words:
            seconds += utterance.duration
            tokens += len(layout.words.encode([word.word for word in found.words]).ids)
    return seconds / tokens if tokens and seconds else None


def code_tables(tokenizer: SpeechTokenizer) -> list[Float[Tensor, "_codes dim"]]:
    """Return the vectors of a tokenizer's codes, level by level.

    Raises:
        ConfigError: it is no tokenizer by word.
    """
    if not isinstance(tokenizer, TasteTokenizer):
        raise ConfigError(
            f"{tokenizer.name!r} is no text-aligned tokenizer; the language model reads the vectors of one's codes."
        )
    return [table.cpu() for table in tokenizer.words.quantizer.tables()]


def scale_tables(
    tables: Sequence[Float[Tensor, "_codes dim"]], examples: Sequence[JointExample], most: int = 2000
) -> list[Float[Tensor, "_codes dim"]]:
    """Divide vectors by the standard deviation of the words' vectors, over words and dimensions together."""
    vectors = []
    for number in range(min(most, len(examples))):
        tokens = examples[number].tokens
        assert tokens is not None
        vectors.append(sum(table[codes] for table, codes in zip(tables, tokens.codes, strict=True)))
    every = torch.cat(vectors)
    deviation = (every - every.mean(0)).square().mean().sqrt()
    return [table / deviation.clamp(min=1e-8) for table in tables]


def build_model(config: TaslmConfig, base: Any, tables: Sequence[Float[Tensor, "_codes dim"]]) -> WordModel:
    """Put fusion and head on a text model; their first weights follow from `training.seed`."""
    if config.lora is not None:
        add_lora(base, config.lora, ())
    else:
        base.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return WordModel(base, tables, config.model)


def num_trained(model: nn.Module) -> int:
    """Count the weights that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class TaslmTask(AdamWTask):
    """Text and speech losses on packed rows, for the loop in training/loop.py. Its tokens are text tokens."""

    def __init__(
        self, model: WordModel, config: TaslmConfig, data: TaslmData, card: LMCard, words: WordModelCard, reader: Any
    ) -> None:
        """Plan the data; `reader` is the text tokenizer, saved beside the model."""
        super().__init__(model, config.training)
        self.config, self.card, self.words, self.reader = config, card, words, reader
        layout, seed = data.layout, config.training.seed
        limits = {"max_tokens": config.training.tokens_per_batch, "context_tokens": config.training.context_tokens}
        train, valid = (LazyDocuments(part, lambda one: build_row(layout, one)) for part in (data.train, data.valid))
        self.stream = PackedStream(train, seed=seed, join=PackedWords.of, **limits)
        self.validation: Sequence[PackedWords] = pack_documents(valid, join=PackedWords.of, **limits)
        self.base: Any = None
        if config.loss.divergence and not has_lora(model.lm):
            self.base = copy.deepcopy(model.lm).requires_grad_(False).eval()
        self.levels = [f"level{number + 1}" for number in range(len(model.space.sizes))]
        self.part_names = ("text", "divergence", "speech", "code_distance", *self.levels)

    def data_sizes(self) -> dict[str, DataSize]:
        """Count rows of speech with text."""
        valid = DataSize(sum(len(row.lengths) for row in self.validation), "document")
        return {"train": self.stream.size(), "valid": valid}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[PackedWords]:
        """Return this process's share of the next rows."""
        return self.stream.next_rows(count, process, num_processes)

    def validation_batches(self, process: int, num_processes: int) -> Sequence[PackedWords]:
        """Return this process's share of the validation rows."""
        return self.validation[process::num_processes]

    def num_targets(self, batch: PackedWords) -> int:
        """Count predicted text tokens."""
        return batch.num_tokens

    def loss_sum(self, model: nn.Module, batch: PackedWords) -> LossSum:
        """Weigh the losses of text and of speech."""
        inner = cast(WordModel, getattr(model, "module", model))
        weights = self.config.loss
        tokens = batch.next_ids[batch.next_ids >= 0]
        codes = batch.next_codes[batch.next_codes[:, 0] >= 0]
        base = self._base_logits(inner, batch) if weights.divergence else None
        found = model(batch)
        text = functional.cross_entropy(found.logits.float(), tokens, reduction="sum")
        total = weights.cross_entropy * text
        parts = {"text": (float(text.detach()), len(tokens))}
        if base is not None:
            inside = tokens != self.card.vocabulary.end_id
            divergence = base_divergence(found.logits[inside], base[inside])
            total = total + weights.divergence * divergence
            parts["divergence"] = (float(divergence.detach()), int(inside.sum()))
        speech, nll = inner.head.loss(found.speech, codes), inner.head.nll(found.speech, codes)
        parts |= {
            "speech": (float(nll.detach().sum()), len(codes)),
            "code_distance": (float(speech.distance.detach()), len(codes)),
            **{name: (value, len(codes)) for name, value in zip(self.levels, speech.correct.tolist(), strict=True)},
        }
        return LossSum(weights.text_weight * total + weights.speech_weight * speech.total, parts)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return nats per token of text and per word of speech, the share of right codes, and their distance."""
        means = {name: value / count for name, (value, count) in parts.items() if count}
        names = {"text": "text_loss", "speech": "speech_nll", **{name: f"{name}_correct" for name in self.levels}}
        return {names.get(name, name): value for name, value in means.items()}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model and its cards."""
        assert isinstance(model, WordModel)
        save_words(model, folder, self.card, self.words, self.reader)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training rows."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position in the training rows."""
        self.stream.load_state_dict(state)

    def identity(self) -> dict[str, Any]:
        """Describe the data and the model's cards."""
        settings = config_to_dict(self.config)
        del settings["training"]
        card = config_to_dict(self.card)
        return {
            "data": self.stream.describe(),
            "card": {name: card[name] for name in ("vocabulary", "layout", "tokenizer_fingerprint")},
            "text_sha256": self.words.text_sha256,
            "taslm": settings,
        }

    @torch.no_grad()
    def _base_logits(self, model: WordModel, batch: PackedWords) -> Tensor:
        """What the text model says of the text alone, without dropout."""
        was_training = model.lm.training
        base = model.lm if self.base is None else self.base.to(batch.token_ids.device)
        try:
            with lora_off(base.eval()):
                return model.text_logits(batch, base)
        finally:
            model.lm.train(was_training)


def base_divergence(
    logits: Float[Tensor, "tokens vocabulary"], base: Float[Tensor, "tokens vocabulary"], block: int = 256
) -> Float[Tensor, ""]:
    """Sum KL(text model || model) over tokens, in nats."""
    total = logits.new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(logits.split(block), base.split(block)):
        known = theirs.float().log_softmax(-1)
        total = total + functional.kl_div(ours.float().log_softmax(-1), known, reduction="sum", log_target=True)
    return total


def train(
    config: TaslmConfig,
    shards: TokenShards,
    tokenizer: SpeechTokenizer,
    out: Path,
    valid_shards: TokenShards | None = None,
    *,
    valid_share: float = 0.02,
    report: Callable[[str], None] = print,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train a text-aligned language model; a run that is in `out` already goes on.

    Args:
        config: the recipe's section `taslm`.
        shards: training tokens, with words.
        tokenizer: the tokenizer that made them: the model reads the vectors of its codes.
        out: the run's folder.
        valid_shards: validation tokens; None takes what is marked `valid`, or a share of the rest.
        valid_share: that share; no sentence is on both sides.
        report: told how many utterances cannot be used, and how many weights are trained.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        FingerprintError: the validation tokens, or the tokenizer, are not of the kind that the training tokens are.
        ConfigError: the tokens do not follow words, or no utterance can be used.
        ManifestError: a validation sentence is among the training sentences.
        AssetError: the text model cannot be found.
    """
    shards, valid_shards, checked = choose_tokens("words", shards, valid_shards, tokenizer)
    assert checked is not None
    reader = load_text_tokenizer(config.text_model)
    base = load_base(config.text_model)
    rows = len(base.get_input_embeddings().weight)
    vocabulary = word_vocabulary(reader, shards.streams[0].codebook_sizes, rows)
    layout = WordLayout(vocabulary=vocabulary, delay=config.delay, delay_unit=config.delay_unit)
    layout = layout.bind(reader, config.text_model)
    data = build_data(config, layout, shards, valid_shards, valid_share, report)
    tables = code_tables(checked)
    if config.unit_variance:
        tables = scale_tables(tables, data.train)
    words = WordModelCard(
        model=config.model,
        codebook_sizes=vocabulary.codebook_sizes,
        text_model=config.text_model,
        text_sha256=tensor_sha256(base.state_dict()),
        lora=config.lora,
    )
    card = LMCard(
        vocabulary=vocabulary,
        layout=layout.card(),
        tokenizer_fingerprint=shards.fingerprint,
        tokenizer_card=shards.card,
        token_seconds=data.seconds_per_token,
        training={"system": "taste", "text_model": config.text_model},
    )
    model = build_model(config, base, tables)
    sides = f"{len(data.train)} utterances are trained on, {len(data.valid)} validated on"
    report(f"{sides}; {num_trained(model):,} weights learn")
    task = TaslmTask(model, config, data, card, words, reader)
    return run_loop(task, config.training, out, stop_at_step=stop_at_step, show=show)
