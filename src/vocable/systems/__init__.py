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

BUILT_IN = ("twist", "sutlm", "last")
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
    return register_system(importlib.import_module(f"vocable.systems.{name}").SYSTEM if found is None else found.load())


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
    """Train what a recipe describes, stage by stage; what an earlier call finished is kept. Return the run's folder.

    Args:
        recipe: a yaml such as recipes/twist/cpu.yaml.
        out: folder of the run.
        manifest: speech to train on.
        valid_manifest: speech to validate on.
        tokens: token shards to train on, in place of a manifest.
        valid_tokens: token shards to validate on.
        tokenizer: folder of a tokenizer, in place of one that is made from the manifest.
        text: a file with a text on each line, without speech, for a system that reads text.
        processes: local processes that tokenize.
        device: where encoders run; None takes a GPU if there is one.
        strict: whether an unreadable recording is an error instead of a line in rejected.jsonl.
        stage: name of the only stage to run.
        dry: only say how far each stage is.
        overrides: settings of the recipe, such as "training.max_steps=100".
        report: told how far each stage is, and what came out.

    Raises:
        ConfigError: a setting is wrong, or a stage lacks something.
    """
    system = find_system(system_of(Path(recipe)))
    given = {
        "manifest": manifest,
        "valid_manifest": valid_manifest,
        "tokens": tokens,
        "valid_tokens": valid_tokens,
        "tokenizer": tokenizer,
        "text": text,
    }
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
