"""Commands on audio files: what they hold, and another sample rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    """Which files to look at."""

    files: list[Path]
    """The files; those that cannot be read are listed with the reason, and make the command fail."""


def info(config: InfoConfig) -> None:
    """Show sample rate, channels and length of audio files.

    vocable audio info speech/*.wav
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.io import audio_info
    from vocable.errors import AudioFormatError

    table = Table("file", "sample rate (Hz)", "channels", "samples", "seconds")
    problems = []
    for path in config.files:
        try:
            facts = audio_info(path)
        except AudioFormatError as error:
            problems.append(str(error))
            continue
        counts = (facts.sample_rate, facts.num_channels, facts.num_samples)
        table.add_row(str(path), *map(str, counts), f"{facts.duration:.3f}")
    if table.row_count:
        Console().print(table)
    if problems:
        raise AudioFormatError("\n".join(problems))


@dataclass(frozen=True, kw_only=True)
class ResampleConfig:
    """A file to write at another sample rate."""

    source: Path
    """The file to read; of any length, it is streamed."""
    out: Path
    """The file to write: wav, flac, ogg, opus or mp3."""
    sample_rate: int = 16_000
    """Samples per second of the new file."""


def resample(config: ResampleConfig) -> None:
    """Write an audio file again as mono at another sample rate; the suffix of OUT chooses the format.

    vocable audio resample talk.mp3 talk.wav --sample-rate 24000
    """
    from vocable.audio.io import audio_info, iterate_audio
    from vocable.audio.writing import write_audio_blocks
    from vocable.progress import track

    block_seconds = 30.0
    num_blocks = math.ceil(audio_info(config.source).duration / block_seconds)
    blocks = track(iterate_audio(config.source, config.sample_rate, block_seconds), "Resampling", num_blocks)
    num_samples = write_audio_blocks(config.out, blocks, config.sample_rate)
    print(f"{config.out}: {num_samples / config.sample_rate:.2f} s at {config.sample_rate} Hz")


COMMANDS = {"audio info FILES...": info, "audio resample SOURCE OUT": resample}
