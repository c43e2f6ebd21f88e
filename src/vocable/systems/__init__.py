"""Published systems; each puts stages together, and no system imports another.

A system is a `System`: a name, the config that a recipe fills, and its stages (stage.py; those that several have are in
shared.py). Vocable's own are in `BUILT_IN`; others enter with `register_system`, or through the entry point group
`vocable.systems` (docs/how-to/add-a-system.md).
"""

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from vocable.config import load_config, system_of
from vocable.registry import look_up
from vocable.systems.stage import Run, Stage, System, run_system
from vocable.training.logs import quiet_transformers

BUILT_IN = ("twist", "sutlm", "last", "lm-spt", "taste")
"""Names of our own systems; each is a module of this package, with underscores."""
ENTRY_POINTS = "vocable.systems"
_REGISTERED: dict[str, System] = {}

__all__ = ["Run", "Stage", "System", "find_system", "register_system", "run_system", "train"]


def register_system(system: System) -> System:
    """Enter a system under its name, which recipes give under the key `system`."""
    _REGISTERED[system.name] = system
    return system


def find_system(name: str) -> System:
    """Return the system of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    outside = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    found = look_up("system", name, {**dict.fromkeys((*BUILT_IN, *_REGISTERED)), **outside})
    if found is not None:
        return register_system(found.load())
    return register_system(importlib.import_module(f"vocable.systems.{name.replace('-', '_')}").SYSTEM)


def train(
    recipe: Path | str,
    out: Path | str,
    *,
    manifest: Path | str | None = None,
    valid_manifest: Path | str | None = None,
    tokens: Path | str | None = None,
    valid_tokens: Path | str | None = None,
    tokenizer: Path | str | None = None,
    text: Path | str | None = None,
    processes: int = 1,
    device: str | None = None,
    strict: bool = False,
    stage: str | None = None,
    dry: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Path:
    """Train what a recipe describes: a tokenizer, a language model, or one after the other.

    The recipe's key `system` says which: twist (units), sutlm (units and text; alternating rows need word times in the
    manifest: vocable align), last (a tokenizer that learns through a frozen text model; OUT/tokenizer), lm-spt (a
    codec; OUT/tokenizer, and the tokens of the manifest), or taste (a tokenizer by word and its speech decoder, from
    speech with text; likewise).

    A system is a chain of stages, such as tokenizer, tokens, lm. Run the same command again after an interruption:
    finished stages are skipped, the one that was stopped goes on. What is given takes the place of the stage that
    makes it. Stages that fit units or tokenize run in one process (--stage tokens), training in as many as accelerate
    launches. Any setting of the recipe can be changed behind the command: lm.warm=false training.max_steps=1000.

    vocable train recipes/twist/cpu.yaml --manifest dev.jsonl --out runs/mine
    vocable train recipes/twist/cpu.yaml --manifest dev.jsonl --out runs/mine --stage tokens --processes 4
    accelerate launch --num_processes 2 -m vocable train RECIPE --manifest dev.jsonl --out runs/mine

    Args:
        recipe: a yaml such as recipes/twist/cpu.yaml.
        out: folder of the run: tokenizer/, tokens/, valid-tokens/, lm/best and lm/last, config.yaml.
        manifest: speech to train on.
        valid_manifest: speech to validate on. Without it, what the manifest marks `valid`, or a share chosen by id or
            text.
        tokens: token shards to train on, in place of a manifest.
        valid_tokens: token shards to validate on.
        tokenizer: folder of a tokenizer. Without it, one is made from the manifest.
        text: a file with a text on each line, without speech, for a system that reads text.
        processes: local processes that tokenize.
        device: where encoders run, such as cpu or cuda:0. Without it, a GPU if there is one.
        strict: stop at the first unreadable recording; otherwise these are noted in rejected.jsonl and left out.
        stage: run this stage only.
        dry: say how far each stage is, and do nothing.
        overrides: settings of the recipe, such as "training.max_steps=100".
        report: told how far each stage is, and what came out.

    Returns:
        The run's folder.

    Raises:
        ConfigError: a setting is wrong, or a stage lacks something.
    """
    system = find_system(system_of(Path(recipe)))
    names = ("manifest", "valid_manifest", "tokens", "valid_tokens", "tokenizer", "text")
    given = dict(zip(names, (manifest, valid_manifest, tokens, valid_tokens, tokenizer, text)))
    run = Run(
        out=Path(out),
        config=load_config(system.config, Path(recipe), overrides),
        given={name: Path(path) for name, path in given.items() if path is not None},
        processes=processes,
        device=device,
        strict=strict,
    )
    quiet_transformers()
    run_system(system, run, only=stage, report=report, dry=dry)
    return run.out
