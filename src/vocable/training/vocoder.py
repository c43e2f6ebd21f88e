"""Train a unit vocoder, for any tokenizer and any language, from the pretrained decoder or from nothing.

    share of the run:   0 .......... teacher_from ............ waveform_from ............ adversarial_from ....... 1
    the front end:      learns content | behind the frozen decoder | to sound like the recording
    the decoder:                                                     learns too           | against discriminators

Pitch, voicing, energy and durations are learned all the time. Content is known of speech with phone times
(ContentTargets); a run without such speech begins with the sound. It runs in training/loop.py, as two learners; a run
that was stopped continues from its last checkpoint with the same batches.

<out>/training.yaml, checkpoints, metrics.jsonl, best/, last/      see training/checkpoints.py
<out>/vocoder                                                      the result: last/, with its scale of durations
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.features.config import EncoderConfig
from vocable.features.loading import load_encoder
from vocable.features.pitch import Prosody
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.features.voice import Speaker
from vocable.splits import rank, refuse_nothing_to_train_on
from vocable.synthesis.discriminators import DiscriminatorConfig, Discriminators
from vocable.synthesis.layers import whole_durations
from vocable.synthesis.source_filter import SourceFilterDecoder, Spectra
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.synthesis.unit_frontend import LARGEST_DEVIATION
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.shard_columns import TokenRows
from vocable.training.config import TrainingConfig
from vocable.training.loop import Loop, train
from vocable.training.task import DataSize, Learner, LossSum, Progress, TrainingTask
from vocable.training.vocoder_data import ContentTargets, Piece, Recording, SegmentBatch, VocoderData
from vocable.training.vocoder_losses import (
    AdversarialKind,
    ListenerLoss,
    MultiScaleMelLoss,
    SpectralLoss,
    TeacherLoss,
    adversarial_loss,
    content_loss,
    discriminator_loss,
    duration_loss,
    feature_matching_loss,
    prosody_loss,
)
from vocable.types import SpeechTokens, Utterance

OWN_PITCH = (5.25, 0.23)
"""Mean and standard deviation of log F0 of the voice of the pretrained decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderTrainingConfig(TrainingConfig):
    """How a vocoder is trained. Its tokens are segments; a step's batches are numbered, whatever process draws them."""

    max_steps: int | None = 100_000
    """Stop after this many steps."""
    batch_size: int = 8
    """Segments per batch."""
    segment_seconds: float = 1.6
    """Length of a segment."""
    learning_rate: float = 4e-4
    """Highest rate of the front end; linear warm-up, then cosine down to a hundredth."""
    decoder_learning_rate: float = 4e-4
    """Highest rate of the decoder."""
    speaker_learning_rate: float = 2e-3
    """Highest rate of what reads the speaker vector."""
    discriminator_learning_rate: float = 2e-4
    """Highest rate of the discriminators."""
    warmup_steps: int = 50
    """Steps of linear increase to the highest rates."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    teacher_from: float | None = None
    """Share of the run after which known content is also compared by what the frozen decoder would make of it; until
    `waveform_from`. None: never."""
    waveform_from: float = 0.0
    """Share of the run after which sound is made, compared with the recording, and the decoder learns."""
    adversarial_from: float | None = None
    """Share of the run after which the discriminators join; None trains by spectral loss alone."""
    adversarial_kind: AdversarialKind = "hinge"
    """Form of the adversarial loss."""
    adversarial_segment_seconds: float | None = None
    """Only this much of each segment, at a random place, is judged by the discriminators; None judges all of it."""
    top_hz: float | None = 7600.0
    """Highest frequency at which sound is compared with recordings: recordings of 16 kHz hold nothing above 8 kHz, and
    the pretrained decoder has learned what is missing. None: half the sample rate of the vocoder."""
    listener: EncoderConfig | None = None
    """A pretrained encoder that hears the made and the recorded speech, frozen; their difference in its last three
    layers is a loss. It keeps words that a spectral loss blurs."""
    mel_weight: float = 1.0
    """Weight of the mel distance."""
    stft_weight: float = 1.0
    """Weight of the distance of spectra of several window sizes."""
    listener_weight: float = 1.0
    """Weight of what the listener hears, where there is one."""
    high_weight: float = 0.3
    """Weight of the difference from the pretrained decoder above `top_hz`, where one is at hand."""
    content_weight: float = 0.3
    """Weight of the squared error of content."""
    symbol_weight: float = 0.5
    """Weight of the cross entropy of phoneme symbols, where the front end tells them apart."""
    teacher_weight: float = 1.0
    """Weight of the distance behind the frozen decoder."""
    prosody_weight: float = 0.5
    """Weight of pitch, voicing and energy."""
    duration_weight: float = 1.0
    """Weight of durations."""
    adversarial_weight: float = 0.1
    """Weight of the discriminators' verdict."""
    feature_weight: float = 0.2
    """Weight of feature matching."""
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminators."""
    max_gradient_norm: float | None = 1.0
    """Gradients of the vocoder longer than this are shortened to it; None: never."""
    ema_decay: float | None = 0.999
    """Decay of the averaged weights, which are the ones that are saved as the result; None: no averaging."""
    loudness_db: float | None = -27.0
    """RMS level that every utterance is brought to, dB below full scale: that of the pretrained decoder's own speech.
    None leaves levels alone."""
    num_workers: int = 0
    """Processes that prepare batches; each keeps up to 35 minutes of recordings in memory."""
    validation_utterances: int = 8
    """Held out from training, chosen by their id; 0 for none."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl; each is the mean since the line before."""
    validate_every: int | None = 2000
    """Steps between validations; None: only at the end."""
    checkpoint_every: int | None = 2000
    """Steps between checkpoints; None: only at the end."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        self.require_at_least(batch_size=1, warmup_steps=0, num_workers=0, validation_utterances=0)
        self.require_above_zero("segment_seconds", "learning_rate", "decoder_learning_rate", "speaker_learning_rate")
        self.require_above_zero("discriminator_learning_rate")
        for name in ("teacher_from", "waveform_from", "adversarial_from"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"training.{name} is {share}; it is a share of the run, 0 to 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderRecipe:
    """A vocoder and its training: what a yaml in recipes/vocoder holds."""

    vocoder: VocoderConfig
    """The network. What the tokenizer and the speech decide is filled in: sizes, rates, voices and fingerprints."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start of the decoder: the weights of the asset `hibari`, which fit the default sizes, or random ones."""
    min_voice_seconds: float = 100.0
    """Speech of a speaker, in the training data, from which on the vocoder knows the voice by name."""
    training: VocoderTrainingConfig = field(default_factory=VocoderTrainingConfig)
    """How it is trained."""


