"""Options that several commands have: their configs inherit them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """A choice of device."""

    device: str | None = None
    """Where to compute, such as cpu or cuda:0. Without it, a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class StrictOption:
    """A choice between noting what is wrong and stopping there."""

    strict: bool = False
    """Stop at the first bad line or unreadable file; otherwise these are noted in rejected.jsonl and left out."""


@dataclass(frozen=True, kw_only=True)
class OverwriteOption:
    """A choice to give up what is there."""

    overwrite: bool = False
    """Replace an earlier result in the same place."""
