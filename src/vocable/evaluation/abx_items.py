"""What ABX compares: phones in context, where they are spoken, and which of them make a cell.

    .item file, or a manifest with phones  ->  items (file, onset, offset, phone, neighbours, speaker)  ->  cells
    item + frames of its file  ->  the frames whose centres lie inside

Layout of the file and choice of cells: ZeroSpeech 2021 (Nguyen et al., 2020, arXiv:2011.11588).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from vocable.errors import ConfigError
from vocable.evaluation.metrics.abx import AbxCell
from vocable.evaluation.phone_labels import SILENCES, utterance_phones
from vocable.files import read_text, split_lines
from vocable.types import Utterance

if TYPE_CHECKING:
    from torch import Tensor

Speakers = Literal["within", "across"]
Context = Literal["within", "any"]
Span = Literal["triphone", "phone"]

COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
ADJOINING_SECONDS = 0.025
"""Phones further apart than this are not neighbours."""


class AbxItem(NamedTuple):
    """One token: a stretch of a file, its phone, and the phones beside it."""

    file: str
    onset: float
    """Seconds, of the stretch that is compared: of the whole triphone in the files of ZeroSpeech 2021."""
    offset: float
    phone: str
    previous: str
    following: str
    speaker: str


def read_item_file(path: Path) -> list[AbxItem]:
    """Read a file in the layout of ZeroSpeech: a header `#file onset offset #phone prev-phone next-phone speaker`.

    Raises:
        ConfigError: the file is missing, has another header, a line with other columns, or no item.
    """
    path = Path(path)
    lines = split_lines(read_text(path))
    header = tuple(lines[0].split()) if lines else ()
    if set(header) != set(COLUMNS) or len(header) != len(COLUMNS):
        raise ConfigError(f"{path}: the first line is {' '.join(header)!r}; expected {' '.join(COLUMNS)!r}.")
    items = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != len(header):
            raise ConfigError(f"{path}, line {number}: {len(parts)} columns; the header has {len(header)}.")
        row = dict(zip(header, parts))
        try:
            onset, offset = float(row["onset"]), float(row["offset"])
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}; onset and offset are seconds.") from error
        if not 0 <= onset <= offset < math.inf:
            raise ConfigError(f"{path}, line {number}: onset {onset:g} s, offset {offset:g} s is no stretch of time.")
        items.append(AbxItem(row["#file"], onset, offset, *(row[name] for name in COLUMNS[3:])))
    if not items:
        raise ConfigError(f"{path}: holds no item.")
    return items


def items_from_manifest(utterances: Iterable[Utterance], span: Span = "triphone") -> list[AbxItem]:
    """Make items of all phones that have a phone on both sides, of utterances with phones and a speaker.

    Args:
        utterances: manifest lines with `phones` (see `phone_labels`); others give no item.
        span: what is compared, the phone with both neighbours (as in ZeroSpeech 2021) or the phone alone.

    Raises:
        ManifestError: phones are not as described.
    """
    items = []
    for utterance in utterances:
        phones = utterance_phones(utterance)
        if not phones or utterance.speaker is None:
            continue
        for before, here, after in zip(phones, phones[1:], phones[2:]):
            gaps = here.start - before.end, after.start - here.end
            if max(gaps) > ADJOINING_SECONDS or {before.phone, here.phone, after.phone} & set(SILENCES):
                continue
            first, last = (before, after) if span == "triphone" else (here, here)
            items.append(
                AbxItem(utterance.id, first.start, last.end, here.phone, before.phone, after.phone, utterance.speaker)
            )
    return items


def cut_frames(frames: Tensor, item: AbxItem, frame_rate: float) -> Tensor | None:
    """Frames of a file whose centres, (i + 0.5) / frame_rate, lie in an item; None when there is none.

    Differs from the ZeroSpeech 2021 code, which leaves out the last such frame.
    """
    first = math.ceil(item.onset * frame_rate - 0.5 - 1e-6)
    last = math.floor(item.offset * frame_rate - 0.5 + 1e-6)
    cut = frames[max(first, 0) : last + 1] if last >= 0 else frames[:0]
    return cut if len(cut) else None


def plan_cells(
    items: Sequence[AbxItem],
    speakers: Speakers,
    context: Context = "within",
    max_group: int | None = 10,
    max_x_speakers: int | None = 5,
    seed: int = 0,
) -> list[AbxCell]:
    """Put items into cells: every ordered pair of phones that one speaker says in one context.

    Args:
        items: `AbxCell` names them by their place.
        speakers: whether X is of the speaker of A and B, or of each other speaker who says A there.
        context: compare only phones between the same neighbours, or any.
        max_group: at most so many tokens of a phone, context and speaker, drawn once for all cells.
        max_x_speakers: at most so many speakers of X for each A and B, drawn.

    Differs from the ZeroSpeech 2021 code: that draws tokens anew for every cell.
    """
    generator = np.random.default_rng(seed)
    groups: dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]] = defaultdict(lambda: defaultdict(dict))
    for (place, phone, speaker), tokens in sorted(_group(items, context).items()):
        if max_group is not None and len(tokens) > max_group:
            tokens = sorted(generator.permutation(tokens)[:max_group].tolist())
        groups[place][phone][speaker] = tuple(tokens)
    cells = []
    for place, by_phone in groups.items():
        for (phone_a, tokens_a), (phone_b, tokens_b) in itertools.permutations(by_phone.items(), 2):
            for speaker in (speaker for speaker in tokens_a if speaker in tokens_b):
                a, b = tokens_a[speaker], tokens_b[speaker]
                for other in _speakers_of_x(tokens_a, speaker, speakers, max_x_speakers, generator):
                    cells.append(AbxCell(phone_a, phone_b, place, speaker, other, a, b, tokens_a[other]))
    return cells


def _group(items: Sequence[AbxItem], context: Context) -> dict[tuple[tuple[str, str], str, str], list[int]]:
    groups = defaultdict(list)
    for index, item in enumerate(items):
        place = (item.previous, item.following) if context == "within" else ("", "")
        groups[place, item.phone, item.speaker].append(index)
    return groups


def _speakers_of_x(
    tokens: dict[str, tuple[int, ...]],
    speaker: str,
    speakers: Speakers,
    max_x_speakers: int | None,
    generator: np.random.Generator,
) -> list[str]:
    """Who may say X: within speakers, the speaker of A, who must say it twice."""
    if speakers == "within":
        return [speaker] if len(tokens[speaker]) > 1 else []
    others = [other for other in tokens if other != speaker]
    if max_x_speakers is not None and len(others) > max_x_speakers:
        others = sorted(generator.permutation(others)[:max_x_speakers].tolist())
    return others
