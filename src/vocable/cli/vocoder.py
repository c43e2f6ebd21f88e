"""Vocoders on the command line: `vocable vocoder train`, `synthesize` and `resynthesize`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

Given = TypeVar("Given", str, Path)

if TYPE_CHECKING:
    from torch import Tensor

    from vocable.types import SpeechTokens, Utterance


def train(
    manifest: Path,
    out: Path,
    tokenizer: str | None = None,
    stream: str | None = None,
    also: list[Path] | None = None,
    main_share: float | None = None,
    config: Path | None = None,
    start_from: Path | None = None,
    num_processes: int = 1,
    overrides: tuple[str, ...] = (),
) -> None:
    """Train a vocoder for a tokenizer, on any speech in any language.

    Settings are dotted: `vocoder.dim=384 training.minutes=40`. Every speaker named in the manifests becomes a voice.
    A run that was stopped continues when the same command is given again.

    Args:
        manifest: Utterances to train on, or a folder of their token shards.
        out: Folder for tokens, logs, checkpoints and the result, `vocoder`.
        tokenizer: Name or folder of the tokenizer whose tokens the vocoder will read; it must be given.
        stream: Name of the stream that the vocoder will read, where the tokenizer has several.
        also: Further manifests or folders of token shards.
        main_share: How much of the training, 0 to 1, is on the first manifest. None: as much as it has speech.
        config: Yaml with the sections vocoder and training. None: the defaults.
        start_from: Folder of a vocoder whose weights are the start; voices are matched by name.
        num_processes: Processes that tokenize.
        overrides: Settings that replace those of the yaml.
    """
    import json

    from vocable.config import load_config
    from vocable.errors import ConfigError
    from vocable.synthesis.vocoder import UnitVocoder
    from vocable.tokens.tokenizer import load_tokenizer
    from vocable.training.vocoder import VocoderRecipe, train_vocoder
    from vocable.training.vocoder_data import voices_by_speech

    tokenizer = str(_given(tokenizer, "tokenizer"))
    units = load_tokenizer(tokenizer).stream(stream)
    (read,) = units.streams
    if read.rate is None:
        raise ConfigError(f"The tokens of {tokenizer} follow words, not frames; this vocoder reads frames.")
    sources = [Path(manifest), *map(Path, also or ())]
    groups = [
        _read_or_tokenize(source, Path(out), tokenizer, stream, units.fingerprint, num_processes) for source in sources
    ]
    pairs = [pair for group in groups for pair in group]
    physics: dict[str, Any] = {
        "codebook_size": max(read.codebook_sizes),
        "num_codebooks": read.num_levels,
        "codebook_sizes": read.codebook_sizes if len(set(read.codebook_sizes)) > 1 else None,
        "token_frame_rate": read.rate,
        "sample_rate": units.sample_rate,
        "voices": voices_by_speech(pairs),
        "collapsed": any(tokens.durations is not None for _, tokens in pairs),
        "tokenizer_fingerprint": units.fingerprint,
    }
    settings = [f"vocoder.{name}={json.dumps(value)}" for name, value in physics.items()]
    recipe = load_config(VocoderRecipe, config, (*settings, *overrides))
    initial = UnitVocoder.from_pretrained(start_from) if start_from else None
    weights = _weights(groups, main_share)
    vocoder = train_vocoder(pairs, recipe.vocoder, recipe.training, Path(out), start_from=initial, weights=weights)
    parameters = sum(parameter.numel() for parameter in vocoder.parameters()) / 1e6
    print(f"{Path(out) / 'vocoder'}: {parameters:.1f} M parameters, {len(vocoder.voices)} voices")


def synthesize(
    tokens: Path,
    out: Path,
    vocoder: Path | None = None,
    voice: str | None = None,
    predict_durations: bool = False,
    limit: int | None = None,
) -> None:
    """Turn token shards into sound: one WAV file an utterance, and a manifest.

    Args:
        tokens: Folder of token shards.
        out: Folder to write.
        vocoder: Folder of the vocoder; it must be given.
        voice: One of its voices. None: its first.
        predict_durations: Let the vocoder choose how long units last, even where the tokens say it.
        limit: Stop after this many utterances. None: all.
    """
    from vocable.synthesis.opening import load_synthesizer
    from vocable.tokens.fingerprint import check_fingerprint
    from vocable.tokens.shards import TokenShards

    speaker = load_synthesizer(_given(vocoder, "vocoder"))
    shards = TokenShards(tokens).matching(speaker.tokenizer_fingerprint)
    if speaker.tokenizer_fingerprint is not None:
        check_fingerprint(speaker.tokenizer_fingerprint, shards.fingerprint, "The vocoder", f"the tokens {tokens}")
    waveforms = (
        (utterance, speaker.synthesize([_timed(item, predict_durations)], voice)[0]) for utterance, item in shards
    )
    total = len(shards) if limit is None else min(limit, len(shards))
    _write_all(waveforms, total, Path(out), speaker.sample_rate, voice)


def resynthesize(
    audio: Path,
    out: Path,
    tokenizer: str | None = None,
    vocoder: Path | None = None,
    voice: str | None = None,
    predict_durations: bool = False,
    limit: int | None = None,
) -> None:
    """Turn speech into tokens and back: what survives the tokenizer, to listen to.

    Args:
        audio: An audio file, or a manifest (.jsonl).
        out: Folder to write.
        tokenizer: Name or folder of the tokenizer; it must be given.
        vocoder: Folder of the vocoder. None: the tokenizer's own decoder, else the vocoder that comes with Vocable.
        voice: One of its voices. None: its first.
        predict_durations: Let the vocoder choose how long units last.
        limit: Stop after this many utterances. None: all.
    """
    from vocable.audio.io import read_clip
    from vocable.audio.manifest import read_manifest
    from vocable.synthesis.opening import attach_synthesizer
    from vocable.tokens.tokenizer import load_tokenizer
    from vocable.types import Utterance

    audio = Path(audio)
    utterances = read_manifest(audio) if audio.suffix == ".jsonl" else [Utterance(id=audio.stem, audio=audio)]
    units = attach_synthesizer(load_tokenizer(_given(tokenizer, "tokenizer")), vocoder)

    def waveforms() -> Iterable[tuple[Utterance, Tensor]]:
        for utterance in utterances:
            (item,) = units.encode([read_clip(utterance, units.sample_rate)])
            yield utterance, units.decode([_timed(item, predict_durations)], voice)[0]

    total = len(utterances) if limit is None else min(limit, len(utterances))
    _write_all(waveforms(), total, Path(out), units.decode_rate, voice)


def _given(value: Given | None, name: str) -> Given:
    """Refuse an option that has no default."""
    from vocable.errors import ConfigError

    if value is None:
        raise ConfigError(f"--{name} is missing: the folder of the {name}.")
    return value


def _read_or_tokenize(
    source: Path, out: Path, tokenizer: str, stream: str | None, fingerprint: str, num_processes: int
) -> list[tuple[Utterance, SpeechTokens]]:
    """Read token shards, or make them from a manifest, under <out>/tokens."""
    import hashlib

    from vocable.systems.from_speech import tokenize_manifest
    from vocable.tokens.fingerprint import check_fingerprint
    from vocable.tokens.shards import TokenShards

    if not source.is_dir():
        path_hash = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:6]
        folder = out / "tokens" / f"{source.stem}-{path_hash}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        tokenize_manifest(source, folder, tokenizer, processes=num_processes)
        source = folder
    shards = TokenShards(source).stream(stream)
    check_fingerprint(fingerprint, shards.fingerprint, f"The tokenizer {tokenizer}", f"the token shards {source}")
    return list(shards)


def _weights(groups: list[list[tuple[Utterance, SpeechTokens]]], main_share: float | None) -> list[float]:
    """Weights by which `main_share` of all training frames come from the first group."""
    from vocable.errors import ConfigError

    sizes = [sum(tokens.num_frames for _, tokens in group) for group in groups]
    if main_share is None or len(groups) == 1:
        return [1.0] * sum(map(len, groups))
    if not 0 < main_share < 1:
        raise ConfigError(f"--main-share is {main_share}; it must lie between 0 and 1.")
    main = main_share / (1 - main_share) * sum(sizes[1:]) / sizes[0]
    return [main] * len(groups[0]) + [1.0] * sum(map(len, groups[1:]))


def _timed(tokens: SpeechTokens, predict_durations: bool) -> SpeechTokens:
    """Return the tokens, without their durations if the vocoder is to predict them."""
    import torch

    from vocable.types import SpeechTokens

    def one_column_a_run(one: SpeechTokens) -> SpeechTokens:
        if one.durations is not None:
            return one.without_durations()
        return SpeechTokens(codes=torch.unique_consecutive(one.codes, dim=1))

    return tokens.map_streams(one_column_a_run) if predict_durations else tokens


def _write_all(
    waveforms: Iterable[tuple[Utterance, Tensor]], total: int, out: Path, sample_rate: int, voice: str | None
) -> None:
    """Write WAV files named by utterance, and a manifest of them."""
    import dataclasses
    import itertools
    from urllib.parse import quote

    from rich.progress import track

    from vocable.audio.io import write_audio
    from vocable.audio.manifest import write_manifest

    out.mkdir(parents=True, exist_ok=True)
    written, seconds = [], 0.0
    for utterance, waveform in track(itertools.islice(waveforms, total), "synthesize", total=total):
        path = out / f"{quote(utterance.id, safe=' ')[:200]}.wav"
        write_audio(path, waveform, sample_rate)
        seconds += len(waveform) / sample_rate
        changed = {"audio": path, "start": 0.0, "duration": len(waveform) / sample_rate, "words": None}
        written.append(dataclasses.replace(utterance, **changed, speaker=voice or utterance.speaker))
    write_manifest(written, out / "manifest.jsonl")
    print(f"{out / 'manifest.jsonl'}: {len(written)} utterances, {seconds:.1f} s of speech")


COMMANDS = {"vocoder train": train, "vocoder synthesize": synthesize, "vocoder resynthesize": resynthesize}
