"""`vocable quickstart`: recordings through units and back, what models say next, and a page with sound.

    recordings -> units -> speech again, judged                         hearing.py       always
               -> the language models that come with Vocable            continuing.py    where there are any
               -> units and language models of one's own                training.py      with --train

Each part looks at the run and returns a section of the page, or None. What it finishes it keeps under the run's folder:
a run that was stopped goes on.
"""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from vocable import __version__
from vocable.assets import find_asset
from vocable.evaluation.pages import page_template
from vocable.files import write_text
from vocable.quickstart.continuing import continue_with_shipped, shipped_lms
from vocable.quickstart.hearing import hear_resynthesis
from vocable.quickstart.page import Section, Table
from vocable.quickstart.run import TOKENIZER, Run
from vocable.quickstart.training import check_training, train_models
from vocable.training.logs import quiet_transformers

PARTS: list[Callable[[Run], Section | None]] = [hear_resynthesis, continue_with_shipped]
TRAINING: list[Callable[[Run], Section | None]] = [train_models]
"""Sections of the page, in order; these with --train."""


def quickstart(
    audio: Path | None = None,
    out: Path | None = None,
    train: bool = False,
    minutes: float = 10.0,
    voice: str | Path | None = None,
    seed: int = 0,
) -> None:
    """Send recordings through units and back, let models go on, and write a page with sound; train, if asked to.

    Takes about two minutes on two CPU cores, on stories that come with Vocable. A run that was stopped goes on when the
    same command is given again.

    vocable quickstart
    vocable quickstart --audio my-recordings --train --minutes 30

    Args:
        audio: your own speech: a folder, a file, or a manifest (.jsonl). With --train, at least ten recordings.
        out: folder of the run. Without it, runs/quickstart, or runs/NAME for your own speech.
        train: also fit units, and train two language models on them: from a text model, and from random weights.
        minutes: time for all of it, with --train.
        voice: the other voice to speak in, by name or a recording of it. Without it, the one least like the recording.
        seed: seed of all draws.
    """
    quiet_transformers()
    template = page_template("report.html.j2", Path(__file__).parent)
    folder = out or Path("runs") / ("quickstart" if audio is None else audio.resolve().stem)
    run = Run(audio=audio, out=folder, train=train, minutes=minutes, voice=voice, seed=seed)
    if train:
        check_training(run)
    parts = [*PARTS, *(TRAINING if train else []), suggest_next, show_times]
    sections = [section for part in parts if (section := part(run)) is not None]
    command = shlex.join(["vocable", *sys.argv[1:]])
    write_text(template.render(sections=sections, command=command, version=__version__), folder / "report.html")
    run.console.print(f"[bold]Open[/bold] {(folder / 'report.html').resolve()}")


def suggest_next(run: Run) -> Section:
    """Say what to type next, with the paths of this run."""
    out, recording = run.out, str(run.heard[0].audio)
    own = [] if run.audio is None else ["--audio", str(run.audio)]
    commands = {}
    if run.audio is None:
        commands["The same on your own speech: a folder, or one file."] = ["quickstart", "--audio", "my-recordings"]
    if not run.train:
        meaning = "Units and language models of your own, in ten minutes, from ten recordings or more."
        commands[meaning] = ["quickstart", *own, "--out", str(out), "--train"]
    copy = ["vocoder", "resynthesize", recording, str(out / "spoken"), "--tokenizer", TOKENIZER, "--voice", recording]
    commands["A recording through units, in the voice of any recording."] = copy
    lms = {name: (folder, TOKENIZER) for name, folder in shipped_lms().items()}
    if run.train:
        lms["the model that you trained"] = (out / "training" / "warm", str(out / "training" / "tokenizer"))
    for name, (model, tokenizer) in lms.items():
        words = ["generate", "--model", str(model), "--audio", recording, "--tokenizer", tokenizer]
        commands[f"A recording continued by {name}."] = [*words, "--out", str(out / "next.wav")]
    typed = [(shlex.join(["vocable", *words]), meaning) for meaning, words in commands.items()]
    return Section(title="What to do next", commands=typed)


def show_times(run: Run) -> Section:
    """Say how long each step took, which weights were used, and what could not be read."""
    times = [(name, f"{seconds:.1f} s") for name, seconds in run.seconds.items()]
    times.append(("all", f"{60 * run.elapsed_minutes:.1f} s"))
    assets = [find_asset(name) or name for name in dict.fromkeys(run.weights)]
    weights = [
        (one, "see its card", "") if isinstance(one, str) else (one.name, one.licence, one.what) for one in assets
    ]
    tables = [
        Table(title="Times of this run", columns=("step", "wall time"), rows=times),
        Table(title="Weights that were used", columns=("name", "licence", "what it is"), rows=weights),
    ]
    if run.rejections.count:
        lines = run.rejections.path.read_text(encoding="utf-8").splitlines()
        rows = [(str(row["id"]), row["reason"]) for row in map(json.loads, lines[:20])]
        note = f"{run.rejections.count} in this run; all are in {run.rejections.path}."
        tables.insert(0, Table(title="Recordings left out", columns=("name", "reason"), rows=rows, note=note))
    return Section(title="Behind this page", tables=tables)
