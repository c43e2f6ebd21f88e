"""Tokens of a corpus on disk: Parquet shards, written one job each, read with `TokenShards` or HF `datasets`.

    manifest  --plan_shards-->  ShardJob ...  --write_token_shard (any number of processes)-->  <folder>/
        run.json, tokens-00000-of-00012.parquet, ..., rejected.jsonl, tokenize-log.jsonl

A shard is written to a temporary name and renamed: it is there whole or not at all. A killed run goes on with the
shards that are missing; a folder of another run is refused. Every shard carries the tokenizer's fingerprint and card,
and counts of its units (shard_facts.py). Equal input gives equal files: what differs from run to run, such as the time
that a shard took, is in the log. Training reads rows by number, from a memory-mapped copy (shard_columns.py).
"""

import copy
import functools
import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from vocable.audio.io import read_utterance
from vocable.errors import AlignmentError, AudioFormatError, ConfigError, ManifestError, OutputError
from vocable.files import claim_folder, replace_file
from vocable.tokens.fingerprint import check_fingerprint, fingerprint
from vocable.tokens.shard_columns import Columns, TokenRows, map_shards
from vocable.tokens.shard_facts import FACTS_KEY, NUM_HEARD, UnitCounts, has_facts
from vocable.tokens.shard_folder import LOG_FILE, RUN_FILE, append_line, is_foreign
from vocable.tokens.shard_rows import (
    METADATA_KEY,
    column_suffix,
    make_schema,
    row_to_tokens,
    row_to_utterance,
    tokens_to_row,
    utterance_to_row,
)
from vocable.tokens.silence import frame_levels
from vocable.tokens.streaming import is_long, read_blocks
from vocable.tokens.streams import card_of_stream, choose_stream, find_stream, streams_of_card
from vocable.tokens.tokenizer import SpeechTokenizer, load_tokenizer
from vocable.types import Clip, SpeechTokens, Stream, Utterance

SHARDS_VERSION = 1
GROUP_SECONDS = 120.0
"""Audio that is read ahead while the audio before is encoded, and that `masked` and `equal_length` batch together."""

UNUSABLE = (AudioFormatError, AlignmentError, ManifestError)
"""Errors of an utterance, which is then left out; others stop the run."""
_SHARD_NAME = re.compile(r"tokens-(\d{5,})-of-(\d{5,})\.parquet")


class Rejection(NamedTuple):
    """An utterance without tokens, and why."""

    id: str
    audio: str
    reason: str


class ShardResult(NamedTuple):
    """Counts of one job."""

    index: int
    num_utterances: int
    """Rows written."""
    audio_seconds: float
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """One shard that is to be written."""

    folder: Path
    index: int
    num_shards: int
    utterances: tuple[Utterance, ...]
    run: str
    """Fingerprint of manifest, tokenizer and settings."""
    tokenizer_fingerprint: str
    position: int = 0
    """Utterances of the manifest before the first of this shard."""
    batching: str = "exact"
    strict: bool = False
    """Whether an unreadable file is an error instead of a rejection."""

    @property
    def path(self) -> Path:
        """The file that the job writes."""
        return self.folder / f"tokens-{self.index:05d}-of-{self.num_shards:05d}.parquet"

    def __str__(self) -> str:
        return f"{self.path} ({len(self.utterances)} utterances from {self.utterances[0].id!r} on)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsConfig:
    """How a manifest is divided into files, and how these are encoded."""

    batching: str = "exact"
    """exact (units do not depend on the batch), or equal_length or masked, which are faster on a GPU."""
    utterances_per_shard: int = 200
    """Most utterances in a file."""
    minutes_per_shard: float = 60.0
    """Most audio in a file, as far as durations are known."""
    strict: bool = False
    """Stop at the first bad line or unreadable file; otherwise these are noted in rejected.jsonl and left out."""

    def __post_init__(self) -> None:
        if self.utterances_per_shard < 1 or self.minutes_per_shard <= 0:
            raise ConfigError(
                f"utterances_per_shard is {self.utterances_per_shard} and minutes_per_shard is "
                f"{self.minutes_per_shard}; both must be positive."
            )


