"""TIMIT: 630 speakers of American English read ten sentences each, with words and phones timed by hand.

Garofolo et al., 1993, LDC93S1; from the Linguistic Data Consortium, not to be downloaded.

TIMIT/TRAIN/DR1/FCJF0/SA1.WAV     speech at 16 kHz, in a SPHERE file; copies hold RIFF, as SA1.WAV.wav or sa1.wav
                      SA1.TXT     0 46797 She had your dark suit in greasy wash water all year.
                      SA1.PHN     0 3050 h#          first sample, sample after the last, label: one of 61
                      SA1.WRD     3050 5723 she

The first letter of a speaker says the sex, the first two of a sentence its kind: SA (two sentences that all speakers
read), SX (compact, each read by seven), SI (diverse, each read once).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections, absolute, note_rejection
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_text, split_lines
from vocable.types import Utterance, Word

SAMPLE_RATE = 16_000
"""Rate that the sample numbers of .TXT, .WRD and .PHN count at."""
CORE_TEST = (
    "mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0 "
    "mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0"
)
"""Speakers of the core test set: two men and a woman of each dialect region (TIMIT's documentation, TESTSET.DOC)."""
SENTENCE = re.compile(r"(s[aix]\d+)(?:\.wav)?\.(?:wav|sph|flac)", re.IGNORECASE)


_GROUPS = (
    *("aa ao", "ae", "ah ax ax-h", "aw", "ay", "b", "ch", "d", "dh", "dx", "eh", "er axr", "ey", "f", "g", "hh hv"),
    *("ih ix", "iy", "jh", "k", "l el", "m em", "n en nx", "ng eng", "ow", "oy", "p", "r", "s", "sh zh", "t", "th"),
    *("uh", "uw ux", "v", "w", "y", "z", "sil pcl tcl kcl bcl dcl gcl h# pau epi"),
)
TIMIT_39: Mapping[str, str | None] = {
    **{label: group.split()[0] for group in _GROUPS for label in group.split()},
    "q": None,
}
"""The 61 labels, and `sil`, in the 39 classes that recognisers are scored on; None: the glottal stop is left out.

Source: Lee and Hon, 1989, "Speaker-independent phone recognition using hidden Markov models", table I, which names
classes by another of their members here and there. The closures of stops are silence there.
"""


class _Stretch(NamedTuple):
    start: int
    """First sample."""
    end: int
    """Sample after the last."""
    label: str


def prepare_timit(folder: Path, *, strict: bool = False, rejections: Rejections | None = None) -> Iterator[Utterance]:
    """Yield the utterances with text, speaker, words and phones, and in `extra` part, dialect, sex and kind.

    The id is speaker and sentence, `fcjf0-sa1`; the part is `train`, `test` or `core-test`.

    Args:
        folder: TIMIT, or a folder above it; a part of it will do.
        strict: raise on the first unreadable file instead of leaving it out.
        rejections: where utterances that are left out are noted.

    Raises:
        ManifestError: the folder holds no sentence of TIMIT; with `strict`, a broken utterance.
    """
    root = absolute(Path(folder))
    recordings: dict[tuple[str, str], Path] = {}
    for path in sorted(root.rglob("*")):
        if (name := SENTENCE.fullmatch(path.name)) and path.is_file():
            key = path.parent.name.lower(), name[1].lower()
            if key not in recordings or name[0].lower().endswith(".wav.wav"):  # a copy of the other, as RIFF
                recordings[key] = path
    if not recordings:
        raise ManifestError(
            f"{root}: no sentence of TIMIT, such as TRAIN/DR1/FCJF0/SA1.WAV, is in it. The corpus is sold by the "
            "Linguistic Data Consortium (LDC93S1); unpack it there."
        )
    for (speaker, sentence), audio in recordings.items():
        id = f"{speaker}-{sentence}"
        try:
            yield _utterance(id, audio, speaker, sentence)
        except (AudioFormatError, ManifestError) as error:
            note_rejection(root, id, audio, str(error), strict=strict, rejections=rejections)


def _utterance(id: str, audio: Path, speaker: str, sentence: str) -> Utterance:
    info = audio_info(audio)
    if info.sample_rate != SAMPLE_RATE:
        raise ManifestError(
            f"{audio}: the rate is {info.sample_rate} Hz, but times of TIMIT count at {SAMPLE_RATE} Hz."
        )
    beside = {path.name.lower(): path for path in audio.parent.iterdir()}
    stretches = {kind: _read(beside.get(f"{sentence}.{kind}")) for kind in ("txt", "wrd", "phn")}
    texts, words, phones = stretches.values()
    extra: dict[str, Any] = {"sex": speaker[0].upper(), "kind": sentence[:2].upper()}
    for name in (part.lower() for part in audio.parts):
        if name in ("train", "test"):
            extra["part"] = "core-test" if name == "test" and speaker in CORE_TEST.split() else name
        elif re.fullmatch(r"dr[1-8]", name):
            extra["dialect"] = name.upper()
    if phones is not None:
        extra["phones"] = [{"phone": row.label, **_seconds(row)} for row in phones]
    return Utterance(
        id=id,
        audio=audio,
        duration=info.duration,
        text=texts[0].label if texts else None,
        language="en",
        speaker=f"timit-{speaker}",
        corpus="timit",
        licence="LDC User Agreement",
        words=None if words is None else tuple(Word(word=row.label, **_seconds(row)) for row in words),
        extra=extra,
    )


def _seconds(row: _Stretch) -> dict[str, float]:
    return {"start": row.start / SAMPLE_RATE, "end": row.end / SAMPLE_RATE}


def _read(path: Path | None) -> list[_Stretch] | None:
    """Read lines of `first end label`, sorted by time; None where there is no such file."""
    if path is None:
        return None
    rows = []
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if not line.strip():
            continue
        start, end, label = [*line.split(maxsplit=2), "", ""][:3]
        if not (start.isdigit() and end.isdigit() and label and int(start) <= int(end)):
            raise ManifestError(f"{path}, line {number}: {line!r}; expected two sample numbers and a label.")
        rows.append(_Stretch(int(start), int(end), label.strip()))
    return sorted(rows, key=lambda row: (row.start, row.end))
