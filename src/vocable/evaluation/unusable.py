"""What an evaluation cannot use: left out, and counted by reason."""

from collections.abc import Mapping

from vocable.errors import ManifestError


class UnusableError(ManifestError):
    """An item cannot be used; the message is the reason that results count it under."""


def reasons(left_out: Mapping[str, int], none: str = "there are none") -> str:
    """Write counts by reason for an error message."""
    return ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or none
