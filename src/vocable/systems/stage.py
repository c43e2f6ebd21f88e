"""A system is a chain of stages; each reads folders and files, writes a folder, and is skipped once it is finished.

    manifest --tokenizer--> RUN/tokenizer --tokens--> RUN/tokens --lm--> RUN/lm       (TWIST)
    manifest --features--> RUN/features --tokenizer--> RUN/tokenizer                  (LAST)

Things have names, `manifest`, `tokens`, `valid_tokens`: a stage says which it reads and writes. What the user gives
under a name takes the place of the stage that would have made it. RUN/stages.json says what each finished stage was
made from; the same command again skips it, and does it again where its settings or what it reads have changed.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vocable.config import config_to_dict
from vocable.errors import ConfigError
from vocable.files import write_json
from vocable.registry import look_up

RECORD = "stages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a system: its folder, its settings, and what was given to it."""

    out: Path
    config: Any
    given: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders of the user's, by name."""
    made: frozenset[str] = frozenset()
    """Names of what the stages of this run write under `out`."""
    processes: int = 1
    """Local processes that tokenize."""
    device: str | None = None
    """Where encoders run. None: a GPU if there is one."""
    strict: bool = False
    """Whether an unreadable recording stops the run."""

    def path(self, name: str) -> Path:
        """Return where the thing of this name is, or will be."""
        return self.given.get(name) or self.out / name.replace("_", "-")

    def find(self, name: str) -> Path | None:
        """Return where it is; None when it was neither given nor made."""
        return self.path(name) if name in self.given or (name in self.made and self.path(name).exists()) else None


class Stage(ABC):
    """One step of a system."""

    name: str
    """How it is called on the command line and in the record."""
    reads: tuple[str, ...] = ()
    """Names of what must be there before it can run."""
    may_read: tuple[str, ...] = ()
    """Names of what it uses where it is there."""
    writes: tuple[str, ...] = ()
    """Names of what it makes; each is a folder of the run."""
    next: str = ""
    """The command that people give once this stage is done; `{out}` stands for the folder of the run."""
    shared: bool = False
    """Whether the processes of `accelerate launch` can run it together."""

    @abstractmethod
    def run(self, run: Run) -> str:
        """Do the work, or go on with what an earlier run began; return what came out, in a line or a few."""

    def is_needed(self, config: Any) -> bool:
        """Whether these settings need the stage at all."""
        return True

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the settings that the result depends on."""
        return config_to_dict(config)

    def is_complete(self, run: Run) -> bool:
        """Whether a finished result is there, as far as its folder shows without a record."""
        return False

    def progress(self, run: Run) -> str:
        """Say how far an unfinished stage is."""
        return "begun" if any(run.path(name).exists() for name in self.writes[:1]) else "to do"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A published system, as a chain of stages."""

    name: str
    config: type
    """Dataclass that a recipe fills; its field `system` holds the name."""
    stages: tuple[Stage, ...]

    def needed(self, run: Run) -> list[Stage]:
        """Return the stages that this run is made of: not those whose product is given, nor what only they read.

        Raises:
            ConfigError: something is given that no stage reads.
        """
        wanted = [stage for stage in self.stages if stage.is_needed(run.config)]
        readers = {name: [stage for stage in wanted if name in stage.reads] for name in self._names()}
        needed: list[Stage] = []
        for stage in reversed(self.stages):
            is_read = [reader for name in stage.writes for reader in readers[name] if reader is not stage]
            is_given = any(name in run.given for name in stage.writes if readers[name])
            unread = is_read and not any(reader in needed for reader in is_read)
            if stage in wanted and not is_given and not unread:
                needed.insert(0, stage)
        used = {name for stage in needed for name in (*stage.reads, *stage.may_read)}
        for name in run.given:
            if name not in used:
                asked = {other for stage in self.stages for other in (*stage.reads, *stage.may_read)}
                others = ", ".join(_option(other) for other in run.given if other in used)
                known = ", ".join(map(_option, sorted(asked)))
                why = f" beside {others}" if others and name in asked else f"; it reads {known}"
                raise ConfigError(f"{_option(name)} is given, but {self.name} does not read it{why}. Leave it out.")
        return needed

    def _names(self) -> list[str]:
        return list(dict.fromkeys(n for stage in self.stages for n in (*stage.reads, *stage.may_read, *stage.writes)))


