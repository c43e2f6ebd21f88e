"""Heads on a language model and their training: one sentiment a row, or one tag a word, in speech and in text.

    hidden states (positions, dim)  ->  pooled (1, dim)              ->  linear  ->  sentiment
                                    ->  positions of words (k, dim)  ->  linear  ->  tag each  ->  vote  ->  tag a word

    head only: features of every row, once -> epochs over them          all: rows -> model -> head, in every epoch

SUTLM (Chou et al., 2023, arXiv:2310.08715) fine-tunes on one modality and tests on the other. Its heads are not known
to us; these are our choice: linear on the final hidden states, pooled for sentiment; for entities tags of tokens, so
that the head is defined for units and for text alike. A tagger on a causal model does not see what follows a token.
The epoch with the best score on the dev set of the same modality is kept; nothing of the other modality is looked at.
"""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.evaluation.slue.labelled_set import SENTIMENTS, Labels
from vocable.evaluation.slue.metrics import (
    ENTITY_METRICS,
    OUTSIDE,
    SENTIMENT_METRICS,
    WORD_TAGS,
    Found,
    Metric,
    gold_entities,
    run_counts,
    tag_words,
    tagged_entities,
)
from vocable.evaluation.slue.rows import NO_WORD, Example, TaskRow
from vocable.lm.packed import hidden_states
from vocable.sequences.packing import token_budget_batches
from vocable.training.config import TrainingConfig
from vocable.training.loop import Loop, fit
from vocable.training.task import Learner, LossSum, Progress, TrainingTask

Pooling = Literal["mean", "last"]


class SentimentTask:
    """One of three sentiments for each row."""

    name: str = "sentiment"
    """As the field of `Labels`."""
    classes: tuple[str, ...] = SENTIMENTS
    metrics: tuple[Metric, ...] = SENTIMENT_METRICS
    """The headline first."""

    def __init__(self, pooling: Pooling = "mean") -> None:
        """Pool the states of all positions of a row (mean), or take the end symbol's, which has seen all (last)."""
        self.pooling: Pooling = pooling

    def features(self, states: Float[Tensor, "positions dim"], row: TaskRow) -> Float[Tensor, "outputs dim"]:
        """Return what the linear layer reads: one vector for the row."""
        return states.mean(dim=0, keepdim=True) if self.pooling == "mean" else states[-1:]

    def targets(self, row: TaskRow, labels: Labels) -> Int[Tensor, " outputs"]:
        """Return the class of the row."""
        return torch.tensor([self.classes.index(self.gold(labels))])

    def predict(self, logits: Float[Tensor, "outputs classes"], row: TaskRow) -> str:
        """Return the sentiment."""
        return self.classes[int(logits[0].argmax())]

    def gold(self, labels: Labels) -> str:
        """Return the labelled sentiment."""
        assert labels.sentiment is not None, "the split holds annotated utterances only"
        return labels.sentiment

    def baseline(self, train: Sequence[Labels]) -> tuple[str, str]:
        """Return the commonest sentiment."""
        return "majority", Counter(self.gold(labels) for labels in train).most_common(1)[0][0]


class EntityTask:
    """A tag for each token that belongs to a word; words vote."""

    name: str = "entities"
    classes: tuple[str, ...] = WORD_TAGS
    metrics: tuple[Metric, ...] = ENTITY_METRICS

    def __init__(self, language: str = "en") -> None:
        """Take the language that phrases are in, see `plain_phrase`."""
        self.language = language

    def features(self, states: Float[Tensor, "positions dim"], row: TaskRow) -> Float[Tensor, "outputs dim"]:
        """Return what the linear layer reads: one vector for each position of a word."""
        return states[(row.words != NO_WORD).to(states.device)]

    def targets(self, row: TaskRow, labels: Labels) -> Int[Tensor, " outputs"]:
        """Return the class of each position of a word."""
        tags = tag_words(row.text, row.spans, labels.entities or ())
        ids = torch.tensor([self.classes.index(tag) for tag in tags], dtype=torch.int64)
        return ids[row.words[row.words != NO_WORD]]

    def predict(self, logits: Float[Tensor, "outputs classes"], row: TaskRow) -> list[Found]:
        """Return the entities, with the words of the row's text."""
        votes = vote(logits, row.words[row.words != NO_WORD], len(row.spans))
        tags = [OUTSIDE if choice is None else self.classes[choice] for choice in votes]
        return tagged_entities(row.text, row.spans, tags, self.language)

    def gold(self, labels: Labels) -> list[Found]:
        """Return the labelled entities."""
        return gold_entities(labels.text, labels.entities or (), self.language)

    def baseline(self, train: Sequence[Labels]) -> tuple[str, list[Found]]:
        """Return no entity."""
        return "no_entities", []


Task = SentimentTask | EntityTask
"""Positions to read from a row, and the right answers."""


