"""`vocable tokenizer ...`: fit a unit tokenizer, show it, check it, and take over published codebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vocable.tokens.kmeans_report import KMeansReport
    from vocable.tokens.unit_tokenizer import UnitTokenizerConfig


def fit_tokenizer(
    manifest: Path,
    out: Path,
    config: Path | None = None,
    encoder: str | None = None,
    layer: int | None = None,
    clusters: int | None = None,
    hours: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    strict: bool = False,
    work_folder: Path | None = None,
    overrides: tuple[str, ...] = (),
) -> None:
    """Fit a unit tokenizer (encoder and k-means codebook) on the speech of a manifest.

    Any setting can be given by its name: vocable tokenizer fit dev.jsonl units/ kmeans.max_iterations=50

    Args:
        manifest: The speech, a JSONL manifest.
        out: Folder for the tokenizer.
        config: yaml with the settings of UnitTokenizerConfig.
        encoder: Encoder to take features from, e.g. openai/whisper-tiny.en; short for encoder.name=...
        layer: Its layer; short for encoder.layer=...
        clusters: Entries of the codebook; short for kmeans.num_clusters=...
        hours: Hours of speech to fit on, drawn at random; short for fit_hours=...
        seed: Of the random sample and k-means++; short for kmeans.seed=...
        device: Where to run, e.g. cuda:0; by default a GPU if there is one.
        strict: Stop at a bad line or an unreadable file instead of noting it in OUT/rejected.jsonl.
        work_folder: Folder for the features, 4 bytes a value; by default the system's temporary folder.
        overrides: Dotted settings.
    """
    from vocable.config import load_config
    from vocable.tokens.unit_tokenizer import UnitTokenizerConfig

    short = {
        "encoder.name": encoder,
        "encoder.layer": layer,
        "kmeans.num_clusters": clusters,
        "fit_hours": hours,
        "kmeans.seed": seed,
    }
    given = [f"{key}={value}" for key, value in short.items() if value is not None]
    settings = load_config(UnitTokenizerConfig, config, [*given, *overrides])
    fit_and_save(manifest, out, settings, device, strict, work_folder)


def fit_and_save(
    manifest: Path,
    out: Path,
    settings: UnitTokenizerConfig,
    device: str | None = None,
    strict: bool = False,
    work_folder: Path | None = None,
) -> None:
    """Fit a unit tokenizer with progress bars, save it, and print the report of the fit."""
    from rich.console import Console
    from rich.progress import Progress

    from vocable.audio.manifest import Rejections, read_manifest
    from vocable.tokens.unit_tokenizer import UnitTokenizer

    rejections = Rejections(out)
    utterances = read_manifest(manifest, strict=strict, rejections=rejections)
    console = Console()
    with Progress(console=Console(stderr=True)) as progress:
        extraction = progress.add_task("features", total=len(utterances))
        passes = progress.add_task("k-means", total=settings.kmeans.max_iterations + 1)

        def show_pass(number: int, distance: float) -> None:
            progress.update(extraction, total=progress.tasks[extraction].completed)  # fewer than all, with `hours`
            progress.update(passes, completed=number + 1, description=f"k-means, mean squared distance {distance:.4g}")

        tokenizer = UnitTokenizer.fit(
            utterances,
            settings,
            device=choose_device(device),
            rejections=rejections,
            strict=strict,
            work_folder=work_folder,
            on_utterance=lambda _: progress.advance(extraction),
            on_pass=show_pass,
        )
        progress.update(passes, total=progress.tasks[passes].completed)  # it may have converged early
    tokenizer.save_pretrained(out)
    if tokenizer.report is not None:
        console.print(report_table(tokenizer.report, settings.kmeans.num_clusters))
    if rejections.count:
        console.print(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
    console.print(f"Tokenizer {tokenizer.fingerprint} is in {out}", highlight=False)


def show_card(folder: str) -> None:
    """Show what a saved tokenizer is, without loading its encoder.

    Args:
        folder: Its folder, or name on the Hugging Face hub.
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.tokens.tokenizer import read_card

    table = Table("", "", title=str(folder), show_header=False)
    for key, value in _flat(read_card(folder)):
        table.add_row(key, str(value))
    Console().print(table)


