"""What texts of PELM are measured by, and how the measures of a run are summed up.

The model's columns and scores name the direction, those of an anchor the anchor too: `u2u_copy_rate` and
`u2u_true_copy_rate`, `copy_rate_u2u` and `copy_rate_u2u/true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vocable.evaluation.metrics.continuations import MEANS, score_name
from vocable.evaluation.metrics.perplexity import TextNLL, continuation_nll, perplexity_scores, text_nll
from vocable.evaluation.metrics.repetition import auto_bleu_gslm, auto_bleu_slam, copy_rate, nltk_words, plain_words
from vocable.evaluation.results import Score, column_mean, ratio_score
from vocable.lm.text_lm import TextLM

Items = Sequence[Mapping[str, Any]]
Empty = Literal["excluded", "prompt_alone"]

VIEWS = {
    "with_prompt": ("pelm", "prompt and continuation under the external model"),
    "given_prompt": ("pelm_continuation", "the continuation behind its prompt, prompt not scored"),
}
SUMMED_UP = ("copy_rate", "auto_bleu2_slam", "auto_bleu2_geometric", "empty", "num_words")


def measure(prompts: Sequence[str], texts: Sequence[str], text_lm: TextLM, empty: Empty) -> list[dict[str, Any]]:
    """Measure what one system said; a value is None where a text, or its prompt, holds no word.

    Where both together are longer than the external model's context, likelihoods are None, and `too_long` is 1.

    Args:
        prompts: as text.
        texts: continuations as text.
        text_lm: the external model.
        empty: whether a continuation without a word is left out, or scored as its prompt alone.
    """
    words, before = [plain_words(text) for text in texts], [plain_words(prompt) for prompt in prompts]
    long = [_is_too_long(text_lm, prompt, text) for prompt, text in zip(prompts, texts)]
    both = [bool(new and old) and not over for new, old, over in zip(words, before, long)]
    behind = continuation_nll(
        text_lm,
        [prompt if said else "" for prompt, said in zip(prompts, both)],
        [text if said else "" for text, said in zip(texts, both)],
    )
    alone = [
        empty == "prompt_alone" and not new and bool(old) and not over for new, old, over in zip(words, before, long)
    ]
    prompt_nll = text_nll(text_lm, [prompt if wanted else "" for prompt, wanted in zip(prompts, alone)])
    rows = []
    for text, new, old, over, found, bare in zip(texts, words, before, long, behind, prompt_nll, strict=True):
        given, whole = found if found is not None else (None, bare)
        rows.append(
            {
                "empty": int(not new),
                "prompt_empty": int(not old),
                "too_long": int(over),
                "num_words": len(new),
                "copy_rate": copy_rate(old, new),
                "auto_bleu2_slam": auto_bleu_slam(nltk_words(text)) if new else None,
                "auto_bleu2_geometric": auto_bleu_gslm(new) if new else None,
                "nll_with_prompt": whole.nll if whole else None,
                "tokens_with_prompt": whole.num_tokens if whole else None,
                "nll_given_prompt": given.nll if given else None,
                "tokens_given_prompt": given.num_tokens if given else None,
            }
        )
    return rows


def pelm_scores(
    items: Items, directions: Sequence[str], systems: Sequence[str], settings: Mapping[str, int]
) -> dict[str, Score]:
    """All scores: PELM of every direction first, each for the model and then for the anchors."""
    found: dict[str, dict[str, Score]] = {}
    for direction in directions:
        for system in systems:
            stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
            if f"{stem}transcript" not in items[0]:
                continue
            for name, score in _scores(items, stem, direction, settings).items():
                found.setdefault(name, {})[score_name(system, f"{name}_{direction}")] = score
    return {name: score for group in found.values() for name, score in group.items()}


def pelm_exclusions(items: Items, directions: Sequence[str], systems: Sequence[str]) -> dict[str, int]:
    """What no perplexity could be given for, by direction and system."""
    counts: dict[str, int] = {}
    for direction in directions:
        silent = sum(item[f"{direction}_prompt_empty"] for item in items)
        counts[f"{direction}: no word in the prompt, no perplexity"] = silent
        for system in systems:
            stem = f"{direction}_" if system == "model" else f"{direction}_{system}_"
            for column, what in (
                ("empty", "no word in the continuation"),
                ("too_long", "longer than the text LM reads"),
            ):
                counts[f"{direction}, {system}: {what}"] = sum(item.get(f"{stem}{column}", 0) for item in items)
    return {reason: count for reason, count in counts.items() if count}


def pelm_notes(
    items: Items, directions: Sequence[str], scores: Mapping[str, Score], units_to_text: str | None
) -> list[str]:
    """What a reader must know before using the numbers."""
    notes = []
    if units_to_text is not None and any("u" in direction for direction in directions):
        notes.append(f"Units became text by: {units_to_text}. Its errors are in every direction with units.")
    for direction in directions:
        empty = scores[f"empty_{direction}"].value or 0.0
        if empty > 0.1:
            notes.append(f"{direction}: {empty:.0%} of the model's continuations hold no word.")
        if _below(scores, f"pelm_{direction}/copy", f"pelm_{direction}"):
            notes.append(
                f"{direction}: repeating the prompt gets a lower PELM than the model; the score rewards copies."
            )
        if not _below(scores, f"pelm_continuation_{direction}", f"pelm_continuation_{direction}/random"):
            notes.append(f"{direction}: the model's continuations are no likelier than random words.")
    if len(items) < 30:
        notes.append(f"Only {len(items)} prompts: intervals are rough.")
    return notes


def _is_too_long(text_lm: TextLM, prompt: str, text: str) -> bool:
    """Whether prompt and text with a start symbol do not fit into the external model's context."""
    context = text_lm.context_tokens
    return context is not None and len(text_lm.token_ids(f"{prompt} {text}")) + 1 > context


def _below(scores: Mapping[str, Score], first: str, second: str) -> bool:
    """Whether both are known and the first is the lower one."""
    values = [scores[name].value if name in scores else None for name in (first, second)]
    return values[0] is not None and values[1] is not None and values[0] < values[1]


def _scores(items: Items, stem: str, direction: str, settings: Mapping[str, int]) -> dict[str, Score]:
    """The scores of one system in one direction, without the direction in their names."""
    scores: dict[str, Score] = {}
    for view, (name, meaning) in VIEWS.items():
        kept = [item for item in items if item[f"{stem}nll_{view}"] is not None]
        nlls = [item[f"{stem}nll_{view}"] for item in kept]
        counts = [item[f"{stem}tokens_{view}"] for item in kept]
        speakers = [item["speaker"] for item in kept]
        said = f"{meaning}; {direction}"
        if kept:
            texts = [TextNLL(nll, count) for nll, count in zip(nlls, counts)]
            averages = perplexity_scores(texts, speakers, meaning=f"perplexity of {said}", **settings)
            scores[name] = averages["token_weighted"]
            scores |= {f"{name}_{way}": averages[way] for way in ("geometric", "arithmetic")}
        else:
            scores[name] = Score(value=None, num_items=0, better="lower", meaning=f"perplexity of {said}")
        scores[f"log_{name}"] = ratio_score(
            nlls, counts, speakers, better="lower", meaning=f"nats per token of {said}", **settings
        )
    for name in SUMMED_UP:
        better, meaning = MEANS[name]
        said = f"{meaning}; {direction}"
        scores[name] = column_mean(items, f"{stem}{name}", better=better, meaning=said, **settings)
    return scores
