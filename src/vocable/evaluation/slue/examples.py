"""From a labelled set to the rows of one task, in both modalities, the same utterances in each.

labels + tokens + text  ->  {"speech": examples, "text": examples} for train, dev and test; what is unusable is counted
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.evaluation.slue.finetune import Example
from vocable.evaluation.slue.labelled_set import LabelledSet
from vocable.evaluation.slue.labels import SPLITS, Labels
from vocable.evaluation.slue.rows import Modality, RowMaker, TaskRow
from vocable.evaluation.unusable import UnusableError
from vocable.types import SpeechTokens

Split = Mapping[Modality, Sequence[Example]]


class Speech(NamedTuple):
    """Tokens by utterance."""

    tokens: Mapping[str, SpeechTokens]
    frame_rate: float | None
    """Frames per second; needed for entities."""


class SlueExamples(NamedTuple):
    """The rows of one task."""

    splits: Mapping[str, Split]
    excluded: Mapping[str, int]
    """Utterances that were left out, by reason."""


def make_examples(
    labelled: LabelledSet,
    task: str,
    maker: RowMaker,
    speech: Speech,
    *,
    context_tokens: int | None = None,
    max_train: int | None = None,
    seed: int = 0,
) -> SlueExamples:
    """Make all rows of a task; an utterance that lacks one modality is left out of both, so that cells compare.

    Args:
        labelled: utterances and labels.
        task: "sentiment" or "entities".
        maker: for the language model.
        speech: tokens of the utterances.
        context_tokens: longest row that the model reads; longer ones are left out.
        max_train: at most so many train utterances, drawn by `seed`.
        seed: see `max_train`.

    Raises:
        ConfigError: a split has no usable utterance; the message names the reasons.
    """
    excluded: Counter[str] = Counter(labelled.excluded)
    splits: dict[str, Split] = {}
    for split in SPLITS:
        found = labelled.split(split, task)
        if split == "train" and max_train is not None and max_train < len(found):
            found = random.Random(seed).sample(found, max_train)
        reasons: Counter[str] = Counter()
        made: dict[Modality, list[Example]] = {modality: [] for modality in maker.modalities}
        for labels in found:
            try:
                rows = _rows(labelled, labels, task, maker, speech, context_tokens)
            except UnusableError as error:
                reasons[str(error)] += 1
                continue
            for modality, row in rows.items():
                made[modality].append(Example(row, labels))
        if not all(made.values()):
            why = "; ".join(f"{reason} ({count})" for reason, count in reasons.items()) or "none is labelled for it"
            raise ConfigError(f"No utterance of the split {split!r} can be used for {task}: {why}.")
        excluded += reasons
        splits[split] = made
    return SlueExamples(splits, dict(excluded))


def _rows(
    labelled: LabelledSet,
    labels: Labels,
    task: str,
    maker: RowMaker,
    speech: Speech,
    context_tokens: int | None,
) -> dict[Modality, TaskRow]:
    rows: dict[Modality, TaskRow] = {}
    utterance = labelled.utterances[labels.id]
    for modality in maker.modalities:
        if modality == "text":
            row = maker.written(labels.text)
        else:
            tokens = speech.tokens.get(labels.id)
            if tokens is None:
                raise UnusableError("no speech tokens")
            row = maker.spoken(utterance, labels.text, tokens, speech.frame_rate)
        if task == "entities" and not row.spans:
            raise UnusableError(
                "no word times, which entities in speech need: vocable align"
                if not utterance.words
                else "the words of the manifest are not those of the labelled text"
            )
        if context_tokens is not None and len(row.token_ids) > context_tokens:
            raise UnusableError(f"longer than the model's {context_tokens} positions")
        rows[modality] = row
    return rows
