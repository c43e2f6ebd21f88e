"""Checkpoints of a run: written under a temporary name and renamed, so that each is whole or not there.

<out>/training.yaml                     the settings and the data they belong to
<out>/checkpoints/step-00000200/        weights, optimiser, random states, loop.json: all that resuming needs
<out>/best/, <out>/last/                the model with the lowest validation loss, and the final one, to use
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from vocable.errors import OutputError
from vocable.files import claim_folder, put_folder

# it warns at every checkpoint that tied weights are written once
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)

LOOP_NAME = "loop.json"
RUN_NAME = "training.yaml"
OWN_NAMES = {"checkpoints", "best", "last", "metrics.jsonl"}
"""What only a run writes: a folder that has them without the record is of a run that is not known."""
FOLDER = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints in one run's folder."""

    def __init__(self, out: Path, accelerator: Accelerator) -> None:
        self.folder = Path(out) / "checkpoints"
        self.accelerator = accelerator

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Take the run's folder: write what the run is, or check that it is the same run.

        Raises:
            OutputError: the folder holds another run (the settings that differ are named), or files of none.
        """
        out = self.folder.parent
        claim_folder(out, identity, record=RUN_NAME, is_foreign=lambda item: item.name in OWN_NAMES)

    def all(self) -> list[Path]:
        """Return complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if FOLDER.fullmatch(path.name))

    def last(self) -> Path | None:
        """Return the newest complete checkpoint."""
        return self.all()[-1] if self.all() else None

    def save(self, step: int, loop: Mapping[str, Any], keep: int) -> Path:
        """Write a checkpoint of this step, then remove all but the newest `keep`.

        Raises:
            OutputError: the disk is full; older checkpoints are still there.
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
            if first:
                (temporary / LOOP_NAME).write_text(json.dumps(dict(loop)), encoding="utf-8")
        except (
            OSError,
            RuntimeError,
            SafetensorError,
        ) as error:  # a full disk has several names
            raise OutputError(f"{final}: could not write the checkpoint ({error}). Is the disk full?") from error
        self.accelerator.wait_for_everyone()
        if first:
            put_folder(temporary, final)
            for old in self.all()[:-keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return final

    def load(self, checkpoint: Path) -> dict[str, Any]:
        """Put weights, optimiser and random states back; return the state of the loop."""
        self.accelerator.load_state(str(checkpoint))
        return json.loads((checkpoint / LOOP_NAME).read_text(encoding="utf-8"))
