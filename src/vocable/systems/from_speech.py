"""From a manifest to fitted units, and to token shards: what commands and stages both do, with bars on the screen."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vocable.audio.manifest import HeldRejections, Rejections, read_manifest
from vocable.devices import best_device
from vocable.engine import run_jobs
from vocable.progress import progress_bars
from vocable.splits import training_items
from vocable.tokens.shard_folder import only_writer
from vocable.tokens.shards import ShardResult, ShardsConfig, plan_shards, split_finished, write_token_shard
from vocable.tokens.tokenizer import read_card
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance


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


def fit_units(
    manifest: Path,
    out: Path,
    tokenizer: UnitTokenizerConfig,
    device: str | None = None,
    strict: bool = False,
    work_folder: Path | None = None,
) -> UnitTokenizer:
    """Fit a unit tokenizer (encoder and k-means codebook) on the speech of a manifest, and print how the fit went.

    What the manifest marks as held out is left out.

    vocable tokenizer fit dev.jsonl units --encoder openai/whisper-tiny.en --layer 2 --clusters 100
    vocable tokenizer fit dev.jsonl units kmeans.max_iterations=50

    Args:
        manifest: manifest of the speech (JSONL).
        out: folder for the tokenizer.
        tokenizer: what is fitted.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        strict: stop at the first bad line or unreadable file; otherwise these are noted in rejected.jsonl and left out.
        work_folder: folder for the features, 4 bytes a value. Without it, the system's temporary folder.

    Raises:
        ManifestError: all utterances are held out.
    """
    rejections = Rejections(out)
    utterances = training_items(read_manifest(manifest, strict=strict, rejections=rejections))
    with progress_bars("Features", "K-means") as (extracting, clustering):
        fitted = UnitTokenizer.fit(
            utterances,
            tokenizer,
            device=best_device(device),
            rejections=rejections,
            strict=strict,
            work_folder=work_folder,
            on_utterance=lambda _: extracting(1, len(utterances)),
            on_pass=lambda number, distance: clustering(1, tokenizer.kmeans.max_iterations + 1),
        )
    fitted.save_pretrained(out)
    if fitted.report is not None:
        fitted.report.print(tokenizer.kmeans.num_clusters)
    if rejections.count:
        print(f"{rejections.count} utterances were left out; the reasons are in {rejections.path}")
    return fitted


def tokenize_manifest(
    manifest: Path,
    out: Path,
    tokenizer: str,
    config: ShardsConfig | None = None,
    processes: int = 1,
    device: str | None = None,
    mark: Callable[[Sequence[Utterance]], list[Utterance]] = list,
) -> TokenizeSummary:
    """Turn every recording of a manifest into speech tokens, in Parquet shards; run again to go on after a stop.

    vocable tokenize dev.jsonl tokens --tokenizer units

    Args:
        manifest: manifest of the speech (JSONL).
        out: folder for the shards.
        tokenizer: folder of the tokenizer, or its name on the Hugging Face hub. Make one: vocable tokenizer fit
            MANIFEST FOLDER
        config: how the manifest is divided; None takes the defaults.
        processes: processes that encode, each with its own tokenizer.
        device: where to compute, such as cpu or cuda:0. Without it, a GPU if there is one.
        mark: writes into utterances who is held out.

    Raises:
        OutputError: `out` belongs to another run or is in use, or the disk is full; finished shards stay.
        AudioFormatError, ManifestError: unreadable audio or a bad line, with `strict`.
        JobsFailedError: some shards failed; the others are finished.
    """
    out, config = Path(out), config or ShardsConfig()
    bad_lines = HeldRejections()
    card = read_card(tokenizer)
    utterances = mark(read_manifest(manifest, strict=config.strict, rejections=bad_lines))
    jobs = plan_shards(utterances, out, card, config)
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
        new = run_jobs(write, left, num_processes=processes, description="tokenize", on_result=note)
        wall_seconds = time.perf_counter() - started
    return TokenizeSummary(
        num_utterances=sum(result.num_utterances for result in [*before, *new]),
        num_rejected=rejections.count,
        num_shards=len(jobs),
        num_shards_before=len(before),
        audio_seconds=sum(result.audio_seconds for result in new),
        wall_seconds=wall_seconds,
    )
