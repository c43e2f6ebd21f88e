"""Prosody by the word: how long, how high, how loud each word is, and the pause after it; read, changed, and spoken.

    words + phonemes + WordProsody of each word  ->  plan_words            ->  durations, F0, energy  ->  TextToSpeech
    recording + times of its words               ->  measure_word_prosody  ->  WordProsody of each word
    plan                                         ->  plan.word_prosody()   ->  WordProsody of each word

Whatever a WordProsody leaves open is predicted from the text. Values say nothing of who speaks: pitch is in semitones
against the speaker's median, energy in dB against the words of the text; those of a recording can so be spoken in the
voice of the model.

Frames: durations have 40 a second, F0 and energy 80. A symbol is heard 50 ms before its place in the durations, pitch
and energy where they are given; word times are those of the sound, and pitch and energy are changed at these.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import ConfigError
from vocable.features.pitch import REFERENCE_HZ, measure_pitch
from vocable.sequences.word_search import find_words
from vocable.synthesis.phonemes import (
    LEAD_FRAMES,
    PAUSES,
    SYMBOL_RATE,
    WordPhonemes,
    join_words,
    phone_times,
    word_times,
)
from vocable.synthesis.source_filter import VOICED_HZ
from vocable.synthesis.text_to_speech import ENERGY_PER_NEPER, Prosody, SpokenText, TextToSpeech
from vocable.types import Phone, Word

FRAME_RATE = 2 * SYMBOL_RATE
"""Frames of F0 and energy per second."""
ENERGY_PER_DECIBEL = ENERGY_PER_NEPER * np.log(10) / 20
SHORTEST_PAUSE = 0.1
"""Seconds. Where a pause at least so long is asked for and the text has no mark for one, a comma is put in."""
LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
"""Pitch stays between them, whatever is asked for."""
SMOOTHING = 5
"""Frames over which changes of pitch and energy set in."""
SILENT_ENERGY = -2.0
"""Energy below which a frame at the end of a word belongs to the pause after it: the model gives the sound before a
pause a large part of the silence. Measured on 39 such words, against a forced aligner: they end 0.22 s late (median)
without this, and 0.015 s with it."""
CHANGES = ("stretch", "semitones", "decibels", "pause")
"""Values that `change_words` can change."""
WINDOW_SECONDS = 0.05
"""Length of the windows in which the energy of a recording is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProsody:
    """How a word is spoken; None leaves a value to be predicted."""

    seconds: float | None = None
    """Length of the word."""
    stretch: float | None = None
    """Its length as a multiple of the predicted one, instead of `seconds`."""
    level: float | None = None
    """Mean pitch, in semitones above the speaker's median."""
    slope: float | None = None
    """Rise of the pitch from the word's start to its end, in semitones; negative where it falls."""
    energy: float | None = None
    """Mean level in dB, against the mean over the words of the text."""
    pause: float | None = None
    """Seconds of silence after the word."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ConfigError(f"The word's {name} is {value}; it must be a finite number.")
        if self.seconds is not None and self.stretch is not None:
            raise ConfigError("A word has seconds or a stretch, not both.")
        for name in ("seconds", "stretch"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"The word's {name} is {value}; it must be above 0.")
        if self.pause is not None and self.pause < 0:
            raise ConfigError(f"The pause after the word is {self.pause} s; it cannot be negative.")

    def change(self, stretch: float = 1.0, semitones: float = 0.0, decibels: float = 0.0) -> "WordProsody":
        """Return what is known of the word, but so much longer, higher and louder; what is None stays so."""
        return replace(
            self,
            seconds=None if self.seconds is None else self.seconds * stretch,
            stretch=None if self.stretch is None else self.stretch * stretch,
            level=None if self.level is None else self.level + semitones,
            energy=None if self.energy is None else self.energy + decibels,
        )


class WordPlan(NamedTuple):
    """Words with all that the model needs to speak them."""

    phonemes: str
    """The symbols of all words, with pause marks and spaces."""
    prosody: Prosody
    times: tuple[Word, ...]
    """When each word is heard."""
    phones: tuple[Phone, ...]
    """When each sound is heard."""
    median_hz: float
    """Median pitch of the voice."""

    def word_prosody(self) -> list[WordProsody]:
        """Say how each word is spoken, all values but `stretch`; pitch is None in words without a voiced frame."""
        f0, energy = self.prosody.f0.numpy(), self.prosody.energy.numpy()
        with np.errstate(divide="ignore"):
            semitones = 12 * np.log2(f0 / self.median_hz)
        return _describe(self.times, semitones, f0 > VOICED_HZ, energy / ENERGY_PER_DECIBEL)

    def speak(self, model: TextToSpeech) -> SpokenText:
        """Speak the plan."""
        return model.speak(self.phonemes, **self.prosody._asdict())


@torch.no_grad()
def plan_words(
    model: TextToSpeech,
    words: Sequence[WordPhonemes],
    asked: Sequence[WordProsody | None] | None = None,
    speed: float = 1.0,
) -> WordPlan:
    """Decide durations, F0 and energy of words, by what is asked of each and predicted for the rest.

    Args:
        model: The model that will speak.
        words: Words with their phonemes, from a phonemizer.
        asked: One for each word; None (for a word or in all): as predicted.
        speed: Divides predicted durations.

    Raises:
        ConfigError: no words, another number of prosodies, or symbols that the model does not have.
    """
    wishes = [wish or WordProsody() for wish in asked] if asked is not None else [WordProsody()] * len(words)
    if len(wishes) != len(words):
        raise ConfigError(
            f"There are {len(wishes)} word prosodies for {len(words)} words; give one (or None) for each."
        )
    last = len(words) - 1
    words = [word if index == last else _with_mark(word, wishes[index]) for index, word in enumerate(words)]
    phonemes, spans = join_words(words)
    ids = model.ids(phonemes)
    prosody = model.predict_prosody(ids, speed=speed)
    durations = prosody.durations.numpy()
    tails = silent_tails(phonemes, durations, prosody.energy.numpy() < SILENT_ENERGY)
    if any(wish != WordProsody() for wish in wishes):
        durations, tails = ask_durations(durations, tails, spans, wishes)
        prosody = model.predict_prosody(ids, torch.from_numpy(durations))
    heard = durations - tails + np.roll(tails, 1)
    first = max(0, int(durations[0]) - LEAD_FRAMES)
    times = word_times([word.word for word in words], spans, heard[1:-1], first)
    plan = WordPlan(phonemes, prosody, times, phone_times(phonemes, heard[1:-1], first), model.config.median_hz)
    return plan._replace(prosody=_ask_pitch_and_energy(plan, wishes))


def measure_word_prosody(
    waveform: Float[Tensor, " samples"],
    sample_rate: int,
    words: Sequence[Word],
    median_hz: float | None = None,
) -> list[WordProsody]:
    """Measure how each word of a recording is spoken, all values but `stretch`.

    Args:
        waveform: The recording.
        sample_rate: Its samples per second; a multiple of 80.
        words: Its words, with times in seconds.
        median_hz: Median pitch of the speaker. None takes that of the recording.

    Returns:
        One for each word; pitch is None in words without a voiced frame, and everywhere where nothing is voiced.

    Raises:
        ConfigError: no words, words out of order or outside of the recording, or another sample rate.
    """
    if sample_rate % FRAME_RATE:
        raise ConfigError(f"sample_rate is {sample_rate} Hz; it must be a multiple of {FRAME_RATE}. Resample first.")
    length = len(waveform) / sample_rate
    edges = [0.0, *(edge for word in words for edge in (word.start, word.end))]
    if not words or any(after < before for before, after in itertools.pairwise(edges)):
        raise ConfigError("Measuring words needs at least one, in order, none over another.")
    if words[0].start >= length or words[-1].end > length + 0.1:
        raise ConfigError(f"The last word ends at {words[-1].end:.2f} s, but the recording has {length:.2f} s.")
    hop = sample_rate // FRAME_RATE
    pitch = measure_pitch(waveform[None], sample_rate, hop)
    voiced = pitch.voiced[0].numpy()
    semitones = 12 / np.log(2) * (pitch.log_f0[0].numpy() + np.log(REFERENCE_HZ))
    if voiced.any():
        semitones -= np.median(semitones[voiced]) if median_hz is None else 12 * np.log2(median_hz)
    window = round(WINDOW_SECONDS * sample_rate)
    padded = torch.nn.functional.pad(waveform, ((window - hop) // 2, window))
    power = padded.unfold(0, window, hop)[: len(voiced)].square().mean(-1)
    decibels = 10 * torch.log10(power + 1e-9).numpy()
    measured = _describe(words, semitones, voiced, decibels)
    return [*measured[:-1], replace(measured[-1], pause=max(0.0, length - words[-1].end))]


def change_words(plan: WordPlan, changes: Sequence[Any]) -> list[WordProsody | None]:
    """Turn changes, one for each word that is not to stay as it is, into what to ask of the plan's words.

    Args:
        plan: The words as they would be spoken.
        changes: Each a table of `word`, of `nth` (1, 2, ...) where the text has that word several times, and of what to
            change: `stretch` (times as long), `semitones` (higher), `decibels` (louder), `pause` (seconds after it).

    Raises:
        ConfigError: a word is not in the text, or there several times; or a key is unknown, or its value no number.
    """
    asked: list[WordProsody | None] = [None] * len(plan.times)
    described = plan.word_prosody()
    for change in changes:
        unknown = sorted(set(change) - {"word", "nth", *CHANGES}) if isinstance(change, Mapping) else ["no table"]
        if unknown or "word" not in change:
            known = ", ".join(("word", "nth", *CHANGES))
            raise ConfigError(f"The change {change!r} does not name its word, or has something else than {known}.")
        given = {key: change[key] for key in CHANGES if change.get(key) is not None}
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in given.values()):
            raise ConfigError(f"The change {change!r} has a value that is no number.")
        (place,) = find_words([time.word for time in plan.times], [str(change["word"])], change.get("nth"))
        now = described[place]
        moved = now.change(semitones=float(given.get("semitones", 0)), decibels=float(given.get("decibels", 0)))
        asked[place] = WordProsody(
            stretch=float(given["stretch"]) if "stretch" in given else None,
            level=moved.level if "semitones" in given else None,
            energy=moved.energy if "decibels" in given else None,
            pause=float(given["pause"]) if "pause" in given else None,
        )
    return asked


def _describe(
    times: Sequence[Word], semitones: np.ndarray, voiced: np.ndarray, decibels: np.ndarray
) -> list[WordProsody]:
    """Read the prosody of words from frames of pitch (valid where voiced) and level."""
    size = len(decibels)
    stretches = [word_frames(word, size) for word in times]
    mean = np.concatenate([decibels[stretch] for stretch in stretches]).mean()
    described = []
    for index, (word, stretch) in enumerate(zip(times, stretches, strict=True)):
        line = _pitch_line(semitones[stretch], voiced[stretch])
        following = times[index + 1].start if index + 1 < len(times) else size / FRAME_RATE
        described.append(
            WordProsody(
                seconds=max(word.end - word.start, 1 / FRAME_RATE),
                level=line and line.level,
                slope=line and line.slope,
                energy=float(decibels[stretch].mean() - mean),
                pause=max(0.0, following - word.end),
            )
        )
    return described


class _Line(NamedTuple):
    """A line through the voiced frames of a word."""

    level: float
    """Mean of the frames, semitones."""
    slope: float
    """Rise from the word's start to its end."""
    centre: float
    """Mean place of the frames in the word, from -0.5 to 0.5."""


