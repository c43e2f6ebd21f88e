"""Held-out loss of the language models, beside models that only count units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vocable.evaluation.bootstrap import Interval, bootstrap_ratio
from vocable.lm.ngram import NgramLM
from vocable.lm.packed import enable_packing
from vocable.lm.scoring import token_nll
from vocable.lm.spoken import SpokenLM
from vocable.systems import twist
from vocable.tokens.shards import TokenShards
from vocable.types import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLoss:
    """Loss of one model on one set of utterances. Start symbol given, end symbol scored."""

    model: str
    speech: str
    num_utterances: int
    nats_per_unit: float
    interval: Interval | None
    """95 %, over utterances."""
    nats_per_second: float
    """Per second of audio: the number that can be compared between tokenizers."""
    difference: float | None = None
    """Nats per unit less than the cold start on the same utterances (negative: better)."""
    difference_interval: Interval | None = None


def held_out_losses(
    lms: Mapping[str, SpokenLM],
    train_shards: TokenShards,
    test_shards: TokenShards,
    is_new_voice: Callable[[Utterance], bool],
    seed: int,
) -> list[HeldOutLoss]:
    """Score every model, and unigram and bigram tables, on test utterances of known and of new voices."""
    layout = twist.build_layout(train_shards.card["codebook_size"])
    frame_rate = train_shards.card["frame_rate"]
    train = twist.build_sequences(train_shards, layout, frame_rate)
    pairs = list(test_shards)
    groups = {
        "known voices": [pair for pair in pairs if not is_new_voice(pair[0])],
        "new voices": [pair for pair in pairs if is_new_voice(pair[0])],
    }
    if not groups["new voices"]:
        groups = {"held-out recordings": pairs}
    size = layout.vocabulary.size
    tables = {name: NgramLM(train.token_ids, size, order) for name, order in (("unigram", 1), ("bigram", 2))}
    results = []
    for speech, members in groups.items():
        documents = twist.build_sequences(members, layout, frame_rate)
        counts = [len(ids) - 1 for ids in documents.token_ids]
        sums = {name: [float(table.nll(ids).sum()) for ids in documents.token_ids] for name, table in tables.items()}
        for name, lm in lms.items():
            enable_packing(lm.model)
            units = [ids[1:-1] for ids in documents.token_ids]
            sums[name] = [float(losses.double().sum()) for losses in token_nll(lm.model, units, "bos_eos")]
        results += [_loss(name, speech, sums, counts, sum(documents.seconds), seed) for name in (*tables, *lms)]
    return results


def _loss(
    name: str, speech: str, sums: Mapping[str, Sequence[float]], counts: Sequence[int], seconds: float, seed: int
) -> HeldOutLoss:
    difference, interval = None, None
    if name == "warm" and "cold" in sums:
        below = (np.array(sums["warm"]) - np.array(sums["cold"])).tolist()
        difference = sum(below) / sum(counts)
        interval = bootstrap_ratio(below, counts, seed=seed)
    return HeldOutLoss(
        model=name,
        speech=speech,
        num_utterances=len(counts),
        nats_per_unit=sum(sums[name]) / sum(counts),
        interval=bootstrap_ratio(sums[name], counts, seed=seed),
        nats_per_second=sum(sums[name]) / seconds,
        difference=difference,
        difference_interval=interval,
    )
