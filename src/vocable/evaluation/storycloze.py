"""Spoken and topic StoryCloze: does the model prefer the ending that fits the story?

    spoken  the wrong ending was written for the same story: needs common sense
    topic   the wrong ending is that of another story: needs to keep the topic

Source: TWIST (Hassid et al., 2023, arXiv:2305.13009), section 4; the cross-modal form, with context and ending in
different modalities, is that of SpiRit-LM (Nguyen et al., 2024, arXiv:2402.05755).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from vocable.errors import ManifestError
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.evaluation.pairs.gold_csv import WAVE
from vocable.evaluation.pairs.tables import accuracy_in_clusters
from vocable.evaluation.results import Score
from vocable.types import Utterance

Modalities = Literal["S", "S->T", "T->S", "T"]
"""Of context and ending: speech, or text."""


def read_storycloze(folder: Path, version: Literal["spoken", "topic"] | None = None) -> PairSet:
    """Read the published layouts: <id>_correct.wav and <id>_incorrect.wav, in `folder` or in its subfolders.

    In the cross-modal layout these are the endings alone, the context is <id>_mutual.wav, and each has its .txt.

    Args:
        folder: of the unpacked archive.
        version: "spoken" or "topic"; None takes it from the folder's name (sSC, tSC), if that says it.

    Raises:
        ManifestError: no pair is there.
    """
    folder = Path(folder)
    files = {path.with_suffix(""): path for path in sorted(folder.rglob("*")) if path.suffix.lower() in WAVE}
    named = version or _version_by_name(folder)
    items, utterances, excluded = [], dict[str, Utterance](), dict[str, int]()
    for stem in sorted({_without_role(path) for path in files if _without_role(path) is not None}, key=str):
        found = {role: files.get(Path(f"{stem}_{role}")) for role in ("mutual", "correct", "incorrect")}
        if found["correct"] is None or found["incorrect"] is None:
            excluded["one half is missing"] = excluded.get("one half is missing", 0) + 1
            continue
        story = str(Path(str(stem)).relative_to(folder))
        for role, path in found.items():
            if path is not None:
                name = f"{story}_{role}"
                utterances[name] = Utterance(id=name, audio=path, text=_text_beside(path), language="en")
        context = (Segment(speech=f"{story}_mutual"),) if found["mutual"] is not None else ()
        items.append(
            PairItem(
                id=story,
                positive=(*context, Segment(speech=f"{story}_correct")),
                negative=(*context, Segment(speech=f"{story}_incorrect")),
                group={"story": story, **({"version": named} if named else {})},
            )
        )
    if not items:
        raise ManifestError(
            f"{folder}: no <id>_correct.wav beside <id>_incorrect.wav. Point --data at the folder with the wav files."
        )
    card = {"layout": "StoryCloze", "source": str(folder)}
    return PairSet(benchmark="storycloze", items=items, utterances=utterances, card=card, excluded=excluded)


def with_modalities(pair_set: PairSet, modalities: Modalities) -> PairSet:
    """Return the pairs with context (all but the last segment) and ending each as speech or as text.

    A pair that lacks a context, where the two differ, or a text, where one is needed, is left out and counted.

    Raises:
        ManifestError: `modalities` is unknown, or no pair is left.
    """
    if modalities not in get_args(Modalities):
        raise ManifestError(f"modalities is {modalities!r}; known: {', '.join(get_args(Modalities))}.")
    context, _, ending = modalities.partition("->")
    items, excluded = [], dict(pair_set.excluded)
    for item in pair_set.items:
        halves = []
        for half in (item.positive, item.negative):
            kinds = [context] * (len(half) - 1) + [ending or context]
            halves.append(tuple(_as(segment, kind, pair_set) for segment, kind in zip(half, kinds)))
        lacking = any(segment is None for half in halves for segment in half)
        too_short = bool(ending) and min(len(half) for half in halves) < 2
        if lacking or too_short:
            reason = "no context apart from the ending" if too_short else "an utterance has no text"
            excluded[reason] = excluded.get(reason, 0) + 1
            continue
        items.append(replace(item, positive=halves[0], negative=halves[1]))
    return replace(pair_set, items=items, excluded=excluded, card={**pair_set.card, "modalities": modalities})


def storycloze_scores(items: Sequence[Mapping[str, Any]], column: str) -> dict[str, Score]:
    """Return the accuracy over pairs, for each version apart where the set holds both.

    Intervals draw whole stories: pairs of one story, or of one story in several voices, are one piece of evidence.
    """
    versions: dict[str | None, list[Mapping[str, Any]]] = {}
    for item in items:
        versions.setdefault(item.get("version"), []).append(item)
    scores = {
        name: accuracy_in_clusters(members, column, "story", f"right endings preferred, version {name}")
        for name, members in versions.items()
        if name is not None
    }
    if len(versions) == 1 and scores:
        return scores
    return {"all": accuracy_in_clusters(items, column, "story", "right endings preferred"), **scores}


def _as(segment: Segment, kind: str, pair_set: PairSet) -> Segment | None:
    """The segment as speech ("S") or text ("T"); None where that form is not there."""
    if (kind == "S") == (segment.speech is not None):
        return segment
    if kind == "S" or segment.speech is None:
        return None
    text = pair_set.utterances[segment.speech].text
    return None if text is None else Segment(text=text)


def _without_role(path: Path) -> Path | None:
    for role in ("_mutual", "_incorrect", "_correct"):
        if path.name.endswith(role):
            return path.with_name(path.name.removesuffix(role))
    return None


def _text_beside(path: Path) -> str | None:
    written = path.with_suffix(".txt")
    return written.read_text(encoding="utf-8").strip() if written.is_file() else None


def _version_by_name(folder: Path) -> str | None:
    names: Iterable[str] = (part.lower() for part in (folder.name, folder.parent.name))
    for name in names:
        for word, version in (("tsc", "topic"), ("topic", "topic"), ("ssc", "spoken"), ("spoken", "spoken")):
            if word in name:
                return version
    return None
