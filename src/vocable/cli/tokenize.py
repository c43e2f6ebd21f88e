"""`vocable tokenize`: a manifest to token shards, over several processes, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vocable.cli.options import DeviceOption, StrictOption


class TokenizeSummary(NamedTuple):
    """What `tokenize_manifest` did; the seconds count this run only, not shards that were there before."""

    num_utterances: int
    num_rejected: int
    num_shards: int
    num_shards_before: int
    """Shards that an earlier run had finished."""
    audio_seconds: float
    wall_seconds: float

    @property
    def real_time_factor(self) -> float | None:
        """Wall seconds per second of audio; None when nothing was left to do."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds else None


def tokenize_manifest(
    manifest: Path,
    out: Path,
    tokenizer: str,
    processes: int = 1,
    device: str | None = None,
    batching: str = "exact",
    utterances_per_shard: int = 200,
    minutes_per_shard: float = 60.0,
    strict: bool = False,
    progress: bool = True,
) -> TokenizeSummary:
    """Encode every utterance of a manifest into Parquet shards in `out`; a killed run goes on where it stopped.

    The arguments are those of `vocable tokenize`; `progress=False` shows no bar. Unreadable audio is noted in
    <out>/rejected.jsonl.

    Raises:
        OutputError: `out` belongs to another run or is in use, or the disk is full; finished shards stay.
        AudioFormatError, ManifestError: unreadable audio or a bad line, with `strict`.
        JobsFailedError: some shards failed; the others are finished.
    """
    import functools
    import time

    from vocable.audio.manifest import HeldRejections, Rejections, read_manifest
    from vocable.devices import best_device
    from vocable.engine import run_jobs
    from vocable.tokens.shard_folder import only_writer
    from vocable.tokens.shards import ShardResult, plan_shards, split_finished, write_token_shard
    from vocable.tokens.tokenizer import read_card

    out = Path(out)
    card = read_card(tokenizer)
    bad_lines = HeldRejections()
    utterances = read_manifest(manifest, strict=strict, rejections=bad_lines)
    size = {"utterances_per_shard": utterances_per_shard, "minutes_per_shard": minutes_per_shard}
    jobs = plan_shards(utterances, out, card, **size, batching=batching, strict=strict)
    with only_writer(out):
        rejections = Rejections(out)
        bad_lines.release(rejections)

        def note(result: ShardResult) -> None:
            for rejection in result.rejections:
                rejections.add(rejection.id, rejection.audio, rejection.reason)

        before, left = split_finished(jobs)
        for result in before:
            note(result)
        started = time.perf_counter()
        write = functools.partial(write_token_shard, tokenizer=tokenizer, device=best_device(device))
        bar = "tokenize" if progress else ""
        new = run_jobs(write, left, num_processes=processes, description=bar, on_result=note)
        wall_seconds = time.perf_counter() - started
    return TokenizeSummary(
        num_utterances=sum(result.num_utterances for result in [*before, *new]),
        num_rejected=rejections.count,
        num_shards=len(jobs),
        num_shards_before=len(before),
        audio_seconds=sum(result.audio_seconds for result in new),
        wall_seconds=wall_seconds,
    )


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig(DeviceOption, StrictOption):
    """Speech, and the tokenizer that encodes it."""

    manifest: Path
    """Manifest of the speech (JSONL)."""
    out: Path
    """Folder for the shards."""
    tokenizer: str
    """Folder of the tokenizer, or its name on the Hugging Face hub. Make one: vocable tokenizer fit MANIFEST FOLDER"""
    processes: int = 1
    """Processes that encode, each with its own tokenizer."""
    batching: str = "exact"
    """exact (units do not depend on the batch), or equal_length or masked, which are faster on a GPU."""
    utterances_per_shard: int = 200
    """Most utterances in a file."""
    minutes_per_shard: float = 60.0
    """Most audio in a file."""


def tokenize(config: TokenizeConfig) -> None:
    """Turn every recording of a manifest into speech tokens, in Parquet shards; run again to go on after a stop.

    vocable tokenize dev.jsonl tokens --tokenizer units
    """
    import dataclasses

    from rich.console import Console

    summary, out = tokenize_manifest(**dataclasses.asdict(config)), config.out
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


COMMANDS = {"tokenize MANIFEST OUT": tokenize}
