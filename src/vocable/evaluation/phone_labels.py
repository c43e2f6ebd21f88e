"""When each phone is spoken: read it from manifests, CTM and TSV files, and sample it at the centres of frames.

    phones (phone, start, end)  +  frame rate  ->  one label per frame, None where no phone is

Frame i of a tokenizer stands for the time (i + 0.5) / frame_rate. An aligner's labels are taken as they are: whether
stress is part of a phone, and whether silence is one, is the choice of whoever made them. TIMIT's 61 labels can be
folded into the 39 classes that papers count.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from vocable.corpora.timit import TIMIT_39
from vocable.errors import ConfigError, ManifestError
from vocable.files import read_text, split_lines
from vocable.recognition.stamps import ctm_stamps
from vocable.types import Phone, Utterance

TSV_HEADER = ("id", "start", "end", "phone")
SILENCES = ("sil", "SIL", "sp", "SP", "spn", "SPN", "<eps>", "", "pau", "<p:>", "silence", "h#", "epi")
"""Usual names of what is no phone, and no neighbour either."""
Fold = Literal["timit-39"]
FOLDS: Mapping[str, Mapping[str, str | None]] = {"timit-39": TIMIT_39}


class PhoneLabels:
    """The phone of each frame of an utterance, from its manifest line or from elsewhere, as an evaluation counts it."""

    def __init__(
        self, spoken: Mapping[str, Sequence[Phone]] | None = None, ignore: Sequence[str] = (), fold: Fold | None = None
    ) -> None:
        """Say where phones are from and which of them count.

        Args:
            spoken: phones by id; None takes those of the manifest.
            ignore: labels whose frames do not count, named as they are after folding.
            fold: classes that the labels are put into.
        """
        self.spoken, self.ignore = spoken, frozenset(ignore)
        self.classes = None if fold is None else FOLDS[fold]
        self.fold = fold
        self.counts: Counter[str] = Counter()
        """Frames of each label that counted."""

    def of(self, utterance: Utterance, num_frames: int, frame_rate: float) -> FrameLabels | None:
        """Label the frames of an utterance; None where its phones are not known.

        Raises:
            ConfigError: a label is none of those that can be folded.
        """
        phones = utterance_phones(utterance) if self.spoken is None else self.spoken.get(utterance.id)
        if phones is None:
            return None
        found = frame_labels(phones, num_frames, frame_rate)
        folded = found if self.classes is None else [label and self._folded(label, utterance) for label in found]
        kept = [i for i, label in enumerate(folded) if label is not None and label not in self.ignore]
        self.counts.update(label for i in kept if (label := folded[i]) is not None)
        num_unlabelled = found.count(None)
        return FrameLabels(
            kept, [str(folded[i]) for i in kept], num_unlabelled, num_frames - num_unlabelled - len(kept)
        )

    def _folded(self, label: str, utterance: Utterance) -> str | None:
        if self.classes is None or label not in self.classes:
            raise ConfigError(f"{utterance.id}: the phone {label!r} is not among those that {self.fold} folds.")
        return self.classes[label]

    def notes(self) -> list[str]:
        """Warn where silence counts as a phone."""
        silent = [label for label, _ in self.counts.most_common() if label in SILENCES]
        if not silent:
            return []
        share = sum(self.counts[label] for label in silent) / self.counts.total()
        return [
            f"Silence counts as a phone here: {share:.0%} of the frames are {' or '.join(map(repr, silent))}, which is "
            f"easy to tell. Leave it out: --ignore {','.join(silent)}"
        ]


class FrameLabels(NamedTuple):
    """Phones of the frames of one utterance."""

    places: list[int]
    """Frames that count."""
    phones: list[str]
    """Phone of each of these."""
    num_unlabelled: int
    """Frames where no phone is."""
    num_ignored: int
    """Frames whose phone is left out."""


def utterance_phones(utterance: Utterance) -> tuple[Phone, ...] | None:
    """The phones of a manifest line: its key "phones", a list of {phone, start, end}; None without that key.

    Times are seconds from the start of the utterance.

    Raises:
        ManifestError: the list is not as described, or a phone ends before it starts or begins before its neighbour.
    """
    rows = utterance.extra.get("phones")
    if rows is None:
        return None
    if not isinstance(rows, list):
        raise ManifestError(f"{utterance.id}: phones is a {type(rows).__name__}; expected a list of phones.")
    return _checked([_phone(row, f"{utterance.id}: phones[{index}]") for index, row in enumerate(rows)], utterance.id)


def read_phones(path: Path) -> dict[str, tuple[Phone, ...]]:
    """Read phone times by utterance id from a file: `.ctm` or `.tsv`.

    CTM (NIST; Kaldi's `ali-to-phones --ctm-output`): `id channel start duration phone [confidence]`, split at spaces;
    lines that begin with ;; are comments. TSV: a header `id start end phone`, then such lines, split at tabs.

    Raises:
        ManifestError: the file cannot be read.
        ConfigError: it is of another kind, or a line is not as described.
    """
    path = Path(path)
    if path.suffix.lower() == ".ctm":
        stamps = ctm_stamps(path)
        phones = {id: [Phone(phone=p.word, start=p.start, end=p.end) for p in rows] for id, rows in stamps.items()}
    elif path.suffix.lower() == ".tsv":
        phones = _read_tsv(path, split_lines(read_text(path)))
    else:
        raise ConfigError(
            f"{path}: phone times are read from .ctm and .tsv files; .tsv begins with: id start end phone"
        )
    return {id: _checked(sorted(rows, key=lambda p: (p.start, p.end)), f"{path}: {id}") for id, rows in phones.items()}


def frame_labels(phones: Sequence[Phone], num_frames: int, frame_rate: float) -> list[str | None]:
    """The phone at the centre of each frame; None where there is none. A boundary belongs to the later phone."""
    starts = np.array([phone.start for phone in phones])
    centres = (np.arange(num_frames) + 0.5) / frame_rate
    # differences below a microsecond are rounding of the file, not of the speaker
    rows = np.searchsorted(starts, centres + 1e-6, side="right") - 1
    return [
        phones[row].phone if row >= 0 and centre + 1e-6 < phones[row].end else None
        for centre, row in zip(centres.tolist(), rows.tolist())
    ]


def _phone(row: Any, where: str) -> Phone:
    if not isinstance(row, dict) or not isinstance(row.get("phone"), str):
        raise ManifestError(f"{where} is {row!r}; expected {{phone, start, end}}.")
    times = [row.get("start"), row.get("end")]
    if not all(isinstance(t, int | float) and not isinstance(t, bool) and math.isfinite(t) for t in times):
        raise ManifestError(f"{where} is {row!r}; start and end are numbers of seconds.")
    return Phone(phone=row["phone"], start=float(row["start"]), end=float(row["end"]))


def _checked(phones: Sequence[Phone], where: str) -> tuple[Phone, ...]:
    for index, phone in enumerate(phones):
        if not math.isfinite(phone.start + phone.end):
            raise ManifestError(f"{where}: phone {phone.phone!r} lasts from {phone.start} s to {phone.end} s.")
        if phone.end < phone.start:
            raise ManifestError(f"{where}: phone {phone.phone!r} ends at {phone.end:g} s, before its start.")
        if index and phone.start < phones[index - 1].start:
            raise ManifestError(f"{where}: phone {phone.phone!r} at {phone.start:g} s: sort the phones by time.")
    return tuple(phones)


def _read_tsv(path: Path, lines: Sequence[str]) -> dict[str, list[Phone]]:
    header = tuple(lines[0].split("\t")) if lines else ()
    if header != TSV_HEADER:
        raise ConfigError(
            f"{path}: the first line is {' '.join(header)!r}; expected {' '.join(TSV_HEADER)}, with tabs."
        )
    phones = defaultdict(list)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where, parts = f"{path}, line {number}", line.split("\t")
        if len(parts) != 4:
            raise ConfigError(f"{where}: {len(parts)} columns; expected {' '.join(TSV_HEADER)}.")
        start, end = (_seconds(where, text) for text in parts[1:3])
        phones[parts[0]].append(Phone(phone=parts[3], start=start, end=end))
    if not phones:
        raise ConfigError(f"{path}: holds no phone.")
    return phones


def _seconds(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {text!r} is not a number of seconds.")
    return value
