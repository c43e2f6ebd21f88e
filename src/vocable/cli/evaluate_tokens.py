"""`vocable evaluate phones | abx | signal | units`: what do tokens keep of speech, before any language model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vocable.types import Utterance


def evaluate_abx_command(
    *,
    manifest: Path,
    out: Path,
    tokens: Path | None = None,
    tokenizer: Path | None = None,
    encoder: str | None = None,
    layer: int = 2,
    features: Path | None = None,
    frame_rate: float | None = None,
    items: Path | None = None,
    span: Literal["triphone", "phone"] = "triphone",
    speakers: Literal["both", "within", "across"] = "both",
    distance: str | None = None,
    context: Literal["within", "any"] = "within",
    max_group: int | None = 10,
    max_x_speakers: int | None = 5,
    kernel: Literal["auto", "torch", "fastabx"] = "auto",
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Phone ABX, within and across speakers, of units or features: error rates with 95 % intervals.

    X and A are one phone, B another, all between the same two neighbours: how often is X nearer to B? 0.5 is chance.
    Writes abx.json and abx.items.parquet (the error of every phone pair, context and speaker). Give one of tokens,
    tokenizer, encoder and features.

    Args:
        manifest: The utterances (JSONL); their ids are the file names of the items. Without items, its phones are used.
        out: Folder for the results.
        tokens: Folder of token shards: compare units.
        tokenizer: Folder of a saved tokenizer: encode, and compare units.
        encoder: Name or folder of a feature encoder: compare its features.
        layer: Of the encoder.
        features: Folder of <id>.npy files, each (frames, dim).
        frame_rate: Frames per second of these files.
        items: A ZeroSpeech .item file. Without it, items are all phones of the manifest that have two neighbours.
        span: What is compared of the manifest's phones: the phone with both neighbours, or the phone alone.
        speakers: X by the speaker of A and B (within), by another (across), or both scores.
        distance: Of frames: angular, euclidean, kl_symmetric or identical. Without it, identical for units, angular for
            features.
        context: Compare phones between the same neighbours only (within), or any.
        max_group: At most so many tokens of a phone, context and speaker; null takes all.
        max_x_speakers: At most so many speakers of X for each A and B; null takes all.
        kernel: Who computes: fastabx, torch (our own), or auto: fastabx where it is installed and knows the distance.
        seed: Of the draws and of the bootstrap.
        device: Where to encode and compare, such as cpu or cuda. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.audio.manifest import read_manifest
    from vocable.devices import best_device
    from vocable.errors import ConfigError
    from vocable.evaluation.abx import AbxConfig, evaluate_abx
    from vocable.evaluation.abx_items import items_from_manifest, read_item_file
    from vocable.evaluation.frame_sources import encoder_frames, stored_frames, token_frames
    from vocable.evaluation.results import check_output
    from vocable.progress import progress

    config = AbxConfig(
        speakers=("within", "across") if speakers == "both" else (speakers,),
        distance=distance,
        context=context,
        max_group=max_group,
        max_x_speakers=max_x_speakers,
        kernel=kernel,
        seed=seed,
    )
    check_output(out, "abx", overwrite)
    given = [name for name in (tokens, tokenizer, encoder, features) if name is not None]
    if len(given) != 1:
        raise ConfigError(f"Give one of tokens, tokenizer, encoder and features; there are {len(given)}.")
    utterances = read_manifest(manifest)
    found = read_item_file(items) if items is not None else items_from_manifest(utterances, span)
    if not found:
        raise ConfigError(
            f"{manifest}: no line holds phones and a speaker. Pass an item file with --items, or add to the lines "
            '"phones": [{"phone": ..., "start": ..., "end": ...}].'
        )
    wanted = {item.file for item in found}
    utterances = [utterance for utterance in utterances if utterance.id in wanted]
    device = best_device(device)
    if encoder is not None:
        frames = encoder_frames(utterances, encoder, layer, device)
    elif features is not None:
        frames = stored_frames(utterances, features, frame_rate)
    else:
        frames = token_frames(_token_source(utterances, tokens, tokenizer, device))
    with progress("Cutting items", len(utterances)) as advance:
        result = evaluate_abx(found, frames, config, device=device, on_progress=advance)
    _finish(result, out, "contexts")


def evaluate_signal_command(
    *,
    manifest: Path,
    copies: Path,
    out: Path,
    metrics: str = "stoi,pesq,mel,prosody,durations",
    mos: str | None = None,
    tolerance_seconds: float = 0.05,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare resynthesised recordings with their originals: STOI, PESQ, mel distance, pitch, energy, word durations.

    Writes signal.json and signal.items.parquet (one row per utterance). Copies are aligned first; what is silent or too
    short is counted, not scored.

    Args:
        manifest: The originals (JSONL).
        copies: A manifest with the same ids, or a folder of <id>.wav (flac, ogg, opus, mp3).
        out: Folder for the results.
        metrics: Which, with commas between: stoi, pesq, mel, prosody (pitch, voicing, energy), durations (of words;
            both manifests need word times).
        mos: Also predict opinion scores: distillmos, dnsmos, or utmos:FOLDER.
        tolerance_seconds: A word counts as equally long up to this difference.
        seed: Of the bootstrap.
        device: Where the opinion scores are computed. Without it, a GPU if there is one.
        overwrite: Replace an earlier result in the same folder.
    """
    from vocable.audio.manifest import read_manifest
    from vocable.devices import best_device
    from vocable.evaluation.metrics.mos_predictors import load_mos
    from vocable.evaluation.results import check_output
    from vocable.evaluation.signal import SignalConfig, evaluate_signal, pair_utterances
    from vocable.progress import progress

    config = SignalConfig(metrics=_names(metrics), tolerance_seconds=tolerance_seconds, seed=seed)
    check_output(out, "signal", overwrite)
    pairs, excluded = pair_utterances(read_manifest(manifest), copies)
    predictor = load_mos(mos, best_device(device)) if mos is not None else None
    with progress("Comparing recordings", len(pairs)) as advance:
        result = evaluate_signal(pairs, config, predictor, excluded, on_progress=advance)
    _finish(result, out)


def _token_source(utterances: list[Utterance], tokens: Path | None, tokenizer: Path | None, device: str | None):
    from vocable.devices import best_device
    from vocable.evaluation.token_sources import TokenSource
    from vocable.tokens import load_tokenizer

    loaded = load_tokenizer(tokenizer, device=best_device(device)) if tokenizer is not None else None
    return TokenSource(utterances, tokens=tokens, tokenizer=loaded)


def _finish(result, out: Path | None, items: str = "utterances") -> None:
    """Print the scores; save the result where there is a folder for it."""
    from vocable.cli.showing import print_scores
    from vocable.evaluation.results import save_result

    path = save_result(result, out, overwrite=True) if out is not None else None
    print_scores(result, items)
    if path is not None:
        print(f"Results: {path}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


COMMANDS = {
    "evaluate abx": evaluate_abx_command,
    "evaluate signal": evaluate_signal_command,
}
