"""From recordings with text to a tokenizer that speaks and a language model, in Python and as the stages of a recipe.

    manifest --tokenizer--> RUN/tokenizer --tokens--> RUN/tokens --lm--> RUN/lm

RUN/features                                  what is computed once of each recording (data.py)
RUN/training/text-only, continuous, quantized metrics.jsonl, checkpoints, best/ and last/ of each part
RUN/tokenizer                                 a copy of quantized/best: tokenizer and speech decoder
"""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vocable.audio.io import Audio, read_utterance
from vocable.audio.manifest import Rejections, read_manifest
from vocable.config import config_to_dict, save_config
from vocable.errors import AudioFormatError, ManifestError
from vocable.features import load_encoder
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.features.voice import SHORTEST_SECONDS, Speaker, find_speaker
from vocable.features.whisper import WhisperEncoder
from vocable.files import replace_folder
from vocable.progress import progress
from vocable.sequences.word_tokens import WordTextTokenizer
from vocable.splits import divide, training_items, validation_items
from vocable.systems.shared import TokensStage
from vocable.systems.stage import Run, Stage, System
from vocable.systems.taste.data import Pieces
from vocable.systems.taste.model import load_reader, load_word_encoder
from vocable.systems.taste.recipe import PartConfig, TasteRecipe
from vocable.systems.taste.speech import WordSynthesizer
from vocable.systems.taste.task import PartName, TasteTask, Trainee, start_part
from vocable.systems.taste.taslm_stage import TaslmStage
from vocable.systems.taste.tokenizer import TasteTokenizer, as_whisper
from vocable.training.loop import TrainingResult, train
from vocable.types import Utterance

PARTS: tuple[PartName, ...] = ("text_only", "continuous", "quantized")
LONG_ENOUGH = 4.0
"""Seconds of a recording that the voice is rather taken from."""


