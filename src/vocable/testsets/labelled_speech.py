"""Speak labelled sentences into a labelled set: audio with word times, sentiments and entities, in three splits.

    Labels (labelled_maker.py, or any list) -> a voice each -> audio/<hash>.flac -> manifest, labels, card

The test sentences are spoken by voices of their own. A killed run goes on where it stopped. The folder is read by
evaluation/slue/labelled_set.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vocable.audio.manifest import Rejections
from vocable.errors import ConfigError, OutputError
from vocable.evaluation.slue.labelled_set import LABELS, LabelledSet, Labels, write_labelled_set
from vocable.splits import split_named
from vocable.testsets.plan import SpokenText
from vocable.testsets.speak import (
    SegmentJob,
    SpeechConfig,
    check_folder,
    read_word_times,
    segment_name,
    speak_all,
    utterance_of,
)
from vocable.types import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledVoices:
    """Who speaks which split."""

    train: tuple[str, ...] = ("af_heart", "am_michael", "af_bella", "am_fenrir")
    """Voices of train and dev, in turn."""
    test: tuple[str, ...] = ("af_sarah", "am_eric")
    """Voices of test, in turn; others than those of train, unless the synthesiser has one voice only."""

    def __post_init__(self) -> None:
        for name, voices in (("train", self.train), ("test", self.test)):
            if not voices or len(set(voices)) != len(voices):
                raise ConfigError(f"The {name} voices are {list(voices)}; name at least one, each once.")
        both = sorted(set(self.train) & set(self.test))
        if both and len({*self.train, *self.test}) > 1:
            raise ConfigError(f"{', '.join(both)} would speak both train and test; name other voices for test.")


class LabelledReport(NamedTuple):
    """A finished set, and what is known about its making."""

    labelled: LabelledSet
    num_spoken: int
    """Sentences spoken by this run; the others were there."""
    speech_seconds: float
    num_with_words: int
    """Utterances whose word times are known."""
    failures: Mapping[str, str]
    """Sentences that could not be spoken, and why."""


def speak_labelled(
    labels: Sequence[Labels],
    out: Path,
    voices: LabelledVoices,
    config: SpeechConfig,
    card: Mapping[str, Any],
    *,
    language: str | None = "en",
    licence: str | None = None,
    num_processes: int = 1,
    progress: str = "",
) -> LabelledReport:
    """Speak all sentences and write the labelled set into `out`; what cannot be spoken is left out and noted.

    Args:
        out: a new folder, or one that a run of this function was writing.
        card: what is known about the texts: seed, how they were made.
        progress: stands before the progress bar; empty shows none.

    Raises:
        OutputError: `out` holds a finished set, or files of something else.
        ConfigError: nothing could be spoken.
        UnknownNameError: the synthesiser lacks a voice.
    """
    out = Path(out)
    if (out / LABELS).is_file():
        raise OutputError(f"{out} already holds a finished labelled set. Name a new folder.")
    check_folder(out)
    jobs = plan_jobs(labels, out / "audio", voices, config)
    speaker, num_spoken, failed = speak_all(jobs.values(), config, num_processes, progress, keep_words=True)
    failures = {id: failed[job.path.stem] for id, job in jobs.items() if job.path.stem in failed}
    spoken = [label for label in labels if label.id not in failures]
    if not spoken:
        raise ConfigError(f"{out}: nothing could be spoken. The first reason: {next(iter(failures.values()), 'none')}")
    rejections = Rejections(out)
    for id, reason in failures.items():
        rejections.add(id, None, reason)
    utterances: dict[str, Utterance] = {}
    for label in spoken:
        known = {"words": read_word_times(jobs[label.id].path), "split": split_named(label.split)}
        utterances[label.id] = utterance_of(jobs[label.id], label.id, language, licence, **known)
    seconds = sum(utterance.duration or 0.0 for utterance in utterances.values())
    num_with_words = sum(utterance.words is not None for utterance in utterances.values())
    made = {
        "licence": licence,
        "synthesiser": speaker,
        "voices": asdict(voices),
        "speech": asdict(config),
        "speech_seconds": round(seconds, 1),
        "num_with_word_times": num_with_words,
    }
    excluded = {"the synthesiser could not speak it": len(failures)} if failures else {}
    labelled = LabelledSet(labels=spoken, utterances=utterances, card={**card, **made}, excluded=excluded)
    write_labelled_set(labelled, out)
    return LabelledReport(labelled, num_spoken, seconds, num_with_words, failures)


def plan_jobs(
    labels: Sequence[Labels], folder: Path, voices: LabelledVoices, config: SpeechConfig
) -> dict[str, SegmentJob]:
    """Return a job for each label, by its id: within a split, a sentiment and a group, voices take turns."""
    turns: Counter[tuple] = Counter()
    jobs = {}
    for label in labels:
        row = voices.test if label.split == "test" else voices.train
        kind = (label.split, label.sentiment, label.group.get("names"), label.group.get("feelings"))
        voice = row[turns[kind] % len(row)]
        turns[kind] += 1
        said = SpokenText(text=label.text)
        jobs[label.id] = SegmentJob(said, voice, folder / f"{segment_name(said, voice, config)}.{config.format}")
    return jobs
