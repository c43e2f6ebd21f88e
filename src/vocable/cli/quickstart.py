"""`vocable quickstart`: speech in, a report with sound out."""

from pathlib import Path


def quickstart(audio: Path | None = None, out: Path = Path("runs/quickstart"), overrides: tuple[str, ...] = ()) -> None:
    """Fit units, train language models warm and cold, continue held-out prompts, and write a page with sound.

    Without --audio it runs on the half hour of stories that comes with Vocable. A run that was stopped goes on when the
    same command is given again. Another run needs another --out. Settings behind the command, with their
    defaults: steps=120 num_clusters=100 num_prompts=6 prompt_seconds=3 max_seconds=6 minutes_per_model=2.7 num_judged=8
    seed=0; and voice=NAME, a voice of the vocoder, such as af_heart.

    Args:
        audio: A folder of recordings (wav, FLAC, Ogg, Opus, MP3), or a manifest (.jsonl), in place of the stories.
        out: Folder of the run; report.html in it is the page.
        overrides: Settings of the run.
    """
    import shlex
    import sys

    from rich.console import Console

    from vocable.config import config_from_dict, load_config
    from vocable.errors import ConfigError
    from vocable.quickstart.page import write_quickstart_report
    from vocable.quickstart.run import QuickstartConfig, run_quickstart

    for word in overrides:
        if word.split("=")[0] in ("audio", "out"):
            raise ConfigError(f"{word!r}: give it as --{word}.")
    given = {"audio": str(audio) if audio is not None else None, "out": str(out)}
    settings = load_config(QuickstartConfig, None, [*overrides])
    config = config_from_dict(
        QuickstartConfig, {**{name: getattr(settings, name) for name in settings.__dataclass_fields__}, **given}
    )
    console = Console(highlight=False)
    result = run_quickstart(config, console)
    path = write_quickstart_report(result, shlex.join(["vocable", *sys.argv[1:]]))
    console.print(f"[bold]Open[/bold] {path.resolve()}")


COMMANDS = {"quickstart": quickstart}
