"""From speech to a LAST tokenizer, in Python and as the stages of a recipe.

    utterances -> prepare_data: frozen features, cached or streamed -> train_from_speech -> <out>/tokenizer

<out>/features/train, valid     the cache, if there is one
<out>/training                  metrics.jsonl, checkpoints, best/ and last/: a tokenizer each
<out>/tokenizer                 a copy of the best
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, PreTrainedModel

from vocable.assets import resolve
from vocable.audio.manifest import Rejections, read_manifest
from vocable.config import config_to_dict, save_config
from vocable.errors import ConfigError
from vocable.features import FeatureEncoder, load_encoder
from vocable.files import replace_folder
from vocable.lm.surgery import DTYPES
from vocable.progress import progress
from vocable.splits import divide, training_items, validation_items
from vocable.systems.last.clips import Clips, StreamedClips, cache_clips
from vocable.systems.last.config import FrozenLMConfig, LastConfig
from vocable.systems.last.model import LastModel
from vocable.systems.last.task import LastTask
from vocable.systems.stage import Run, Stage, System
from vocable.training.loop import TrainingResult, train
from vocable.types import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class LastData:
    """The frozen encoder, and the features to train and validate on."""

    encoder: FeatureEncoder
    train: Clips
    valid: Clips | None


def prepare_data(
    config: LastConfig,
    utterances: Sequence[Utterance],
    out: Path,
    valid_utterances: Sequence[Utterance] | None = None,
    device: str | None = None,
    rejections: Rejections | None = None,
    strict: bool = False,
    on_utterance: Callable[[], None] | None = None,
) -> LastData:
    """Load the frozen encoder, and cache the features under `out` unless the config says to stream them.

    Under `accelerate launch` or `torchrun` the first process writes the cache while the others wait.

    Args:
        config: the recipe.
        utterances: speech to train on.
        out: the run's folder.
        valid_utterances: speech to validate on; None takes what is marked so, or `config.valid_share` of the others.
        device: where the frozen encoder runs; None takes a GPU if there is one.
        rejections: where unreadable recordings are noted.
        strict: whether an unreadable recording is an error instead.
        on_utterance: called after each utterance that is cached.

    Raises:
        AudioFormatError: an unreadable recording, when `strict`.
        ConfigError: no recording can be read.
        OutputError: the features do not fit on the disk.
    """
    accelerator = Accelerator(mixed_precision="no")  # as the loop makes it: the first one decides for all
    encoder = load_encoder(config.encoder, device or str(accelerator.device))
    if valid_utterances is None:
        utterances, valid_utterances = divide(utterances, config.valid_share)
    else:
        utterances, valid_utterances = training_items(utterances), validation_items(valid_utterances)
    handling = {"rejections": rejections, "strict": strict}

    def clips(chosen: Sequence[Utterance], name: str) -> Clips:
        if not config.cache_features:
            return StreamedClips(chosen, encoder, **handling)
        with accelerator.main_process_first():
            return cache_clips(chosen, encoder, out / "features" / name, on_utterance=on_utterance, **handling)

    valid = clips(valid_utterances, "valid") if valid_utterances else None
    return LastData(encoder=encoder, train=clips(utterances, "train"), valid=valid)


def load_frozen_lm(config: FrozenLMConfig) -> PreTrainedModel:
    """Load the text language model.

    Raises:
        AssetError: it cannot be found.
    """
    found = config.text_model if Path(config.text_model).is_dir() else resolve(config.text_model)
    attention = config.attention or ("sdpa" if torch.cuda.is_available() else "eager")
    return AutoModelForCausalLM.from_pretrained(found, dtype=DTYPES[config.dtype], attn_implementation=attention)


def build_model(config: LastConfig, feature_dim: int, lm: PreTrainedModel | None = None) -> LastModel:
    """Draw the learnable parts by `training.seed`, around the frozen language model, which is loaded if not given.

    Raises:
        ConfigError: the config has another `model.feature_dim`.
        AssetError: the language model cannot be found.
    """
    wanted = config.model.feature_dim
    if wanted is not None and wanted != feature_dim:
        raise ConfigError(
            f"model.feature_dim is {wanted}, but {config.encoder.name!r} gives {feature_dim} dimensions. Leave it out."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return LastModel(replace(config.model, feature_dim=feature_dim), lm or load_frozen_lm(config.lm))


def train_from_speech(
    config: LastConfig,
    data: LastData,
    out: Path,
    *,
    lm: PreTrainedModel | None = None,
    stop_at_step: int | None = None,
    show: bool = True,
) -> TrainingResult:
    """Train a tokenizer; a run that is in `out` already goes on.

    Args:
        config: the recipe.
        data: of `prepare_data`.
        out: the run's folder; the best tokenizer ends in `out/tokenizer`.
        lm: the language model, when it is at hand already; None loads the one that the config names.
        stop_at_step: checkpoint and return at this step; a later call goes on.
        show: display progress.

    Raises:
        ConfigError: crops are longer than the language model can take, or there is nothing to train on.
        OutputError: `out` holds another run.
        NumericsError: the loss became NaN or infinite.
    """
    model = build_model(config, data.encoder.dim, lm)
    task = LastTask(model, data.encoder, config, data.train, data.valid)
    result = train(task, config.training, out / "training", stop_at_step=stop_at_step, show=show)
    accelerator = Accelerator(mixed_precision="no")
    if result.finished and accelerator.is_main_process:
        with replace_folder(out / "tokenizer") as temporary:
            shutil.copytree(result.best, temporary, dirs_exist_ok=True)
    accelerator.wait_for_everyone()
    return result


class FeaturesStage(Stage):
    """Cache the features of the frozen encoder, unless the recipe streams them."""

    name = "features"
    reads = ("manifest",)
    may_read = ("valid_manifest",)
    writes = ("features",)
    shared = True

    def is_needed(self, config: LastConfig) -> bool:
        """Whether features are cached."""
        return config.cache_features

    def settings(self, config: LastConfig) -> dict[str, Any]:
        """Return the settings of the encoder, and what decides who is held out."""
        return {"encoder": config_to_dict(config.encoder), "valid_share": config.valid_share}

    def run(self, run: Run) -> str:
        """Write what is missing."""
        data = _prepare(run, Rejections(run.out))
        frames = sum(data.train.lengths) + sum(data.valid.lengths if data.valid else ())
        return f"Features of {frames} frames are in {run.path('features')}"


class LastStage(Stage):
    """Train the tokenizer on the features."""

    name = "tokenizer"
    next = "vocable tokenize MANIFEST {out}/tokens --tokenizer {out}/tokenizer"
    reads = ("manifest",)
    may_read = ("valid_manifest", "features")
    writes = ("tokenizer",)
    shared = True

    def run(self, run: Run) -> str:
        """Train; the best tokenizer of the run is the result."""
        rejections = Rejections(run.out)
        result = train_from_speech(run.config, _prepare(run, rejections), run.out)
        save_config(run.config, run.out / "config.yaml")
        lines = []
        if rejections.count:
            lines.append(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
        if result.valid_curve:
            best = min(result.valid_curve, key=lambda line: line["loss"])
            lines.append(
                f"Held out, step {best['step']}: {best['nll']:.3f} nats per frame, reconstruction "
                f"{best['reconstruction']:.4g}, perplexity {best['perplexity']:.1f} of "
                f"{run.config.model.quantizer.codebook_size} units"
            )
        return "\n".join([*lines, f"Tokenizer: {run.path('tokenizer')}"])


def _prepare(run: Run, rejections: Rejections) -> LastData:
    """Read the manifests and load, or make, the features."""
    paths = run.path("manifest"), run.find("valid_manifest")
    utterances, valid = (
        None if path is None else read_manifest(path, strict=run.strict, rejections=rejections) for path in paths
    )
    assert utterances is not None
    with progress("features") as advance:
        return prepare_data(
            run.config, utterances, run.out, valid, run.device, rejections, run.strict, lambda: advance(1)
        )


SYSTEM = System(name="last", config=LastConfig, stages=(FeaturesStage(), LastStage()))
