"""Bring results of several models together: the same benchmark, the same conventions, the same items.

    {"warm": swuggy.json, "cold": swuggy.json}  ->  rows of the items that both have, in one order

Two numbers from two result files may differ because of the items or the conventions rather than the models. So what
only one result has is left out and counted, and what was not measured alike is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocable.errors import ConfigError
from vocable.evaluation.results import EvaluationResult, load_result
from vocable.evaluation.sblimp import SENTENCE

Items = Sequence[Mapping[str, Any]]

GROUP_COLUMNS = ("phenomenon", "type", "band", "version", "task", "kind", "condition", "voice", "speaker", "language")
CONTENT_COLUMNS = ("word", "sentence", "story", "context", "recording")
"""Items that share one of these say the same in several voices, or were cut from the same: one piece of evidence."""
CONTENT_KEYS = {"sentence": SENTENCE}
"""Contents whose column alone does not name them: sentences are numbered within their type."""
OF_THE_MODEL = (
    *("model", "lm", "language_model", "tokenizer", "tokenizer_encoder", "judge_and_tokenizer_encoder", "vocoder"),
    *("after", "after_text_lm"),  # of retention
    *("layout", "voice", "intervals", "num_utterances", "device", "dtype", "batch_size", "num_resamples"),
    *("stream", "codebook_size", "codebook_sizes", "frame_rate", "collapsed"),  # of a tokenizer
)
"""Conventions that may differ: they describe what is compared, or change no number of an item."""


def load_results(paths: Sequence[Path], names: Sequence[str] | None = None) -> dict[str, EvaluationResult]:
    """Read results of one benchmark, each under a name: `names`, or what differs in their paths.

    Raises:
        ConfigError: fewer than two, one twice, of different benchmarks, or names that do not fit.
    """
    places = [Path(path).resolve() for path in paths]
    if len(places) < 2:
        raise ConfigError(f"{len(places)} result given: a comparison needs two or more.")
    twice = [str(path) for path, count in Counter(places).items() if count > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice. A result cannot be compared with itself.")
    names = list(names) if names is not None else model_names(places)
    if len(names) != len(places) or len(set(names)) < len(names):
        raise ConfigError(f"names are {', '.join(names)}: give {len(places)}, one for each result, all different.")
    results = {name: load_result(path) for name, path in zip(names, places)}
    kinds = {name: result.benchmark for name, result in results.items()}
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise ConfigError(f"The results are of different benchmarks ({shown}). Compare results of one benchmark.")
    return results


def model_names(places: Sequence[Path]) -> list[str]:
    """The shortest parts of the folders' names that tell the results apart; the file's name where folders do not.

    A result is often in a folder of its run, runs/warm/eval; what all of them end with is left out.
    """
    folders = [place.parent.parts for place in places]
    for length in range(1, max(map(len, folders)) + 1):
        ends = [parts[-length:] for parts in folders]
        if len(set(ends)) == len(ends):
            while len({parts[-1] for parts in ends}) == 1 and len(ends[0]) > 1:
                ends = [parts[:-1] for parts in ends]
            return ["/".join(parts).lstrip("/") for parts in ends]
    return ["/".join(place.with_suffix("").parts[-2:]) for place in places]


def differing_conventions(results: Mapping[str, EvaluationResult]) -> dict[str, dict[str, Any]]:
    """Find what was not measured alike: switches and judges' weights, with each model's value."""
    described = {}
    for name, result in results.items():
        judges = {f"weights of {role}": weights for role, weights in result.weights.items() if role not in OF_THE_MODEL}
        described[name] = dict(_switches(result.conventions)) | judges
        if "pairs" in result.fingerprints:
            described[name]["pairs (what they say)"] = result.fingerprints["pairs"]
    keys = dict.fromkeys(key for values in described.values() for key in values)
    found = {key: {name: values.get(key) for name, values in described.items()} for key in keys}
    return {key: values for key, values in found.items() if not _all_alike([*values.values()])}


def _all_alike(values: Sequence[Any]) -> bool:
    """Whether values are equal; weights are when their hashes are, by whatever name they were asked for."""
    plain = [value["sha256"] if isinstance(value, Mapping) and value.get("sha256") else value for value in values]
    return all(value == plain[0] for value in plain)


def _switches(conventions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Conventions that must agree; those within a convention under dotted names."""
    for key, value in conventions.items():
        if key in OF_THE_MODEL:
            continue
        if isinstance(value, Mapping):
            yield from _switches(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def common_items(results: Mapping[str, EvaluationResult]) -> tuple[dict[str, list[Mapping[str, Any]]], Counter[str]]:
    """Rows of the items that all results have, in the order of the first; what was left out is counted.

    Raises:
        ConfigError: an id stands twice in one result, or no item is in all of them.
    """
    rows = {name: _by_id(name, result.items) for name, result in results.items()}
    first = next(iter(rows.values()))
    shared = [key for key in first if all(key in table for table in rows.values())]
    excluded: Counter[str] = Counter()
    for name, table in rows.items():
        if len(table) > len(shared):
            excluded[f"in {name}, but not in all results"] = len(table) - len(shared)
    alike = [key for key in shared if len({_description(table[key]) for table in rows.values()}) == 1]
    if len(alike) < len(shared):
        excluded["same id, but another voice, group or reference text"] = len(shared) - len(alike)
    if not alike:
        counts = ", ".join(f"{name}: {len(table)}" for name, table in rows.items())
        example = ", ".join(f"{name}: {next(iter(table), 'none')!r}" for name, table in rows.items())
        reason = f" ({len(shared)} share their id, but not their description)" if shared else ""
        raise ConfigError(
            f"The results have no item in common{reason}. Items: {counts}; first ids: {example}. "
            "Evaluate both models on the same data."
        )
    return {name: [table[key] for key in alike] for name, table in rows.items()}, excluded


def _by_id(name: str, items: Items) -> dict[str, Mapping[str, Any]]:
    counts = Counter(str(item["id"]) for item in items)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(f"{name}: {len(twice)} ids stand more than once, {twice[0]!r} first; items cannot be paired.")
    return {str(item["id"]): item for item in items}


def _description(item: Mapping[str, Any]) -> tuple:
    own_text = item.get("reference_source", "manifest") == "manifest"
    columns = (*GROUP_COLUMNS, *CONTENT_COLUMNS, *(("reference",) if own_text else ()))
    return tuple(item.get(column) for column in columns)


def unlike_message(differing: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which conventions differ, with every model's value, and what to do."""
    lines = [
        f"{key} is " + ", ".join(f"{_short(value)} in {name}" for name, value in values.items())
        for key, values in differing.items()
    ]
    return (
        f"The results were not measured alike: {'; '.join(lines)}. Evaluate again with equal settings, or compare all "
        "the same with --conventions allow: the difference may then be one of conventions."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
