"""Speak a text file of stories in many voices: a small corpus with exact word times, for demos and tests.

    stories.txt -> stories -> utterances of one or two sentences -> a voice each story -> audio/*.opus + manifest.jsonl

The corpus that comes with Vocable (quickstart/speech) was made here, by `vocable stories build`. A title line such as
`# The Last Leaf [test]` starts a story and says its split. Train stories are spoken by one train voice each; the
others by a train voice and by a held-out voice, so that new text and new speakers can be told apart.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.errors import ConfigError
from vocable.files import claim_folder, replace_file, split_lines
from vocable.splits import split_named
from vocable.testsets.speech import Speech, Synthesizer
from vocable.types import Phone, Utterance, Word

SPLITS = ("train", "valid", "test")
VOICES = ("af_heart", "am_michael", "bf_emma", "am_fenrir", "af_bella", "bm_george", "af_aoede", "am_puck")
HELD_OUT_VOICES = ("af_sarah", "am_eric", "bf_isabella", "bm_fable")
TITLE = re.compile(r"#\s*(?P<title>.*?)\s*(\[(?P<split>[^\]]*)\])?\s*")
SENTENCE_END = re.compile(r"""(?<=[.!?…])(?P<quote>["”’']?)\s+(?=["“‘']?[A-Z0-9])""")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenStoriesConfig:
    """How stories become recordings."""

    voices: tuple[str, ...] = VOICES
    """Voices that speak the train stories in turn, and every other story once."""
    held_out_voices: tuple[str, ...] | None = None
    """Voices that speak valid and test stories only. Without them, four Kokoro voices, or none beside your own."""
    sample_rate: int = 24_000
    """Sample rate of the files; Opus allows 8, 12, 16, 24 and 48 kHz."""
    bits_per_second: int = 28_000
    """Opus bit rate, about; quiet passages take less."""
    loudness_dbfs: float = -23.0
    """Level of the loud frames of each utterance, dB below full scale."""
    min_pause_seconds: float = 0.3
    """Shortest pause between two utterances; pauses are drawn evenly."""
    max_pause_seconds: float = 0.6
    """Longest pause between two utterances."""
    max_words: int = 22
    """Two sentences are joined into one utterance up to this many words; a sentence of over 1.6 times that is cut."""
    corpus: str | None = None
    """Name of the corpus, for the manifest. Without it, that of the text file."""
    licence: str | None = None
    """Licence of text and speech, for the manifest. Without it, Apache-2.0 for the stories that come with Vocable."""
    seed: int = 0
    """Seed of the pauses; the voices are dealt out in order."""

    def __post_init__(self) -> None:
        if not self.voices:
            raise ConfigError("stories.voices is empty; name at least one voice.")
        both = sorted(set(self.voices) & set(self.held_out_voices or ()))
        if both:
            raise ConfigError(f"stories.held_out_voices holds {', '.join(both)}, which stories.voices holds too.")
        if self.sample_rate not in (8_000, 12_000, 16_000, 24_000, 48_000):
            raise ConfigError(f"stories.sample_rate is {self.sample_rate}; Opus allows 8, 12, 16, 24 and 48 kHz.")
        if not 6_000 <= self.bits_per_second <= 256_000:
            raise ConfigError(f"stories.bits_per_second is {self.bits_per_second}; Opus takes 6,000 to 256,000.")

    def settle(self, text: Path | None = None) -> SpokenStoriesConfig:
        """Decide what was left open, for a text file or for the stories that come with Vocable."""
        held_out = self.held_out_voices
        return replace(
            self,
            held_out_voices=(HELD_OUT_VOICES if self.voices == VOICES else ()) if held_out is None else held_out,
            corpus=self.corpus or ("vocable-stories" if text is None else text.stem),
            licence="Apache-2.0" if self.licence is None and text is None else self.licence,
        )


class Story(NamedTuple):
    """A titled text; `id` is its title in lower case with hyphens."""

    id: str
    title: str
    split: str
    text: str


class Recording(NamedTuple):
    """Who speaks which story; `held_out` voices speak nothing of the train split."""

    story: Story
    voice: str
    held_out: bool

    @property
    def id(self) -> str:
        return f"{self.story.id}.{self.voice}"


def read_stories(path: Path) -> list[Story]:
    """Read a text file of stories; a file without a title line is one train story with the file's name.

    Raises:
        ConfigError: the file is missing or empty, a split is unknown, a story has no text, or two have one title.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such text file.")
    stories: list[Story] = []
    title, split, lines = path.stem, "train", []

    def finish() -> None:
        text = " ".join(" ".join(lines).split())
        if text:
            stories.append(Story(re.sub(r"[^\w]+", "-", title.lower()).strip("-"), title, split, text))
        elif title != path.stem:
            raise ConfigError(f"{path}: the story {title!r} has no text.")

    for number, line in enumerate(split_lines(path.read_text(encoding="utf-8-sig")), start=1):
        if line.startswith("#"):
            finish()
            match = TITLE.fullmatch(line)
            assert match is not None
            title, split, lines = match["title"], match["split"] or "train", []
            if split not in SPLITS:
                raise ConfigError(f"{path}, line {number}: the split is {split!r}; it is one of {', '.join(SPLITS)}.")
        else:
            lines.append(line)
    finish()
    if not stories:
        raise ConfigError(f"{path}: holds no text.")
    ids = [story.id for story in stories]
    for story in stories:
        if ids.count(story.id) > 1:
            raise ConfigError(f"{path}: two stories have the title {story.title!r}.")
    return stories


def split_utterances(text: str, max_words: int = 22) -> list[str]:
    """Cut a story into utterances of one or two sentences; nothing but the spaces between them is lost."""
    sentences = [part for sentence in split_sentences(text) for part in _cut_long(sentence, int(1.6 * max_words))]
    utterances: list[str] = []
    joined = 0
    for sentence in sentences:
        if utterances and joined < 2 and len(utterances[-1].split()) + len(sentence.split()) <= max_words:
            utterances[-1] += " " + sentence
            joined += 1
        else:
            utterances.append(sentence)
            joined = 1
    return utterances


def split_sentences(text: str) -> list[str]:
    """Cut after . ! ? (and a closing quotation mark) where a capital letter, a digit or a quotation mark follows."""
    pieces, start = [], 0
    for match in SENTENCE_END.finditer(text):
        end = match.end("quote")
        pieces.append(text[start:end].strip())
        start = end
    return [piece for piece in [*pieces, text[start:].strip()] if piece]


def plan_recordings(stories: list[Story], config: SpokenStoriesConfig) -> list[Recording]:
    """Deal the voices out in turn: to the train stories, and to the others, which get a held-out voice as well."""
    recordings: list[Recording] = []
    held_out_used = 0
    for index, story in enumerate(stories):
        recordings.append(Recording(story, config.voices[index % len(config.voices)], False))
        if story.split != "train" and config.held_out_voices:
            voice = config.held_out_voices[held_out_used % len(config.held_out_voices)]
            recordings.append(Recording(story, voice, True))
            held_out_used += 1
    return recordings


def build_spoken_stories(
    stories: list[Story],
    out: Path,
    synthesizer: Synthesizer,
    config: SpokenStoriesConfig,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Utterance]:
    """Speak all stories into `out`: audio/*.opus, manifest.jsonl and build.json. A killed run goes on where it stopped.

    Raises:
        OutputError: `out` holds a build with other settings.
        UnknownNameError: the synthesiser lacks a voice.
    """
    out = Path(out)
    recordings = plan_recordings(stories, config)
    synthesizer.check_voices([recording.voice for recording in recordings])
    claim_folder(out, _settings(stories, synthesizer, config), record="build.json")
    if (out / "manifest.jsonl").is_file():  # written last: nothing is left to do
        return read_manifest(out / "manifest.jsonl", strict=True)
    (out / "parts").mkdir(exist_ok=True)
    utterances: list[Utterance] = []
    for recording in recordings:
        part = out / "parts" / f"{recording.id}.jsonl"
        if not part.is_file():
            progress(f"speaking {recording.id}")
            write_manifest(_speak(recording, out, synthesizer, config), part)
        utterances += read_manifest(part, strict=True)
    write_manifest(utterances, out / "manifest.jsonl")
    shutil.rmtree(out / "parts")
    return utterances


def level_and_trim(speech: Speech, loudness_dbfs: float, margin_seconds: float = 0.08) -> Speech:
    """Cut the silence at both ends, all but a margin, and bring the loud frames to a level.

    Frames of 10 ms count as silent 45 dB below the loudest; as loud, within 30 dB of it. No sample passes 0.97.
    """
    hop = speech.sample_rate // 100
    padded = np.pad(speech.waveform, (0, -len(speech.waveform) % hop))
    power = np.square(padded.reshape(-1, hop)).mean(axis=1) + 1e-12
    decibels = 10 * np.log10(power / power.max())
    voiced = np.flatnonzero(decibels > -45)
    margin = int(margin_seconds * speech.sample_rate)
    first = max(0, int(voiced[0]) * hop - margin)
    last = min(len(speech.waveform), (int(voiced[-1]) + 1) * hop + margin)
    if speech.words:  # never cut into a word
        first = min(first, int(speech.words[0].start * speech.sample_rate))
        last = max(last, min(len(speech.waveform), round(speech.words[-1].end * speech.sample_rate)))
    gain = 10 ** (loudness_dbfs / 20) / np.sqrt(power[decibels > -30].mean())
    waveform = speech.waveform[first:last] * min(gain, 0.97 / np.abs(speech.waveform).max())
    fade = np.linspace(0, 1, hop, dtype=np.float32)
    waveform[:hop] *= fade
    waveform[-hop:] *= fade[::-1]
    shift = first / speech.sample_rate
    words = tuple(Word(word=w.word, start=w.start - shift, end=w.end - shift) for w in speech.words)
    length = len(waveform) / speech.sample_rate
    phones = tuple(
        Phone(phone=p.phone, start=max(0.0, p.start - shift), end=min(p.end - shift, length))
        for p in speech.phones
        if p.end > shift and p.start - shift < length  # a pause at the end may have been cut away
    )
    return Speech(waveform.astype(np.float32), speech.sample_rate, words, phones)


def write_opus(path: Path, waveform: np.ndarray, sample_rate: int, bits_per_second: int) -> None:
    """Write mono Opus at about a bit rate."""
    level = (256_000 - bits_per_second) / 250_000  # libsndfile maps its level 0..1 to 256..6 kbit/s a channel
    with replace_file(path) as file:
        soundfile.write(file, waveform, sample_rate, format="OGG", subtype="OPUS", compression_level=level)


def _speak(recording: Recording, out: Path, synthesizer: Synthesizer, config: SpokenStoriesConfig) -> list[Utterance]:
    """Speak one story into one file; return its utterances."""
    generator = np.random.default_rng([config.seed, *recording.id.encode()])
    audio, story = (out / "audio" / f"{recording.id}.opus").resolve(), recording.story
    pieces: list[np.ndarray] = []
    utterances: list[Utterance] = []
    position = 0
    for number, text in enumerate(split_utterances(story.text, config.max_words)):
        speech = _at_rate(synthesizer.speak(text, recording.voice), config.sample_rate)
        speech = level_and_trim(speech, config.loudness_dbfs)
        pause = generator.uniform(config.min_pause_seconds, config.max_pause_seconds)
        silence = np.zeros(round(pause * config.sample_rate), dtype=np.float32)
        words = tuple(Word(word=w.word, start=round(w.start, 4), end=round(w.end, 4)) for w in speech.words)
        phones = [{"phone": p.phone, "start": round(p.start, 4), "end": round(p.end, 4)} for p in speech.phones]
        utterances.append(
            Utterance(
                id=f"{recording.id}.{number:02d}",
                audio=audio,
                start=round(position / config.sample_rate, 6),
                duration=round(len(speech.waveform) / config.sample_rate, 6),
                text=text,
                language="en",
                speaker=recording.voice,
                corpus=config.corpus,
                licence=config.licence,
                words=words or None,
                split=split_named(story.split),
                extra={"story": story.id, "held_out_voice": recording.held_out}
                | ({"phones": phones} if phones else {}),
            )
        )
        pieces += [speech.waveform, silence]
        position += len(speech.waveform) + len(silence)
    write_opus(audio, np.concatenate(pieces), config.sample_rate, config.bits_per_second)
    return utterances


def _at_rate(speech: Speech, sample_rate: int) -> Speech:
    if speech.sample_rate == sample_rate:
        return speech
    waveform = soxr.resample(speech.waveform, speech.sample_rate, sample_rate)
    return Speech(waveform, sample_rate, speech.words, speech.phones)


def _settings(stories: list[Story], synthesizer: Synthesizer, config: SpokenStoriesConfig) -> dict:
    text = json.dumps([tuple(story) for story in stories], ensure_ascii=False)
    return {
        "synthesizer": synthesizer.name,
        "speed": getattr(synthesizer, "speed", None),
        "stories": len(stories),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "config": json.loads(json.dumps(asdict(config))),
    }


def _cut_long(sentence: str, max_words: int) -> list[str]:
    """Cut a sentence that is too long to speak at once: at the comma nearest its middle, else at its middle word."""
    words = sentence.split()
    if len(words) <= max_words:
        return [sentence]
    commas = [index + 1 for index, word in enumerate(words[:-1]) if word[-1] in ",;:—"]
    cut = min(commas or [len(words) // 2], key=lambda index: abs(index - len(words) // 2))
    return _cut_long(" ".join(words[:cut]), max_words) + _cut_long(" ".join(words[cut:]), max_words)