def plan_shards(
    utterances: Sequence[Utterance], folder: Path, card: Mapping[str, Any], config: ShardsConfig | None = None
) -> list[ShardJob]:
    """Divide a manifest into jobs, and make the folder theirs.

    Args:
        utterances: The manifest, in its order.
        folder: A new or empty folder, or that of the same run, killed or finished.
        card: The tokenizer's.
        config: None takes the defaults.

    Raises:
        OutputError: the folder holds another run, or other files; the message names both runs.
        ManifestError: two utterances have the same id, or there are none.
    """
    folder, config = Path(folder), config or ShardsConfig()
    if not utterances:
        raise ManifestError("The manifest holds no utterance that could be tokenized.")
    _check_ids(utterances)
    groups = list(_divide(utterances, config.utterances_per_shard, config.minutes_per_shard * 60))
    run = {
        "shards_version": SHARDS_VERSION,
        "tokenizer_fingerprint": card["fingerprint"],
        "collapse": card.get("collapse"),
        "dtype": card.get("dtype"),
        "batching": config.batching,
        "manifest_fingerprint": _manifest_fingerprint(utterances, folder),
        "num_utterances": len(utterances),
        "utterances_per_shard": config.utterances_per_shard,
        "minutes_per_shard": config.minutes_per_shard,
    }
    claim_folder(folder, run, record=RUN_FILE, is_foreign=is_foreign)
    positions = itertools.accumulate(map(len, groups), initial=0)
    return [
        ShardJob(
            folder=folder,
            index=index,
            num_shards=len(groups),
            utterances=group,
            run=fingerprint(run),
            tokenizer_fingerprint=card["fingerprint"],
            position=position,
            batching=config.batching,
            strict=config.strict,
        )
        for index, (group, position) in enumerate(zip(groups, positions, strict=False))
    ]


def finished_shard(job: ShardJob) -> ShardResult | None:
    """Return what an earlier run of this job did; None when its file is missing or cannot be read."""
    try:
        metadata = _read_metadata(job.path)
    except (OSError, OutputError):
        return None
    if metadata["run"] != job.run:
        return None
    result = metadata["result"]
    rejections = tuple(Rejection(**rejection) for rejection in result["rejections"])
    return ShardResult(result["index"], result["num_utterances"], result["audio_seconds"], rejections)


def split_finished(jobs: Sequence[ShardJob]) -> tuple[list[ShardResult], list[ShardJob]]:
    """Return what earlier runs of these jobs did, and the jobs that are left.

    A strict job is left also where its shard was finished with rejections: `write_token_shard` then raises.
    """
    before, left = [], []
    for job in jobs:
        result = finished_shard(job)
        if result is not None:
            before.append(result)
        if result is None or (job.strict and result.rejections):
            left.append(job)
    return before, left