def train_vocoder(
    pairs: Sequence[tuple[Utterance, SpeechTokens]],
    config: VocoderConfig,
    training: VocoderTrainingConfig,
    out: Path,
    read: Callable[[Utterance, int], Tensor] | None = None,
    start_from: UnitVocoder | TextToSpeech | None = None,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    codebooks: Sequence[Tensor] | None = None,
    encoder: SpeakerEncoder | None = None,
    targets: ContentTargets | None = None,
    reference: SourceFilterDecoder | None = None,
    voices: Sequence[str] = (),
    show: bool = True,
) -> UnitVocoder:
    """Train on utterances and their tokens; write logs, checkpoints and the vocoder under `out`; return the vocoder.

    The result is `out/vocoder`. A run that finds checkpoints in `out` continues from the last one.

    Args:
        pairs: utterances with their tokens.
        config: the network.
        training: how it is trained.
        out: the run's folder.
        read: turns an utterance into a waveform at a sample rate; None reads the audio file.
        start_from: a vocoder whose weights are the start, as far as names and shapes agree, or a text-to-speech model
            whose decoder is; None: random weights.
        weights: an utterance with twice the weight is drawn twice as often per second of speech.
        codebooks: the vectors that units stand for, with `config.codebook_dim`; ids of the second follow the first's.
        encoder: of speaker vectors; None loads that of `config` where the decoder reads one.
        targets: content of speech whose phones are known.
        reference: a pretrained decoder, which says what lies above `training.top_hz`.
        voices: speakers that the vocoder will know by name, the default first.
        show: display progress.

    Raises:
        OutputError: `out` holds a run with other settings, or the disk is full.
        ManifestError: no utterance is long enough, or tokens do not fit their audio.
    """
    from accelerate import Accelerator

    out, rows = Path(out), TokenRows.of(pairs)
    accelerator = Accelerator(mixed_precision="no")  # as the loop makes it: the first one decides for all
    shares = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    held_out, rest = _split(rows, training.validation_utterances)
    if len(voices) > 1:
        replace(config, voices=tuple(voices))  # refused before the training, not after it
    if config.decoder.speaker_dim is not None and encoder is None:
        encoder = load_speaker_encoder(config.speaker_encoder)
    shared = {"loudness_db": training.loudness_db, "encoder": encoder, "targets": targets}
    data = VocoderData(
        rows.select(rest),
        config,
        read,
        batch_size=training.batch_size,
        segment_seconds=training.segment_seconds,
        seed=training.seed,
        weights=shares[rest],
        store=out,
        **shared,
    )
    validation = None
    if training.validation_utterances and len(held_out):
        validation = VocoderData(rows.select(held_out), config, read, segment_seconds=0.02, **shared)
    torch.manual_seed(training.seed)
    vocoder = UnitVocoder(config)
    if codebooks is not None:
        vocoder.set_codebooks(codebooks, standardise=True)
    if start_from is not None:
        take_weights(vocoder, start_from)
    if targets is not None and not isinstance(start_from, UnitVocoder):
        measure_content(vocoder, data)
    task = VocoderTask(vocoder, training, data, validation, _describe(rows, shares), reference)
    result = train(task, training, out, show=show)
    vocoder = UnitVocoder.from_pretrained(result.last).to(accelerator.device).eval()
    vocoder.config = replace(config, duration_scale=measure_duration_scale(vocoder, data))
    if voices or config.decoder.speaker_dim is None:
        vocoder = vocoder.with_voices(mean_speakers(data, voices))
    if accelerator.is_main_process:
        vocoder.save_pretrained(out / "vocoder")
    return vocoder


