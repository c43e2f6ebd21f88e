"""The speech of a quickstart: the stories that come with Vocable, or the user's own recordings.

    recordings -> pieces of at most 12 s with speech in them    to listen to       choose_recordings
               -> train, valid, test                            to train on        load_splits

What cannot be used is noted in <run>/rejected.jsonl.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vocable.audio.manifest import Rejections, read_manifest
from vocable.audio.pieces import speech_pieces
from vocable.corpora.folder import import_folder
from vocable.errors import AudioFormatError, ManifestError
from vocable.splits import SPLITS, by_rank
from vocable.types import Utterance

STORIES = Path(__file__).with_name("speech") / "manifest.jsonl"
FEWEST_RECORDINGS, MOST_HELD_OUT = 10, 66
"""To train on and to hold some out; and to validate on, and to test on (as many as the stories have)."""
PIECE_SECONDS, READ_SECONDS = 12.0, 75.0
"""Longer recordings are cut into pieces; the beginning of a recording that is looked at for speech."""


class Splits(NamedTuple):
    """Utterances to train on, to validate on during training, and to test on at the end."""

    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]

    def is_new_voice(self, utterance: Utterance) -> bool:
        """Whether this speaker is not heard in training; False where speakers are unknown."""
        return utterance.speaker is not None and utterance.speaker not in {item.speaker for item in self.train}


def load_recordings(source: Path | None, rejections: Rejections) -> list[Utterance]:
    """Read recordings to listen to, of a folder, a file, a manifest or the stories: what is held out, where marked."""
    utterances = _read(source, rejections)
    return [utterance for utterance in utterances if utterance.split == "test"] or utterances


def load_splits(source: Path | None, train_minutes: float, rejections: Rejections) -> Splits:
    """Speech to train on: divided as its manifest says, or a tenth each for validation and test; no more than is used.

    Raises:
        ManifestError: there is too little to divide.
    """
    utterances = _read(source, rejections)
    if len(utterances) < FEWEST_RECORDINGS:
        raise ManifestError(
            f"{source}: {len(utterances)} readable recordings; training needs at least {FEWEST_RECORDINGS}, to have "
            "some to test on. Cut long recordings into sentences, or add more."
        )
    parts = Splits(*([u for u in utterances if u.split == name] for name in SPLITS))
    if not all(parts):
        ordered = by_rank(utterances)
        tenth = max(len(ordered) // 10, 2)
        parts = ordered[2 * tenth :], ordered[:tenth], ordered[tenth : 2 * tenth]
    train, valid, test = ([replace(u, split=name) for u in part] for name, part in zip(SPLITS, parts, strict=True))
    if source is None:
        return Splits(train, valid, test)
    ends = itertools.accumulate((u.duration or 0) / 60 for u in by_rank(train))
    kept = [u for u, end in zip(by_rank(train), ends) if end <= train_minutes] or train[:1]
    return Splits(kept, by_rank(valid)[:MOST_HELD_OUT], by_rank(test)[:MOST_HELD_OUT])


def _read(source: Path | None, rejections: Rejections) -> list[Utterance]:
    source = STORIES if source is None else Path(source)
    if source.suffix == ".jsonl":
        found = read_manifest(source, rejections=rejections, check_audio=True)
    else:
        found = import_folder(source, rejections=rejections)
    utterances = list(found)
    if not utterances:
        raise ManifestError(f"{source}: none of its recordings can be read; {rejections.path} says why.")
    return utterances


def choose_recordings(utterances: Sequence[Utterance], count: int, rejections: Rejections) -> list[Utterance]:
    """Choose recordings with speech in them, voices and texts as different as they come; of long ones, pieces.

    Every recording gives its first piece before any gives a second. What cannot be used is noted in `rejections`.

    Raises:
        ManifestError: none can be used.
    """
    pieces: list[list[Utterance]] = []
    for utterance in in_turns(utterances):
        try:
            pieces.append(speech_pieces(utterance, PIECE_SECONDS, READ_SECONDS))
        except AudioFormatError as error:
            rejections.add(utterance.id, utterance.audio, str(error))
        if len(pieces) == count:
            break
    if not pieces:
        raise ManifestError(f"There is no speech in the recordings; {rejections.path} says why.")
    return [piece for row in itertools.zip_longest(*pieces) for piece in row if piece is not None][:count]


def in_turns(utterances: Sequence[Utterance], shortest: float = 4.5) -> Iterator[Utterance]:
    """Yield utterances, voices and texts as different as they come; those too short for a prompt and more come last.

    Voices that are heard in training and such that are not (`held_out_voice`) take turns, where there are both.
    """
    chosen: list[Utterance] = []
    is_short = [u.duration is not None and u.duration < shortest for u in utterances]
    for short in (False, True):
        rest = [u for u, one in zip(utterances, is_short, strict=True) if one == short]
        pools = [[u for u in rest if bool(u.extra.get("held_out_voice")) == new] for new in (False, True)]
        while any(pools):
            for pool in pools:
                if pool:
                    chosen.append(max(pool, key=lambda u: _difference(u, chosen)))
                    pool.remove(chosen[-1])
                    yield chosen[-1]


def _difference(utterance: Utterance, chosen: Sequence[Utterance]) -> tuple[int, int, int]:
    """Higher for a voice, words and a story that were not chosen yet; the first such utterance wins ties."""
    voices = sum(utterance.speaker == other.speaker for other in chosen)
    texts = sum(utterance.text == other.text for other in chosen)
    stories = sum(utterance.extra.get("story", other.id) == other.extra.get("story") for other in chosen)
    return -voices, -texts, -stories