def run_system(
    system: System, run: Run, only: str | None = None, report: Callable[[str], None] = print, dry: bool = False
) -> None:
    """Run the stages of a system in order, or one of them; finished ones are skipped.

    Args:
        system: what to train.
        run: where, with which settings, from what.
        only: name of a single stage.
        report: told how far each stage is, and what came out.
        dry: only say how far each stage is.

    Raises:
        ConfigError: a stage lacks something, which is named with the way to get it; or something is given in vain.
    """
    needed = system.needed(run)
    run = replace(run, made=frozenset(name for stage in needed for name in stage.writes))
    chosen = needed
    if only is not None:
        by_name = {stage.name: stage for stage in system.stages}
        chosen = [look_up(f"stage of {system.name}", only, by_name)]
        if chosen[0] not in needed:
            given = ", ".join(map(_option, run.given)) or "the recipe"
            raise ConfigError(f"The stage {only!r} is no part of this run, as {given} makes it needless.")
    first = os.environ.get("RANK", "0") == "0"  # one of several processes reports, and writes the record
    coming: set[str] = set()
    for stage in chosen:
        record = read_record(run.out).get(stage.name)
        if _is_done(stage, run, record):
            line = f"{stage.name}: done ({run.path(stage.writes[0])})"
            if first:
                report("\n".join([line, *([record["result"]] if record and record["result"] and not dry else [])]))
            continue
        if first and dry:
            report(f"{stage.name}: {stage.progress(run)}")
            continue
        _refuse_missing(system, stage, run, coming)
        if not stage.shared and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                f"The stage {stage.name!r} of {system.name} runs in one process. Run it first, without accelerate "
                f"launch: --stage {stage.name}; then launch the same command."
            )
        if first:
            report(f"{stage.name}: {stage.progress(run)}")
        run.out.mkdir(parents=True, exist_ok=True)
        result = stage.run(run)
        coming |= set(stage.writes)
        if first:
            report(result)
            _write_record(stage, run, result)
    if first and not dry and chosen and chosen[-1].next:
        report(f"Next: {chosen[-1].next.format(out=run.out)}")


def read_record(out: Path) -> dict[str, Any]:
    """Return what is known about the finished stages of a run."""
    path = Path(out) / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _is_done(stage: Stage, run: Run, record: Mapping[str, Any] | None) -> bool:
    if record is None:
        return stage.is_complete(run)
    there = all(run.path(name).exists() for name in record["writes"])
    return there and record["made_from"] == _made_from(stage, run)


def _write_record(stage: Stage, run: Run, result: str) -> None:
    writes = [name for name in stage.writes if run.path(name).exists()]
    record = read_record(run.out) | {
        stage.name: {"writes": writes, "made_from": _made_from(stage, run), "result": result}
    }
    write_json(record, run.out / RECORD, indent=1)


def _made_from(stage: Stage, run: Run) -> dict[str, Any]:
    """Describe settings and inputs so well that other ones are noticed; as JSON gives it back."""
    names = [name for name in (*stage.reads, *stage.may_read) if run.find(name) is not None]
    inputs = {name: identity(run.path(name)) for name in names}
    return json.loads(json.dumps({"settings": stage.settings(run.config), "reads": inputs}))


def identity(path: Path) -> str:
    """Hash a file, or the JSON files of a folder, which say what its larger files hold; keep a name that is no path."""
    path = Path(path)
    if not path.exists():
        return str(path)
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _refuse_missing(system: System, stage: Stage, run: Run, coming: Sequence[str] | set[str]) -> None:
    makers = {name: other for other in system.stages for name in other.writes}
    for name in stage.reads:
        if name in run.given or name in coming or (name in run.made and run.path(name).exists()):
            continue
        ways = [f"Give it: {_option(name)} PATH"]
        if name in makers:
            ways.insert(0, f"Run the stage that makes it first: --stage {makers[name].name}")
        ways += [f"or begin later in the chain: {_option(n)}" for n in stage.writes if _is_read(system, n)]
        where = f" ({run.path(name)} is not there)" if name in makers else ""
        raise ConfigError(f"The stage {stage.name!r} of {system.name} reads {name}{where}. {'; '.join(ways)}")


def _is_read(system: System, name: str) -> bool:
    return any(name in stage.reads for stage in system.stages)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
