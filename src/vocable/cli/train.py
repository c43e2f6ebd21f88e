"""`vocable train` runs the stages of a recipe; `vocable quickstart` goes from speech to a report with sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vocable.cli.options import DeviceOption, StrictOption

if TYPE_CHECKING:
    from vocable.quickstart.run import QuickstartConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DeviceOption, StrictOption):
    """A recipe, and what to train on."""

    recipe: Path
    """A yaml such as recipes/twist/cpu.yaml."""
    out: Path
    """Folder of the run: tokenizer/, tokens/, valid-tokens/, lm/best and lm/last, config.yaml."""
    manifest: Path | None = None
    """Speech to train on."""
    valid_manifest: Path | None = None
    """Speech to validate on. Without it, what the manifest marks `valid`, or a share chosen by id or text."""
    tokens: Path | None = None
    """Token shards to train on, in place of a manifest."""
    valid_tokens: Path | None = None
    """Token shards to validate on."""
    tokenizer: Path | None = None
    """Folder of a tokenizer. Without it, one is made from the manifest."""
    text: Path | None = None
    """A file with a text on each line, without speech, for a system that reads text."""
    processes: int = 1
    """Local processes that tokenize."""
    stage: str | None = None
    """Run this stage only."""
    dry: bool = False
    """Say how far each stage is, and do nothing."""


def train(config: TrainConfig, overrides: tuple[str, ...] = ()) -> None:
    """Train what a recipe describes: a tokenizer, a language model, or one after the other.

    The recipe's key `system` says which: twist (units), sutlm (units and text; alternating rows need word times in the
    manifest: vocable align), or last (a tokenizer that learns through a frozen text model; OUT/tokenizer).

    A system is a chain of stages, such as tokenizer, tokens, lm. Run the same command again after an interruption:
    finished stages are skipped, the one that was stopped goes on. What is given takes the place of the stage that
    makes it. Stages that fit units or tokenize run in one process (--stage tokens), training in as many as accelerate
    launches. Any setting of the recipe can be changed behind the command: lm.warm=false training.max_steps=1000.

    vocable train recipes/twist/cpu.yaml --manifest dev.jsonl --out runs/mine
    vocable train recipes/twist/cpu.yaml --manifest dev.jsonl --out runs/mine --stage tokens --processes 4
    accelerate launch --num_processes 2 -m vocable train RECIPE --manifest dev.jsonl --out runs/mine
    """
    import dataclasses

    from vocable.systems import train

    train(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)}, overrides=overrides)


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


COMMANDS = {"train RECIPE": train, "quickstart": quickstart}
