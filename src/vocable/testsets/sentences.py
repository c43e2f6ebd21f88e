"""Right sentences against wrong ones: pairs like those of sBLIMP, from files.

    BLiMP's .jsonl files, or good<TAB>bad[<TAB>phenomenon] in any language -> planned pairs

BLiMP: Warstadt et al., 2020 (arXiv:1912.00582); spoken as sBLIMP in ZeroSpeech 2021 (arXiv:2011.11588). Pairs of our
own, with no file: sentence_maker.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vocable.audio.manifest import note_rejection
from vocable.errors import ConfigError
from vocable.files import read_text, split_lines
from vocable.testsets.plan import PlannedPair, SpokenText, check_count, draw_evenly


class SentencePair(NamedTuple):
    """Two sentences that differ in one point of grammar."""

    id: str
    good: str
    bad: str
    phenomenon: str
    type: str
    """A kind within the phenomenon; BLiMP's UID."""


class ReadSentences(NamedTuple):
    """The pairs of some files, and how many lines were left out."""

    pairs: list[SentencePair]
    num_bad_lines: int


def read_sentence_pairs(path: Path, strict: bool = False) -> ReadSentences:
    """Read a BLiMP file or a folder of them (.jsonl), or a table (.tsv); bad lines are logged with their number.

    Raises:
        ConfigError: nothing is there, or no line is usable.
        ManifestError: with `strict`, a bad line.
    """
    path = Path(path)
    files = sorted([*path.glob("*.jsonl"), *path.glob("*.tsv")]) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ConfigError(f"{path}: no such file, or a folder without .jsonl and .tsv files.")
    pairs: list[SentencePair] = []
    seen: set[str] = set()
    num_bad = 0
    for file in files:
        for number, line in enumerate(split_lines(read_text(file)), start=1):
            if not line.strip() or (number == 1 and line.startswith("good\tbad")):
                continue
            pair = _from_json(line, file, number) if file.suffix == ".jsonl" else _from_columns(line, file, number)
            if isinstance(pair, SentencePair) and pair.id in seen:
                pair = f"The id {pair.id!r} occurs twice."
            if isinstance(pair, str):
                note_rejection(file, None, None, pair, number, strict=strict, rejections=None)
                num_bad += 1
                continue
            seen.add(pair.id)
            pairs.append(pair)
    if not pairs:
        raise ConfigError(f"{path}: none of its {num_bad} lines is a sentence pair: {_LAYOUTS}.")
    return ReadSentences(pairs, num_bad)


_LAYOUTS = "BLiMP's .jsonl has sentence_good and sentence_bad, a .tsv good<TAB>bad[<TAB>phenomenon]"


def plan_sentence_pairs(
    pairs: Iterable[SentencePair], num_pairs: int | None, seed: int = 0, max_words: int | None = None
) -> list[PlannedPair]:
    """Draw pairs evenly from the phenomena, and within them from their types.

    Args:
        max_words: Pairs with a longer sentence are left out.

    Raises:
        ConfigError: no pair is short enough, or `num_pairs` is below one.
    """
    check_count("num_pairs", num_pairs)
    short = [p for p in pairs if max_words is None or max(len(p.good.split()), len(p.bad.split())) <= max_words]
    if not short:
        raise ConfigError(f"max_words is {max_words}: no sentence pair is as short as that.")
    by_type = draw_evenly(short, None, key=lambda pair: (pair.phenomenon, pair.type), seed=seed)
    return [
        PlannedPair(
            id=pair.id,
            positive=(SpokenText(text=pair.good),),
            negative=(SpokenText(text=pair.bad),),
            group={"phenomenon": pair.phenomenon, "type": pair.type, "sentence": pair.id},
            turn=turn,
        )
        for turn, pair in enumerate(_in_turn(by_type)[:num_pairs])
    ]


def _in_turn(pairs: Sequence[SentencePair]) -> list[SentencePair]:
    """One of every phenomenon, then the next of every one: phenomena with many types are not drawn more often."""
    rows: dict[str, list[SentencePair]] = {}
    for pair in pairs:
        rows.setdefault(pair.phenomenon, []).append(pair)
    turns = max(map(len, rows.values()))
    return [row[turn] for turn in range(turns) for row in rows.values() if turn < len(row)]


def _from_json(line: str, file: Path, number: int) -> SentencePair | str:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg})."
    if not isinstance(row, dict):
        return "not an object with sentence_good and sentence_bad."
    good, bad = row.get("sentence_good"), row.get("sentence_bad")
    kind = str(row.get("UID") or file.stem)
    name = f"{kind}-{row.get('pairID', row.get('pair_id', number))}"
    return _checked(name, good, bad, str(row.get("linguistics_term") or kind), kind)


def _from_columns(line: str, file: Path, number: int) -> SentencePair | str:
    columns = [part.strip() for part in line.split("\t")]
    if len(columns) not in (2, 3):
        return f"{len(columns)} columns; good<TAB>bad[<TAB>phenomenon] has 2 or 3."
    phenomenon = columns[2] if len(columns) == 3 and columns[2] else file.stem
    return _checked(f"{file.stem}-{number}", columns[0], columns[1], phenomenon, phenomenon)


def _checked(name: str, good: Any, bad: Any, phenomenon: str, kind: str) -> SentencePair | str:
    for label, sentence in (("good", good), ("bad", bad)):
        if not isinstance(sentence, str) or not any(char.isalnum() for char in sentence):
            return f"the {label} sentence is {sentence!r}; it must have a word."
    if good.split() == bad.split():
        return f"both sentences are {good!r}."
    return SentencePair(name, good.strip(), bad.strip(), phenomenon, kind)
