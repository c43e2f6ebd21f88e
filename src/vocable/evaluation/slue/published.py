"""Read SLUE-VoxCeleb (sentiment) and SLUE-VoxPopuli (entities) as they are published, into a labelled set.

    slue-voxceleb/   slue-voxceleb_fine-tune.tsv   id, normalized_text, sentiment, start_second, end_second, ...
                     fine-tune_raw/<id>.flac       (or fine-tune/<id>.flac, where the toolkit has cut them)
    slue-voxpopuli/  slue-voxpopuli_fine-tune.tsv  id, normalized_text, normalized_ner, ...
                     fine-tune/<id>.ogg

and the same for dev and test. Layout: github.com/asappresearch/slue-toolkit (its README, data/README.md and
prepare_*.py); the tables themselves were not at hand when this was written. Columns are found by name; .csv files
with commas are read too. Labels of both tables are on `normalized_text`. Data from before v0.2 (2022) have another
dev split.
"""

from __future__ import annotations

import ast
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.slue.labelled_set import LabelledSet, Labels, read_entities, read_sentiment
from vocable.files import read_text
from vocable.types import Utterance

PUBLISHED_SPLITS: Mapping[str, str] = {"train": "fine-tune", "dev": "dev", "test": "test"}
"""Our name of each split, and theirs."""
AUDIO = (".flac", ".ogg", ".wav")
LICENCES = {"voxceleb": "CC-BY-4.0", "voxpopuli": "CC0-1.0"}


def read_published(folder: Path, undecided: str = "neutral", strict: bool = False) -> LabelledSet:
    """Read a folder with the tables of one of the two sets; which one, the names of the files say.

    A row with an unknown label, a span outside its text, an id that occurs twice or no audio is left out and counted in
    `excluded`. A test table without labels (`..._test_blind.tsv`) is not read.

    Raises:
        ConfigError: the folder has no table, or one that lacks a split, or `undecided` is unknown.
        ManifestError: a column is missing, no row is usable, or with `strict` a row is not.
    """
    folder = Path(folder)
    name = next((name for name in LICENCES if list(folder.glob(f"slue-{name}_*.[ct]sv"))), None)
    if name is None:
        raise ConfigError(
            f"{folder}: neither slue-voxceleb_*.tsv nor slue-voxpopuli_*.tsv is here. Download SLUE with the scripts "
            "of its toolkit, and name the folder that holds the tables."
        )
    labels: dict[str, Labels] = {}
    utterances: dict[str, Utterance] = {}
    excluded: Counter[str] = Counter()
    for split, published in PUBLISHED_SPLITS.items():
        path = _table(folder, f"slue-{name}_{published}")
        for number, row in _rows(path, COLUMNS[name]):
            try:
                if row["id"] in labels:
                    raise ManifestError("The id occurs twice.")
                label = READERS[name](row, split, undecided)
                if label.sentiment is None and label.entities is None:
                    excluded["undecided sentiment"] += 1
                    continue
                utterances[label.id] = _utterance(row, folder, published, name)
            except ManifestError as error:
                if strict:
                    raise ManifestError(f"{path}, line {number}, id {row['id']!r}: {error}") from error
                excluded[_kind(str(error))] += 1
                continue
            labels[label.id] = label
    if not labels:
        raise ManifestError(f"{folder}: no row of slue-{name} is usable: {dict(excluded)}.")
    card = {"name": f"slue-{name}", "licence": LICENCES[name], "undecided": undecided}
    return LabelledSet(labels=list(labels.values()), utterances=utterances, card=card, excluded=excluded)


def parse_entities(text: str) -> list[list[Any]]:
    """Read a cell such as [['LAW', 86, 18]]; "None" and an empty cell are no entities.

    Raises:
        ManifestError: it is no such list.
    """
    if text.strip() in ("", "None", "[]", "nan"):
        return []
    try:
        rows = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ManifestError(f"The entities are not a list: {text[:60]!r}") from error
    if not isinstance(rows, list) or not all(isinstance(row, list | tuple) for row in rows):
        raise ManifestError(f"The entities are not a list of lists: {text[:60]!r}")
    return [list(row) for row in rows]


def _voxceleb(row: Mapping[str, str], split: str, undecided: str) -> Labels:
    sentiment = read_sentiment(row["sentiment"], undecided)
    return Labels(id=row["id"], split=split, text=row["normalized_text"], sentiment=sentiment)


def _voxpopuli(row: Mapping[str, str], split: str, undecided: str) -> Labels:
    text = row["normalized_text"]
    return Labels(
        id=row["id"], split=split, text=text, entities=read_entities(parse_entities(row["normalized_ner"]), text)
    )


READERS: Mapping[str, Callable[[Mapping[str, str], str, str], Labels]] = {
    "voxceleb": _voxceleb,
    "voxpopuli": _voxpopuli,
}
COLUMNS = {
    "voxceleb": ("id", "normalized_text", "sentiment", "start_second", "end_second"),
    "voxpopuli": ("id", "normalized_text", "normalized_ner"),
}


def _table(folder: Path, stem: str) -> Path:
    for ending in (".tsv", ".csv"):
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    if list(folder.glob(f"{stem}_blind.[ct]sv")):
        raise ConfigError(
            f"{folder}: {stem}_blind has no labels. The labels of the test splits have been public since January 2024: "
            f"put {stem}.tsv beside it."
        )
    raise ConfigError(f"{folder / stem}.tsv is missing; the splits are {', '.join(PUBLISHED_SPLITS.values())}.")


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path)), delimiter="\t" if path.suffix == ".tsv" else ",")
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise ManifestError(f"{path}: the columns {', '.join(missing)} are missing; there are {reader.fieldnames}.")
    for row in reader:
        yield reader.line_num, {key: value or "" for key, value in row.items() if isinstance(key, str)}


def _utterance(row: Mapping[str, str], folder: Path, split: str, name: str) -> Utterance:
    cut, raw = _audio(folder / split, row["id"]), _audio(folder / f"{split}_raw", row["id"])
    start, duration = 0.0, None
    if cut is None and raw is not None:
        start, end = _second(row, "start_second"), _second(row, "end_second")
        if end <= start:
            raise ManifestError(f"The stretch is empty: {start:g} s to {end:g} s.")
        duration = end - start
    audio = cut or raw
    if audio is None:
        raise ManifestError("The audio is missing.")
    speaker = row.get("speaker_id", "")
    return Utterance(
        id=row["id"],
        audio=audio.resolve(),
        start=start,
        duration=duration,
        text=row["normalized_text"],
        language="en",
        speaker=None if speaker in ("", "None") else speaker,
        corpus=f"slue-{name}",
        licence=LICENCES[name],
    )


def _audio(folder: Path, id: str) -> Path | None:
    return next((path for ending in AUDIO if (path := folder / f"{id}{ending}").is_file()), None)


def _second(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row.get(column, ""))
    except ValueError as error:
        raise ManifestError(f"The {column} is {row.get(column)!r}, no number.") from error


def _kind(reason: str) -> str:
    """Return the kind of a reason, without the values in it, to count by."""
    kinds = {
        "The audio": "no audio file",
        "The sentiment": "unknown sentiment",
        "The entity tag": "unknown entity tag",
        "The entity": "entity outside its text",
        "The entities": "entities not readable",
        "The id": "id occurs twice",
    }
    return next((kind for start, kind in kinds.items() if reason.startswith(start)), "broken row")
