"""Read gold.csv of the ZeroSpeech 2021 benchmarks: one row a wav file, right and wrong ones marked.

    id, filename, voice, ..., correct     ->     pairs of files that agree in id and voice

The published scorer pairs rows by their order among the right and the wrong ones, so that a sorted file is scored
wrongly without a word; here rows are joined by what they say they are.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vocable.errors import ManifestError
from vocable.evaluation.pairs.items import PairItem, PairSet, Segment
from vocable.types import Utterance

WAVE = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def find_gold(folder: Path, task: str, split: str) -> Path:
    """Return gold.csv of a task, in `folder` itself, or where the published archive has it: <task>/<split>/gold.csv.

    Raises:
        ManifestError: there is none; the message names the places looked at.
    """
    folder = Path(folder)
    places = [folder / "gold.csv", folder / split / "gold.csv", folder / task / split / "gold.csv"]
    for place in places:
        if place.is_file():
            return place
    raise ManifestError(
        f"{folder}: no gold.csv for {task} ({split}). Looked at: {', '.join(map(str, places))}. Point --data at the "
        "folder of the unpacked benchmark; test splits are published without gold.csv."
    )


def read_gold(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a gold file.

    Raises:
        ManifestError: it lacks one of the `needed` columns, or has no rows.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in needed if rows and name not in rows[0]]
    if not rows or missing:
        raise ManifestError(f"{path}: {f'lacks the columns {missing}' if missing else 'holds no rows'}.")
    return rows


def pairs_from_gold(
    benchmark: str, path: Path, rows: Sequence[Mapping[str, str]], keys: Sequence[str], group: Mapping[str, str]
) -> PairSet:
    """Join right and wrong rows that agree in `keys` (the voice among them).

    A pair without one half, or with two of a kind, is left out and counted; so is one whose audio file is not there.

    Args:
        path: of gold.csv; audio files lie beside it.
        keys: columns that name a pair.
        group: columns to keep, and the name of each in the items.
    """
    halves: dict[tuple[str, ...], dict[str, list[Mapping[str, str]]]] = {}
    for row in rows:
        halves.setdefault(tuple(row[key] for key in keys), {"1": [], "0": []})[_correct(path, row)].append(row)
    audio = {file.stem: file for file in path.parent.iterdir() if file.suffix.lower() in WAVE}
    items, utterances, excluded = [], dict[str, Utterance](), Counter[str]()
    for key, found in halves.items():
        reason = _why_left_out(found, audio)
        if reason:
            excluded[reason] += 1
            continue
        right, wrong = found["1"][0], found["0"][0]
        for row in (right, wrong):
            utterances[row["filename"]] = Utterance(
                id=row["filename"],
                audio=audio[row["filename"]],
                speaker=row.get("voice") or None,
                text=row.get("transcription") or row.get("word") or None,
            )
        items.append(
            PairItem(
                id="/".join(key),
                positive=(Segment(speech=right["filename"]),),
                negative=(Segment(speech=wrong["filename"]),),
                voice=right.get("voice") or None,
                group={name: right[column] for column, name in group.items() if right.get(column)},
            )
        )
    card = {"layout": "ZeroSpeech 2021", "source": str(path)}
    return PairSet(benchmark=benchmark, items=items, utterances=utterances, card=card, excluded=excluded)


def _correct(path: Path, row: Mapping[str, str]) -> str:
    value = str(row["correct"]).strip().removesuffix(".0")
    if value not in ("0", "1"):
        raise ManifestError(f"{path}: the row of {row.get('filename')!r} has correct={value!r}; it must be 0 or 1.")
    return value


def _why_left_out(found: Mapping[str, Sequence[Mapping[str, str]]], audio: Mapping[str, Path]) -> str | None:
    if not found["1"] or not found["0"]:
        return "one half is missing"
    if len(found["1"]) > 1 or len(found["0"]) > 1:
        return "more than one file for a half"
    if any(row["filename"] not in audio for half in found.values() for row in half):
        return "an audio file is missing"
    return None
