"""A speech decoder that is small and sounds well early: durations, pitch and energy, spoken by a pretrained decoder.

    words -> phonemizer -> symbols (word_symbols.py) -> text encoder of the pretrained voice -> content
    symbols, vectors of words, speaker -> prosody_network.py -> durations, pauses, pitch, energy
    content repeated, pitch, energy, speaker -> source-filter decoder (synthesis/source_filter.py) -> 24 kHz

Differs from TASTE (Tseng et al., 2025, arXiv:2504.07053), whose decoder writes units of speech one after another (our
unit_decoder.py): here a word's vector can say how its phonemes are spoken, but not which; sounds come from the text. So
words are never lost, what is learned is small, and there is no sampling; but accents, slips, breaths and noises are not
kept, nor are silences before the first word and after the last.

Durations are those of symbols, at 40 Hz: the unit of the pretrained network and of alignments. Pitch and energy have 80
frames a second: the decoder reads them so, and a contour inside a phoneme (a fall on the last vowel) is what is heard.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError
from vocable.features.pitch import BRIDGED_NEPERS, ENERGY_PER_NEPER
from vocable.features.voice import Speaker
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.synthesis.phonemes import LEAD_FRAMES, PhonemizerName, default_phonemizer, open_phonemizer, word_times
from vocable.synthesis.source_filter import SourceFilterConfig, SourceFilterDecoder
from vocable.synthesis.text_to_speech import END_ID, TextToSpeech, TextToSpeechConfig
from vocable.synthesis.vocoder import UnitVocoder
from vocable.synthesis.word_prosody import (
    FRAME_RATE,
    HIGHEST_HZ,
    LOWEST_HZ,
    WordProsody,
    ask_durations,
    silent_tails,
    smooth_steps,
    word_frames,
)
from vocable.systems.taste.prosody_losses import PART_NAMES, ProsodyLossConfig, prosody_loss
from vocable.systems.taste.prosody_network import ProsodyNetwork, ProsodyNetworkConfig, whole_frames
from vocable.systems.taste.prosody_targets import SILENT_MARKS, TARGETS_VERSION, ProsodyTargets
from vocable.systems.taste.speech_decoder import (
    DecoderLoss,
    SpeechDecoder,
    SpokenWords,
    WordBatch,
    WordChange,
    register_decoder,
)
from vocable.systems.taste.word_symbols import WordSymbols, read_words
from vocable.tokens.tokenizer import resolve_folder
from vocable.types import Utterance, Word

OWN_VOICE = "hibari"
MAX_SYMBOLS = 400
"""Longer texts are spoken in parts, as the pretrained voice does."""
LARGEST_STEP = 24.0
"""Pitch is kept within so many semitones of the speaker's median."""
ENERGY_PER_DECIBEL = 2.33 * math.log(10) / 20
"""More than the 2 a neper of recordings, by which two words in three voices, asked to be 6 dB louder or quieter, were
so by 5.2 dB (4.1 to 6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyDecoderConfig:
    """A prosody decoder."""

    kind: Literal["prosody"] = "prosody"
    voice: str = "vocable/voices"
    """What speaks: a unit vocoder whose source-filter decoder reads a speaker vector, a folder or a shipped name; or
    `hibari`, the pretrained voice itself, which has no other. It is frozen, and not stored with the decoder."""
    phonemizer: PhonemizerName | None = None
    """What reads texts; None: the first that is installed."""
    network: ProsodyNetworkConfig = field(default_factory=ProsodyNetworkConfig)
    losses: ProsodyLossConfig = field(default_factory=ProsodyLossConfig)

    def build(self, word_dim: int, reader: WordTextTokenizer) -> "ProsodyDecoder":
        """Make a decoder that begins with the prosody of the pretrained voice; see DecoderConfig.

        Raises:
            AssetError: weights cannot be found.
            ConfigError: they do not fit.
        """
        return ProsodyDecoder(self, word_dim, TextToSpeech.from_pretrained(), _open_voice(self.voice))


class _Plan(NamedTuple):
    """How a text is spoken, before it has a speaker."""

    durations: Int[Tensor, " symbols"]
    semitones: Float[Tensor, " frames"]
    """Pitch above the speaker's median."""
    voiced: Bool[Tensor, " frames"]
    energy: Float[Tensor, " frames"]


