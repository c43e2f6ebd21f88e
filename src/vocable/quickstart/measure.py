"""Held-out loss of language models, beside tables that only count units, and whether it is below theirs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vocable.evaluation.results import Score, ratio_score
from vocable.lm.ngram import NgramCounts, NgramLM
from vocable.lm.spoken import Segment, SpokenLM
from vocable.quickstart.page import Table
from vocable.types import SpeechTokens

TABLES = {"unigram table": 1, "bigram table": 2, "trigram table": 3}
TO_BEAT = "bigram table"


class HeldOutLoss(NamedTuple):
    """Loss of one model on one set of utterances. Start symbol given, end symbol scored."""

    model: str
    speech: str
    num_utterances: int
    nats_per_unit: Score
    nats_per_second: float
    """Per second of audio: the number that can be compared between tokenizers."""
    above_table: Score
    """Nats per unit more than the bigram table on the same utterances (negative: better)."""


def held_out_losses(
    lms: Mapping[str, SpokenLM],
    counts: NgramCounts,
    groups: Mapping[str, Sequence[SpeechTokens]],
    frame_rate: float,
    seed: int,
) -> list[HeldOutLoss]:
    """Score tables of the training units, and language models with the same rows, on groups of utterances."""
    results, tables = [], {name: NgramLM(counts, order) for name, order in TABLES.items()}
    for speech, members in groups.items():
        documents = [[Segment(tokens=tokens)] for tokens in members]
        rows = [row.token_ids for row in next(iter(lms.values())).rows(documents)]
        sums = {name: [float(table.nll(row).sum()) for row in rows] for name, table in tables.items()}
        sums |= {name: [score.nll for score in lm.score(lm.rows(documents))] for name, lm in lms.items()}
        seconds = sum(tokens.num_frames for tokens in members) / frame_rate

        def per_unit(losses: Sequence[float], lengths: Sequence[int] = [len(row) - 1 for row in rows]) -> Score:
            return ratio_score(losses, lengths, better="lower", meaning="nats per unit", seed=seed)

        for name, losses in sums.items():
            above = per_unit([loss - table for loss, table in zip(losses, sums[TO_BEAT], strict=True)])
            mean = per_unit(losses)
            results.append(HeldOutLoss(name, speech, len(members), mean, sum(losses) / seconds, above))
    return results


def beats_table(losses: Sequence[HeldOutLoss], model: str) -> bool:
    """Whether a model is below the bigram table on all speech: one that is not has learnt less than counting does."""
    return all((loss.above_table.value or 0.0) < 0 for loss in losses if loss.model == model)


def loss_table(losses: Sequence[HeldOutLoss]) -> Table:
    """Show losses."""
    rows = []
    for loss in losses:
        above = "" if loss.model == TO_BEAT else loss.above_table.rounded(3)
        numbers = f"{loss.nats_per_second:.1f}", str(loss.num_utterances)
        rows.append((loss.speech, loss.model, loss.nats_per_unit.rounded(3), above, *numbers))
    note = (
        "Lower is better. Tables count the units that the model was trained on: alone, in pairs, in triples. Intervals "
        "(95 %) by bootstrap over utterances. Only nats per second may be compared with other tokenizers."
    )
    columns = ("speech", "model", "nats per unit", "more than the bigram table", "nats per second", "utterances")
    return Table(title="Loss on speech that was not trained on", columns=columns, rows=rows, note=note)
