"""The speech of a quickstart: the stories that come with Vocable, or a folder of the user's own recordings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vocable.audio.manifest import Rejections, read_manifest
from vocable.corpora.folder import import_folder
from vocable.errors import ManifestError
from vocable.splits import SPLITS, by_rank
from vocable.types import Utterance

STORIES = Path(__file__).with_name("speech") / "manifest.jsonl"
FEWEST_RECORDINGS = 10


class Splits(NamedTuple):
    """What is trained on, what is validated on during training, and what is tested on at the end."""

    train: list[Utterance]
    valid: list[Utterance]
    test: list[Utterance]

    def is_new_voice(self, utterance: Utterance) -> bool:
        """Whether this speaker is not heard in training; False where speakers are unknown."""
        return utterance.speaker is not None and utterance.speaker not in {item.speaker for item in self.train}


def load_stories() -> Splits:
    """The embedded stories: other stories in valid and test than in train, some of them in voices of their own."""
    utterances = read_manifest(STORIES, strict=True)
    return Splits(*([u for u in utterances if u.split == name] for name in Splits._fields))


def load_own_speech(source: Path, rejections: Rejections) -> Splits:
    """Recordings of a folder, or of a manifest: divided as it says, or a tenth each for validation and test.

    Raises:
        ManifestError: there is no audio, or too little to divide.
    """
    source = Path(source)
    if source.suffix == ".jsonl":
        utterances = read_manifest(source, rejections=rejections, check_audio=True)
    else:
        utterances = list(import_folder(source, rejections=rejections))
    if len(utterances) < FEWEST_RECORDINGS:
        raise ManifestError(
            f"{source}: {len(utterances)} readable recordings; the quickstart needs at least {FEWEST_RECORDINGS}, to "
            "have some to test on. Cut long recordings into sentences, or add more."
        )
    marked = Splits(*([u for u in utterances if u.split == name] for name in Splits._fields))
    if all(marked):
        return marked
    ordered = by_rank(utterances)
    tenth = max(len(ordered) // 10, 2)
    parts = ordered[2 * tenth :], ordered[:tenth], ordered[tenth : 2 * tenth]
    return Splits(*([replace(u, split=name) for u in part] for name, part in zip(SPLITS, parts, strict=True)))


def choose_prompts(
    utterances: Sequence[Utterance], count: int, shortest: float, is_new_voice: Callable[[Utterance], bool]
) -> list[Utterance]:
    """Pick utterances of at least `shortest` seconds, voices and texts as different as they come.

    Known and new voices take turns, where there are both. Where too few are that long, the longest others join.
    """
    by_length = sorted(utterances, key=lambda u: -(u.duration or 0))
    enough = max(count, sum((u.duration or 0) >= shortest for u in utterances))
    kept = {u.id for u in by_length[:enough]}
    long_enough = [u for u in utterances if u.id in kept]
    pools = [[u for u in long_enough if is_new_voice(u) == new] for new in (False, True)]
    chosen: list[Utterance] = []
    while len(chosen) < count and any(pools):
        for pool in pools:
            if pool and len(chosen) < count:
                chosen.append(max(pool, key=lambda u: _difference(u, chosen)))
                pool.remove(chosen[-1])
    return chosen


def _difference(utterance: Utterance, chosen: Sequence[Utterance]) -> tuple[int, int]:
    """Higher for a voice and a story that were not chosen yet; the first such utterance wins ties."""
    voices = sum(utterance.speaker == other.speaker for other in chosen)
    stories = sum(utterance.extra.get("story", other.id) == other.extra.get("story") for other in chosen)
    return -voices, -stories
