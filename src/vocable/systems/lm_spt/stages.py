"""From speech to a codec, in Python and as the stages of a recipe.

    manifest --tokenizer--> RUN/tokenizer --tokens--> RUN/tokens --lm--> RUN/lm
                                                                 --acoustics--> RUN/acoustics

RUN/training     metrics.jsonl, checkpoints, best/ and last/: a tokenizer each
RUN/tokenizer    a copy of last/
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vocable.audio.manifest import Rejections, read_manifest
from vocable.config import config_to_dict, save_config
from vocable.errors import ConfigError
from vocable.features.speaker import load_speaker_encoder
from vocable.files import replace_folder
from vocable.splits import divide, training_items, validation_items
from vocable.synthesis.text_to_speech import TextToSpeech
from vocable.systems.lm_spt.acoustics_training import AcousticsStage
from vocable.systems.lm_spt.config import LmSptConfig
from vocable.systems.lm_spt.data import CropData
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.speech_text import SpeechTextStage
from vocable.systems.lm_spt.task import CodecTask
from vocable.systems.lm_spt.tokenizer import LmSptTokenizer
from vocable.systems.shared import TokensStage
from vocable.systems.stage import Run, Stage, System
from vocable.tokens.tokenizer import resolve_folder
from vocable.training.loop import TrainingResult, train
from vocable.training.phone_targets import PhoneTargets
from vocable.types import Utterance

logger = logging.getLogger(__name__)


def build_codec(config: LmSptConfig) -> LmSptCodec:
    """Draw the weights of a codec by `training.seed`, and start from pretrained ones where there are some.

    Raises:
        ConfigError: the pretrained decoder has other sizes, or the codec to start from has little in common with this.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        codec = LmSptCodec(config.codec)
    if config.start is not None:
        codec.decoder.start_from(resolve_folder(config.start))
    if config.fine_tune is not None:
        _fine_tune(codec, LmSptTokenizer.from_pretrained(config.fine_tune).codec, config.fine_tune)
    return codec


def _fine_tune(codec: LmSptCodec, start: LmSptCodec, name: str) -> None:
    """Take the weights of a trained codec: all of them, or at another rate those of its networks that fit.

    Codebooks of another rate hold other sounds, so they are fitted anew.
    """
    if start.config == codec.config:
        codec.load_state_dict(start.state_dict())
        for level in (codec.quantizer.semantic, *codec.quantizer.acoustic.levels):
            level.start_averages()
        return
    own = dict(codec.named_parameters())
    fit = {key: value for key, value in start.named_parameters() if key in own and own[key].shape == value.shape}
    fit |= {key: value for key, value in start.named_buffers() if key.startswith("decoder.content_")}
    count = sum(value.numel() for key, value in fit.items() if key in own)
    total = sum(value.numel() for value in own.values())
    if 2 * count < total:
        raise ConfigError(
            f"The codec of {name} shares {count / total:.0%} of the weights of the recipe's section `codec`; less than "
            "half is no start. Give the networks the same sizes, or set fine_tune to null."
        )
    codec.load_state_dict({**codec.state_dict(), **fit})
    logger.info("%.0f %% of the weights start from %s; the others, and the codebooks, anew.", 100 * count / total, name)


def train_codec(
    config: LmSptConfig,
    utterances: Sequence[Utterance],
    out: Path,
    valid_utterances: Sequence[Utterance] | None = None,
    *,
    rejections: Rejections | None = None,
    strict: bool = False,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train a codec on recordings; a run that is in `out` already goes on. The result is `out/tokenizer`.

    Args:
        config: the recipe.
        utterances: speech to train on.
        out: the run's folder.
        valid_utterances: speech to validate on; None takes what is marked so, or `config.valid_share` of the others.
        rejections: where unreadable recordings are noted.
        strict: whether an unreadable recording is an error instead.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        AudioFormatError: an unreadable recording, when `strict`.
        ManifestError: no recording can be read.
        OutputError: `out` holds another run.
        NumericsError: the loss became NaN or infinite.
    """
    accelerator = Accelerator(mixed_precision="no")  # as the loop makes it: the first one decides for all
    if valid_utterances is None:
        utterances, valid_utterances = divide(utterances, config.valid_share)
    else:
        utterances, valid_utterances = training_items(utterances), validation_items(valid_utterances)
    codec, training = build_codec(config), config.training
    encoder = load_speaker_encoder(config.speaker_encoder) if codec.decoder.speaker_dim else None
    targets = None
    if training.content_weight and codec.decoder.content_dim:
        targets = PhoneTargets(TextToSpeech.from_pretrained())
    shared: dict[str, Any] = {
        "crop_samples": config.crop_tokens * config.codec.hop_length,
        "loudness_db": training.loudness_db,
        "store": out / "measures",
        "encoder": encoder,
        "targets": targets,
        "rejections": rejections,
        "strict": strict,
    }
    drawn: dict[str, Any] = {"batch_size": training.batch_size, "gain_db": training.gain_db, "seed": training.seed}
    drawn["fixed"] = config.distillation.cache != "none"
    data = CropData(utterances, codec.decoder, **drawn, **shared)
    validation = CropData(valid_utterances, codec.decoder, **shared) if valid_utterances else None

    distillation = config.distillation
    teacher = distillation.teacher.encoder.name if distillation.needs_teacher else None

    def save(trained: LmSptCodec, folder: Path) -> None:
        LmSptTokenizer.of_codec(trained, config.name, teacher).save_pretrained(folder)

    description = {"train": data.describe(), "valid": None if validation is None else validation.describe()}
    task = CodecTask(codec, config, data, validation, description, save, out / "targets")
    result = train(task, training, out / "training", stop_at_step=stop_at_step, show=show)
    if result.finished and accelerator.is_main_process:
        with replace_folder(out / "tokenizer") as temporary:
            shutil.copytree(result.last, temporary, dirs_exist_ok=True)
    accelerator.wait_for_everyone()
    return result


class CodecStage(Stage):
    """Train the codec on recordings."""

    name = "tokenizer"
    next = "vocable codec encode RECORDING {out}/codes --tokenizer {out}/tokenizer"
    reads = ("manifest",)
    may_read = ("valid_manifest",)
    writes = ("tokenizer",)
    shared = True

    def settings(self, config: LmSptConfig) -> dict[str, Any]:
        """Return the settings of the codec and its training."""
        names = ("codec", "distillation", "training", "start", "speaker_encoder", "valid_share")
        values = config_to_dict(config)
        return {name: values[name] for name in names}

    def run(self, run: Run) -> str:
        """Train; the averaged weights at the end are the result."""
        rejections = Rejections(run.out)
        read = [
            None if path is None else read_manifest(path, strict=run.strict, rejections=rejections)
            for path in (run.path("manifest"), run.find("valid_manifest"))
        ]
        assert read[0] is not None
        result = train_codec(run.config, read[0], run.out, read[1], rejections=rejections, strict=run.strict)
        save_config(run.config, run.out / "config.yaml")
        lines = []
        if rejections.count:
            lines.append(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
        if result.valid_curve:
            last = result.valid_curve[-1]
            lines.append(f"Held out, step {last['step']}: mel distance {last['loss']:.3f}")
        return "\n".join([*lines, f"Tokenizer: {run.path('tokenizer')}"])


SYSTEM = System(
    name="lm-spt", config=LmSptConfig, stages=(CodecStage(), TokensStage(), SpeechTextStage(), AcousticsStage())
)
