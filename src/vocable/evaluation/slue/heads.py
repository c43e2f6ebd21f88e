"""What a head reads and says: one sentiment a row, or one tag a word; the same head for speech and for text.

    hidden states (positions, dim)  ->  pooled (1, dim)              ->  linear  ->  sentiment
                                    ->  positions of words (k, dim)  ->  linear  ->  tag each  ->  vote  ->  tag a word

SUTLM (Chou et al., 2023, arXiv:2310.08715) fine-tunes on one modality and tests on the other. Its heads are not known
to us; these are our choice: linear on the final hidden states, pooled for sentiment; for entities tags of tokens, so
that the head is defined for units and for text alike. A tagger on a causal model does not see what follows a token.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.evaluation.slue.labels import SENTIMENTS, Labels
from vocable.evaluation.slue.metrics import ENTITY_METRICS, SENTIMENT_METRICS, Found, Metric
from vocable.evaluation.slue.rows import NO_WORD, TaskRow
from vocable.evaluation.slue.words import OUTSIDE, WORD_TAGS, gold_entities, tag_words, tagged_entities
from vocable.lm.packed import hidden_states
from vocable.sequences.packing import token_budget_batches

Pooling = Literal["mean", "last"]


class Task(Protocol):
    """Sentiment or entities: what to read from a row, and what was meant."""

    name: str
    """As the field of `Labels`."""
    classes: tuple[str, ...]
    metrics: tuple[Metric, ...]
    """The headline first."""

    def features(self, states: Float[Tensor, "positions dim"], row: TaskRow) -> Float[Tensor, "outputs dim"]:
        """Return what the linear layer reads: one vector for each output of the row."""
        ...

    def targets(self, row: TaskRow, labels: Labels) -> Int[Tensor, " outputs"]:
        """Return the class of each output."""
        ...

    def predict(self, logits: Float[Tensor, "outputs classes"], row: TaskRow) -> Any:
        """Return what the outputs say about the utterance."""
        ...

    def gold(self, labels: Labels) -> Any:
        """Return what is right, in the form of `predict`."""
        ...

    def baseline(self, train: Sequence[Labels]) -> tuple[str, Any]:
        """Return what a system says that does not look at the utterance, and the name of that system."""
        ...


class SentimentTask:
    """One of three sentiments for each row."""

    name: str = "sentiment"
    classes: tuple[str, ...] = SENTIMENTS
    metrics: tuple[Metric, ...] = SENTIMENT_METRICS

    def __init__(self, pooling: Pooling = "mean") -> None:
        """Pool the states of all positions of a row (mean), or take the end symbol's, which has seen all (last)."""
        self.pooling: Pooling = pooling

    def features(self, states: Float[Tensor, "positions dim"], row: TaskRow) -> Float[Tensor, "outputs dim"]:
        """See `Task`."""
        return states.mean(dim=0, keepdim=True) if self.pooling == "mean" else states[-1:]

    def targets(self, row: TaskRow, labels: Labels) -> Int[Tensor, " outputs"]:
        """See `Task`."""
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
        """See `Task`."""
        return states[(row.words != NO_WORD).to(states.device)]

    def targets(self, row: TaskRow, labels: Labels) -> Int[Tensor, " outputs"]:
        """See `Task`."""
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
        task: which states are kept.
        rows: in any order.
        max_tokens: in one forward pass.
    """
    was_training = model.training
    model.eval()
    features: list[Tensor | None] = [None] * len(rows)
    for batch in token_budget_batches([len(row.token_ids) for row in rows], max_tokens):
        for index, states in zip(batch, hidden_states(model, [rows[index].token_ids for index in batch])):
            features[index] = task.features(states, rows[index]).cpu()
    model.train(was_training)
    return [found for found in features if found is not None]