def vote(logits: Float[Tensor, "outputs classes"], words: Int[Tensor, " outputs"], num_words: int) -> list[int | None]:
    """Return the class that most tokens of each word choose; among equals, the one with the highest summed
    log-probability. None for a word without tokens (a word that shares a unit with a longer one)."""
    scores = logits.float().log_softmax(-1)
    choices = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
    where = words.to(logits.device)
    counts = scores.new_zeros(num_words, scores.shape[-1]).index_add_(0, where, choices)
    sums = scores.new_zeros(num_words, scores.shape[-1]).index_add_(0, where, scores)
    most = counts.amax(dim=-1, keepdim=True)
    best = sums.masked_fill(counts < most, float("-inf")).argmax(dim=-1)
    has_tokens = (most[:, 0] > 0).tolist()
    return [int(choice) if known else None for choice, known in zip(best, has_tokens)]


@torch.no_grad()
def frozen_features(
    model: nn.Module,
    task: Task,
    rows: Sequence[TaskRow],
    max_tokens: int = 4096,
) -> list[Float[Tensor, "outputs dim"]]:
    """Return what the head reads of each row, computed once, on the CPU and in the model's own type.

    Args:
        model: in evaluation mode here, and afterwards as it was.
    """
    was_training = model.training
    model.eval()
    features: list[Tensor | None] = [None] * len(rows)
    for batch in token_budget_batches([len(row.token_ids) for row in rows], max_tokens):
        for index, states in zip(batch, hidden_states(model, [rows[index].token_ids for index in batch])):
            features[index] = task.features(states, rows[index]).cpu()
    model.train(was_training)
    return [found for found in features if found is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneConfig:
    """How a head is trained. SUTLM's own settings are not known to us; these are ours."""

    train: Literal["head", "all"] = "head"
    """The linear layer alone, or all weights of the language model too."""
    pooling: Pooling = "mean"
    """State that sentiment is read from: the mean of all states of a row, or that of its last position."""
    head_learning_rate: float = 3e-3
    """Learning rate of the linear layer."""
    learning_rate: float = 2e-5
    """Learning rate of the language model's weights, when all are trained; that of SLUE's own sentiment baseline."""
    weight_decay: float = 0.01
    """Weight decay of all that is trained."""
    dropout: float = 0.2
    """Dropout on what the linear layer reads; that of SLUE's own sentiment baseline."""
    epochs: int = 60
    """Most epochs."""
    patience: int = 10
    """Epochs without a better dev score after which to stop."""
    batch_utterances: int = 32
    """Utterances in one update."""
    warmup_steps: int = 20
    """Updates over which learning rates grow to their value, at which they stay."""
    max_gradient_norm: float = 1.0
    max_tokens: int = 4096
    """Tokens in one forward pass without gradients."""

    def __post_init__(self) -> None:
        if self.train not in ("head", "all"):
            raise ConfigError(f"train is {self.train!r}; it is head or all.")
        if self.pooling not in ("mean", "last"):
            raise ConfigError(f"pooling is {self.pooling!r}; it is mean or last.")
        for name in ("epochs", "patience", "batch_utterances", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("head_learning_rate", "learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.dropout < 1 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError(
                f"dropout is {self.dropout} (0 to below 1), weight_decay {self.weight_decay} and warmup_steps "
                f"{self.warmup_steps} (0 or more)."
            )


class FineTuned(NamedTuple):
    """A head, and the weights that go with it."""

    head: nn.Linear
    model: nn.Module
    """The language model: the given one when the head alone was trained, else a copy with its own weights."""
    best_epoch: int
    """Counted from 1."""
    dev_scores: list[float]
    """One for each epoch that was run."""


def fine_tune(
    model: nn.Module,
    task: Task,
    train: Sequence[Example],
    dev: Sequence[Example],
    config: FineTuneConfig,
    seed: int = 0,
    features: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> FineTuned:
    """Train a head on `train` and keep the epoch that is best on `dev`; the given model is not changed.

    Args:
        seed: of the head's first weights, of dropout and of the order.
        features: `frozen_features` of train and dev, where they are there already; used when only the head is trained.

    Raises:
        ConfigError: there is nothing to train on or to choose by, or all of `train` has one class.
        NumericsError: the loss is not a number.
    """
    _check(task, train, dev)
    frozen = config.train == "head"
    if frozen and features is None:
        rows = [[example.row for example in part] for part in (train, dev)]
        features = (
            frozen_features(model, task, rows[0], config.max_tokens),
            frozen_features(model, task, rows[1], config.max_tokens),
        )
    learner = model if frozen else copy.deepcopy(model)
    per_epoch = math.ceil(len(train) / config.batch_utterances)
    training = TrainingConfig(
        max_steps=config.epochs * per_epoch,
        max_gradient_norm=config.max_gradient_norm,
        precision="fp32",
        log_every=per_epoch,
        validate_every=per_epoch,
        patience=config.patience,
    )
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(_width(learner), len(task.classes)).to(device)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        tuning = FineTuneTask(learner, head, task, train, dev, config, seed, features if frozen else None)
        fit(tuning, training, device)
    scores = tuning.scores
    return FineTuned(head.eval(), learner.eval(), scores.index(max(scores)) + 1, scores)


def predict(
    model: nn.Module,
    head: nn.Linear,
    task: Task,
    rows: Sequence[TaskRow],
    config: FineTuneConfig,
    features: Sequence[Float[Tensor, "outputs dim"]] | None = None,
) -> list[Any]:
    """Return what the head says about every row.

    Args:
        features: `frozen_features` of the rows, where the model's weights are those that they were computed with.
    """
    if features is None or config.train == "all":
        features = frozen_features(model, task, rows, config.max_tokens)
    with torch.no_grad():
        logits = [head(found.to(head.weight)) for found in features]
    return [task.predict(scores, row) for scores, row in zip(logits, rows)]


def dev_score(task: Task, examples: Sequence[Example], found: Sequence[Any]) -> float:
    """Return the headline score of predictions."""
    headline, gold = task.metrics[0], [task.gold(example.labels) for example in examples]
    return float(headline.score(run_counts(headline, gold, [found])[0].sum(axis=0)))


class FineTuneTask(TrainingTask):
    """Training of a head, alone or with its model, for the loop in training/loop.py; its tokens are outputs."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Linear,
        task: Task,
        train: Sequence[Example],
        dev: Sequence[Example],
        config: FineTuneConfig,
        seed: int,
        features: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
    ) -> None:
        """Arguments as in `fine_tune`; `features` are those of the rows, unless the model is trained too."""
        self.model, self.head, self.task, self.config = model, head, task, config
        self.train, self.dev, self.features = train, dev, features
        self.targets = [task.targets(*example) for example in train]
        self.scores: list[float] = []
        parts: dict[str, nn.Module] = {"head": head} if config.train == "head" else {"head": head, "model": model}
        rates = {"head": config.head_learning_rate, "model": config.learning_rate}
        groups = [{"params": list(part.parameters()), "lr": rates[name]} for name, part in parts.items()]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
        self.learners = {"head": Learner(nn.ModuleDict(parts), optimizer)}
        self._generator = torch.Generator().manual_seed(seed)
        self._order: list[int] = []

    def next_batches(self, count: int, process: int, num_processes: int) -> list[list[int]]:
        """Return the next batches of rows, by number, in another order every epoch."""
        size, batches = self.config.batch_utterances, []
        for _ in range(count):
            if not self._order:
                self._order = torch.randperm(len(self.train), generator=self._generator).tolist()
            batches.append(self._order[:size])
            self._order = self._order[size:]
        return batches

    def num_targets(self, batch: list[int]) -> int:
        """Count outputs."""
        return sum(len(self.targets[index]) for index in batch)

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Rise over the warm-up, and stay."""
        return peak * min(1.0, progress.step / max(1, self.config.warmup_steps))

    def loss_sum(self, model: nn.Module, batch: list[int]) -> LossSum:
        """Sum the cross entropy over outputs."""
        if self.features is not None:
            read = [self.features[0][index] for index in batch]
        else:
            rows = [self.train[index].row for index in batch]
            states = hidden_states(self.model, [row.token_ids for row in rows])
            read = [self.task.features(*pair) for pair in zip(states, rows)]
        targets: Int[Tensor, " outputs"] = torch.cat([self.targets[index] for index in batch])
        inputs = F.dropout(torch.cat(read).to(self.head.weight), self.config.dropout)
        return LossSum(F.cross_entropy(self.head(inputs), targets.to(inputs.device), reduction="sum"), {})

    def validate(self, loop: Loop, model: nn.Module) -> dict[str, float]:
        """Score the dev set; what should fall is the negative score."""
        rows = [example.row for example in self.dev]
        found = predict(self.model, self.head, self.task, rows, self.config, self.features and self.features[1])
        self.scores.append(dev_score(self.task, self.dev, found))
        return {"loss": -self.scores[-1]}


def _check(task: Task, train: Sequence[Example], dev: Sequence[Example]) -> None:
    if not train or not dev:
        raise ConfigError(f"{task.name} has {len(train)} train and {len(dev)} dev utterances; both need some.")
    found = {int(target) for example in train for target in task.targets(*example)}
    if len(found) < 2:
        only = task.classes[found.pop()] if found else "none"
        raise ConfigError(
            f"All {len(train)} train utterances have one class for {task.name}, {only!r}: there is nothing to learn."
        )


def _width(model: Any) -> int:
    """What the final hidden states measure; OPT-350M projects them to another width than its layers'."""
    config = model.config.get_text_config(decoder=True)
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)
