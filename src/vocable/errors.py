"""Errors that a user can cause. The command line prints them without a traceback.

Each says what was wrong, with which value, and what to do about it.
"""

from __future__ import annotations


class VocableError(Exception):
    """Base of every error in this module."""


class ConfigError(VocableError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class UnknownNameError(VocableError, ValueError):
    """A name is not in a registry; the message names the nearest one that is."""


class AudioFormatError(VocableError, ValueError):
    """A file is not readable audio, or its waveform cannot be used (empty, NaN, wrong rate)."""


class ManifestError(VocableError, ValueError):
    """A manifest, or a line of it, is broken."""


class AlignmentError(VocableError, ValueError):
    """A text and its audio, or two lists of words, cannot be aligned."""


class FingerprintError(VocableError, ValueError):
    """Two parts (tokens, codebook, language model, vocoder) were not made for each other."""


class AssetError(VocableError, RuntimeError):
    """Weights or data could not be found, fetched or verified."""


class OutputError(VocableError, RuntimeError):
    """An output folder cannot be used: it belongs to another run, or the disk is full."""


class NumericsError(VocableError, ArithmeticError):
    """A loss or a model's output is NaN or infinite."""


class ServiceError(VocableError, RuntimeError):
    """A service over the network cannot be reached, refuses, or does not answer as its interface says."""


class MissingDependencyError(VocableError, RuntimeError):
    """An optional package is not installed; the message names the install line."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingDependencyError:
    """Build the error for an optional `package` that `purpose` needs, and that `pip install vocable[extra]` brings."""
    return MissingDependencyError(
        f"{purpose} needs the package {package!r}, which is not installed. Install it: pip install 'vocable[{extra}]'"
    )
