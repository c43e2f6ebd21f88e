"""Speak planned pairs with any synthesiser into a pair set; a killed run goes on where it stopped.

    PlannedPair -> segments, each text and voice once -> audio/<hash>.flac, equally loud -> manifest, pairs, card

The name of a file is a hash of what is said, by whom, and by which synthesiser: equal segments of several pairs are
spoken once, and a file that is there is not spoken again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch

from vocable.assets import is_available
from vocable.audio.io import audio_info
from vocable.audio.manifest import Rejections
from vocable.audio.waveforms import resample
from vocable.audio.writing import write_audio
from vocable.corpora import arpabet
from vocable.engine.local import run_jobs
from vocable.errors import AudioFormatError, ConfigError, OutputError, VocableError
from vocable.evaluation.pairs import PairItem, PairSet, Segment, write_pair_set
from vocable.evaluation.pairs.items import PAIRS
from vocable.files import read_text, replace_file
from vocable.synthesis.phonemes import default_phonemizer
from vocable.testsets.command_tts import TIMEOUT_SECONDS, CommandSynthesizer, check_timeout
from vocable.testsets.hibari_tts import VOICES as HIBARI_VOICES
from vocable.testsets.hibari_tts import Hibari
from vocable.testsets.kokoro_tts import Kokoro
from vocable.testsets.plan import PlannedPair, SpokenText
from vocable.testsets.speech import Speech
from vocable.testsets.spoken_stories import level_and_trim
from vocable.types import Utterance, Word

DEFAULT_VOICES = ("af_heart", "am_michael", "af_bella", "am_fenrir")
"""Kokoro voices, American: two women and two men."""
SILENT_PEAK = 1e-3
"""A synthesiser whose loudest sample is below this has said nothing."""
NAME_DIGITS = 20
WORD_TIMES = ".words.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizerConfig:
    """Who speaks."""

    synthesizer: Literal["kokoro", "hibari"] | None = None
    """kokoro (54 voices) or hibari (one voice, `heart`, much faster). Without it and without a command: kokoro, or
    hibari where only that is fetched and no other voices are named."""
    phonemizer: Literal["hibari", "espeak-ng"] | None = None
    """Who turns English text into phonemes for them. Without it: hibari (`pip install 'vocable[voice]'`) where it is
    installed, else the program espeak-ng."""
    command: str | None = None
    """Another synthesiser, such as "espeak-ng -v {voice} -w {wav} {text}"; {phones} in place of {text}
    gives it phones, where a lexicon has them."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """Longest time that the command may take over one segment."""
    speed: float = 1.0
    """Speaking rate: 1 is normal, 2 twice as fast; a command sets its own."""

    def __post_init__(self) -> None:
        if self.command is not None and (self.synthesizer or self.phonemizer):
            raise ConfigError("Name a synthesizer and its phonemizer, or a command that speaks; not both.")
        check_timeout(self.timeout_seconds)

    def settle(self, voices: Sequence[str] = ()) -> Self:
        """Decide what was left open, by what is fetched and installed, and by the voices that were named, if any."""
        if self.command is not None:
            return self
        only_hibari = not is_available("kokoro") and is_available("hibari")
        name = "hibari" if only_hibari and set(voices) <= set(HIBARI_VOICES) else "kokoro"
        phonemizer = self.phonemizer or default_phonemizer()
        return replace(self, synthesizer=self.synthesizer or name, phonemizer=phonemizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechConfig(SynthesizerConfig):
    """How segments become recordings."""

    sample_rate: int = 16_000
    """Sample rate of the files."""
    format: Literal["flac", "opus"] = "flac"
    """Format of the files."""
    loudness_dbfs: float = -23.0
    """Level of the loud frames of each segment, dB below full scale."""
    margin_seconds: float = 0.08
    """Silence kept at both ends of a segment; twice this separates a context from its ending."""

    def __post_init__(self) -> None:
        SynthesizerConfig.__post_init__(self)
        if self.format not in ("flac", "opus"):
            raise ConfigError(f"format is {self.format!r}; it is flac or opus.")
        if self.format == "opus" and self.sample_rate not in (8_000, 12_000, 16_000, 24_000, 48_000):
            raise ConfigError(f"sample_rate is {self.sample_rate}; Opus allows 8, 12, 16, 24 and 48 kHz.")
        if self.sample_rate < 8_000:
            raise ConfigError(f"sample_rate is {self.sample_rate} Hz; speech needs 8,000 at least.")


class SegmentJob(NamedTuple):
    """One segment to speak, and the file that it goes to."""

    said: SpokenText
    voice: str
    path: Path

    def __str__(self) -> str:
        return f"{self.said.text!r} by {self.voice}"


class Spoken(NamedTuple):
    """Result of a job: no reason means that its file is there."""

    name: str
    failure: str | None


class BuildReport(NamedTuple):
    """A finished set, and what is known about its making."""

    pair_set: PairSet
    num_segments: int
    num_spoken: int
    """Segments spoken by this run; the others were there."""
    speech_seconds: float
    """Seconds of speech in all segments, each counted once."""
    failures: Mapping[str, str]
    """Segments that could not be spoken, and why."""


def speak_pairs(
    pairs: Sequence[PlannedPair],
    out: Path,
    benchmark: str,
    config: SpeechConfig,
    card: Mapping[str, Any],
    *,
    language: str | None = "en",
    licence: str | None = None,
    num_processes: int = 1,
    progress: str = "",
) -> BuildReport:
    """Speak all segments of `pairs` (voices dealt out) and write the pair set into `out`.

    A pair of which a segment cannot be spoken is left out whole, and noted in `rejected.jsonl`.

    Args:
        pairs: With voices, see `deal_voices`.
        out: A new folder, or one that a run of this function was writing.
        benchmark: Such as "swuggy".
        config: The synthesiser and the files.
        card: What is known about the texts: licence, seed, how they were made.
        language: Of the texts, for the manifest.
        licence: Of the texts, for the manifest.
        num_processes: Processes that speak at once.
        progress: Stands before the progress bar; empty shows none.

    Raises:
        OutputError: `out` holds a finished set, or files of something else.
        ConfigError: no pair is left.
        UnknownNameError: the synthesiser lacks a voice.
    """
    out = Path(out)
    check_folder(out)
    jobs = plan_segments(pairs, out / "audio", config)
    speaker, num_spoken, failures = speak_all(jobs.values(), config, num_processes, progress)
    utterances = {
        name: utterance_of(job, name, language, licence) for name, job in jobs.items() if name not in failures
    }
    items = [item for pair in pairs if (item := _item(pair, config, failures, Rejections(out))) is not None]
    if not items:
        reason = next(iter(failures.values()), "there were no texts")
        raise ConfigError(f"{out}: no pair could be made. The first reason: {reason}")
    used = {segment.speech for item in items for segment in item.segments}
    made = {
        "synthesiser": speaker,
        "voices": sorted({item.voice for item in items if item.voice}),
        "speech": asdict(config),
        "num_left_out": len(pairs) - len(items),
        "speech_seconds": round(sum(utterance.duration or 0.0 for utterance in utterances.values()), 1),
    }
    spoken = {name: utterance for name, utterance in utterances.items() if name in used}
    pair_set = PairSet(benchmark=benchmark, items=items, utterances=spoken, card={**card, **made})
    write_pair_set(pair_set, out)
    reasons = {str(jobs[name]): failure for name, failure in failures.items()}
    return BuildReport(pair_set, len(jobs), num_spoken, made["speech_seconds"], reasons)


class SpokenAll(NamedTuple):
    """Outcome of many jobs."""

    synthesiser: str
    num_spoken: int
    """Segments spoken now; the others were there."""
    failures: dict[str, str]
    """Segments that could not be spoken, by the name of their file, and why."""


def speak_all(
    jobs: Iterable[SegmentJob],
    config: SpeechConfig,
    num_processes: int = 1,
    progress: str = "",
    keep_words: bool = False,
) -> SpokenAll:
    """Speak every segment whose file is not there yet, each file once.

    Raises:
        UnknownNameError: the synthesiser lacks a voice.
    """
    jobs = list(jobs)
    speaker = open_synthesizer(config)
    speaker.check_voices(sorted({job.voice for job in jobs}))
    waiting = list({job.path: job for job in jobs if not job.path.is_file()}.values())
    speak = functools.partial(speak_segment, config=config, keep_words=keep_words)
    results = run_jobs(speak, waiting, num_processes, progress)
    failures = {result.name: result.failure for result in results if result.failure is not None}
    return SpokenAll(speaker.name, len(waiting) - len(failures), failures)


def check_folder(out: Path) -> None:
    """Refuse a folder that holds a finished set or something else.

    Raises:
        OutputError: see above.
    """
    if (out / PAIRS).is_file():
        raise OutputError(f"{out} already holds a finished pair set. Name a new folder.")
    foreign = [] if not out.is_dir() else sorted({path.name for path in out.iterdir()} - _OWN_FILES)
    if foreign or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out} holds {', '.join(foreign[:3]) or 'no folder'}: not ours. Name a new folder.")


_OWN_FILES = {"audio", "manifest.jsonl", "card.json", "rejected.jsonl"}


def plan_segments(pairs: Iterable[PlannedPair], folder: Path, config: SpeechConfig) -> dict[str, SegmentJob]:
    """Return the segments that the pairs need, each once, by the name of its file."""
    jobs: dict[str, SegmentJob] = {}
    for pair in pairs:
        for said in (*pair.positive, *pair.negative):
            name = segment_name(said, _voice(pair), config)
            jobs.setdefault(name, SegmentJob(said, _voice(pair), folder / f"{name}.{config.format}"))
    return jobs


def segment_name(said: SpokenText, voice: str, config: SpeechConfig) -> str:
    """Name a segment: a hash of what is said, by whom, and how."""
    sounding = {key: value for key, value in asdict(config).items() if key != "timeout_seconds"}  # it is not heard
    what = [said.text if said.phones is None else None, said.phones, voice, sounding]
    return hashlib.sha256(json.dumps(what, ensure_ascii=True).encode()).hexdigest()[:NAME_DIGITS]


def speak_segment(job: SegmentJob, config: SpeechConfig, keep_words: bool = False) -> Spoken:
    """Speak one segment into its file, trimmed and levelled; a synthesiser that fails gives a reason, not an error.

    With `keep_words`, word times go to a file beside it where the synthesiser knows them (`read_word_times`), and
    trimming never cuts into a word.
    """
    try:
        speech = say(job.said, job.voice, config)
        finished = _finished(speech if keep_words else speech._replace(words=()), config)
    except OutputError:
        raise
    except (VocableError, OSError, ValueError) as error:
        return Spoken(job.path.stem, str(error))
    if finished.words:  # before the audio: where the audio is, the words are
        with replace_file(job.path.with_suffix(WORD_TIMES)) as file:
            file.write(json.dumps([[w.word, round(w.start, 4), round(w.end, 4)] for w in finished.words]).encode())
    write_audio(job.path, torch.from_numpy(finished.waveform), config.sample_rate)
    return Spoken(job.path.stem, None)


def read_word_times(audio: Path) -> tuple[Word, ...] | None:
    """Read the word times beside a spoken file; None where nobody knew them."""
    path = Path(audio).with_suffix(WORD_TIMES)
    if not path.is_file():
        return None
    return tuple(Word(word=word, start=start, end=end) for word, start, end in json.loads(read_text(path)))


def say(said: SpokenText, voice: str, config: SpeechConfig) -> Speech:
    """Speak a text, from its phones where there are some and the synthesiser reads them.

    Raises:
        ConfigError: the synthesiser cannot speak it.
    """
    speaker = open_synthesizer(config)
    if isinstance(speaker, CommandSynthesizer):
        return speaker.speak(said.text, voice, said.phones)
    if said.phones is None:
        return speaker.speak(said.text, voice)
    if not arpabet.is_arpabet(said.phones):
        raise ConfigError(
            f"{' '.join(said.phones)} are not phones of ARPAbet, the ones that Kokoro and hibari can be given here. "
            "Use a synthesiser of that language: --command 'PROGRAM ... {phones} {wav}', or {text}."
        )
    return speaker.speak_symbols(arpabet.to_kokoro(said.phones), voice)


def _finished(speech: Speech, config: SpeechConfig) -> Speech:
    waveform = np.asarray(speech.waveform, dtype=np.float32)
    if not len(waveform) or not np.isfinite(waveform).all() or np.abs(waveform).max() < SILENT_PEAK:
        raise AudioFormatError("The synthesiser returned silence, or samples that are no numbers.")
    plain = Speech(waveform, speech.sample_rate, speech.words)
    levelled = level_and_trim(plain, config.loudness_dbfs, config.margin_seconds)
    resampled = resample(torch.from_numpy(levelled.waveform), speech.sample_rate, config.sample_rate).numpy()
    return Speech(resampled, config.sample_rate, levelled.words)


@functools.lru_cache(maxsize=2)
def open_synthesizer(config: SynthesizerConfig, num_threads: int = 1) -> Kokoro | Hibari | CommandSynthesizer:
    """Return the synthesiser of a config, opened once a process."""
    if config.command is not None:
        return CommandSynthesizer(config.command, config.timeout_seconds)
    config = config.settle()
    if config.synthesizer == "hibari":
        return Hibari(speed=config.speed, phonemizer=config.phonemizer)
    return Kokoro(speed=config.speed, num_threads=num_threads, phonemizer=config.phonemizer)


def utterance_of(job: SegmentJob, name: str, language: str | None, licence: str | None, **known: Any) -> Utterance:
    """The manifest line of a spoken segment, with whatever else is known of it."""
    return Utterance(
        id=name,
        audio=job.path.resolve(),
        duration=audio_info(job.path).duration,
        text=job.said.text,
        language=language,
        speaker=job.voice,
        licence=licence,
        extra={} if job.said.phones is None else {"pronunciation": " ".join(job.said.phones)},
        **known,
    )


def _item(
    pair: PlannedPair, config: SpeechConfig, failures: Mapping[str, str], rejections: Rejections
) -> PairItem | None:
    halves = [[segment_name(said, _voice(pair), config) for said in half] for half in (pair.positive, pair.negative)]
    for name in (name for half in halves for name in half):
        if name in failures:
            rejections.add(pair.id, None, failures[name])
            return None
    positive, negative = (tuple(Segment(speech=name) for name in half) for half in halves)
    return PairItem(id=pair.id, positive=positive, negative=negative, voice=pair.voice, group=pair.group)


def _voice(pair: PlannedPair) -> str:
    assert pair.voice is not None, "voices are dealt out first"
    return pair.voice
