"""`vocable quickstart`: speech in, a report with sound out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vocable.quickstart.run import QuickstartConfig


def quickstart(config: QuickstartConfig) -> None:
    """Fit units, train language models warm and cold, continue held-out prompts, and write a page with sound.

    Without --audio it runs on the half hour of stories that comes with Vocable. A run that was stopped goes on when the
    same command is given again; another run needs another --out.

    vocable quickstart
    vocable quickstart --audio my-recordings --out runs/my-speech --steps 200
    """
    import shlex
    import sys

    from rich.console import Console

    from vocable.quickstart.page import write_quickstart_report
    from vocable.quickstart.run import run_quickstart

    console = Console(highlight=False)
    result = run_quickstart(config, console)
    path = write_quickstart_report(result, shlex.join(["vocable", *sys.argv[1:]]))
    console.print(f"[bold]Open[/bold] {path.resolve()}")


COMMANDS = {"quickstart": quickstart}
