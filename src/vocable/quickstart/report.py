"""The report: one self-contained HTML page with sound, pictures and tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vocable import __version__
from vocable.errors import missing_extra
from vocable.files import write_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A recording to listen to."""

    title: str
    audio: bytes
    """An MP3 file."""
    note: str = ""

    @property
    def source(self) -> str:
        """The recording as a data URI."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.audio).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """One row of the listening table: an utterance, and what was made of it."""

    title: str
    text: str
    players: Sequence[Player]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a sentence that says how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the page shows."""

    title: str
    summary: Sequence[str]
    listening: Sequence[Listening]
    pictures: Mapping[str, tuple[str, str]]
    """Per heading: the picture as HTML, and a sentence below it."""
    tables: Sequence[Table]
    command: str


def write_report(report: Report, path: Path) -> Path:
    """Write the page; nothing on it is loaded from elsewhere.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "Writing the report") from error
    source = resources.files("vocable.quickstart").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(source).render(report=report, version=__version__)
    write_text(page, path)
    return path
