"""`vocable tokenizer ...` fits, shows, checks and takes over tokenizers; `vocable tokenize` makes token shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocable.cli.command import Command
from vocable.cli.options import DeviceOption, StrictOption

if TYPE_CHECKING:
    from vocable.tokens.shards import ShardsConfig
    from vocable.tokens.unit_tokenizer import UnitTokenizerConfig


@dataclass(frozen=True, kw_only=True)
class FitConfig(DeviceOption, StrictOption):
    """Speech to fit on."""

    manifest: Path
    """Manifest of the speech (JSONL)."""
    out: Path
    """Folder for the tokenizer."""
    work_folder: Path | None = None
    """Folder for the features, 4 bytes a value. Without it, the system's temporary folder."""


def fit(config: FitConfig, tokenizer: UnitTokenizerConfig) -> None:
    """Fit a unit tokenizer (encoder and k-means codebook) on the speech of a manifest.

    vocable tokenizer fit dev.jsonl units --encoder openai/whisper-tiny.en --layer 2 --clusters 100
    vocable tokenizer fit dev.jsonl units kmeans.max_iterations=50
    """
    from vocable.systems.from_speech import fit_units

    fitted = fit_units(config.manifest, config.out, tokenizer, config.device, config.strict, config.work_folder)
    print(f"Tokenizer {fitted.fingerprint} is in {config.out}")


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """A tokenizer to look at."""

    folder: str
    """Folder of the tokenizer, or its name on the Hugging Face hub."""


