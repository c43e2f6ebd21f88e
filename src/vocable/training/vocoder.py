"""Train a unit vocoder: spectral loss first, discriminators later, for any tokenizer and any language.

    utterances + tokens -> random segments -> UnitVocoder -> mel + adversarial + feature matching + duration + pitch

Each part can be switched off by its weight, so that a vocoder can be trained by spectral loss alone on a CPU. It runs
in training/loop.py, as two learners; a run that was stopped continues from its last checkpoint with the same batches.

<out>/training.yaml, checkpoints, metrics.jsonl, best/, last/      see training/checkpoints.py
<out>/vocoder                                                      the result: last/, with its scale of durations
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.splits import rank, refuse_nothing_to_train_on
from vocable.synthesis.discriminators import DiscriminatorConfig, Discriminators
from vocable.synthesis.layers import whole_durations
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.shard_columns import TokenRows
from vocable.training.config import TrainingConfig
from vocable.training.loop import Loop, train
from vocable.training.task import Learner, LossSum, Progress, TrainingTask
from vocable.training.vocoder_data import Clip, ProsodyBatch, SegmentBatch, VocoderData, segment_frames
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


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderTrainingConfig(TrainingConfig):
    """How a vocoder is trained. Its tokens are segments; a step's batches are numbered, whatever process draws them."""

    max_steps: int | None = 100_000
    """Stop after this many steps."""
    batch_size: int = 16
    """Segments per batch."""
    segment_seconds: float = 1.0
    """Length of a segment."""
    learning_rate: float = 5e-4
    """Highest rate of the vocoder; linear warm-up, then cosine down to a hundredth."""
    discriminator_learning_rate: float = 2e-4
    """Highest rate of the discriminators."""
    warmup_steps: int = 200
    """Steps of linear increase to the highest rates."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    adversarial_from: float | None = 0.1
    """Share of the run after which the discriminators join; None trains by spectral loss alone."""
    adversarial_kind: AdversarialKind = "hinge"
    """Form of the adversarial loss."""
    adversarial_segment_seconds: float | None = None
    """Only this much of each segment, at a random place, is judged by the discriminators; None judges all of it."""
    mel_weight: float = 15.0
    adversarial_weight: float = 1.0
    feature_weight: float = 2.0
    duration_weight: float = 1.0
    pitch_weight: float = 1.0
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    max_gradient_norm: float | None = 10.0
    """Gradients of the vocoder longer than this are shortened to it; None: never."""
    ema_decay: float | None = 0.999
    """Decay of the averaged weights, which are the ones that are saved as the result; None: no averaging."""
    loudness_db: float | None = -23.0
    """RMS level that every utterance is brought to, dB below full scale; None leaves levels alone."""
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
        self.require_above_zero("segment_seconds", "learning_rate", "discriminator_learning_rate")
        if self.adversarial_from is not None and not 0 <= self.adversarial_from <= 1:
            raise ConfigError(
                f"training.adversarial_from is {self.adversarial_from}; it is a share of the run, 0 to 1."
            )


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
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    show: bool = True,
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

    out, rows = Path(out), TokenRows.of(pairs)
    accelerator = Accelerator(mixed_precision="no")  # as the loop makes it: the first one decides for all
    shares = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    held_out, rest = _split(rows, training.validation_utterances)
    data = VocoderData(
        rows.select(rest),
        config,
        read,
        batch_size=training.batch_size,
        segment_frames=segment_frames(training.segment_seconds, config),
        loudness_db=training.loudness_db,
        seed=training.seed,
        weights=shares[rest],
        store=out,
    )
    validation = None
    if training.validation_utterances and len(held_out):
        settings = {"batch_size": 1, "segment_frames": 1, "loudness_db": training.loudness_db}
        validation = VocoderData(rows.select(held_out), config, read, **settings)
    torch.manual_seed(training.seed)
    task = VocoderTask(_new_vocoder(config, start_from), training, data, validation, _describe(rows, shares))
    result = train(task, training, out, show=show)
    vocoder = UnitVocoder.from_pretrained(result.last).to(accelerator.device).eval()
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


@dataclass(slots=True)
class VocoderBatch:
    """Segments and stretches of one batch, and the speech that the vocoder made of the segments in this step."""

    segments: SegmentBatch
    prosody: ProsodyBatch
    made: Made | None = None

    def to(self, device: torch.device | str) -> VocoderBatch:
        """Return the same on `device`."""
        return VocoderBatch(_to(self.segments, device), _to(self.prosody, device))


class Made(NamedTuple):
    """Speech that the vocoder has made, the losses that come with it, and what the discriminators are shown."""

    losses: dict[str, Tensor]
    judged: Tensor | None
    """(batch, samples); None before the discriminators join."""
    real: Tensor | None
    """The recorded samples in the same place."""


class VocoderTask(TrainingTask):
    """A vocoder and its discriminators, for the loop in training/loop.py."""

    part_names = (
        *("mel", "duration", "pitch", "discriminator", "adversarial", "feature"),
        *("mel_predicted_pitch", "pitch_octaves"),  # of validation
    )
    may_change = ("training.num_workers",)

    def __init__(
        self,
        vocoder: UnitVocoder,
        training: VocoderTrainingConfig,
        data: VocoderData,
        validation: VocoderData | None,
        description: Mapping[str, object],
    ) -> None:
        """Make the discriminators and the two optimisers.

        Args:
            vocoder: in its initial state.
            training: how it is trained.
            data: batches by number.
            validation: utterances to validate on.
            description: of all utterances, so that a run goes on with the same ones only.
        """
        self.vocoder, self.training, self.data, self.validation = vocoder, training, data, validation
        self.description = description
        self.discriminators = Discriminators(training.discriminators)
        self.mel = MultiScaleMelLoss(vocoder.sample_rate)
        settings = {"betas": (0.8, 0.99), "weight_decay": training.weight_decay}  # betas as HiFi-GAN
        rates = training.learning_rate, training.discriminator_learning_rate
        self.learners = {
            "vocoder": Learner(vocoder, torch.optim.AdamW(vocoder.parameters(), rates[0], **settings)),
            "discriminators": Learner(
                self.discriminators,
                torch.optim.AdamW(self.discriminators.parameters(), rates[1], **settings),
                is_clipped=False,
            ),
        }
        self.position = 0
        self._batches: Iterator[tuple[SegmentBatch, ProsodyBatch]] | None = None

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
        return [VocoderBatch(*next(self._batches)) for _ in range(count // num_processes)]

    def num_targets(self, batch: VocoderBatch | Clip) -> int:
        """Count segments, or utterances of validation."""
        return len(batch.segments.waveforms) if isinstance(batch, VocoderBatch) else 1

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Rise over the warm-up, and follow a cosine to 0.01 at the end of the run."""
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress.spent))
        return peak * (cosine * min(1.0, progress.step / max(self.training.warmup_steps, 1)))

    def step(self, loop: Loop, batches: Sequence[VocoderBatch]) -> None:
        """Update the discriminators, once they have joined, and then the vocoder, on the same speech."""
        training = self.training
        seed = training.seed * 1_000_003 + loop.progress.step - 1
        torch.manual_seed(seed + 7919 * loop.process)  # dropout: the same after a resume
        generator = torch.Generator().manual_seed(seed)
        is_judged = training.adversarial_from is not None and loop.progress.spent >= training.adversarial_from

        def made_by(vocoder: nn.Module, batch: VocoderBatch) -> Made:
            if batch.made is None:
                batch.made = self._make(vocoder, batch, generator, is_judged)
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

    def validation_batches(self, process: int, num_processes: int) -> list[Clip]:
        """Return this process's share of the held-out utterances."""
        if self.validation is None:
            return []
        return [self.validation.clip(index) for index in range(process, len(self.validation), num_processes)]

    def loss_sum(self, model: nn.Module, batch: Clip) -> LossSum:
        """Mel distance of a held-out utterance, with measured and with predicted pitch; and the error of the latter."""
        assert isinstance(model, UnitVocoder)
        device = model.unit_embedding.weight.device
        voice = torch.tensor([batch.voice], device=device) if model.voices else None
        codes, mel = batch.codes.to(device), self.mel.to(device)
        real = torch.from_numpy(batch.waveform).float()[None].to(device) / 32767
        with torch.autocast(device.type, enabled=False):
            predicted, measured, octaves = model.predict_pitch(codes, voice), None, 0.0
            if predicted is not None:
                measured = type(predicted)(batch.log_f0[None].to(device), batch.voiced[None].to(device))
                voiced = measured.voiced & predicted.voiced
                error = (measured.log_f0 - predicted.log_f0)[voiced].abs().sum() / voiced.sum().clamp(min=1)
                octaves = float(error) / math.log(2)
            loss = mel(model.decode(codes[None], voice, measured), real)
            with_predicted = float(mel(model.decode(codes[None], voice, predicted), real))
        parts = {"mel": float(loss), "mel_predicted_pitch": with_predicted, "pitch_octaves": octaves}
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

    def _make(self, vocoder: nn.Module, batch: VocoderBatch, generator: torch.Generator, is_judged: bool) -> Made:
        """Make speech of the segments, and compare it with the recordings."""
        segments, has_pitch = batch.segments, self.vocoder.pitch_predictor is not None
        start, turn = torch.rand(2, generator=generator).tolist()
        made = vocoder(
            segments.codes,
            segments.voices if self.vocoder.voices else None,
            segments.pitch if has_pitch else None,
            start=int(start * 60_000),
            phase=turn * 2 * math.pi,
        ).float()
        losses = {"mel": self.mel.to(made.device)(made, segments.waveforms), **self._prosody_losses(batch.prosody)}
        if not is_judged:
            return Made(losses, None, None)
        seconds = self.training.adversarial_segment_seconds
        length = made.shape[1] if seconds is None else min(made.shape[1], int(seconds * self.vocoder.sample_rate))
        first = int(torch.randint(0, made.shape[1] - length + 1, (), generator=generator))
        return Made(losses, made[:, first : first + length], segments.waveforms[:, first : first + length])

    def _prosody_losses(self, batch: ProsodyBatch) -> dict[str, Tensor]:
        vocoder = self.vocoder
        voices = batch.voices if vocoder.voices else None
        runs = vocoder.prosody_input(batch.run_codes, voices)
        predicted = vocoder.duration_predictor(runs, batch.durations > 0)
        losses = {"duration": duration_loss(predicted, batch.durations, batch.run_mask)}
        if vocoder.pitch_predictor is not None:
            log_f0, voiced = vocoder.pitch_predictor(vocoder.prosody_input(batch.codes, voices))
            losses["pitch"] = pitch_loss(log_f0, voiced, batch.pitch.log_f0, batch.pitch.voiced, batch.mask)
        return losses

    def _vocoder_sum(self, made: Made, batch: VocoderBatch) -> LossSum:
        training, losses = self.training, dict(made.losses)
        total = training.mel_weight * losses["mel"] + training.duration_weight * losses["duration"]
        if "pitch" in losses:
            total = total + training.pitch_weight * losses["pitch"]
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


def _new_vocoder(config: VocoderConfig, start_from: UnitVocoder | None) -> UnitVocoder:
    vocoder = UnitVocoder(config)
    UnitVocoder(config)  # a seed's discriminators are drawn after two vocoders; the second one once held the averages
    if start_from is not None:
        vocoder.load_state_dict(_weights_for_voices(start_from, config))
    return vocoder


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


def _to(batch: Any, device: torch.device | str) -> Any:
    """Move a (nested) NamedTuple of tensors to a device."""
    return type(batch)(*(item.to(device) if isinstance(item, Tensor) else _to(item, device) for item in batch))