def _pitch_line(semitones: np.ndarray, voiced: np.ndarray) -> _Line | None:
    if not voiced.any():
        return None
    places, values = _places(len(voiced))[voiced], semitones[voiced]
    spread = np.square(places - places.mean()).sum()
    slope = ((places - places.mean()) * values).sum() / spread if len(values) > 2 else 0.0
    return _Line(float(values.mean()), float(slope), float(places.mean()))


def _places(size: int) -> np.ndarray:
    return (np.arange(size) + 0.5) / size - 0.5


def word_frames(word: Word, size: int) -> slice:
    """Return the frames of pitch and energy in which a word is heard, at least one of `size`."""
    start = min(max(round(word.start * FRAME_RATE), 0), size - 1)
    return slice(start, max(start + 1, min(round(word.end * FRAME_RATE), size)))


def _with_mark(word: WordPhonemes, wish: WordProsody) -> WordPhonemes:
    """Put a pause mark after a word where a pause is asked for and there is none."""
    if word.pause or (wish.pause or 0) < SHORTEST_PAUSE:
        return word
    return word._replace(pause=",")


def silent_tails(phonemes: str, durations: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Count the frames at the end of each symbol (the end marks included) that belong to the pause after it.

    Args:
        phonemes: The symbols of all words.
        durations: Frames of each symbol and of the end marks.
        silent: For each of twice as many frames, whether it is silent.
    """
    ends = np.cumsum(durations) - LEAD_FRAMES
    tails = np.zeros_like(durations)
    for index, symbol in enumerate(phonemes, start=1):
        if symbol not in PAUSES + " " and phonemes[index : index + 1] in ("", *PAUSES):
            heard = silent[2 * max(ends[index] - durations[index], 0) : 2 * ends[index]]
            frames = np.logical_and(heard[::2], heard[1::2])
            count = len(frames) if frames.all() else int(frames[::-1].argmin())
            tails[index] = min(count, durations[index] - 1)
    return tails


def ask_durations(
    predicted: np.ndarray, tails: np.ndarray, spans: Sequence[tuple[int, int]], wishes: Sequence[WordProsody]
) -> tuple[np.ndarray, np.ndarray]:
    """Change the frames of each symbol, and those of them that are silent, to what is asked of the words.

    Args:
        predicted: Frames of each symbol and of the end marks.
        tails: See `silent_tails`.
        spans: First and one past the last symbol of each word, the end marks not counted.
        wishes: One for each word.
    """
    durations, tails = predicted - tails, tails.copy()
    sounding = durations.copy()
    starts = [first + 1 for first, _ in spans]
    ends = [last + 1 for _, last in spans]
    for index, wish in enumerate(wishes):
        is_last = index + 1 == len(starts)
        own = slice(starts[index], ends[index])
        following = len(durations) if is_last else starts[index + 1]
        before = predicted[starts[index] - 1] / 2 if index and starts[index] - ends[index - 1] == 1 else 0.0
        after = predicted[ends[index]] / 2 if not is_last and following - ends[index] == 1 else 0.0
        shared = before + after  # half of the spaces to both sides belong to the word
        if wish.seconds is not None:
            durations[own] = _scaled(sounding[own], float(wish.seconds * SYMBOL_RATE - shared))
        elif wish.stretch is not None:
            durations[own] = _scaled(sounding[own], float(wish.stretch * (sounding[own].sum() + shared) - shared))
        if wish.pause is not None and (is_last or following - ends[index] > 1):
            silence = round(wish.pause * SYMBOL_RATE) - (LEAD_FRAMES if is_last else 0)  # that come anyway at the end
            tails[ends[index] - 1] = min(tails[ends[index] - 1], max(silence, 0))
            rest = slice(ends[index], following)
            durations[rest] = _scaled(predicted[rest], float(silence - tails[ends[index] - 1]), least=0)
    return durations + tails, tails


def _scaled(durations: np.ndarray, total: float, least: int = 1) -> np.ndarray:
    """Scale durations to a new sum, rounded; each of them is within a frame of its share."""
    weights = durations if durations.any() else np.ones_like(durations)
    target = max(round(total), least)
    edges = np.round(np.cumsum(weights) * (target / weights.sum())).astype(durations.dtype)
    return np.diff(edges, prepend=0)


def _ask_pitch_and_energy(plan: WordPlan, wishes: Sequence[WordProsody]) -> Prosody:
    """Move pitch and energy of each word from what the plan has to what is asked."""
    durations, f0, energy = plan.prosody.durations, plan.prosody.f0.numpy(), plan.prosody.energy.numpy()
    voiced = f0 > VOICED_HZ
    semitones, steps = np.zeros(len(f0)), np.zeros(len(f0))
    for word, now, wish in zip(plan.times, plan.word_prosody(), wishes, strict=True):
        stretch = word_frames(word, len(f0))
        line = _pitch_line(12 * np.log2(np.maximum(f0[stretch], 1) / plan.median_hz), voiced[stretch])
        if line is not None and wish.level is not None:
            semitones[stretch] += wish.level - line.level
        if line is not None and wish.slope is not None:
            places = _places(stretch.stop - stretch.start)
            semitones[stretch] += (wish.slope - line.slope) * (places - line.centre)
        if wish.energy is not None and now.energy is not None:
            steps[stretch] += (wish.energy - now.energy) * ENERGY_PER_DECIBEL
    semitones = smooth_steps(semitones)
    moved = np.clip(f0 * 2 ** (semitones / 12), LOWEST_HZ, HIGHEST_HZ)
    new_f0 = np.where(voiced & (semitones != 0), moved, f0).astype(np.float32)
    new_energy = (energy + smooth_steps(steps)).astype(np.float32)
    return Prosody(durations, torch.from_numpy(new_f0), torch.from_numpy(new_energy))


def smooth_steps(steps: np.ndarray) -> np.ndarray:
    """Let changes of pitch or energy set in over `SMOOTHING` frames."""
    return np.convolve(np.pad(steps, SMOOTHING // 2, mode="edge"), np.ones(SMOOTHING) / SMOOTHING, "valid")
