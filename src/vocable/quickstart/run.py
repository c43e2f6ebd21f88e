"""What the parts of a quickstart share: folder, recordings, models, judges, and the time of every step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console
from torch import Tensor

from vocable.assets import is_available
from vocable.audio.io import Audio, read_audio
from vocable.audio.manifest import Rejections
from vocable.audio.writing import encode_audio
from vocable.errors import ConfigError
from vocable.evaluation.metrics.mos import MosPredictor, load_mos
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.files import claim_folder
from vocable.quickstart.data import choose_recordings, load_recordings
from vocable.recognition.transcribe import Transcriber, load_transcriber
from vocable.synthesis.opening import attach_synthesizer
from vocable.synthesis.vocoder import UnitVocoder
from vocable.tokens.tokenizer import SpeechTokenizer, load_tokenizer
from vocable.types import Utterance

TOKENIZER = "vocable/units-500"
RECOGNISER, MOS, SPEAKER = "openai/whisper-base", "distillmos", "resemblyzer"
NUM_HEARD, NUM_SCORED = 6, 24
"""Recordings to listen to, and those that language models are scored on; the former are the first of the latter."""


@dataclass(kw_only=True)
class Run:
    """One run, as its parts see it; the settings are those of the command."""

    audio: Path | None
    out: Path
    train: bool
    minutes: float
    voice: str | Path | None
    seed: int
    console: Console = field(default_factory=lambda: Console(highlight=False))
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step."""
    weights: list[str] = field(default_factory=list)
    """Names of the pretrained models in use."""
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        if not self.minutes >= 1:
            raise ConfigError(f"minutes is {self.minutes}; training needs at least 1, and ten to show something.")
        settings = {"audio": None if self.audio is None else str(self.audio.resolve()), "seed": self.seed}
        claim_folder(self.out, settings, record="quickstart.json", is_foreign=lambda _: False)
        self.rejections = Rejections(self.out)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what is done, and note how long it took."""
        started = time.perf_counter()
        self.console.print(f"[bold]{name}[/bold] ...")
        yield
        self.seconds[name] = time.perf_counter() - started
        self.console.print(f"[bold]{name}[/bold] took {self.seconds[name]:.1f} s")

    @property
    def elapsed_minutes(self) -> float:
        """Time since the run began."""
        return (time.perf_counter() - self.started) / 60

    @cached_property
    def scored(self) -> list[Utterance]:
        """Recordings of a few seconds, all with speech in them."""
        return choose_recordings(load_recordings(self.audio, self.rejections), NUM_SCORED, self.rejections)

    @property
    def heard(self) -> list[Utterance]:
        """Recordings to listen to."""
        return self.scored[:NUM_HEARD]

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """The tokenizer that comes with Vocable, with the vocoder for its units."""
        return attach_synthesizer(load_tokenizer(TOKENIZER))

    @property
    def vocoder(self) -> UnitVocoder:
        """The vocoder that comes with Vocable."""
        assert isinstance(self.tokenizer.synthesizer, UnitVocoder)
        return self.tokenizer.synthesizer

    def own_voice(self, utterance: Utterance) -> Audio | None:
        """Return the recording as a voice to copy; None where the vocoder cannot."""
        config = self.vocoder.config
        can = config.decoder.speaker_dim is not None and is_available(config.speaker_encoder)
        return read_recording(utterance, self.vocoder.sample_rate) if can else None

    @cached_property
    def judges(self) -> list[str]:
        """Names of the judges that were fetched."""
        return [name for name in (RECOGNISER, MOS, SPEAKER) if is_available(name)]

    @cached_property
    def transcriber(self) -> Transcriber | None:
        """The recogniser, for the language of the recordings; None where it was not fetched."""
        return load_transcriber(RECOGNISER, language=self.language) if RECOGNISER in self.judges else None

    @cached_property
    def mos(self) -> MosPredictor | None:
        """The predictor of opinion scores; None where it was not fetched."""
        return load_mos(MOS) if MOS in self.judges else None

    @cached_property
    def speaker(self) -> SpeakerEncoder | None:
        """The judge of voices; None where it was not fetched."""
        return load_speaker_encoder(SPEAKER) if SPEAKER in self.judges else None

    @cached_property
    def language(self) -> str:
        """Language of the recordings; English where nobody says."""
        return next((u.language for u in self.heard if u.language), "en").split("-")[0]

    @property
    def normaliser(self) -> str:
        """How texts are made alike before their words are compared."""
        return "english" if self.language == "en" else "basic"


def read_recording(utterance: Utterance, sample_rate: int) -> Audio:
    """Read an utterance as audio that knows its rate."""
    return read_audio(utterance.audio, sample_rate, utterance.start, utterance.duration)


def encode_mp3(audio: Tensor, sample_rate: int) -> bytes:
    """Encode for a page."""
    return encode_audio(audio.clamp(-1, 1), sample_rate, "mp3")


def name_of(utterance: Utterance) -> str:
    """Id and, where it is known, speaker."""
    return f"{utterance.id} ({utterance.speaker})" if utterance.speaker else utterance.id
