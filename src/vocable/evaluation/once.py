"""Encode, or transcribe, the audio of a benchmark once, however many models are then scored on it.

    utterances + tokenizer   ->  <cache>/tokens/<tokenizer>-<audio>/        token shards
    utterances + recogniser  ->  <cache>/transcripts/<recogniser>-<audio>.jsonl

Names hold the fingerprint of the tokenizer or recogniser, and of the files (path, size, time of change): other audio or
another tokenizer is another entry. A run that was killed goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.assets.weights import weights_key
from vocable.audio.io import read_utterance
from vocable.errors import AudioFormatError, ManifestError
from vocable.files import read_json_lines, write_json_lines
from vocable.tokens.fingerprint import fingerprint
from vocable.tokens.shards import ShardsConfig, TokenShards, finished_shard, plan_shards, write_token_shard
from vocable.types import SpeechTokens, Utterance

if TYPE_CHECKING:
    from vocable.recognition.transcribe import Transcriber
    from vocable.tokens.tokenizer import SpeechTokenizer

BLOCK_UTTERANCES = 32
"""Transcribed together, and kept as soon as they are done."""

VERSION = 2
"""Version of the folders of tokens; those of version 1 also depended on texts and speakers."""

Progress = Callable[[int, int], None]
"""Called with the number of utterances done since the last call, and with their total."""


def encode_once(
    utterances: Sequence[Utterance],
    tokenizer: SpeechTokenizer,
    cache: Path,
    on_progress: Progress | None = None,
) -> dict[str, SpeechTokens]:
    """Return the tokens of every utterance that can be read, by id; from the cache where they are there."""
    card, utterances = tokenizer.card(), [_read_by(tokenizer, one) for one in sorted(utterances, key=_place)]
    what = {"version": VERSION, "files": _files(utterances), "batching": "exact", "collapse": card.get("collapse")}
    key = fingerprint(what)
    folder = Path(cache) / "tokens" / f"{tokenizer.fingerprint}-{key}"
    for job in plan_shards(utterances, folder, card, ShardsConfig(utterances_per_shard=100)):
        if finished_shard(job) is None:
            write_token_shard(job, tokenizer)
        if on_progress is not None:
            on_progress(len(job.utterances), len(utterances))
    return {utterance.id: tokens for utterance, tokens in TokenShards(folder)}


def transcribe_once(
    utterances: Sequence[Utterance], transcriber: Transcriber, cache: Path, on_progress: Progress | None = None
) -> dict[str, str]:
    """Return what a recogniser hears in every utterance that can be read, by id; see `encode_once`."""
    utterances = sorted(utterances, key=_place)
    key = fingerprint({"files": _files(utterances)})
    judge = fingerprint({"weights": weights_key(transcriber.weights), "conventions": dict(transcriber.conventions)})
    path = Path(cache) / "transcripts" / f"{judge}-{key}.jsonl"
    heard = {row["id"]: row["text"] for _, row in read_json_lines(path)} if path.is_file() else {}
    todo = [utterance for utterance in utterances if utterance.id not in heard]
    if on_progress is not None:
        on_progress(len(utterances) - len(todo), len(utterances))
    for start in range(0, len(todo), BLOCK_UTTERANCES):
        block = todo[start : start + BLOCK_UTTERANCES]
        readable = []
        for utterance in block:
            try:
                readable.append((utterance.id, read_utterance(utterance, transcriber.sample_rate)))
            except AudioFormatError:
                continue
        texts = transcriber.transcribe([waveform for _, waveform in readable]) if readable else []
        heard |= {name: text for (name, _), text in zip(readable, texts, strict=True)}
        write_json_lines(({"id": name, "text": text} for name, text in heard.items()), path)
        if on_progress is not None:
            on_progress(len(block), len(utterances))
    return heard


def _read_by(tokenizer: SpeechTokenizer, utterance: Utterance) -> Utterance:
    """Return only what tokens depend on: another speaker of the same audio is no other run."""
    return Utterance(
        id=utterance.id,
        audio=utterance.audio,
        start=utterance.start,
        duration=utterance.duration,
        text=utterance.text if tokenizer.needs_text else None,
        words=utterance.words if tokenizer.needs_words else None,
    )


def _place(utterance: Utterance) -> tuple[str, float, str]:
    """Sorts utterances by where they lie, so that any order of the same ones is one entry of the cache."""
    return str(utterance.audio), utterance.start, utterance.id


def _files(utterances: Sequence[Utterance]) -> list[list[object]]:
    """What says that the audio is the same as before, without reading it.

    Raises:
        ManifestError: a file is not there.
    """
    stamps: Mapping[Path, tuple[int, int]] = {path: _stamp(path) for path in {u.audio for u in utterances}}
    return [[u.id, str(u.audio.resolve()), *stamps[u.audio], u.start, u.duration] for u in utterances]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ManifestError(f"{path}: the audio file cannot be found ({error.strerror}).") from error
    return found.st_size, found.st_mtime_ns
