"""Commands on audio files: what they hold, and another sample rate."""

from __future__ import annotations

from pathlib import Path


def info(files: list[Path]) -> None:
    """Show sample rate, channels and length of audio files.

    Args:
        files: the files; those that cannot be read are listed with the reason, and make the command fail.
    """
    from rich.console import Console
    from rich.table import Table

    from vocable.audio.io import audio_info
    from vocable.errors import AudioFormatError

    table = Table("file", "sample rate (Hz)", "channels", "samples", "seconds")
    problems = []
    for path in files:
        try:
            found = audio_info(path)
        except AudioFormatError as error:
            problems.append(str(error))
            continue
        table.add_row(
            str(path), str(found.sample_rate), str(found.num_channels), str(found.num_samples), f"{found.duration:.3f}"
        )
    if table.row_count:
        Console().print(table)
    if problems:
        raise AudioFormatError("\n".join(problems))


def resample(source: Path, out: Path, sample_rate: int = 16_000) -> None:
    """Write an audio file again as mono at another sample rate; the suffix of OUT chooses the format.

    Args:
        source: the file to read; of any length, it is streamed.
        out: the file to write: wav, flac, ogg, opus or mp3.
        sample_rate: samples per second of the new file, Hz.
    """
    from rich.console import Console
    from rich.progress import Progress

    from vocable.audio.io import audio_info, iterate_audio, write_audio_blocks

    block_seconds = 30.0
    num_blocks = audio_info(source).duration / block_seconds
    with Progress(console=Console(stderr=True), transient=True) as progress:
        blocks = progress.track(
            iterate_audio(source, sample_rate, block_seconds), total=num_blocks, description="resample"
        )
        num_samples = write_audio_blocks(out, blocks, sample_rate)
    print(f"{out}: {num_samples / sample_rate:.2f} s at {sample_rate} Hz")


COMMANDS = {"audio info": info, "audio resample": resample}
