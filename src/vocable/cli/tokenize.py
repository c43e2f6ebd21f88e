"""`vocable tokenize`: a manifest to token shards, over several processes, resumable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vocable.cli.options import DeviceOption, StrictOption


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

    from vocable.systems.from_speech import tokenize_manifest

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
