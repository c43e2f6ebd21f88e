"""The page of a quickstart: sections with sound, pictures, tables and commands, in one file that loads nothing else.

A section is an object; a page is a list of them. Whoever has something to show returns one more (command.py).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vocable.evaluation.metrics.wer import AlignedText


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A recording to listen to."""

    title: str
    audio: bytes
    """An MP3 file."""
    note: str = ""
    words: Sequence[AlignedText] = ()
    """A transcript, with what differs from the text marked."""

    @property
    def source(self) -> str:
        """The recording as a data URI."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.audio).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An utterance, and what was made of it."""

    title: str
    players: Sequence[Player]
    text: str = ""


class Picture(NamedTuple):
    """A picture as HTML, and a sentence below it."""

    html: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a sentence that says how to read it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading of the page and what stands below it, in this order."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    rows: Sequence[Row] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[tuple[str, str]] = ()
    """Command to type, and what it does."""