class VoiceDecoder(nn.Module):
    """What speaks: a source-filter decoder, and the pitch that goes with a speaker vector."""

    def __init__(self, decoder: SourceFilterDecoder, voice: UnitVocoder | None, median_hz: float) -> None:
        """Take the decoder of a vocoder, or one with a voice of its own and its median pitch."""
        super().__init__()
        self.decoder = decoder if voice is None else voice.decoder
        self.own_median_hz = median_hz
        self.pitch_of_vector = None if voice is None else voice.pitch_of_vector

    def speaker(self, speaker: Speaker) -> tuple[Float[Tensor, "1 speaker_dim"] | None, float]:
        """Return the vector that the decoder reads, and the median pitch in Hz.

        A decoder with a voice of its own knows no speaker. Elsewhere, a speaker without pitch has the one that is
        usual for the vector.
        """
        if self.pitch_of_vector is None:
            return None, self.own_median_hz
        vector = speaker.vector.to(self.pitch_of_vector.weight.device).float()
        pitch = self.pitch_of_vector(vector) if speaker.pitch is None else speaker.pitch
        return vector[None], math.exp(float(pitch[0]))


@register_decoder
class ProsodyDecoder(SpeechDecoder):
    """Words and their vectors to speech, by the prosody of phonemes."""

    kind = "prosody"
    part_names = PART_NAMES
    sounds: Tensor

    def __init__(
        self, config: ProsodyDecoderConfig, word_dim: int, model: TextToSpeech, voice: UnitVocoder | None = None
    ) -> None:
        """Take over a pretrained text-to-speech model; it is what learns.

        Args:
            config: Settings.
            word_dim: Length of the vectors of words.
            model: The pretrained text to speech.
            voice: What speaks; None: the model's own decoder.

        Raises:
            ConfigError: the voice reads other content, another frame rate, or speaker vectors of another length.
        """
        super().__init__()
        self.config, self.word_dim = config, word_dim
        self.model_config, self.symbols = model.config, model.symbols
        self.text = model.text.requires_grad_(False)
        self.network = ProsodyNetwork(config.network, model.prosody, word_dim, model.config.median_hz)
        self.phonemizer = open_phonemizer(config.phonemizer)
        # in lists, so that they are no part of this module
        self._borrowed = [VoiceDecoder(model.decoder, voice, model.config.median_hz).requires_grad_(False).eval()]
        self._targets = [ProsodyTargets(model, self.phonemizer)]
        _check_voice(self.voice.decoder.config, model.config.decoder, None if voice is None else config)
        sounds = torch.zeros(model.config.num_symbols, dtype=torch.bool)
        sounds[[id for symbol, id in model.symbols.items() if symbol not in SILENT_MARKS]] = True
        sounds[END_ID] = False
        self.register_buffer("sounds", sounds, persistent=False)

    @classmethod
    def from_saved(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ProsodyDecoder":
        """See SpeechDecoder."""
        settings = config_from_dict(ProsodyDecoderConfig, config["config"], source="decoder")
        sizes = config_from_dict(TextToSpeechConfig, config["text_to_speech"], source="decoder")
        model, voice = TextToSpeech(sizes, config["symbols"]), _open_voice(settings.voice)
        if voice is None:
            model.decoder = TextToSpeech.from_pretrained().decoder
        decoder = cls(settings, config["word_dim"], model, voice)
        try:
            decoder.load_state_dict(tensors)
        except RuntimeError as error:
            raise AssetError(f"These are not the weights of this prosody decoder: {error}") from error
        return decoder.eval()

    @property
    def voice(self) -> VoiceDecoder:
        """What speaks; borrowed, and so no part of the module's weights."""
        return self._borrowed[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ProsodyDecoder":
        """Move what is borrowed as well, when the module moves to another device."""
        self.voice._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def sample_rate(self) -> int:
        """See SpeechDecoder."""
        return self.voice.decoder.config.sample_rate

    def saved_config(self) -> dict[str, Any]:
        """Return settings, and sizes and symbols of the pretrained model."""
        return {
            "config": config_to_dict(self.config),
            "word_dim": self.word_dim,
            "text_to_speech": config_to_dict(self.model_config),
            "symbols": self.symbols,
        }

    def targets_key(self) -> dict[str, Any]:
        """See SpeechDecoder."""
        return {
            "prosody_targets": TARGETS_VERSION,
            "phonemizer": self.config.phonemizer or default_phonemizer(),
            "symbols": self.symbols,
        }

    def targets(
        self, utterance: Utterance, waveform: Float[Tensor, " samples"], words: Sequence[str]
    ) -> dict[str, Tensor]:
        """See SpeechDecoder and ProsodyTargets."""
        return self._targets[0].measure(utterance, waveform, words)

    def loss(self, batch: WordBatch, targets: Sequence[Mapping[str, Tensor]]) -> DecoderLoss:
        """See SpeechDecoder and prosody_losses.py."""
        return prosody_loss(self.config.losses, self.network, self.sounds, batch, targets)

    @torch.no_grad()
    def speak(
        self,
        words: Sequence[str],
        vectors: Float[Tensor, "words dim"] | None,
        speaker: Speaker,
        changes: Mapping[int, WordChange] | None = None,
        seed: int = 0,
    ) -> SpokenWords:
        """See SpeechDecoder; nothing is drawn. A change to a word without a sound does nothing.

        Raises:
            ConfigError: no word has a sound, or one cannot be read; or see SpeechDecoder.
        """
        changes = changes or {}
        self._check(words, vectors, speaker, changes)
        read = read_words(words, self.phonemizer)
        spoken = [self._speak_part(part, vectors, speaker, changes) for part in read.parts(MAX_SYMBOLS)]
        times: dict[int, Word] = {}
        place = 0.0
        for waveform, found, part in spoken:
            for owner, word in zip(part.owners, found, strict=True):
                start = times[owner].start if owner in times else word.start + place
                times[owner] = Word(word=words[owner], start=start, end=word.end + place)
            place += len(waveform) / self.sample_rate
        timed, end = [], 0.0
        for index, word in enumerate(words):
            timed.append(times.get(index) or Word(word=word, start=end, end=end))
            end = timed[-1].end
        return SpokenWords(torch.cat([waveform for waveform, _, _ in spoken]), tuple(timed))

    def _check(
        self, words: Sequence[str], vectors: Tensor | None, speaker: Speaker, changes: Mapping[int, WordChange]
    ) -> None:
        if vectors is not None and vectors.shape != (len(words), self.word_dim):
            raise ConfigError(
                f"There are vectors of shape {tuple(vectors.shape)} for {len(words)} words; this decoder reads one of "
                f"{self.word_dim} numbers for each word."
            )
        if speaker.vector.shape != (self.config.network.speaker_dim,):
            raise ConfigError(
                f"The speaker vector has shape {tuple(speaker.vector.shape)}; this decoder reads "
                f"{self.config.network.speaker_dim} numbers."
            )
        outside = [index for index in changes if not 0 <= index < len(words)]
        if outside:
            raise ConfigError(f"A change names word {outside[0]}, but there are {len(words)} words, from 0.")

    def _speak_part(
        self, read: WordSymbols, vectors: Tensor | None, speaker: Speaker, changes: Mapping[int, WordChange]
    ) -> tuple[Float[Tensor, " samples"], tuple[Word, ...], WordSymbols]:
        device = self.sounds.device
        asked = [changes.get(owner, WordChange()) for owner in read.owners]
        known = None if vectors is None else vectors[None].to(device).float()
        who = speaker.vector[None].to(device).float()
        features = self._features(read, known, who)
        ends = torch.tensor([last for _, last in read.spans], device=device)  # the start mark comes first
        read = read.with_commas(torch.nonzero(self.network.pauses(features[0, ends]) > 0)[:, 0].tolist())
        features, text, spans = self._features(read, known, who), read.text, read.spans
        logs = self.network.log_durations(features, torch.ones_like(features[..., 0], dtype=torch.bool))
        frames = whole_frames(logs[0], self.sounds[self._ids(text)]).cpu().numpy()
        plan = self._plan(features, frames)
        tails = silent_tails(text, frames, _is_silent(plan.energy))
        if any(change.stretch != 1 for change in asked):
            wishes = [WordProsody(stretch=change.stretch if change.stretch != 1 else None) for change in asked]
            frames, tails = ask_durations(frames, tails, spans, wishes)
            plan = self._plan(features, frames)
        heard = frames - tails + np.roll(tails, 1)
        names, first = [word.word for word in read.spoken], max(0, int(frames[0]) - LEAD_FRAMES)
        times = word_times(names, spans, heard[1:-1], first)
        vector, median_hz = self.voice.speaker(speaker)
        f0, energy = _sounding(plan, times, asked, median_hz)
        content = self.text(self._ids(text)[None]).repeat_interleave(2 * plan.durations.to(device), 1)
        spectra = self.voice.decoder(content, f0[None].to(device), energy[None].to(device), vector)
        waveform = self.voice.decoder.synthesise(spectra, f0[None].to(device))[0]
        return waveform.clamp(-1, 1).cpu(), times, read

    def _ids(self, text: str) -> Int[Tensor, " symbols"]:
        return self._targets[0].model.ids(text).to(self.sounds.device)

    def _features(self, read: WordSymbols, vectors: Tensor | None, speaker: Tensor) -> Tensor:
        ids, owners = self._ids(read.text)[None], torch.tensor([read.symbol_owners()], device=self.sounds.device)
        return self.network.features(ids, owners, torch.ones_like(ids, dtype=torch.bool), vectors, speaker)

    def _plan(self, features: Tensor, frames: np.ndarray) -> _Plan:
        durations = torch.from_numpy(frames)
        found, _ = self.network.delivery(features, durations[None].to(features.device))
        semitones = found.semitones[0].clamp(-LARGEST_STEP, LARGEST_STEP).cpu()
        return _Plan(durations, semitones, found.voiced[0].cpu() > 0, found.energy[0].cpu())


def _is_silent(energy: Float[Tensor, " frames"]) -> np.ndarray:
    """30 dB below the loudest 5 %."""
    return (energy < energy.quantile(0.95) - ENERGY_PER_NEPER * BRIDGED_NEPERS).numpy()


def _sounding(
    plan: _Plan, times: Sequence[Word], asked: Sequence[WordChange], median_hz: float
) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"]]:
    """Turn a plan into F0 in Hz and energy, words higher and louder as asked."""
    size = len(plan.energy)
    higher, louder = np.zeros(size), np.zeros(size)
    for word, change in zip(times, asked, strict=True):
        higher[word_frames(word, size)] += change.semitones
        louder[word_frames(word, size)] += change.decibels * ENERGY_PER_DECIBEL
    semitones = plan.semitones + torch.from_numpy(smooth_steps(higher)).float()
    f0 = (median_hz * 2 ** (semitones / 12)).clamp(LOWEST_HZ, HIGHEST_HZ) * plan.voiced
    return f0, plan.energy + torch.from_numpy(smooth_steps(louder)).float()


def _check_voice(voice: SourceFilterConfig, own: SourceFilterConfig, config: ProsodyDecoderConfig | None) -> None:
    """Check that a decoder fits the text encoder; and, where it is to copy speakers, that it can."""
    if voice.content_dim != own.content_dim or voice.frame_rate != FRAME_RATE:
        raise ConfigError(
            f"decoder.voice reads {voice.content_dim} numbers at {voice.frame_rate:g} Hz; the content of the "
            f"pretrained text encoder has {own.content_dim}, at {FRAME_RATE} Hz."
        )
    if config is not None and voice.speaker_dim != config.network.speaker_dim:
        raise ConfigError(
            f"decoder.voice ({config.voice}) reads speaker vectors of length {voice.speaker_dim}, but "
            f"decoder.network.speaker_dim is {config.network.speaker_dim}. Name a vocoder that reads these, or "
            f"{OWN_VOICE}, which has one voice."
        )


def _open_voice(name: str) -> UnitVocoder | None:
    return None if name == OWN_VOICE else UnitVocoder.from_pretrained(resolve_folder(name))