def verify_tokenizer(
    folder: str, manifest: Path, num_utterances: int = 50, device: str | None = None, strict: bool = False
) -> None:
    """Check on your own speech that the units of a clip do not depend on the clips around it.

    The exact mode has to agree in every frame; for the faster ones the share of frames that differ is printed.

    Args:
        folder: The tokenizer's folder.
        manifest: The speech, a JSONL manifest.
        num_utterances: How many utterances to try, spread over the manifest.
        device: Where to run, e.g. cuda:0; by default a GPU if there is one.
        strict: Stop at an unreadable file instead of passing over it.
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.io import read_clip
    from vocable.audio.manifest import read_manifest
    from vocable.errors import AudioFormatError, VocableError
    from vocable.tokens.agreement import measure_batchings
    from vocable.tokens.tokenizer import load_tokenizer

    console = Console()
    tokenizer = load_tokenizer(folder, choose_device(device))
    utterances = read_manifest(manifest, strict=strict)
    step = max(len(utterances) // num_utterances, 1)
    clips = []
    for utterance in utterances[::step][:num_utterances]:
        try:
            clips.append(read_clip(utterance, tokenizer.sample_rate))
        except AudioFormatError as error:
            if strict:
                raise
            console.print(f"passed over: {error}", highlight=False)
    if not clips:
        raise AudioFormatError(f"{manifest}: none of the utterances tried can be read.")
    with console.status("encoding"):
        results = measure_batchings(tokenizer, clips)
    table = Table("mode", "frames", "different", "mismatch rate", title=f"{folder}: {len(clips)} clips")
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


def import_kmeans(
    file: Path,
    out: Path,
    encoder: str | None = None,
    layer: int | None = None,
    config: Path | None = None,
    device: str = "cpu",
    overrides: tuple[str, ...] = (),
) -> None:
    """Make a tokenizer of a published scikit-learn k-means file (fairseq, textlesslib), running no code of the file.

    Args:
        file: The pickle or joblib file, or a .npy file with the matrix of centroids.
        out: Folder for the tokenizer.
        encoder: The encoder that the codebook was fitted on, e.g. facebook/hubert-base-ls960.
        layer: Its layer.
        config: yaml with other settings of UnitTokenizerConfig.
        device: Where to load the encoder.
        overrides: Dotted settings.
    """
    from dataclasses import replace

    from vocable.config import load_config
    from vocable.features import load_encoder
    from vocable.tokens.kmeans import KMeans
    from vocable.tokens.sklearn_kmeans import read_centroids
    from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig

    given = [
        f"{key}={value}" for key, value in (("encoder.name", encoder), ("encoder.layer", layer)) if value is not None
    ]
    settings = load_config(UnitTokenizerConfig, config, [*given, *overrides])
    kmeans = KMeans(read_centroids(file), settings.kmeans.block_frames)
    sizes = replace(
        settings.kmeans,
        num_clusters=kmeans.codebook_size,
        init_frames=max(settings.kmeans.init_frames, kmeans.codebook_size),
    )
    tokenizer = UnitTokenizer(load_encoder(settings.encoder, device), kmeans, replace(settings, kmeans=sizes))
    tokenizer.save_pretrained(out)
    print(
        f"{kmeans.codebook_size} centroids of {kmeans.dim} dimensions on {settings.encoder.name} layer "
        f"{settings.encoder.layer}: tokenizer {tokenizer.fingerprint} is in {out}"
    )


COMMANDS = {
    "tokenizer fit": fit_tokenizer,
    "tokenizer card": show_card,
    "tokenizer verify": verify_tokenizer,
    "tokenizer import-kmeans": import_kmeans,
}


def choose_device(device: str | None) -> str:
    """Return `device`, or a GPU if there is one, or the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def report_table(report: KMeansReport, num_clusters: int) -> Any:
    """Return the report of a fit as a rich table."""
    import math

    from rich.table import Table

    table = Table("k-means", "", show_header=False)
    rows = {
        "frames": f"{report.num_frames:,}",
        "iterations": f"{report.iterations} ({'converged' if report.converged else 'stopped at the limit'})",
        "mean squared distance": f"{report.mean_squared_distance:.5g}",
        "of the first codebook": f"{report.inertia[0] / report.num_frames:.5g}",
        "entropy": f"{report.entropy_bits:.3f} bits of {math.log2(num_clusters):.3f}",
        "perplexity": f"{report.perplexity:.1f} of {num_clusters}",
        "dead codes": str(len(report.dead_codes)),
        "revived": str(report.num_revived),
        "seconds": f"{report.seconds:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows.extend(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    return rows