def write_token_shard(job: ShardJob, tokenizer: SpeechTokenizer | str | Path, device: str = "cpu") -> ShardResult:
    """Encode the utterances of one job and write its shard; a finished one is left as it is.

    Args:
        job: What to do.
        tokenizer: The tokenizer, or its folder; a folder is loaded once per process.
        device: Where a tokenizer from a folder runs.

    Raises:
        AudioFormatError: an unreadable file, when the job is strict.
        FingerprintError: it is not the tokenizer that the shards were planned for.
        OutputError: the shard cannot be written, e.g. because the disk is full; finished ones stay.
    """
    before = finished_shard(job)
    if before is not None:
        if job.strict and before.rejections:
            raise AudioFormatError(f"Utterance {before.rejections[0].id!r}: {before.rejections[0].reason}")
        return before
    if not isinstance(tokenizer, SpeechTokenizer):
        tokenizer = _loaded_tokenizer(str(tokenizer), device)
    check_fingerprint(job.tokenizer_fingerprint, tokenizer.fingerprint, str(job.folder), "the tokenizer")
    started = time.perf_counter()
    rows, rejections, audio_seconds = [], [], 0.0
    for utterance, outcome in _encode_all(job, tokenizer):
        if isinstance(outcome, _Encoded):
            row = utterance_to_row(utterance, job.folder) | tokens_to_row(outcome.tokens, tokenizer.streams)
            rows.append({**row, **outcome.levels})
            audio_seconds += outcome.seconds
        else:
            rejections.append(Rejection(utterance.id, str(utterance.audio), outcome))
    result = ShardResult(job.index, len(rows), audio_seconds, tuple(rejections))
    _write_rows(job, tokenizer, rows, result)
    took = {"shard": job.path.name, "audio_seconds": audio_seconds, "seconds": round(time.perf_counter() - started, 3)}
    append_line(json.dumps(took), job.folder / LOG_FILE)
    return result