def build_trainee(config: TasteRecipe, reader: WordTextTokenizer) -> Trainee:
    """Make the tokenizer of Whisper's weights, and draw quantizer and decoder by the last part's seed.

    Raises:
        AssetError: a checkpoint cannot be found, or `start` holds other networks.
        ConfigError: settings do not fit the checkpoint.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.tokenizer_training.quantized.seed)
        words = load_word_encoder(config.tokenizer, reader)
        trainee = Trainee(words, config.decoder.build(words.aggregator.shape.dim, reader))
    if config.start is not None:
        trainee.start_from(Path(config.start), quantizer=False)
    return trainee


def train_tokenizer(
    config: TasteRecipe,
    utterances: Sequence[Utterance],
    out: Path,
    valid_utterances: Sequence[Utterance] | None = None,
    *,
    speaker_encoder: SpeakerEncoder | None = None,
    rejections: Rejections | None = None,
    strict: bool = False,
    device: str | None = None,
    stop: tuple[PartName, int] | None = None,
    show: bool = True,
) -> dict[PartName, TrainingResult]:
    """Train a tokenizer and its speech decoder; a run that is in `out` already goes on. `out/tokenizer` is the result.

    Args:
        config: The recipe.
        utterances: Recordings with text to train on.
        out: The run's folder.
        valid_utterances: Recordings to validate on; None takes what is marked so, or `config.valid_share` of the
            others.
        speaker_encoder: None loads the one that the recipe names.
        rejections: Where recordings that are left out are noted.
        strict: Whether such a recording is an error instead.
        device: Where the frozen encoder runs; None takes a GPU if there is one.
        stop: Part and step at which to checkpoint and return; a later call goes on.
        show: Display progress.

    Returns:
        Results of the parts, by name.

    Raises:
        AlignmentError, AudioFormatError: a recording that cannot be used, when `strict`.
        ManifestError: none can be used.
        OutputError: `out` holds another run.
        NumericsError: the loss became NaN or infinite.
    """
    accelerator = Accelerator(mixed_precision="no")  # as the loop makes it: the first one decides for all
    if valid_utterances is None:
        utterances, valid_utterances = divide(utterances, config.valid_share)
    else:
        utterances, valid_utterances = training_items(utterances), validation_items(valid_utterances)
    encoder = as_whisper(load_encoder(config.tokenizer.encoder, device or str(accelerator.device)))
    reader = load_reader(config.tokenizer.encoder.name)
    trainee = build_trainee(config, reader)
    speakers = speaker_encoder or load_speaker_encoder(config.speaker_encoder)
    store = out / "features" if config.features is None else Path(config.features)
    handling = {"rejections": rejections, "strict": strict}
    shared = (config.tokenizer, reader, encoder, trainee.words.aggregator, speakers, trainee.decoder, store)

    def pieces(chosen: Sequence[Utterance], what: str) -> Pieces:
        with accelerator.main_process_first(), progress(what if show else "", len(chosen)) as advance:
            return Pieces(chosen, *shared, on_utterance=lambda: advance(1), **handling)

    data = pieces(utterances, "Reading the recordings")
    validation = pieces(valid_utterances, "Reading the held-out recordings") if valid_utterances else None
    voice = _default_voice(utterances, speakers)

    def save(model: Trainee, folder: Path) -> None:
        tokenizer_of(model, encoder, reader, config, voice).save_pretrained(folder)

    identity = {"tokenizer": config_to_dict(config.tokenizer), "decoder": config_to_dict(config.decoder)}
    identity |= {"kmeans_words": config.tokenizer_training.kmeans_words}
    identity |= {"quantizer_start": config.tokenizer_training.quantizer_start}
    results: dict[PartName, TrainingResult] = {}
    for part in PARTS:
        settings: PartConfig | None = getattr(config.tokenizer_training, part)
        if settings is None:
            continue
        folder = out / "training" / part.replace("_", "-")
        if results:
            trainee.start_from([*results.values()][-1].best, quantizer=False)
        if part != "text_only" and not (folder / "checkpoints").is_dir():
            trainee.to(accelerator.device)
            start_part(trainee, part, data, settings, config.tokenizer_training)
        own = identity | {"start": [*results] or config.start}
        write = save if part == "quantized" else Trainee.save
        task = TasteTask(trainee, part, settings, data, validation, own, write)
        stop_at = stop[1] if stop is not None and stop[0] == part else None
        results[part] = train(task, settings, folder, stop_at_step=stop_at, show=show)
        if not results[part].finished:
            return results
    if accelerator.is_main_process:
        with replace_folder(out / "tokenizer") as temporary:
            shutil.copytree(results["quantized"].best, temporary, dirs_exist_ok=True)
    accelerator.wait_for_everyone()
    return results


def tokenizer_of(
    trainee: Trainee, encoder: WhisperEncoder, reader: WordTextTokenizer, config: TasteRecipe, voice: Speaker
) -> TasteTokenizer:
    """Copy tokenizer and decoder as they are at this point of their training."""
    words, decoder = copy.deepcopy(trainee.words), copy.deepcopy(trainee.decoder)
    tokenizer = TasteTokenizer(encoder, reader, words, config.tokenizer)
    tokenizer.speech = WordSynthesizer(tokenizer, decoder, voice, config.speaker_encoder)
    return tokenizer


def _default_voice(utterances: Sequence[Utterance], encoder: SpeakerEncoder) -> Speaker:
    """Take the voice of the first recording that is long enough, else of the first that has one."""
    ordered = sorted(utterances, key=lambda one: (one.duration or 0) < LONG_ENOUGH)
    for utterance in ordered:
        try:
            waveform = read_utterance(utterance, encoder.sample_rate)
            return find_speaker(Audio(waveform, encoder.sample_rate), encoder)
        except AudioFormatError:
            continue
    raise ManifestError(
        f"None of {len(utterances)} recordings has {SHORTEST_SECONDS:g} s of speech to take a voice from."
    )


class TokenizerStage(Stage):
    """Train tokenizer and speech decoder on recordings with text."""

    name = "tokenizer"
    reads = ("manifest",)
    may_read = ("valid_manifest",)
    writes = ("tokenizer",)
    shared = True

    def is_needed(self, config: TasteRecipe) -> bool:
        """Whether the recipe says how a tokenizer is trained; otherwise one is given."""
        return config.training is not None

    def settings(self, config: TasteRecipe) -> dict[str, Any]:
        """Return the settings of the tokenizer and its training."""
        names = ("training", "decoder", "tokenizer", "speaker_encoder", "start", "valid_share")
        values = config_to_dict(config)
        return {name: values[name] for name in names}

    def run(self, run: Run) -> str:
        """Train the parts one after another; the best model of the last is the result."""
        rejections = Rejections(run.out)
        read = [
            None if path is None else read_manifest(path, strict=run.strict, rejections=rejections)
            for path in (run.path("manifest"), run.find("valid_manifest"))
        ]
        assert read[0] is not None
        handling: dict[str, Any] = {"rejections": rejections, "strict": run.strict, "device": run.device}
        results = train_tokenizer(run.config, read[0], run.out, read[1], **handling)
        save_config(run.config, run.out / "config.yaml")
        lines = []
        if rejections.count:
            lines.append(f"{rejections.count} recordings were left out; the reasons are in {rejections.path}")
        for part, result in results.items():
            if result.valid_curve:
                best = min(result.valid_curve, key=lambda line: line["loss"])
                lines.append(f"Held out, {part.replace('_', ' ')}, step {best['step']}: loss {best['loss']:.4g}")
        return "\n".join([*lines, f"Tokenizer: {run.path('tokenizer')}"])


SYSTEM = System(name="taste", config=TasteRecipe, stages=(TokenizerStage(), TokensStage(), TaslmStage()))
