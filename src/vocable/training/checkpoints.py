"""Checkpoints of a run: written under a temporary name and renamed, so that each is whole or not there.

<out>/training.yaml                     the settings and the data they belong to, and the precision that was chosen
<out>/checkpoints/step-00000200/        weights, optimisers, random states, loop.json: all that resuming needs
<out>/best/, <out>/last/                the model with the lowest validation loss, and the final one, to use

loop.json lists the other files with their sizes. A checkpoint any part of which is missing or cannot be read is named
in a warning, and the one before it is taken.
"""

import json
import logging
import pickle
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils.other import load
from safetensors import SafetensorError

from vocable.errors import OutputError
from vocable.files import claim_folder, put_folder

logger = logging.getLogger(__name__)
# it warns at every checkpoint that tied weights are written once
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)

LOOP_NAME = "loop.json"
RUN_NAME = "training.yaml"
OWN_NAMES = {"checkpoints", "best", "last", "metrics.jsonl"}
"""Names that only a run writes: a folder that has them without the record is of a run that is not known."""
FOLDER = re.compile(r"step-(\d{8,})")
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, SafetensorError, pickle.PickleError)


class Checkpoints:
    """The checkpoints in one run's folder."""

    def __init__(self, out: Path, accelerator: Accelerator) -> None:
        self.folder = Path(out) / "checkpoints"
        self.accelerator = accelerator

    def claim(self, identity: Mapping[str, Any], may_change: Sequence[str] = ()) -> None:
        """Take the run's folder: write what the run is, or check that it is the same run.

        Raises:
            OutputError: the folder holds another run (the settings that differ are named), or files of none.
        """
        out = self.folder.parent
        claim_folder(
            out, identity, record=RUN_NAME, may_change=may_change, is_foreign=lambda item: item.name in OWN_NAMES
        )

    def recorded_precision(self) -> str | None:
        """Return the precision that the run in the folder computes in; None: there is no run, or `claim` refuses it."""
        try:
            values = yaml.safe_load((self.folder.parent / RUN_NAME).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None
        return values.get("precision") if isinstance(values, dict) else None

    def all(self) -> list[Path]:
        """Return complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if FOLDER.fullmatch(path.name))

    def save(self, step: int, state: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint of this step, then remove all but the newest `keep` up to it.

        Raises:
            OutputError: the disk is full; older checkpoints are still there, and nothing half-written is.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.writing"
        first = self.accelerator.is_main_process
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(temporary), safe_serialization=True)
            self.accelerator.wait_for_everyone()
            if first:
                written = sorted(path for path in temporary.rglob("*") if path.is_file())
                files = {str(path.relative_to(temporary)): path.stat().st_size for path in written}
                (temporary / LOOP_NAME).write_text(json.dumps({"files": files, "state": dict(state)}), encoding="utf-8")
                put_folder(temporary, final)
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk has several names
            shutil.rmtree(temporary, ignore_errors=True)
            raise OutputError(
                f"{final}: could not write the checkpoint ({str(error).splitlines()[0]}). Is the disk full? Older "
                "checkpoints are intact: make room, and run the same command again."
            ) from error
        if first:
            whole = [path for path in self.all() if path <= final]
            for old in (set(self.all()) - set(whole)) | set(whole[:-keep]):  # later ones could not be read
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return final

    def resume(self, restore: Callable[[dict[str, Any]], None]) -> bool:
        """Put back the newest checkpoint that can be read, and hand the loop's state to `restore`.

        Returns:
            Whether there was a checkpoint.

        Raises:
            OutputError: there are checkpoints, but none can be read.
        """
        problems = []
        for checkpoint in reversed(self.all()):
            problem = self._attempt(lambda path=checkpoint: self._check(path)) or self._attempt(
                lambda path=checkpoint: restore(self._load(path))
            )
            if problem is None:
                return True
            problems.append(f"{checkpoint.name}: {problem}")
            logger.warning("%s cannot be read (%s). The checkpoint before it is tried.", checkpoint, problem)
        if problems:
            raise OutputError(
                f"{self.folder}: no checkpoint can be read ({'; '.join(problems)}). Put the files back from a copy, or "
                f"remove {self.folder} to begin again from the first step."
            )
        return False

    def _attempt(self, action: Callable[[], None]) -> str | None:
        """Say why an action failed on this process or another one; None: it did not."""
        problem = None
        try:
            action()
        except UNREADABLE as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures = torch.tensor(float(problem is not None))
        if self.accelerator.num_processes > 1:
            failures = self.accelerator.reduce(failures, reduction="sum")
        return problem or ("another process cannot read its part" if failures else None)

    def _check(self, checkpoint: Path) -> None:
        """Compare the files of a checkpoint with its list, and read the random states, which accelerate may skip."""
        for name, size in _read_loop(checkpoint)["files"].items():
            path = checkpoint / name
            if not path.is_file():
                raise OutputError(f"{name} is missing")
            if path.stat().st_size != size:
                raise OutputError(f"{name} has {path.stat().st_size} bytes, not {size}")
        states = checkpoint / f"random_states_{self.accelerator.process_index}.pkl"
        if not states.is_file():
            logger.warning("%s was written by fewer processes: this one draws new random numbers.", checkpoint)
        elif "torch_cuda_manual_seed" not in load(states) and torch.cuda.is_available():
            logger.warning("%s was written without a GPU: this one draws new random numbers.", checkpoint)

    def _load(self, checkpoint: Path) -> dict[str, Any]:
        """Put weights, optimisers and random states back; return the state of the loop."""
        self.accelerator.load_state(str(checkpoint))
        return _read_loop(checkpoint)["state"]


def _read_loop(checkpoint: Path) -> dict[str, Any]:
    try:
        values = json.loads((checkpoint / LOOP_NAME).read_text(encoding="utf-8"))
        return {"files": dict(values["files"]), "state": dict(values["state"])}
    except FileNotFoundError:
        raise OutputError(f"{LOOP_NAME} is missing") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(f"{LOOP_NAME} cannot be read: {error}") from error
