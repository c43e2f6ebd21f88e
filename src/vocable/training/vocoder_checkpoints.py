"""Checkpoints of a vocoder run, and the right to its folder.

<out>/vocoder_config.yaml, training_config.yaml   the settings that the checkpoints belong to
<out>/checkpoint-00002000/state.pt                weights, optimisers, step: all that resuming needs

A checkpoint is written under a temporary name and renamed, so that each is whole or not there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vocable.config import config_to_dict, load_config, save_config
from vocable.errors import OutputError
from vocable.synthesis.discriminators import Discriminators
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig

if TYPE_CHECKING:
    from vocable.training.vocoder import VocoderTrainingConfig

MAY_CHANGE = ("steps", "minutes", "log_every", "checkpoint_every", "keep_checkpoints", "num_workers")
"""Settings of a run that is continued: its length, and what does not touch the weights."""
PARTS = ("vocoder", "average", "discriminators", "vocoder_optimizer", "discriminator_optimizer")


@dataclass
class VocoderState:
    """Everything that a checkpoint holds."""

    vocoder: UnitVocoder
    average: UnitVocoder
    discriminators: Discriminators
    vocoder_optimizer: Any
    discriminator_optimizer: Any
    step: int = 0
    seconds: float = 0.0
    """Wall time spent, over all parts of the run."""

    def spent(self, training: VocoderTrainingConfig) -> float:
        """Share of the run that is over, by steps or by minutes."""
        by_time = 0.0 if training.minutes is None else self.seconds / (60 * training.minutes)
        return min(1.0, max(self.step / training.steps, by_time))


def claim_folder(out: Path, config: VocoderConfig, training: VocoderTrainingConfig, is_main: bool) -> None:
    """Take the output folder, or refuse it when it holds a run with other settings.

    Raises:
        OutputError: the vocoder differs, or a setting of its training that may not change; it is named.
    """
    known, trained = out / "vocoder_config.yaml", out / "training_config.yaml"
    if known.is_file() and load_config(VocoderConfig, known) != config:
        raise OutputError(f"{out} holds a run with another vocoder config ({known}). Choose another folder.")
    if trained.is_file():
        _refuse_changes(out, load_config(type(training), trained), training)
    if is_main:
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, known)
        save_config(training, trained)


def _refuse_changes(out: Path, found: VocoderTrainingConfig, wanted: VocoderTrainingConfig) -> None:
    before, now = config_to_dict(found), config_to_dict(wanted)
    names = [field.name for field in fields(found) if field.name not in MAY_CHANGE]
    changed = [name for name in names if before[name] != now[name]]
    if changed:
        said = ", ".join(f"training.{name} is {before[name]} there, {now[name]} now" for name in changed)
        raise OutputError(
            f"{out} holds a run with other settings: {said}. Choose another folder, or continue with the settings of "
            f"that run; only {', '.join(MAY_CHANGE)} may change."
        )


def save_checkpoint(out: Path, state: VocoderState, keep: int) -> None:
    """Write a checkpoint of this step, then remove all but the newest `keep`.

    Raises:
        OutputError: the disk is full; older checkpoints are still there, and nothing half-written is.
    """
    folder = out / f"checkpoint-{state.step:08d}"
    unfinished = out / f"unfinished-{state.step:08d}"
    parts = {name: getattr(state, name).state_dict() for name in PARTS}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        torch.save({"step": state.step, "seconds": state.seconds, **parts}, unfinished / "state.pt")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except (OSError, RuntimeError) as error:  # torch's writer has its own name for a full disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OutputError(
            f"{folder}: could not write the checkpoint ({str(error).splitlines()[0]}). Is the disk full? Older "
            "checkpoints are intact: make room, and run the same command again."
        ) from error
    for old in sorted(out.glob("checkpoint-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load_last_checkpoint(out: Path, state: VocoderState) -> None:
    """Fill `state` from the last whole checkpoint, if there is one."""
    folders = sorted(out.glob("checkpoint-*"))
    if not folders:
        return
    parts = torch.load(folders[-1] / "state.pt", map_location="cpu", weights_only=True)
    state.step, state.seconds = parts.pop("step"), parts.pop("seconds")
    for name, values in parts.items():
        getattr(state, name).load_state_dict(values)
