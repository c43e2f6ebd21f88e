"""Training of a codec in training/loop.py: losses of both learners, and what is logged, validated and saved.

    share of the run:  0 ...... quantize_from ......... adversarial_from ......... 1
    the codec:         vectors | codes: mel, spectra, distillation | and against discriminators

Source: LM-SPT (arXiv:2506.16738), its losses and weights as far as they are known; DAC (Kumar et al., 2023,
arXiv:2306.06546). What is ours has weight 0 or None in the published recipes.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vocable.config import config_to_dict
from vocable.features.loading import load_encoder
from vocable.synthesis.discriminators import Discriminators
from vocable.systems.lm_spt.config import LmSptConfig
from vocable.systems.lm_spt.data import CropData
from vocable.systems.lm_spt.decoders import Crops
from vocable.systems.lm_spt.distillation import Teacher, TeacherTarget, load_teacher, make_distillation
from vocable.systems.lm_spt.model import CodecOutput, LmSptCodec
from vocable.systems.lm_spt.progress import Example, show_progress
from vocable.systems.lm_spt.targets import TargetCache
from vocable.training.logs import RunLog
from vocable.training.loop import Loop
from vocable.training.task import DataSize, Learner, LossSum, Progress, TrainingTask
from vocable.training.vocoder_losses import (
    ListenerLoss,
    MultiScaleMelLoss,
    Reduction,
    SpectralLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)

PROSODY = ("pitch", "voiced", "energy", "voice")
CONTENT = "content"
LOSSES = ("mel", "stft", "listener", "distillation", "heard", "auxiliary", "quantizer", CONTENT, *PROSODY)
VALIDATED = ("mel", "mel_without_codes", "semantic_distance")


class Heard(NamedTuple):
    """One pass of the codec and of what distils it."""

    output: CodecOutput
    distance: Tensor
    """Distance that the semantic code is distilled by."""
    auxiliary: Tensor | None
    """The auxiliary decoder's speech, without a gradient to the tokens; None where it is not wanted."""


class Trainee(nn.Module):
    """The codec, and what learns with it and is left behind."""

    def __init__(self, codec: LmSptCodec, config: LmSptConfig, teacher: Teacher | None) -> None:
        super().__init__()
        self.codec = codec
        dim, rate = config.codec.dim, config.codec.frame_rate
        self.distillation = make_distillation(config.distillation, teacher, dim=dim, frame_rate=rate)
        self._teacher = [teacher]  # in a list, so that it is no part of this module

    def forward(
        self, crops: Crops, quantize: bool, speak: bool, target: TeacherTarget | None, auxiliary: bool
    ) -> Heard:
        """Pass crops through; `auxiliary` lets that decoder speak for its own sake."""
        codec = self.codec
        output = codec(crops, quantize, speak)
        vectors = output.semantic_vectors
        distance = self.distillation(self._teacher[0], target, vectors, codec.decoder, codec.auxiliary)
        return Heard(output, distance, codec.auxiliary(vectors.detach()) if auxiliary else None)


@dataclass(slots=True)
class CodecBatch:
    """Crops, and what a step has made of them."""

    crops: Crops
    heard: Heard | None = None
    judged: tuple[Tensor, Tensor] | None = None
    """Made and recorded stretches for the discriminators."""
    target: TeacherTarget | None = None
    """What the teacher hears in the crops."""

    def to(self, device: torch.device) -> "CodecBatch":
        """Move the crops."""
        moved = {name: value.to(device) for name, value in self.crops._asdict().items() if value is not None}
        return CodecBatch(self.crops._replace(**moved))