class TokenShards(TokenRows):
    """The tokens of a corpus: (Utterance, SpeechTokens) in the order of the manifest, or by number.

    Raises:
        OutputError: the folder holds no shards, or not all of them, or shards of different runs.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.paths = sorted(path for path in self.folder.glob("tokens-*.parquet") if _SHARD_NAME.fullmatch(path.name))
        if not self.paths:
            raise OutputError(
                f"{folder}: there are no token shards. Make them: vocable tokenize MANIFEST {folder} --tokenizer FOLDER"
            )
        match = _SHARD_NAME.fullmatch(self.paths[0].name)
        num_shards = int(match[2]) if match else 0
        if len(self.paths) != num_shards:
            raise OutputError(
                f"{self.folder}: {len(self.paths)} of {num_shards} shards are there. Run the same 'vocable tokenize' "
                "command again to finish, or copy all of them."
            )
        runs = {path: _read_metadata(path) for path in self.paths}
        first = runs[self.paths[0]]
        for path, metadata in runs.items():
            if metadata["run"] != first["run"]:
                raise OutputError(
                    f"{path} is of run {metadata['run']} (tokenizer fingerprint {metadata['card']['fingerprint']}), "
                    f"but {self.paths[0]} is of run {first['run']} ({first['card']['fingerprint']}). Keep them apart."
                )
        self.card: dict[str, Any] = first["card"]
        self._stored = streams_of_card(self.card)

    def stream(self, name: str | None = None) -> "TokenShards":
        """Return the same shards, of which only one stream is read.

        Raises:
            ConfigError: there is no such stream, or there are several and no name is given.
        """
        chosen = choose_stream(streams_of_card(self.card), name, str(self.folder))
        one = copy.copy(self)
        one.card, one.chosen = card_of_stream(self.card, chosen.name), chosen.name
        one.__dict__.pop("num_frames", None)  # those of another stream
        return one

    def matching(self, fingerprint: str | None) -> "TokenShards":
        """Return the stream with this fingerprint; the shards themselves where no stream has it."""
        name = find_stream(self.streams, self.fingerprint, fingerprint)
        return self if name is None else self.stream(name)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Streams of each utterance's tokens."""
        return streams_of_card(self.card)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the tokens."""
        return self.card["fingerprint"]

    @functools.cached_property
    def parts(self) -> Sequence[Columns]:
        """The memory-mapped copy of the shards, made when a row is first asked for by number."""
        return [map_shards(self.paths, self.folder, self._stored)]

    @functools.cached_property
    def places(self) -> np.ndarray:
        """All rows."""
        return np.arange(sum(pq.read_metadata(path).num_rows for path in self.paths))

    def unit_counts(self) -> UnitCounts:
        """Add up the counts that stand in the shards; one of an earlier version, which has none, is counted now.

        Raises:
            ConfigError: there are several streams, or levels.
        """
        stream = choose_stream(self.streams, None, str(self.folder))
        total = UnitCounts.of((), stream.codebook_size)
        for path in self.paths:
            facts = json.loads((pq.read_schema(path).metadata or {}).get(FACTS_KEY, b"{}"))
            if stream.name in facts:
                total = total.plus(UnitCounts.from_json(facts[stream.name], stream.codebook_size))
            else:
                tokens = (self._chosen(row_to_tokens(row, self._stored)) for row in _read_rows(path))
                total = total.plus(UnitCounts.of(tokens, stream.codebook_size))
        return total

    def __iter__(self) -> Iterator[tuple[Utterance, SpeechTokens]]:
        for path in self.paths:
            for row in _read_rows(path):
                tokens = row_to_tokens(row, self._stored)
                yield row_to_utterance(row, self.folder), self._chosen(tokens)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


class _Encoded(NamedTuple):
    tokens: SpeechTokens
    seconds: float
    levels: Mapping[str, list[float]] = MappingProxyType({})
    """Columns with the loudness of each frame, for the first utterances of a manifest."""


class _ReadUtterance(NamedTuple):
    """An utterance that was read: its waveform, or None when it is to be streamed, or why it cannot be read."""

    utterance: Utterance
    waveform: Tensor | None
    problem: str | None = None


def _divide(
    utterances: Sequence[Utterance], most_utterances: int, most_seconds: float
) -> Iterator[tuple[Utterance, ...]]:
    group: list[Utterance] = []
    seconds = 0.0
    for utterance in utterances:
        if group and (len(group) >= most_utterances or seconds >= most_seconds):
            yield tuple(group)
            group, seconds = [], 0.0
        group.append(utterance)
        seconds += utterance.duration or 0.0
    yield tuple(group)


def _check_ids(utterances: Sequence[Utterance]) -> None:
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise ManifestError(f"Two utterances have the id {utterance.id!r}; ids must differ.")
        seen.add(utterance.id)


def _manifest_fingerprint(utterances: Sequence[Utterance], folder: Path) -> str:
    """Hash all rows; audio relative to the folder, so that both may be moved together between a kill and a restart."""
    digest = hashlib.sha256()
    for utterance in utterances:
        row = utterance_to_row(utterance, folder)
        if row["split"] is None:
            del row["split"]  # folders made before there were splits are still those of their manifests
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _loaded_tokenizer(folder: str, device: str) -> SpeechTokenizer:
    return load_tokenizer(folder, device)


def _encode_all(job: ShardJob, tokenizer: SpeechTokenizer) -> Iterator[tuple[Utterance, _Encoded | str]]:
    """Yield every utterance of the job with its tokens, or with the reason why it has none."""
    positions = itertools.count(job.position)
    with ThreadPoolExecutor(1) as reader:  # reads the next group while this one is encoded
        groups = _groups_of(job.utterances)
        ahead = reader.submit(_read_group, next(groups), tokenizer.sample_rate)
        while ahead is not None:
            clips = ahead.result()
            following = next(groups, None)
            ahead = reader.submit(_read_group, following, tokenizer.sample_rate) if following else None
            for clip, outcome in zip(clips, _encode_group(clips, tokenizer, job.batching), strict=True):
                if job.strict and isinstance(outcome, str):
                    raise AudioFormatError(f"Utterance {clip.utterance.id!r}: {outcome}")
                if next(positions) < NUM_HEARD and isinstance(outcome, _Encoded):
                    outcome = outcome._replace(levels=_levels(clip.waveform, outcome.tokens, tokenizer))
                yield clip.utterance, outcome


def _groups_of(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    for group in _divide(utterances, most_utterances=64, most_seconds=GROUP_SECONDS):
        yield list(group)


def _read_group(utterances: Sequence[Utterance], sample_rate: int) -> list[_ReadUtterance]:
    clips = []
    for utterance in utterances:
        try:
            str(utterance.audio).encode()
            waveform = None if is_long(utterance) else read_utterance(utterance, sample_rate)
            clips.append(_ReadUtterance(utterance, waveform))
        except UnicodeEncodeError:
            clips.append(
                _ReadUtterance(utterance, None, "The file's name is not UTF-8, which Parquet cannot hold. Rename it.")
            )
        except AudioFormatError as error:
            clips.append(_ReadUtterance(utterance, None, str(error)))
    return clips


def _encode_group(clips: Sequence[_ReadUtterance], tokenizer: SpeechTokenizer, batching: str) -> list[_Encoded | str]:
    readable = [clip for clip in clips if clip.waveform is not None]
    try:
        tokens = tokenizer.encode([_as_clip(clip) for clip in readable], batching)
    except UNUSABLE:  # find out whose fault it is
        return [_encode_one(clip, tokenizer) for clip in clips]
    encoded = {clip.utterance.id: item for clip, item in zip(readable, tokens, strict=True)}
    return [
        _Encoded(encoded[clip.utterance.id], len(clip.waveform) / tokenizer.sample_rate)
        if clip.waveform is not None
        else _encode_one(clip, tokenizer)
        for clip in clips
    ]


def _as_clip(clip: _ReadUtterance) -> Clip:
    assert clip.waveform is not None
    return Clip(clip.waveform, clip.utterance.text, clip.utterance.words)


def _encode_one(clip: _ReadUtterance, tokenizer: SpeechTokenizer) -> _Encoded | str:
    if clip.problem is not None:
        return clip.problem
    try:
        if clip.waveform is not None:
            return _Encoded(tokenizer.encode([_as_clip(clip)])[0], len(clip.waveform) / tokenizer.sample_rate)
        return _encode_stream(clip.utterance, tokenizer)
    except UNUSABLE as error:
        return str(error)


def _levels(waveform: Tensor | None, tokens: SpeechTokens, tokenizer: SpeechTokenizer) -> dict[str, list[float]]:
    """Return the loudness of each frame, by column; nothing for a recording that was streamed."""
    return {
        f"levels{column_suffix(stream, tokenizer.streams)}": frame_levels(
            waveform, tokens.stream(stream.name).num_frames, tokenizer.sample_rate, stream.rate
        ).tolist()
        for stream in tokenizer.streams
        if waveform is not None and stream.rate is not None and has_facts(stream)
    }


def _encode_stream(utterance: Utterance, tokenizer: SpeechTokenizer) -> _Encoded:
    num_samples = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal num_samples
        for block in read_blocks(utterance, tokenizer.sample_rate):
            num_samples += len(block)
            yield block

    tokens = tokenizer.encode_stream(blocks(), utterance.text, utterance.words)
    return _Encoded(tokens, num_samples / tokenizer.sample_rate)


def _write_rows(job: ShardJob, tokenizer: SpeechTokenizer, rows: list[dict[str, Any]], result: ShardResult) -> None:
    summary = result._asdict() | {"rejections": [rejection._asdict() for rejection in result.rejections]}
    schema = make_schema(tokenizer.streams, {"run": job.run, "card": tokenizer.card(), "result": summary})
    tokens = [row_to_tokens(row, tokenizer.streams) for row in rows]
    facts = {
        stream.name: UnitCounts.of((item.stream(stream.name) for item in tokens), stream.codebook_size).to_json()
        for stream in tokenizer.streams
        if has_facts(stream)
    }
    schema = schema.with_metadata({**(schema.metadata or {}), FACTS_KEY: json.dumps(facts).encode()})
    with replace_file(job.path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise OutputError(f"{path}: is not a readable Parquet file ({error}). Delete it and run again.") from error
    if METADATA_KEY not in metadata:
        raise OutputError(f"{path}: is not a token shard of Vocable.")
    return json.loads(metadata[METADATA_KEY])