def show_card(config: CardConfig) -> None:
    """Show what a saved tokenizer is, without loading its encoder.

    vocable tokenizer card units
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.tokens.streams import streams_of_card
    from vocable.tokens.tokenizer import read_card

    table, card = Table("", "", title=config.folder, show_header=False), read_card(config.folder)
    card["streams"] = {stream.name: stream for stream in streams_of_card(card)}
    for key, value in _flat(card):
        table.add_row(key, str(value))
    Console().print(table)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(DeviceOption, StrictOption):
    """A tokenizer, and speech to try it on."""

    folder: str
    """Folder of the tokenizer, or its name on the Hugging Face hub."""
    manifest: Path
    """Manifest of the speech (JSONL)."""
    num_utterances: int = 50
    """Utterances to try, spread over the manifest."""


def verify(config: VerifyConfig) -> None:
    """Check on your own speech that the units of a clip do not depend on the clips around it.

    The exact mode has to agree in every frame; for the faster ones the share of frames that differ is printed.

    vocable tokenizer verify units dev.jsonl
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.io import read_clip
    from vocable.audio.manifest import read_manifest
    from vocable.devices import best_device
    from vocable.errors import AudioFormatError, VocableError
    from vocable.tokens.agreement import measure_batchings
    from vocable.tokens.tokenizer import load_tokenizer

    console = Console()
    tokenizer = load_tokenizer(config.folder, best_device(config.device))
    utterances = read_manifest(config.manifest, strict=config.strict)
    step = max(len(utterances) // config.num_utterances, 1)
    clips = []
    for utterance in utterances[::step][: config.num_utterances]:
        try:
            clips.append(read_clip(utterance, tokenizer.sample_rate))
        except AudioFormatError as error:
            if config.strict:
                raise
            console.print(f"passed over: {error}", highlight=False)
    if not clips:
        raise AudioFormatError(f"{config.manifest}: none of the utterances tried can be read.")
    with console.status("encoding"):
        results = measure_batchings(tokenizer, clips)
    table = Table("mode", "frames", "different", "mismatch rate", title=f"{config.folder}: {len(clips)} clips")
    for mode, agreement in results.items():
        table.add_row(
            mode, str(agreement.num_frames), str(agreement.num_different), f"{100 * agreement.mismatch_rate:.3f} %"
        )
    console.print(table)
    if results["exact"].num_different:
        raise VocableError(
            f"The exact mode differs in {results['exact'].num_different} of {results['exact'].num_frames} frames "
            "between clips encoded alone and together. Please report this, with the tokenizer's card and your device."
        )
    console.print("exact: every unit is the same, alone or in company.")


@dataclass(frozen=True, kw_only=True)
class ImportKMeansConfig:
    """A codebook to take over."""

    file: Path
    """The pickle or joblib file, or a .npy file with the matrix of centroids."""
    out: Path
    """Folder for the tokenizer."""
    device: str = "cpu"
    """Where to load the encoder."""


def import_kmeans(config: ImportKMeansConfig, tokenizer: UnitTokenizerConfig) -> None:
    """Make a tokenizer of a published scikit-learn k-means file (fairseq, textlesslib), running no code of the file.

    vocable tokenizer import-kmeans km500.bin units --encoder facebook/hubert-base-ls960 --layer 9
    """
    from dataclasses import replace

    from vocable.features import load_encoder
    from vocable.tokens.kmeans import KMeans
    from vocable.tokens.sklearn_kmeans import read_centroids
    from vocable.tokens.unit_tokenizer import UnitTokenizer

    encoder, fitted = tokenizer.encoder, tokenizer.kmeans
    kmeans = KMeans(read_centroids(config.file), fitted.block_frames)
    init_frames = max(fitted.init_frames, kmeans.codebook_size)
    sizes = replace(fitted, num_clusters=kmeans.codebook_size, init_frames=init_frames)
    units = UnitTokenizer(load_encoder(encoder, config.device), kmeans, replace(tokenizer, kmeans=sizes))
    units.save_pretrained(config.out)
    print(
        f"{kmeans.codebook_size} centroids of {kmeans.dim} dimensions on {encoder.name} layer {encoder.layer}: "
        f"tokenizer {units.fingerprint} is in {config.out}"
    )


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(DeviceOption):
    """Speech, and the tokenizer that encodes it."""

    manifest: Path
    """Manifest of the speech (JSONL)."""
    out: Path
    """Folder for the shards."""
    tokenizer: str
    """Folder of the tokenizer, or its name on the Hugging Face hub. Make one: vocable tokenizer fit MANIFEST FOLDER"""
    processes: int = 1
    """Processes that encode, each with its own tokenizer."""


def tokenize(config: TokenizeConfig, shards: ShardsConfig) -> None:
    """Turn every recording of a manifest into speech tokens, in Parquet shards; run again to go on after a stop.

    vocable tokenize dev.jsonl tokens --tokenizer units
    """
    from rich.console import Console

    from vocable.systems.from_speech import tokenize_manifest

    out = config.out
    summary = tokenize_manifest(config.manifest, out, config.tokenizer, shards, config.processes, config.device)
    console = Console(highlight=False, soft_wrap=True)
    if summary.num_shards_before:
        console.print(f"{summary.num_shards_before} of {summary.num_shards} shards were there already.")
    if summary.num_rejected:
        console.print(f"{summary.num_rejected} utterances were left out; the reasons are in {out}/rejected.jsonl")
    if summary.real_time_factor is not None:
        console.print(
            f"{summary.audio_seconds / 60:.1f} minutes of audio in {summary.wall_seconds:.1f} s: real-time factor "
            f"{summary.real_time_factor:.4f} ({1 / summary.real_time_factor:.1f} x real time), loading included."
        )
    console.print(f"Tokens of {summary.num_utterances} utterances are in {out} ({summary.num_shards} shards).")


ENCODER = {"encoder": "encoder.name", "layer": "encoder.layer"}
FITTING = {**ENCODER, "clusters": "kmeans.num_clusters", "hours": "fit_hours"}
COMMANDS = {
    "tokenizer fit MANIFEST OUT": Command(fit, short=FITTING),
    "tokenizer card FOLDER": show_card,
    "tokenizer verify FOLDER MANIFEST": verify,
    "tokenize MANIFEST OUT": tokenize,
    "tokenizer import-kmeans FILE OUT": Command(import_kmeans, short=ENCODER),
}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows.extend(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return rows