class CodecTask(TrainingTask):
    """Training of a codec against recordings, a teacher and discriminators."""

    part_names: tuple[str, ...] = (*LOSSES, "adversarial", "feature", "discriminator", *VALIDATED[1:])
    may_change: tuple[str, ...] = ("training.validation_examples",)
    target_name = "crop"

    def __init__(
        self,
        codec: LmSptCodec,
        config: LmSptConfig,
        data: CropData,
        validation: CropData | None,
        description: Mapping[str, object],
        save: Callable[[LmSptCodec, Path], None],
        store: Path | None = None,
    ) -> None:
        """Load the teacher, and make discriminators and optimisers.

        Args:
            codec: in its initial state.
            config: the recipe.
            data: batches by number.
            validation: recordings to validate on.
            description: of all recordings, so that a run goes on with the same ones only.
            save: writes the codec for use.
            store: folder of the teacher's targets, where the recipe has them kept.

        Raises:
            AssetError: the teacher cannot be found.
        """
        training, rate = config.training, config.codec.sample_rate
        self.config, self.training, self.data, self.validation = config, training, data, validation
        self.codec, self.description, self._save = codec, description, save
        self.teacher = load_teacher(config.distillation.teacher) if config.distillation.needs_teacher else None
        self.cache = None if store is None else self._make_cache(store)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.trainee = Trainee(codec, config, self.teacher)
            self.discriminators = Discriminators(training.discriminators)
        self.is_as_in_dac = training.loss_scale == "dac"
        self.reduction: Reduction = "sum" if self.is_as_in_dac else "mean"
        self.mel = MultiScaleMelLoss.dac(rate) if self.is_as_in_dac else MultiScaleMelLoss(rate, top_hz=training.top_hz)
        self.stft = SpectralLoss(rate, top_hz=training.top_hz)
        self.auxiliary_mel = MultiScaleMelLoss(codec.auxiliary.sample_rate, top_hz=training.top_hz)
        self.listener = None
        if training.listener is not None:
            self.listener = ListenerLoss(load_encoder(training.listener), rate)
        self.weights = {
            **dict.fromkeys(PROSODY, training.prosody_weight),
            CONTENT: training.content_weight,
            "mel": training.mel_weight,
            "stft": training.stft_weight,
            "listener": training.listener_weight,
            "distillation": config.distillation.weight,
            "heard": config.distillation.reconstruction_weight,
            "auxiliary": training.auxiliary_weight,
            "quantizer": training.quantizer_weight,
            "adversarial": training.adversarial_weight,
            "feature": training.feature_weight,
        }
        self.learners = self._learners()
        self.position = 0
        self._batches: Iterator[Crops] | None = None

    def _make_cache(self, store: Path) -> TargetCache | None:
        dtype = self.config.distillation.cache
        if self.teacher is None or dtype == "none":
            return None
        data, training = self.data, self.training
        identity = {"data": data.describe(), "seed": data.seed, "gain_db": list(data.gain_db)}
        identity["loudness_db"] = training.loudness_db
        return TargetCache(self.teacher, store, identity, dtype, data.crop_samples, data.rate)

    def _learners(self) -> dict[str, Learner]:
        training = self.training
        begun = self.config.start is not None or self.config.fine_tune is not None
        pretrained = self.codec.decoder.pretrained_parameters() if begun else []
        known = {id(parameter) for parameter in pretrained}
        new = [one for one in self.trainee.parameters() if one.requires_grad and id(one) not in known]
        groups = [{"params": new, "lr": training.learning_rate}]
        if pretrained:
            groups.append({"params": pretrained, "lr": training.pretrained_learning_rate})
        settings = {"betas": (training.beta1, training.beta2), "weight_decay": training.weight_decay}
        judges = torch.optim.AdamW(self.discriminators.parameters(), training.discriminator_learning_rate, **settings)
        return {
            "codec": Learner(self.trainee, torch.optim.AdamW(groups, **settings)),
            "discriminators": Learner(self.discriminators, judges),
        }

    def data_sizes(self) -> dict[str, DataSize]:
        """Count recordings."""
        found = {"train": self.data, "valid": self.validation}
        return {name: DataSize(len(one), "recording", float(one.seconds.sum())) for name, one in found.items() if one}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[CodecBatch]:
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
        return [CodecBatch(next(self._batches)) for _ in range(count // num_processes)]

    def num_targets(self, batch: CodecBatch) -> int:
        """Count crops."""
        return len(batch.crops.waveforms)

    def learning_rate(self, peak: float, progress: Progress) -> float:
        """Rise over the warm-up, and follow a cosine to its end."""
        least = self.training.final_learning_rate_ratio
        cosine = least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress.spent))
        return peak * cosine * min(1.0, progress.step / max(self.training.warmup_steps, 1))

    def step(self, loop: Loop, batches: Sequence[CodecBatch]) -> None:
        """Update the discriminators, once they have joined, and then the codec, on the same speech."""
        training, spent = self.training, loop.progress.spent
        torch.manual_seed(training.seed * 1_000_003 + loop.progress.step - 1 + 7919 * loop.process)
        is_judged = training.adversarial_from is not None and spent >= training.adversarial_from
        phases = (spent >= training.quantize_from, spent >= training.waveform_from)
        is_judged = is_judged and phases[1]

        def heard_by(trainee: nn.Module, batch: CodecBatch) -> Heard:
            heard = batch.heard
            if heard is None:
                batch.target = self._target(batch.crops)
                heard = trainee(batch.crops, *phases, batch.target, training.auxiliary_weight > 0)
                batch.heard = heard
                if is_judged and heard.output.taught.waveforms is not None:
                    batch.judged = self._stretch(heard.output.taught.waveforms, batch.crops.waveforms)
            return heard

        def discriminator_sum(discriminators: nn.Module, batch: CodecBatch) -> LossSum:
            heard_by(loop.modules["codec"], batch)
            assert batch.judged is not None
            made, real = batch.judged
            verdicts = discriminators(real), discriminators(made.detach())
            loss = discriminator_loss(*verdicts, training.adversarial_kind, self.reduction)
            return _sum_over(batch, loss, {"discriminator": loss})

        def codec_sum(trainee: nn.Module, batch: CodecBatch) -> LossSum:
            return self._codec_sum(heard_by(trainee, batch), batch)

        if is_judged:
            loop.update("discriminators", batches, discriminator_sum)
        loop.update("codec", batches, codec_sum)

    def _target(self, crops: Crops) -> TeacherTarget | None:
        if self.teacher is None:
            return None
        self.teacher.to(crops.waveforms.device)
        if self.cache is not None and crops.places is not None and bool((crops.places >= 0).all()):
            return self.cache.target(crops.waveforms, crops.lengths, crops.places)
        return self.teacher.target(crops.waveforms, self.config.codec.sample_rate, crops.lengths)

    def _stretch(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        seconds = self.training.adversarial_crop_seconds
        length = made.shape[1]
        if seconds is not None:
            length = min(length, int(seconds * self.config.codec.sample_rate))
        first = int(torch.randint(0, made.shape[1] - length + 1, ()))
        return made[:, first : first + length].float(), real[:, first : first + length]

    def _codec_sum(self, heard: Heard, batch: CodecBatch) -> LossSum:
        """Weigh all losses of the codec."""
        weights, output, crops = self.weights, heard.output, batch.crops
        losses = dict(output.taught.losses)
        if output.taught.waveforms is not None:
            losses |= self._sound_losses(output.taught.waveforms.float(), batch)
        if self.config.distillation.mode != "none":
            losses["distillation"] = heard.distance
        if output.quantized is not None:
            losses["quantizer"] = output.quantized.loss
        if heard.auxiliary is not None:
            losses["auxiliary"] = self._auxiliary_mel(heard.auxiliary.float(), crops.waveforms)
        if batch.judged is not None:
            self.discriminators.requires_grad_(False)
            verdict, reference = (self.discriminators(one) for one in batch.judged)
            self.discriminators.requires_grad_(True)
            kind, reduction, relative = self.training.adversarial_kind, self.reduction, not self.is_as_in_dac
            losses["adversarial"] = adversarial_loss(verdict, kind, reduction)
            losses["feature"] = feature_matching_loss(reference, verdict, relative, reduction)
        total = sum((weights[name] * loss for name, loss in losses.items()), crops.waveforms.new_zeros(()))
        return _sum_over(batch, total, losses)

    def _sound_losses(self, made: Tensor, batch: CodecBatch) -> dict[str, Tensor]:
        """Compare speech with the recordings, by every distance that has a weight."""
        real, device = batch.crops.waveforms, made.device
        distances: dict[str, Callable[[], Tensor]] = {
            "mel": lambda: self.mel.to(device)(made, real),
            "stft": lambda: self.stft(made, real),
            "heard": lambda: self._heard_again(made, batch.target),
        }
        if self.listener is not None:
            distances["listener"] = lambda: self.listener.to(device)(made, real)  # type: ignore[union-attr]
        return {name: distance() for name, distance in distances.items() if self.weights[name]}

    def _heard_again(self, made: Tensor, target: TeacherTarget | None) -> Tensor:
        """Compare what the teacher hears in the full reconstruction."""
        assert self.teacher is not None and target is not None
        return self.teacher.distance(made, self.config.codec.sample_rate, target)

    def _auxiliary_mel(self, spoken: Tensor, real: Tensor) -> Tensor:
        from vocable.training.vocoder_losses import resample_differentiably

        rate = self.codec.auxiliary.sample_rate
        wanted = resample_differentiably(real, self.config.codec.sample_rate, rate)
        length = min(spoken.shape[1], wanted.shape[1])
        return self.auxiliary_mel.to(spoken.device)(spoken[:, :length], wanted[:, :length])

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return means of the losses, and how much of each codebook is in use."""
        return {**super().training_metrics(parts), **self.codec.quantizer.usage_metrics()}

    def validation_batches(self, process: int, num_processes: int) -> list[CodecBatch]:
        """Return this process's share of the held-out recordings, each from its start.

        None before every codebook is fitted: a model that cannot encode is never the best one.
        """
        if self.validation is None or not self.codec.has_codebooks:
            return []
        count = min(len(self.validation), self.training.validation_utterances)
        return [CodecBatch(self._held_out(index)) for index in range(process, count, num_processes)]

    def _held_out(self, index: int) -> Crops:
        assert self.validation is not None
        longest = int(self.training.validation_seconds * self.config.codec.sample_rate)
        return self.validation.whole(index, longest, self.config.codec.hop_length)

    def show_examples(self, model: nn.Module, log: RunLog, step: int) -> None:
        """Let the first held-out recordings be heard after the codec."""
        assert isinstance(model, Trainee) and self.validation is not None
        found = []
        for index in range(min(self.training.validation_examples, len(self.validation))):
            crops = self._held_out(index)
            found.append(Example(self.validation.utterances[index].id, crops.waveforms[0, : int(crops.lengths[0])]))
        if found:
            show_progress(model.codec, found, log, step)

    def loss_sum(self, model: nn.Module, batch: CodecBatch) -> LossSum:
        """Mel distance of a held-out recording through the codes; and of its vectors, not quantized."""
        assert isinstance(model, Trainee)
        codec, real = model.codec, batch.crops.waveforms
        mel = self.mel.to(real.device)
        with torch.autocast(real.device.type, enabled=False):
            semantic, acoustic = codec.features(real)
            parts = {"mel_without_codes": mel(_cut(codec.decoder(semantic + acoustic), real), real)}
            if not codec.has_codebooks:
                return _sum_over(batch, parts["mel_without_codes"], parts)
            quantized = codec.quantizer(semantic, acoustic)
            parts["mel"] = mel(_cut(codec.decoder(quantized.quantized), real), real)
            target = self._target(batch.crops)
            vectors = quantized.semantic.quantized
            if self.config.distillation.mode != "none":
                parts["semantic_distance"] = model.distillation(
                    self.teacher, target, vectors, codec.decoder, codec.auxiliary
                )
        return _sum_over(batch, parts["mel"], parts)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the codec for use."""
        assert isinstance(model, Trainee)
        self._save(model.codec, folder)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the next batch, and the windows in which usage is counted."""
        usages = self.codec.quantizer.usages()
        return {"position": self.position, "usage": {name: usage.state_dict() for name, usage in usages.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that batch."""
        self.position, self._batches = state["position"], None
        for name, usage in self.codec.quantizer.usages().items():
            usage.load_state_dict(state["usage"][name])

    def identity(self) -> dict[str, Any]:
        """Describe the codec, what distils it, and its data."""
        config = self.config
        distillation = config_to_dict(config.distillation)
        if distillation["cache"] == "none":  # runs that began before there was a cache go on
            del distillation["cache"]
        return {
            "codec": config_to_dict(config.codec),
            "distillation": distillation,
            "teacher": None if self.teacher is None else self.teacher.description(),
            "data": dict(self.description),
        }


def _cut(made: Tensor, real: Tensor) -> Tensor:
    return made[:, : real.shape[1]]


def _sum_over(batch: CodecBatch, mean: Tensor, parts: Mapping[str, Tensor]) -> LossSum:
    """Turn means over the crops of a batch into sums."""
    count = len(batch.crops.waveforms)
    return LossSum(mean * count, {name: (float(value.detach()) * count, count) for name, value in parts.items()})
