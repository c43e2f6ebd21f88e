"""Train a unit vocoder: spectral loss first, discriminators later, for any tokenizer and any language.

    utterances + tokens -> random segments -> UnitVocoder -> mel + adversarial + feature matching + duration + pitch

Each part can be switched off by its weight, so that a vocoder can be trained by spectral loss alone on a CPU. A run
that was stopped continues from its last checkpoint with the same batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vocable.errors import ConfigError
from vocable.splits import rank, refuse_nothing_to_train_on
from vocable.synthesis.discriminators import DiscriminatorConfig, Discriminators
from vocable.synthesis.layers import whole_durations
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.training.logs import Display, RunLog
from vocable.training.vocoder_checkpoints import (
    VocoderState,
    claim_folder,
    load_last_checkpoint,
    save_checkpoint,
)
from vocable.training.vocoder_data import ProsodyBatch, SegmentBatch, VocoderData, segment_frames
from vocable.training.vocoder_losses import (
    AdversarialKind,
    MultiScaleMelLoss,
    adversarial_loss,
    discriminator_loss,
    duration_loss,
    feature_matching_loss,
    pitch_loss,
)
from vocable.types import SpeechTokens, Utterance

_Weighted = tuple[tuple[Utterance, SpeechTokens], float]
"""An utterance, its tokens, and how often it is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderTrainingConfig:
    """How a vocoder is trained."""

    steps: int = 100_000
    minutes: float | None = None
    """Stop and decay the rate by this wall time instead, if it comes first; None counts steps only."""
    batch_size: int = 16
    """Segments per step and process."""
    segment_seconds: float = 1.0
    learning_rate: float = 5e-4
    """Highest rate of the vocoder; linear warm-up, then cosine down to a hundredth."""
    discriminator_learning_rate: float = 2e-4
    warmup_steps: int = 200
    weight_decay: float = 0.01
    adversarial_from: float | None = 0.1
    """Share of the run after which the discriminators join; None trains by spectral loss alone."""
    adversarial_kind: AdversarialKind = "hinge"
    adversarial_segment_seconds: float | None = None
    """Only this much of each segment, at a random place, is judged by the discriminators; None judges all of it."""
    mel_weight: float = 15.0
    adversarial_weight: float = 1.0
    feature_weight: float = 2.0
    duration_weight: float = 1.0
    pitch_weight: float = 1.0
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    clip_norm: float = 10.0
    """Gradients of the vocoder longer than this are shortened to it."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are the ones that are saved as the result."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type. On CPUs with AMX, bf16 halves the time of a step; on older ones it is slower."""
    loudness_db: float | None = -23.0
    """RMS level that every utterance is brought to, dB below full scale; None leaves levels alone."""
    num_workers: int = 0
    """Processes that prepare batches; each holds its own copy of the clips."""
    validation_utterances: int = 8
    """Held out from training, chosen by their id; 0 for none."""
    log_every: int = 50
    checkpoint_every: int = 2000
    """Steps between checkpoints and validations."""
    keep_checkpoints: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.segment_seconds <= 0:
            raise ConfigError(
                f"training.steps is {self.steps}, batch_size {self.batch_size}, segment_seconds "
                f"{self.segment_seconds}; all must be positive."
            )
        if self.adversarial_from is not None and not 0 <= self.adversarial_from <= 1:
            raise ConfigError(
                f"training.adversarial_from is {self.adversarial_from}; it is a share of the run, 0 to 1."
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay is {self.ema_decay}; it must be in [0, 1).")


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderRecipe:
    """A vocoder and its training: what a yaml in recipes/vocoder holds."""

    vocoder: VocoderConfig
    """The network. What the tokenizer and the speech decide is filled in: sizes, rates, voices and fingerprints."""
    training: VocoderTrainingConfig = field(default_factory=VocoderTrainingConfig)
    """How it is trained."""


def train_vocoder(
    pairs: Sequence[tuple[Utterance, SpeechTokens]],
    config: VocoderConfig,
    training: VocoderTrainingConfig,
    out: Path,
    read: Callable[[Utterance, int], Tensor] | None = None,
    start_from: UnitVocoder | None = None,
    weights: Sequence[float] | None = None,
) -> UnitVocoder:
    """Train on utterances and their tokens; write logs, checkpoints and the vocoder under `out`; return the vocoder.

    The result is `out/vocoder`. A run that finds checkpoints in `out` continues from the last one. `read` turns an
    utterance into a waveform at a sample rate (default: the audio file); `start_from` gives initial weights, voices by
    name; an utterance with twice the weight is drawn twice as often per second of speech.

    Raises:
        OutputError: `out` holds a run with other settings, or the disk is full.
        ManifestError: no utterance is long enough, or tokens do not fit their audio.
    """
    from accelerate import Accelerator

    if read is None:
        from vocable.audio.io import read_utterance as read
    out = Path(out)
    accelerator = Accelerator(mixed_precision="no" if training.precision == "fp32" else training.precision)
    torch.manual_seed(training.seed)
    claim_folder(out, config, training, accelerator.is_main_process)
    weighted = list(zip(pairs, [1.0] * len(pairs) if weights is None else weights, strict=True))
    held_out, rest = _split(weighted, training.validation_utterances)
    seed = training.seed + 7919 * accelerator.process_index
    data = VocoderData(
        [pair for pair, _ in rest],
        config,
        read,
        batch_size=training.batch_size,
        segment_frames=segment_frames(training.segment_seconds, config),
        loudness_db=training.loudness_db,
        seed=seed,
        weights=[weight for _, weight in rest],
    )
    state = _new_state(config, training, accelerator.device, start_from)
    load_last_checkpoint(out, state)
    trainer = _Trainer(state, training, accelerator, out)
    if training.validation_utterances and held_out and accelerator.is_main_process:
        trainer.validation = VocoderData(
            [pair for pair, _ in held_out],
            config,
            read,
            batch_size=1,
            segment_frames=1,
            loudness_db=training.loudness_db,
        )
    trainer.run(data)
    vocoder = state.average.eval()
    vocoder.config = replace(config, duration_scale=measure_duration_scale(vocoder, data))
    if accelerator.is_main_process:
        vocoder.save_pretrained(out / "vocoder")
    return vocoder


@torch.no_grad()
def measure_duration_scale(vocoder: UnitVocoder, data: VocoderData, num_utterances: int = 200) -> float:
    """Factor by which predicted durations add up to the true ones; see VocoderConfig.duration_scale."""
    predicted, total = [], 0
    device = vocoder.unit_embedding.weight.device
    for index in range(0, len(data), -(-len(data) // num_utterances)):
        clip = data.clip(index)
        runs = torch.unique_consecutive(clip.codes, dim=1)[None].to(device)
        voice = torch.tensor([clip.voice], device=device) if vocoder.voices else None
        predicted.append(vocoder.duration_predictor(vocoder.prosody_input(runs, voice))[0])
        total += clip.codes.shape[1]
    log_durations = torch.cat(predicted)
    low, high = 0.25, 4.0
    for _ in range(20):  # halve the interval: rounding makes the sum a staircase
        middle = (low + high) / 2
        too_long = int(whole_durations(log_durations, middle).sum()) > total
        low, high = (low, middle) if too_long else (middle, high)
    return round(high, 4)


class _Trainer:
    """The loop, with its logs."""

    def __init__(self, state: VocoderState, training: VocoderTrainingConfig, accelerator: Any, out: Path) -> None:
        self.state, self.training, self.accelerator, self.out = state, training, accelerator, out
        self.validation: VocoderData | None = None
        prepared = accelerator.prepare(
            state.vocoder, state.discriminators, state.vocoder_optimizer, state.discriminator_optimizer
        )
        self.vocoder, self.discriminators, self.vocoder_optimizer, self.discriminator_optimizer = prepared
        self.mel = MultiScaleMelLoss(state.vocoder.sample_rate).to(accelerator.device)

    def run(self, data: VocoderData) -> None:
        """Train up to the last step or minute."""
        training, state, main = self.training, self.state, self.accelerator.is_main_process
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=range(state.step, training.steps),  # type: ignore[arg-type]  # any iterable of step numbers
            num_workers=training.num_workers,
        )
        log, display = RunLog(self.out, resume_step=state.step, active=main), Display(active=main)
        state.vocoder.train()
        before, first_of_log, sums = time.perf_counter(), state.step, dict[str, float]()
        for segments, prosody in loader if state.spent(training) < 1 else ():
            losses = self._step(_to(segments, self), _to(prosody, self))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            now = time.perf_counter()
            state.step, state.seconds, before = state.step + 1, state.seconds + now - before, now
            over = self._is_over()
            if state.step % training.log_every == 0 or over:
                means = {name: total / (state.step - first_of_log) for name, total in sums.items()}
                log.write(state.step, "train", means | {"seconds": round(state.seconds, 2)})
                display.update(state.spent(training), state.step, means)
                first_of_log, sums = state.step, {}
            if state.step % training.checkpoint_every == 0 or over:
                if main:
                    log.write(state.step, "valid", self.validate())
                    save_checkpoint(self.out, state, training.keep_checkpoints)
                self.accelerator.wait_for_everyone()
            if over:
                break
        log.close()
        display.close()

    def _is_over(self) -> bool:
        """Whether the run has spent its budget; the first process decides for all."""
        spent = torch.tensor(self.state.spent(self.training), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast(spent, src=0)
        return bool(spent >= 1)

    def _step(self, segments: SegmentBatch, prosody: ProsodyBatch) -> dict[str, float]:
        """One update of both sides; returns the losses."""
        training, state = self.training, self.state
        spent = state.spent(training)
        scale = _rate(state.step, spent, training)
        for optimizer, rate in (
            (self.vocoder_optimizer, training.learning_rate),
            (self.discriminator_optimizer, training.discriminator_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        has_pitch = state.vocoder.pitch_predictor is not None
        seed = training.seed * 1_000_003 + state.step
        torch.manual_seed(seed + 7919 * self.accelerator.process_index)  # dropout: the same after a resume
        generator = torch.Generator().manual_seed(seed)
        start, turn = torch.rand(2, generator=generator).tolist()
        with self.accelerator.autocast():
            made = self.vocoder(
                segments.codes,
                segments.voices if state.vocoder.voices else None,
                segments.pitch if has_pitch else None,
                start=int(start * 60_000),
                phase=turn * 2 * math.pi,
            )
            losses = {"mel": self.mel(made, segments.waveforms)}
            losses |= self._prosody_losses(prosody)
        total = training.mel_weight * losses["mel"] + training.duration_weight * losses["duration"]
        if has_pitch:
            total = total + training.pitch_weight * losses["pitch"]
        if training.adversarial_from is not None and spent >= training.adversarial_from:
            judged, real = self._judged(made, segments.waveforms, generator)
            losses["discriminator"] = self._train_discriminators(judged.detach(), real)
            with self.accelerator.autocast():
                self.discriminators.requires_grad_(False)
                verdict, reference = self.discriminators(judged), self.discriminators(real)
                self.discriminators.requires_grad_(True)
            losses["adversarial"] = adversarial_loss(verdict, training.adversarial_kind)
            losses["feature"] = feature_matching_loss(reference, verdict)
            total = total + training.adversarial_weight * losses["adversarial"]
            total = total + training.feature_weight * losses["feature"]
        self.vocoder_optimizer.zero_grad()
        self.accelerator.backward(total)
        self.accelerator.clip_grad_norm_(state.vocoder.parameters(), training.clip_norm)
        self.vocoder_optimizer.step()
        _average(state, training.ema_decay)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _prosody_losses(self, batch: ProsodyBatch) -> dict[str, Tensor]:
        vocoder = self.state.vocoder
        voices = batch.voices if vocoder.voices else None
        runs = vocoder.prosody_input(batch.run_codes, voices)
        predicted = vocoder.duration_predictor(runs, batch.durations > 0)
        losses = {"duration": duration_loss(predicted, batch.durations, batch.run_mask)}
        if vocoder.pitch_predictor is not None:
            log_f0, voiced = vocoder.pitch_predictor(vocoder.prosody_input(batch.codes, voices))
            losses["pitch"] = pitch_loss(log_f0, voiced, batch.pitch.log_f0, batch.pitch.voiced, batch.mask)
        return losses

    def _judged(self, made: Tensor, real: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The stretch of a segment that the discriminators look at."""
        seconds = self.training.adversarial_segment_seconds
        length = made.shape[1] if seconds is None else min(made.shape[1], int(seconds * self.state.vocoder.sample_rate))
        first = int(torch.randint(0, made.shape[1] - length + 1, (), generator=generator))
        return made[:, first : first + length], real[:, first : first + length]

    def _train_discriminators(self, made: Tensor, real: Tensor) -> Tensor:
        with self.accelerator.autocast():
            loss = discriminator_loss(
                self.discriminators(real), self.discriminators(made), self.training.adversarial_kind
            )
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.discriminator_optimizer.step()
        return loss

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mel distance on held-out utterances, with measured and with predicted pitch; and errors of the predictors."""
        if self.validation is None:
            return {}
        vocoder, sums = self.state.average.eval(), {"mel": 0.0, "mel_predicted_pitch": 0.0, "pitch_octaves": 0.0}
        device = self.accelerator.device
        for index in range(len(self.validation)):
            clip = self.validation.clip(index)
            voice = torch.tensor([clip.voice], device=device) if vocoder.voices else None
            codes = clip.codes.to(device)
            real = torch.from_numpy(clip.waveform).float()[None].to(device) / 32767
            predicted = vocoder.predict_pitch(codes, voice)
            pitch = None
            if predicted is not None:
                pitch = type(predicted)(clip.log_f0[None].to(device), clip.voiced[None].to(device))
                voiced = pitch.voiced & predicted.voiced
                error = (pitch.log_f0 - predicted.log_f0)[voiced].abs().sum() / voiced.sum().clamp(min=1)
                sums["pitch_octaves"] += float(error) / math.log(2)
            sums["mel"] += float(self.mel(vocoder.decode(codes[None], voice, pitch), real))
            sums["mel_predicted_pitch"] += float(self.mel(vocoder.decode(codes[None], voice, predicted), real))
        return {name: total / len(self.validation) for name, total in sums.items()}


def _new_state(
    config: VocoderConfig, training: VocoderTrainingConfig, device: torch.device, start_from: UnitVocoder | None
) -> VocoderState:
    vocoder, average = UnitVocoder(config).to(device), UnitVocoder(config).to(device)
    if start_from is not None:
        vocoder.load_state_dict(_weights_for_voices(start_from, config))
    average.load_state_dict(vocoder.state_dict())
    discriminators = Discriminators(training.discriminators).to(device)
    betas = (0.8, 0.99)  # as HiFi-GAN
    return VocoderState(
        vocoder,
        average.requires_grad_(False),
        discriminators,
        torch.optim.AdamW(
            vocoder.parameters(), training.learning_rate, betas=betas, weight_decay=training.weight_decay
        ),
        torch.optim.AdamW(
            discriminators.parameters(),
            training.discriminator_learning_rate,
            betas=betas,
            weight_decay=training.weight_decay,
        ),
    )


def _weights_for_voices(start_from: UnitVocoder, config: VocoderConfig) -> dict[str, Tensor]:
    """Weights of another vocoder, with the voice table of `config`: rows by name, the mean row for new voices."""
    weights = start_from.state_dict()
    rows = {name: row for row, name in enumerate(start_from.voices)}
    for key in ("voice_embedding.weight", "prosody_voice.weight"):
        if key in weights:
            table = weights[key]
            known = [table[rows[name]] if name in rows else table.mean(0) for name in config.voices]
            weights[key] = torch.stack(known) if known else table[:0]
    return weights


def _rate(step: int, spent: float, training: VocoderTrainingConfig) -> float:
    """Share of the highest learning rate: up over the warm-up, and along a cosine to 0.01 at the end of the run."""
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent))
    return cosine * min(1.0, (step + 1) / training.warmup_steps)


def _average(state: VocoderState, decay: float) -> None:
    """Move the averaged weights; early on they follow faster."""
    weight = 1 - min(decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        averages: list[Tensor] = list(state.average.parameters())
        weights: list[Tensor] = list(state.vocoder.parameters())
        torch._foreach_lerp_(averages, weights, weight)


def _split(weighted: list[_Weighted], num_held_out: int) -> tuple[list[_Weighted], list[_Weighted]]:
    """Hold out what is marked `valid`, or as many utterances by the hash of their id; `test` is left out altogether."""
    ordered = sorted(weighted, key=lambda item: (rank(item[0][0]), item[0][0].id))
    marked = [item for item in ordered if item[0][0].split == "valid"]
    rest = [item for item in ordered if item[0][0].split in (None, "train")]
    refuse_nothing_to_train_on(len(rest), [utterance for (utterance, _), _ in weighted])
    if marked:
        return marked[:num_held_out], rest
    num_held_out = min(num_held_out, len(rest) // 2)
    return rest[:num_held_out], rest[num_held_out:]


def _to(batch: Any, trainer: _Trainer) -> Any:
    """Move a (nested) NamedTuple of tensors to the device of the trainer."""
    device = trainer.accelerator.device
    return type(batch)(*(item.to(device) if isinstance(item, Tensor) else _to(item, trainer) for item in batch))
