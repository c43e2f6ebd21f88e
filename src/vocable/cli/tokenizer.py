"""`vocable tokenizer ...` fits, shows, checks and takes over tokenizers; `vocable tokenize` makes token shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vocable
from vocable.cli.command import Command
from vocable.devices import best_device
from vocable.errors import AudioFormatError, VocableError
from vocable.files import refuse_existing
from vocable.printing import print_table

if TYPE_CHECKING:
    from vocable.systems.from_speech import TokenizeSummary
    from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig


def fit(fit_units: Callable[..., UnitTokenizer], out: Path, overwrite: bool = False, **settings: Any) -> None:
    """Fit a tokenizer, and say where it is.

    Args:
        fit_units: a function that fits and saves it.
        out: folder for the tokenizer.
        overwrite: replace a tokenizer that is there, and on which tokens and models may stand.
        settings: what it is fitted on, and how.
    """
    refuse_existing(out, overwrite)
    print(f"Tokenizer {fit_units(out=out, **settings).fingerprint} is in {out}")


def show_card(folder: str) -> None:
    """Show what a saved tokenizer is, without loading its encoder.

    vocable tokenizer card units

    Args:
        folder: folder of the tokenizer, or its name on the Hugging Face hub.
    """
    from vocable.files import flatten
    from vocable.tokens.streams import streams_of_card
    from vocable.tokens.tokenizer import read_card

    card = read_card(folder)
    card["streams"] = {stream.name: stream for stream in streams_of_card(card)}
    print_table(("", ""), flatten(card).items(), folder)


def verify(
    folder: str, manifest: Path, num_utterances: int = 50, device: str | None = None, strict: bool = False
) -> None:
    """Check on your own speech that the units of a clip do not depend on the clips around it.

    The exact mode has to agree in every frame; for the faster ones the share of frames that differ is printed.

    vocable tokenizer verify units dev.jsonl

    Args:
        folder: folder of the tokenizer, or its name on the Hugging Face hub.
        manifest: manifest of the speech (JSONL).
        num_utterances: utterances to try, spread over the manifest.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        strict: stop at the first bad line or unreadable file; otherwise it is passed over.
    """
    from rich.console import Console

    from vocable.audio.io import read_clip
    from vocable.tokens.agreement import measure_batchings

    tokenizer = vocable.load_tokenizer(folder, best_device(device))
    utterances = vocable.read_manifest(manifest, strict=strict)
    step = max(len(utterances) // num_utterances, 1)
    clips = []
    for utterance in utterances[::step][:num_utterances]:
        try:
            clips.append(read_clip(utterance, tokenizer.sample_rate))
        except AudioFormatError as error:
            if strict:
                raise
            print(f"passed over: {error}")
    if not clips:
        raise AudioFormatError(f"{manifest}: none of the utterances tried can be read.")
    with Console().status("encoding"):
        results = measure_batchings(tokenizer, clips)
    rows = [(mode, x.num_frames, x.num_different, f"{100 * x.mismatch_rate:.3f} %") for mode, x in results.items()]
    print_table(("mode", "frames", "different", "mismatch rate"), rows, f"{folder}: {len(clips)} clips")
    exact = results["exact"]
    if exact.num_different:
        raise VocableError(
            f"The exact mode differs in {exact.num_different} of {exact.num_frames} frames between clips encoded alone "
            "and together. Please report this, with the tokenizer's card and your device."
        )
    print("exact: every unit is the same, alone or in company.")


def import_kmeans(
    file: Path, out: Path, tokenizer: UnitTokenizerConfig, device: str = "cpu", overwrite: bool = False
) -> None:
    """Make a tokenizer of a published scikit-learn k-means file (fairseq, textlesslib), running no code of the file.

    vocable tokenizer import-kmeans km500.bin units --encoder facebook/hubert-base-ls960 --layer 9

    Args:
        file: the pickle or joblib file, or a .npy file with the matrix of centroids.
        out: folder for the tokenizer.
        tokenizer: the encoder whose frames the centroids divide.
        device: where to load the encoder.
        overwrite: replace a tokenizer that is there, and on which tokens and models may stand.
    """
    from vocable.tokens.unit_tokenizer import UnitTokenizer

    refuse_existing(out, overwrite)
    units = UnitTokenizer.from_kmeans_file(tokenizer, file, device)
    kmeans, encoder = units.kmeans, tokenizer.encoder
    units.save_pretrained(out)
    print(
        f"{kmeans.codebook_size} centroids of {kmeans.dim} dimensions on {encoder.name} layer {encoder.layer}: "
        f"tokenizer {units.fingerprint} is in {out}"
    )


def tokenize(tokenize_manifest: Callable[..., TokenizeSummary], out: Path, **settings: Any) -> None:
    """Tokenize a manifest, and say what came of it.

    Args:
        tokenize_manifest: a function that writes token shards.
        out: folder for the shards.
        settings: the manifest, the tokenizer, and how they are divided.
    """
    summary = tokenize_manifest(out=out, **settings)
    if summary.num_shards_before:
        print(f"{summary.num_shards_before} of {summary.num_shards} shards were there already.")
    if summary.num_rejected:
        print(f"{summary.num_rejected} utterances were left out; the reasons are in {out}/rejected.jsonl")
    if (factor := summary.real_time_factor) is not None:
        print(
            f"{summary.audio_seconds / 60:.1f} minutes of audio in {summary.wall_seconds:.1f} s: real-time factor "
            f"{factor:.4f} ({1 / factor:.1f} x real time), loading included."
        )
    print(f"Tokens of {summary.num_utterances} utterances are in {out} ({summary.num_shards} shards).")


ENCODER = {"encoder": "encoder.name", "layer": "encoder.layer"}
FITTING = {**ENCODER, "clusters": "kmeans.num_clusters", "hours": "fit_hours"}
COMMANDS = {
    "tokenizer fit MANIFEST OUT": Command("vocable.systems.from_speech:fit_units", short=FITTING, through=fit),
    "tokenizer card FOLDER": show_card,
    "tokenizer verify FOLDER MANIFEST": verify,
    "tokenize MANIFEST OUT": Command("vocable.systems.from_speech:tokenize_manifest", through=tokenize),
    "tokenizer import-kmeans FILE OUT": Command(import_kmeans, short=ENCODER),
}
