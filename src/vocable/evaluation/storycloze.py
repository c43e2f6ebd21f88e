"""Spoken and topic StoryCloze: does the model prefer the ending that fits the story?

    spoken  the wrong ending was written for the same story: needs common sense
    topic   the wrong ending is that of another story: needs to keep the topic

Source: TWIST (Hassid et al., 2023, arXiv:2305.13009), section 4; the cross-modal form, with context and ending in
different modalities, is that of SpiRit-LM (Nguyen et al., 2024, arXiv:2402.05755).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vocable.errors import ManifestError
from vocable.evaluation.pairs import PairItem, PairSet, Segment
from vocable.evaluation.pairs.benchmark import PairBenchmark, PairsConfig
from vocable.evaluation.pairs.gold_csv import WAVE
from vocable.evaluation.pairs.tables import accuracy_in_clusters
from vocable.evaluation.results import Score
from vocable.types import Utterance


def read_storycloze(folder: Path, version: Literal["spoken", "topic"] | None = None) -> PairSet:
    """Read the published layouts: <id>_correct.wav and <id>_incorrect.wav, in `folder` or in its subfolders.

    In the cross-modal layout these are the endings alone, the context is <id>_mutual.wav, and each has its .txt. A
    folder that holds both versions, as sSC/ and tSC/, gives pairs of both: a score for each, and one over all.

    Args:
        folder: of the unpacked archive, or above those of both versions.
        version: "spoken" or "topic"; None takes it from the names of the folders (sSC, tSC) around each file, the
            nearest first, if one says it. Files of one name in both versions are of one story.

    Raises:
        ManifestError: no pair is there.
    """
    folder = Path(folder)
    files = {path.with_suffix(""): path for path in sorted(folder.rglob("*")) if path.suffix.lower() in WAVE}
    items, utterances, excluded = [], dict[str, Utterance](), Counter[str]()
    for stem in sorted({stem for path in files if (stem := _without_role(path)) is not None}, key=str):
        found = {role: files.get(Path(f"{stem}_{role}")) for role in ("mutual", "correct", "incorrect")}
        if found["correct"] is None or found["incorrect"] is None:
            excluded["one half is missing"] += 1
            continue
        pair = str(stem.relative_to(folder))
        named, place = (version, folder) if version else _version_by_name(stem, folder)
        for role, path in found.items():
            if path is not None:
                name = f"{pair}_{role}"
                utterances[name] = Utterance(id=name, audio=path, text=_text_beside(path), language="en")
        context = (Segment(speech=f"{pair}_mutual"),) if found["mutual"] is not None else ()
        items.append(
            PairItem(
                id=pair,
                positive=(*context, Segment(speech=f"{pair}_correct")),
                negative=(*context, Segment(speech=f"{pair}_incorrect")),
                group={"story": str(stem.relative_to(place)), **({"version": named} if named else {})},
            )
        )
    if not items:
        raise ManifestError(
            f"{folder}: no <id>_correct.wav beside <id>_incorrect.wav. Point --data at the folder with the wav files."
        )
    card = {"layout": "StoryCloze", "source": str(folder)}
    return PairSet(benchmark="storycloze", items=items, utterances=utterances, card=card, excluded=excluded)


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


def _without_role(path: Path) -> Path | None:
    for role in ("_mutual", "_incorrect", "_correct"):
        if path.name.endswith(role):
            return path.with_name(path.name.removesuffix(role))
    return None


def _text_beside(path: Path) -> str | None:
    written = path.with_suffix(".txt")
    return written.read_text(encoding="utf-8").strip() if written.is_file() else None


VERSION_WORDS = ({"ssc": "spoken", "tsc": "topic"}, {"spoken": "spoken", "topic": "topic"})
"""Versions by the names of folders; the published abbreviations go before the words."""


def _version_by_name(stem: Path, root: Path) -> tuple[str | None, Path]:
    """The version that a folder around the pair names, and that folder; `root` where none below it does.

    The parent of `root` is asked too (sSC/wav); a name that says both versions says neither.
    """
    below = [parent for parent in stem.parents if parent.is_relative_to(root)]
    for words in VERSION_WORDS:
        for folder in (*below, root.absolute().parent):
            name = folder.absolute().name.lower()
            found = {version for word, version in words.items() if word in name}
            if len(found) == 1:
                return found.pop(), folder if folder in below else root
    return None, root


class StoryCloze(PairBenchmark):
    """Right against wrong endings of spoken stories (spoken and topic StoryCloze; cross-modal too).

    DATA is a folder of <id>_correct.wav and <id>_incorrect.wav (with <id>_mutual.wav and .txt files in the cross-modal
    archives), or a set of your own, made with 'vocable evaluate build stories'.

    vocable evaluate storycloze data/storycloze --model runs/twist --out results
    """

    name, Config = "storycloze", PairsConfig
    read, score_items = staticmethod(read_storycloze), staticmethod(storycloze_scores)