def take_weights(vocoder: UnitVocoder, start_from: UnitVocoder | TextToSpeech) -> None:
    """Copy weights whose names and shapes agree.

    Raises:
        ConfigError: the decoder has other sizes than that of a text-to-speech model, whose weights then help nothing.
    """
    own, weights = vocoder.state_dict(), start_from.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key.startswith("decoder.") and "film" not in key and key not in fitting]
    if isinstance(start_from, TextToSpeech):
        if missing:
            raise ConfigError(
                f"The pretrained decoder has other sizes than vocoder.decoder ({missing[0]} and {len(missing) - 1} "
                "other weights do not fit). Leave the sizes at their defaults, or start at random: init=random."
            )
        vocoder.voice_pitch[:] = torch.tensor(OWN_PITCH)
    vocoder.load_state_dict(fitting, strict=False)


@torch.no_grad()
def measure_content(vocoder: UnitVocoder, data: VocoderData, num_utterances: int = 200) -> None:
    """Set the mean and the deviation of content, so that the front end begins at the usual size."""
    found = []
    for index in range(0, len(data), -(-len(data) // num_utterances)):
        content = data.recording(index).content
        if content is not None:
            found.append(content.vectors[content.places])
    if found:
        frames = torch.cat(found)
        vocoder.frontend.content_mean.copy_(frames.mean(0))
        vocoder.frontend.content_deviation.copy_(frames.std(0).clamp(min=1e-3))


def mean_speakers(data: VocoderData, names: Sequence[str], num_utterances: int = 20) -> dict[str, Speaker]:
    """Return the mean vector, at length 1, and the mean pitch of each named speaker; without names, of everybody."""
    speakers, found = np.array([name or "" for name in data.rows.values("speaker")]), {}
    for name in names or [""]:
        rows = np.flatnonzero(speakers == name)[:num_utterances] if names else range(min(len(data), num_utterances))
        heard = [data.recording(int(row)).speaker for row in rows]
        if heard:
            vector = torch.stack([one.vector for one in heard]).mean(0)
            pitch = torch.stack([one.pitch for one in heard if one.pitch is not None]).mean(0)
            found[name] = Speaker(vector / vector.norm().clamp(min=1e-6), pitch)
    return found


@torch.no_grad()
def measure_duration_scale(vocoder: UnitVocoder, data: VocoderData, num_utterances: int = 200) -> float:
    """Return the factor by which predicted durations add up to the true ones; see VocoderConfig.duration_scale."""
    predicted, total = [], 0
    for index in range(0, len(data), -(-len(data) // num_utterances)):
        codes = data.recording(index).codes
        runs = torch.unique_consecutive(codes, dim=1)[None].to(vocoder.device)
        predicted.append(vocoder.log_durations(runs)[0])
        total += codes.shape[1]
    log_durations = torch.cat(predicted)
    low, high = 0.25, 4.0
    for _ in range(20):  # halve the interval: rounding makes the sum a staircase
        middle = (low + high) / 2
        too_long = int(whole_durations(log_durations, middle).sum()) > total
        low, high = (low, middle) if too_long else (middle, high)
    return round(high, 4)


@dataclass(slots=True)
class VocoderBatch:
    """Segments of one batch, and the speech that the vocoder made of them in this step."""

    segments: SegmentBatch
    made: Made | None = None

    def to(self, device: torch.device | str) -> VocoderBatch:
        """Return the same on `device`."""
        return VocoderBatch(SegmentBatch(*(item.to(device) for item in self.segments)))


class Made(NamedTuple):
    """Losses of a batch, weighted and by name, and what the discriminators are shown."""

    total: Tensor
    losses: dict[str, Tensor]
    judged: Tensor | None
    """(batch, samples); None before the discriminators join."""
    real: Tensor | None
    """The recorded samples in the same place."""


class VocoderTask(TrainingTask):
    """A vocoder and its discriminators, for the loop in training/loop.py."""

    part_names = (
        *(
            "mel",
            "stft",
            "listener",
            "high",
            "content",
            "symbols",
            "teacher",
            "pitch",
            "voiced",
            "energy",
            "duration",
            "voice",
        ),
        *("discriminator", "adversarial", "feature"),
        *("mel_predicted_prosody", "pitch_semitones"),  # of validation
    )
    may_change = ("training.num_workers",)
    target_name = "segment"

    def __init__(
        self,
        vocoder: UnitVocoder,
        training: VocoderTrainingConfig,
        data: VocoderData,
        validation: VocoderData | None,
        description: Mapping[str, object],
        reference: SourceFilterDecoder | None = None,
    ) -> None:
        """Make the discriminators and the two optimisers.

        Args:
            vocoder: in its initial state.
            training: how it is trained.
            data: batches by number.
            validation: utterances to validate on.
            description: of all utterances, so that a run goes on with the same ones only.
            reference: a pretrained decoder, which says what lies above `top_hz`.
        """
        self.reference = None
        if reference is not None and training.top_hz is not None and training.top_hz < vocoder.sample_rate / 2:
            self.reference = copy.deepcopy(reference).requires_grad_(False).eval()
        self.vocoder, self.training, self.data, self.validation = vocoder, training, data, validation
        self.description = description
        self.discriminators = Discriminators(training.discriminators)
        self.mel = MultiScaleMelLoss(vocoder.sample_rate, top_hz=training.top_hz)
        self.stft = SpectralLoss(vocoder.sample_rate, top_hz=training.top_hz)
        self.teacher = TeacherLoss(vocoder.decoder)
        self.listener = None
        if training.listener is not None:
            self.listener = ListenerLoss(load_encoder(training.listener), vocoder.sample_rate)
        rates = {
            "decoder.film.": training.speaker_learning_rate,
            "decoder.": training.decoder_learning_rate,
            "": training.learning_rate,
        }
        parts: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in rates}
        for name, parameter in vocoder.named_parameters():
            parts[next(prefix for prefix in rates if name.startswith(prefix))].append(parameter)
        groups = [{"params": parts[prefix], "lr": rates[prefix]} for prefix in reversed(rates) if parts[prefix]]
        settings = {"betas": (0.8, 0.98), "weight_decay": training.weight_decay}
        self.learners = {
            "vocoder": Learner(vocoder, torch.optim.AdamW(groups, **settings)),
            "discriminators": Learner(
                self.discriminators,
                torch.optim.AdamW(self.discriminators.parameters(), training.discriminator_learning_rate, **settings),
                is_clipped=False,
            ),
        }
        self.position = 0
        self._batches: Iterator[SegmentBatch] | None = None

    def data_sizes(self) -> dict[str, DataSize]:
        """Count utterances that are long enough."""
        found = {"train": self.data, "valid": self.validation}
        return {name: DataSize(len(one), seconds=one.seconds) for name, one in found.items() if one}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[VocoderBatch]:
        """Return this process's share of the next batches, which worker processes may have prepared."""
        if self._batches is None:
            numbers = range(self.position + process, 2**62, num_processes)
            loader = DataLoader(
                self.data,
                batch_size=None,
                sampler=numbers,  # type: ignore[arg-type]  # any iterable of batch numbers
                num_workers=self.training.num_workers,
            )
            self._batches = iter(loader)
        self.position += count
        return [VocoderBatch(next(self._batches)) for _ in range(count // num_processes)]

    def num_targets(self, batch: VocoderBatch | Recording) -> int:
        """Count segments, or utterances of validation."""
        return len(batch.segments.waveforms) if isinstance(batch, VocoderBatch) else 1

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Rise over the warm-up, and follow a cosine to 0.01 at the end of the run."""
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress.spent))
        return peak * (cosine * min(1.0, progress.step / max(self.training.warmup_steps, 1)))

    def step(self, loop: Loop, batches: Sequence[VocoderBatch]) -> None:
        """Update the discriminators, once they have joined, and then the vocoder, on the same speech."""
        training, spent = self.training, loop.progress.spent
        seed = training.seed * 1_000_003 + loop.progress.step - 1
        torch.manual_seed(seed + 7919 * loop.process)  # dropout and noise: the same after a resume
        generator = torch.Generator().manual_seed(seed)
        is_judged = training.adversarial_from is not None and spent >= max(
            training.adversarial_from, training.waveform_from
        )

        def made_by(vocoder: nn.Module, batch: VocoderBatch) -> Made:
            if batch.made is None:
                batch.made = self._make(vocoder, batch.segments, spent, generator, is_judged)
            return batch.made

        def discriminator_sum(discriminators: nn.Module, batch: VocoderBatch) -> LossSum:
            made = made_by(loop.modules["vocoder"], batch)
            assert made.judged is not None and made.real is not None
            verdicts = discriminators(made.real), discriminators(made.judged.detach())
            loss = discriminator_loss(*verdicts, training.adversarial_kind)
            return _sum_over(batch, loss, {"discriminator": loss})

        def vocoder_sum(vocoder: nn.Module, batch: VocoderBatch) -> LossSum:
            return self._vocoder_sum(made_by(vocoder, batch), batch)

        if is_judged:
            loop.update("discriminators", batches, discriminator_sum)
        loop.update("vocoder", batches, vocoder_sum)

    def validation_batches(self, process: int, num_processes: int) -> list[Recording]:
        """Return this process's share of the held-out utterances."""
        if self.validation is None:
            return []
        return [self.validation.recording(index) for index in range(process, len(self.validation), num_processes)]

    def loss_sum(self, model: nn.Module, batch: Recording) -> LossSum:
        """Mel distance of a held-out utterance, with measured and with predicted prosody; and the error of pitch."""
        assert isinstance(model, UnitVocoder) and self.validation is not None
        device = model.device
        piece = self.validation.batch([Piece(batch, 0, batch.measures.speaker)], min(batch.num_frames, 800))
        segment = SegmentBatch(*(item.to(device) for item in piece))
        mel = self.mel.to(device)
        with torch.autocast(device.type, enabled=False):
            speech, _, _ = model(segment.codes, segment.positions)
            voice = Speaker(segment.speakers[0], segment.speaker_pitch[0])
            predicted, measured = model.with_voice(speech, voice), Prosody(segment.f0, segment.energy)
            loss, with_predicted = (
                mel(model.waveform(speech.content, prosody, segment.speakers), segment.waveforms)
                for prosody in (measured, predicted)
            )
            voiced = (segment.f0 > 0) & (predicted.f0 > 0)
            error = (predicted.f0 / segment.f0.clamp(min=1)).clamp(min=1e-3).log2()[voiced].abs().sum()
            semitones = 12 * float(error) / max(1, int(voiced.sum()))
        parts = {"mel": float(loss), "mel_predicted_prosody": float(with_predicted), "pitch_semitones": semitones}
        return LossSum(loss, {name: (value, 1) for name, value in parts.items()})

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the vocoder."""
        assert isinstance(model, UnitVocoder)
        model.save_pretrained(folder)

    def state_dict(self) -> dict[str, int]:
        """Return the number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with that batch."""
        self.position, self._batches = state["position"], None

    def identity(self) -> dict[str, object]:
        """Describe the vocoder and its data."""
        return {"vocoder": config_to_dict(self.vocoder.config), "data": self.description}

    def _make(
        self, vocoder: nn.Module, batch: SegmentBatch, spent: float, generator: torch.Generator, is_judged: bool
    ) -> Made:
        """Compare what the vocoder says of the segments with what is known of them."""
        training, own = self.training, self.vocoder
        is_sounding = spent >= training.waveform_from
        start = int(torch.randint(0, 1 << 16, (), generator=generator))
        spoken = Prosody(batch.f0, batch.energy) if is_sounding else None
        speech, made, spectra = vocoder(batch.codes, batch.positions, spoken, batch.speakers, start)
        predicted = own.log_durations(batch.run_codes, batch.durations > 0)
        losses = {
            **prosody_loss(speech, batch.pitch, batch.has_pitch, batch.f0 > 0, batch.energy),
            "duration": duration_loss(predicted, batch.durations, batch.run_mask),
        }
        total = training.prosody_weight * (losses["pitch"] + losses["voiced"] + losses["energy"])
        total = total + training.duration_weight * losses["duration"]
        if own.config.decoder.speaker_dim is not None:
            losses["voice"] = nn.functional.mse_loss(own.pitch_of_vector(batch.speakers), batch.speaker_pitch)
            total = total + losses["voice"]
        known = batch.symbols >= 0
        if known.any():
            pair = speech.content, batch.content, known
            if own.config.frontend.num_symbols:
                losses["symbols"] = nn.functional.cross_entropy(speech.symbols[known], batch.symbols[known])
                total = total + training.symbol_weight * losses["symbols"]
            losses["content"] = content_loss(*pair, own.frontend.content_deviation)
            total = total + training.content_weight * losses["content"]
            if training.teacher_from is not None and training.teacher_from <= spent and not is_sounding:
                f0, energy = self._in_own_voice(batch)
                losses["teacher"] = self.teacher.to(f0.device)(own.decoder, *pair, f0, energy)
                total = total + training.teacher_weight * losses["teacher"]
        if made is None:
            return Made(total, losses, None, None)
        if self.reference is not None:
            losses["high"] = self._above_top(spectra, speech.content.detach(), batch)
            total = total + training.high_weight * losses["high"]
        # frames at the ends of a segment lack context
        margin = min(6, batch.positions.shape[1] // 4) * own.config.decoder.hop_length
        made, real = made[:, margin:-margin].float(), batch.waveforms[:, margin:-margin]
        losses["mel"] = self.mel.to(made.device)(made, real)
        losses["stft"] = self.stft(made, real)
        total = total + training.mel_weight * losses["mel"] + training.stft_weight * losses["stft"]
        if self.listener is not None:
            losses["listener"] = self.listener.to(made.device)(made, real)
            total = total + training.listener_weight * losses["listener"]
        if not is_judged:
            return Made(total, losses, None, None)
        seconds = training.adversarial_segment_seconds
        length = made.shape[1] if seconds is None else min(made.shape[1], int(seconds * own.sample_rate))
        first = int(torch.randint(0, made.shape[1] - length + 1, (), generator=generator))
        return Made(total, losses, made[:, first : first + length], real[:, first : first + length])

    def _above_top(self, spectra: Spectra, content: Tensor, batch: SegmentBatch) -> Tensor:
        """Difference of log magnitudes above `top_hz` from what the pretrained decoder says there.

        Nothing else holds them, and what is left alone drifts into whistles.
        """
        assert self.reference is not None and self.training.top_hz is not None
        decoder = self.reference.to(content.device)
        with torch.no_grad():
            wanted = decoder(content, batch.f0, batch.energy)
        first = math.ceil(self.training.top_hz / decoder.config.sample_rate * decoder.config.n_fft)
        magnitudes = ("harmonic_log", "noise_log", "free_log")
        pairs = [(getattr(spectra, name)[..., first:], getattr(wanted, name)[..., first:]) for name in magnitudes]
        return torch.stack([nn.functional.l1_loss(a, b) for a, b in pairs]).mean()

    def _in_own_voice(self, batch: SegmentBatch) -> Prosody:
        """The prosody of segments at the pitch of the decoder's own voice."""
        mean, deviation = self.vocoder.voice_pitch[0]
        f0 = (batch.pitch.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION) * deviation + mean).exp() * (batch.f0 > 0)
        return Prosody(f0, batch.energy)

    def _vocoder_sum(self, made: Made, batch: VocoderBatch) -> LossSum:
        training, losses, total = self.training, dict(made.losses), made.total
        if made.judged is not None:
            self.discriminators.requires_grad_(False)
            verdict, reference = self.discriminators(made.judged), self.discriminators(made.real)
            self.discriminators.requires_grad_(True)
            losses["adversarial"] = adversarial_loss(verdict, training.adversarial_kind)
            losses["feature"] = feature_matching_loss(reference, verdict)
            total = total + training.adversarial_weight * losses["adversarial"]
            total = total + training.feature_weight * losses["feature"]
        return _sum_over(batch, total, losses)


def _sum_over(batch: VocoderBatch, mean: Tensor, parts: Mapping[str, Tensor]) -> LossSum:
    """Turn means over the segments of a batch into sums."""
    count = len(batch.segments.waveforms)
    return LossSum(mean * count, {name: (float(value.detach()) * count, count) for name, value in parts.items()})


def _split(rows: TokenRows, num_held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out what is marked `valid`, or as many utterances by the hash of their id; `test` is left out altogether.

    Returns numbers of rows, both in the order of the hash.
    """
    order = np.argsort(np.fromiter(map(rank, rows.marks), np.float64), kind="stable")
    splits = list(rows.values("split"))
    marked, rest = (
        np.array([index for index in order if splits[index] in wanted], dtype=np.int64)
        for wanted in (("valid",), (None, "train"))
    )
    refuse_nothing_to_train_on(len(rest), rows.marks)
    if len(marked):
        return marked[:num_held_out], rest
    num_held_out = min(num_held_out, len(rest) // 2)
    return rest[:num_held_out], rest[num_held_out:]


def _describe(rows: TokenRows, weights: np.ndarray) -> dict[str, object]:
    """Describe the data well enough to notice other data."""
    digest = hashlib.sha256(b"[")  # the bytes of repr(list of (id, frames, weight)), an item at a time
    for place, item in enumerate(zip(rows.values("id"), rows.num_frames, weights, strict=True)):
        digest.update(f"{', ' if place else ''}({item[0]!r}, {int(item[1])!r}, {float(item[2])!r})".encode())
    digest.update(b"]")
    return {
        "num_utterances": len(rows),
        "num_frames": int(rows.num_frames.sum()),
        "sha256": digest.hexdigest()[:16],
    }
