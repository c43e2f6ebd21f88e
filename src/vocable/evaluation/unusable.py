"""What an evaluation cannot use: left out, and counted by reason."""

from vocable.errors import ManifestError


class UnusableError(ManifestError):
    """An item cannot be used; the message is the reason that results count it under."""
