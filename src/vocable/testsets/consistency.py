"""Recordings in which something changes half way, against the same without: pairs like those of SALMon.

    first half by A + second half by A (right)   /   first half by A + second half by B (wrong): speaker, gender
    one recording, in one room, noise or loudness throughout (right)   /   in another from the middle on (wrong)

Every second half is right in one pair and wrong in its twin, so that a model that hears no first half is at chance.
The seam lies where the recording is quiet, and both halves of a pair have the same cross-fade there: even where nothing
changes, the second half comes from another draw of the same room or another stretch of the same noise.

SALMon: Maimon et al., 2024 (arXiv:2409.07437); its task names are kept. Differs: rooms are synthetic, noise is coloured
or the user's own, and loudness is ours.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vocable.audio.io import audio_info, read_audio, read_utterance
from vocable.audio.manifest import Rejections
from vocable.audio.writing import write_audio
from vocable.engine.local import run_jobs
from vocable.errors import AudioFormatError, ConfigError
from vocable.evaluation.pairs import PairItem, PairSet, Segment, write_pair_set
from vocable.registry import look_up
from vocable.testsets import acoustics
from vocable.testsets.plan import check_count
from vocable.testsets.speak import check_folder
from vocable.types import Utterance

TASKS: Mapping[str, str] = {
    "speaker": "speaker_consistency",
    "gender": "gender_consistency",
    "room": "rir_consistency",
    "noise": "bg_all_consistency",
    "loudness": "loudness_consistency",
}
"""Short names and the names in results; SALMon's where it has the task."""
ROOMS = {"small room": 0.2, "large room": 0.6, "hall": 1.8}
"""Seconds in which the sound decays by 60 dB."""
LEVELS = {"loud": -18.0, "soft": -32.0}
"""Root mean square, dB below full scale."""
LEVEL_DBFS = -26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyConfig:
    """How pairs are cut from recordings."""

    tasks: tuple[str, ...] = ("speaker", "room", "noise", "loudness")
    """Quality that changes half way: among speaker, gender, room, noise and loudness."""
    pairs_per_task: int = 100
    """Pairs of each task, an even number: they come in twos that share their second halves."""
    half_seconds: float = 2.5
    """Longest half."""
    min_half_seconds: float = 1.0
    """Shortest half; recordings of less than two of these are left out."""
    fade_seconds: float = 0.02
    """Length of the cross-fade between the halves."""
    snr_db: float = 5.0
    """Level of speech above the background noise."""
    noise_files: tuple[str, ...] = ()
    """Recordings of noise, two at least; empty: generated noise of four colours."""
    gender_key: str = "gender"
    """Key of the manifest that tells the gender."""
    sample_rate: int = 16_000
    """Sample rate of the files."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            look_up("consistency task", task, TASKS)
        check_count("pairs_per_task", self.pairs_per_task)
        if not 0 < self.min_half_seconds <= self.half_seconds:
            raise ConfigError(
                f"a half lasts {self.min_half_seconds} to {self.half_seconds} s; 0 < min <= max must hold."
            )
        if not 0 <= self.fade_seconds <= self.min_half_seconds / 2:
            raise ConfigError(f"fade_seconds is {self.fade_seconds}; it must be from 0 to half of min_half_seconds.")
        if len(self.noise_files) == 1:
            raise ConfigError("noise_files names one file; a change of noise needs two at least.")


class TwinPlan(NamedTuple):
    """Two pairs that share their second halves, and the name that their files begin with."""

    task: str
    number: int
    sources: tuple[Utterance, ...]
    """One recording, or A1, A2, B1, B2: two of each speaker."""
    conditions: tuple[str, ...]
    """Empty, or the two that take turns."""

    def __str__(self) -> str:
        return f"{self.task} {self.number}: {', '.join(source.id for source in self.sources)}"


class Made(NamedTuple):
    """Result of a plan: no reason means that its four files are there."""

    plan: TwinPlan
    failure: str | None


def build_consistency(
    utterances: Sequence[Utterance],
    out: Path,
    config: ConsistencyConfig,
    card: Mapping[str, Any],
    num_processes: int = 1,
    progress: str = "",
) -> PairSet:
    """Cut pairs from recordings into `out`; a killed run goes on where it stopped.

    Pairs whose recordings cannot be used are left out in twos, and noted in `rejected.jsonl`.

    Raises:
        OutputError: `out` holds a finished set, or files of something else.
        ConfigError: the recordings do not serve a task: too short, one speaker, no gender.
    """
    check_folder(Path(out))
    plans = [plan for task in config.tasks for plan in plan_twins(utterances, task, config)]
    folder = Path(out) / "audio"
    results = run_jobs(functools.partial(make_twins, folder=folder, config=config), plans, num_processes, progress)
    rejections = Rejections(Path(out))
    items: list[PairItem] = []
    spoken: dict[str, Utterance] = {}
    for plan, failure in results:
        if failure is not None:
            rejections.add(str(plan), None, failure)
            continue
        for twin in "ab":
            halves = [_utterance(plan, twin, half, folder, config) for half in ("positive", "negative")]
            spoken |= {half.id: half for half in halves}
            items.append(_item(plan, twin, halves))
    if not items:
        raise ConfigError(f"{out}: no pair could be made. The first reason: {results[0].failure}")
    made = {"config": asdict(config), "num_left_out": 2 * sum(result.failure is not None for result in results)}
    pair_set = PairSet(benchmark="salmon", items=items, utterances=spoken, card={**card, **made})
    write_pair_set(pair_set, Path(out))
    return pair_set


def plan_twins(utterances: Sequence[Utterance], task: str, config: ConsistencyConfig) -> list[TwinPlan]:
    """Choose the recordings of one task; half as many plans as pairs are wanted.

    Raises:
        ConfigError: the recordings do not serve the task.
    """
    generator = random.Random(f"{config.seed} {task}")
    usable = [u for u in utterances if u.duration is not None and u.duration >= 2 * config.min_half_seconds]
    if not usable:
        raise ConfigError(f"No recording has a duration of {2 * config.min_half_seconds} s or more in the manifest.")
    num_plans = (config.pairs_per_task + 1) // 2
    if task in ("speaker", "gender"):
        return _plan_speakers(usable, task, config, generator, num_plans)
    names = {"room": list(ROOMS), "loudness": list(LEVELS), "noise": list(config.noise_files or acoustics.COLOURS)}
    generator.shuffle(usable)
    return [
        TwinPlan(task, number, (usable[number],), tuple(generator.sample(names[task], 2)))
        for number in range(min(num_plans, len(usable)))
    ]


def _plan_speakers(
    usable: list[Utterance], task: str, config: ConsistencyConfig, generator: random.Random, num_plans: int
) -> list[TwinPlan]:
    """Two recordings of each of two speakers: of one gender, where it is known, or of two."""
    recordings: dict[str, list[Utterance]] = {}
    genders: dict[str, str | None] = {}
    for utterance in usable:
        if utterance.speaker is not None:
            recordings.setdefault(utterance.speaker, []).append(utterance)
            genders[utterance.speaker] = utterance.extra.get(config.gender_key)
    speakers = sorted(speaker for speaker, own in recordings.items() if len(own) > 1)
    pairs = [
        (first, second)
        for place, first in enumerate(speakers)
        for second in speakers[place + 1 :]
        if _go_together(genders[first], genders[second], task)
    ]
    if not pairs:
        wanted = (
            f"of two genders (key {config.gender_key!r})" if task == "gender" else "(of one gender, if that is known)"
        )
        raise ConfigError(
            f"The task {task} needs two speakers {wanted} with two recordings of {2 * config.min_half_seconds} s each; "
            f"{len(speakers)} speakers have two recordings. Leave the task out: --tasks"
        )
    generator.shuffle(pairs)
    plans: dict[tuple[str, ...], TwinPlan] = {}
    for number in range(num_plans):
        first, second = pairs[number % len(pairs)]
        sources = (*generator.sample(recordings[first], 2), *generator.sample(recordings[second], 2))
        plans.setdefault(tuple(source.id for source in sources), TwinPlan(task, number, sources, ()))
    return list(plans.values())


def _go_together(first: str | None, second: str | None, task: str) -> bool:
    if task == "gender":
        return first is not None and second is not None and first != second
    return first == second or first is None or second is None


def make_twins(plan: TwinPlan, folder: Path, config: ConsistencyConfig) -> Made:
    """Write the four files of a plan, unless they are there; recordings that cannot be used give a reason."""
    paths = {key: folder / f"{_name(plan, *key, config)}.flac" for key in _KEYS}
    if all(path.is_file() for path in paths.values()):
        return Made(plan, None)
    try:
        waveforms = two_speakers(plan, config) if len(plan.sources) == 4 else one_recording(plan, config)
    except AudioFormatError as error:
        return Made(plan, str(error))
    for key, waveform in zip(_KEYS, acoustics.limit(waveforms)):
        write_audio(paths[key], torch.from_numpy(waveform), config.sample_rate)
    return Made(plan, None)


_KEYS = (("a", "positive"), ("a", "negative"), ("b", "positive"), ("b", "negative"))


def two_speakers(plan: TwinPlan, config: ConsistencyConfig) -> list[np.ndarray]:
    """A1 + A2, A1 + B2, B1 + B2, B1 + A2: first halves of the first recordings, second halves of the second ones.

    Raises:
        AudioFormatError: a recording cannot be read, or is silent.
    """
    waveforms = [_read(source, config.sample_rate) for source in plan.sources]
    fade = round(config.fade_seconds * config.sample_rate)
    longest = round(config.half_seconds * config.sample_rate)
    seams = [acoustics.quiet_seam(waveform, config.sample_rate) for waveform in waveforms]
    firsts = [waveforms[k][max(0, seams[k] - longest) : seams[k]] for k in (0, 2)]
    seconds = [waveforms[k][seams[k] :][:longest] for k in (1, 3)]
    length = min(map(len, seconds))  # equally long: length tells nothing
    a1, b1 = (acoustics.at_level(half, LEVEL_DBFS) for half in firsts)
    a2, b2 = (_fade_out(acoustics.at_level(half[:length], LEVEL_DBFS), fade) for half in seconds)
    return [acoustics.crossfade(*halves, fade) for halves in ((a1, a2), (a1, b2), (b1, b2), (b1, a2))]


def one_recording(plan: TwinPlan, config: ConsistencyConfig) -> list[np.ndarray]:
    """X + X, X + Y, Y + Y, Y + X: one recording, its halves under two conditions.

    Raises:
        AudioFormatError: the recording or a noise file cannot be read, or is silent.
    """
    generator = np.random.default_rng([config.seed, plan.number, *plan.task.encode()])
    waveform = _read(plan.sources[0], config.sample_rate)
    longest = round(config.half_seconds * config.sample_rate)
    seam = acoustics.quiet_seam(waveform, config.sample_rate)
    waveform, seam = waveform[max(0, seam - longest) : seam + longest], min(seam, longest)
    draws = {
        (condition, half): _under(waveform, plan.task, condition, config, generator)
        for condition in plan.conditions
        for half in (1, 2)
    }
    x, y = plan.conditions
    return [
        _join(draws[first, 1], draws[second, 2], seam, config) for first, second in ((x, x), (x, y), (y, y), (y, x))
    ]


def _under(
    waveform: np.ndarray, task: str, condition: str, config: ConsistencyConfig, generator: np.random.Generator
) -> np.ndarray:
    """The recording in a room, with a noise or at a level."""
    if task == "loudness":
        return acoustics.at_level(waveform, LEVELS[condition])
    if task == "room":
        response = acoustics.impulse_response(ROOMS[condition], config.sample_rate, generator)
        return acoustics.at_level(acoustics.convolve(waveform, response), LEVEL_DBFS)
    if condition in acoustics.COLOURS and not config.noise_files:
        noise = acoustics.coloured_noise(len(waveform), condition, config.sample_rate, generator)
    else:
        recorded = read_audio(Path(condition), config.sample_rate).waveform.numpy()
        noise = acoustics.loop_to(recorded, len(waveform), generator)
    return acoustics.at_level(acoustics.add_noise(waveform, noise, config.snr_db), LEVEL_DBFS)


def _join(first: np.ndarray, second: np.ndarray, seam: int, config: ConsistencyConfig) -> np.ndarray:
    """Samples before the seam from one, after it from the other; the cross-fade is centred on the seam."""
    fade = round(config.fade_seconds * config.sample_rate) // 2
    return acoustics.crossfade(first[: seam + fade], second[seam - fade :], 2 * fade)


def _fade_out(waveform: np.ndarray, fade_samples: int) -> np.ndarray:
    if fade_samples:
        waveform[-fade_samples:] *= np.linspace(1, 0, fade_samples, dtype=np.float32)
    return waveform


def _read(utterance: Utterance, sample_rate: int) -> np.ndarray:
    return read_utterance(utterance, sample_rate).numpy()


def _name(plan: TwinPlan, twin: str, half: str, config: ConsistencyConfig) -> str:
    """A hash of everything that decides how a file sounds."""
    sources = [(str(source.audio), source.start, source.duration) for source in plan.sources]
    what = [plan.task, plan.number, sources, plan.conditions, twin, half, sorted(asdict(config).items())]
    return hashlib.sha256(repr(what).encode()).hexdigest()[:20]


def _utterance(plan: TwinPlan, twin: str, half: str, folder: Path, config: ConsistencyConfig) -> Utterance:
    path = (folder / f"{_name(plan, twin, half, config)}.flac").resolve()
    first = plan.sources[0 if twin == "a" else -2 if len(plan.sources) == 4 else 0]
    return Utterance(
        id=f"{plan.task}-{plan.number:04d}{twin}.{half}",
        audio=path,
        duration=audio_info(path).duration,
        language=first.language,
        speaker=first.speaker,
        licence=first.licence,
    )


def _item(plan: TwinPlan, twin: str, halves: Sequence[Utterance]) -> PairItem:
    group = {"task": TASKS[plan.task], "kind": "consistency", "recording": f"{plan.task}-{plan.number:04d}"}
    if plan.conditions:
        before, after = (Path(name).stem for name in (plan.conditions if twin == "a" else plan.conditions[::-1]))
        group |= {"change": f"{before} to {after}"}
    positive, negative = ((Segment(speech=half.id),) for half in halves)
    return PairItem(
        id=f"{plan.task}-{plan.number:04d}{twin}",
        positive=positive,
        negative=negative,
        voice=halves[0].speaker,
        group=group,
    )
