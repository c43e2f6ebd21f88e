"""A row of speech and text for people to look at: a table of its segments, and a picture with its words and times.

spoken   | the cat |            | the mat |        over time
written            | sat on     |
row      <U> ■■■■■ <U2T> □□ <T2U> ■■■■ <E>         over positions
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from vocable.errors import ConfigError
from vocable.files import replace_file
from vocable.printing import print_table
from vocable.sequences.joint_rows import JointSequence, Segment
from vocable.sequences.joint_vocabulary import JointVocabulary
from vocable.sequences.spans import Modality

COLOURS: dict[Modality, str] = {"speech": "#0072b2", "text": "#e69f00"}  # told apart also by the colour-blind
WIDTH, MARGIN, LANE = 1200, 80, 44


class SequenceLine(NamedTuple):
    """A segment, and the symbols in front of it; the last line may hold symbols only."""

    symbols: str
    modality: Modality | None
    content: str
    """The words of the segment; without word times, its text, or how many units it has."""
    start_seconds: float | None
    end_seconds: float | None
    num_tokens: int
    """Without the symbols."""
    first_position: int
    """First position of the symbols, or of the segment where there are none."""


def sequence_lines(
    sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None = None
) -> list[SequenceLine]:
    """Describe a row segment by segment; times as far as segments have frames or words."""
    lines, place = [], 0
    for segment in sequence.segments:
        symbols = _symbols(sequence, vocabulary, place, segment.start)
        start, end = _times(segment, frame_rate)
        count = segment.stop - segment.start
        lines.append(SequenceLine(symbols, segment.modality, _content(segment), start, end, count, place))
        place = segment.stop
    if place < len(sequence.token_ids):
        symbols = _symbols(sequence, vocabulary, place, len(sequence.token_ids))
        lines.append(SequenceLine(symbols, None, "", None, None, 0, place))
    return lines


def sequence_svg(
    sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None = None, title: str = ""
) -> str:
    """Draw a row as SVG: what is spoken and what is written over time, and below it one cell a token."""
    lines = sequence_lines(sequence, vocabulary, frame_rate)
    seconds = max([line.end_seconds or 0.0 for line in lines], default=0.0) or 1.0
    scale = (WIDTH - MARGIN - 20) / seconds
    parts = [_text(MARGIN, 20, title, size=15)]
    for lane, name in enumerate(("spoken", "written")):
        parts.append(_text(6, 40 + lane * LANE + 24, name))
    for segment in sequence.segments:
        parts += _segment_boxes(segment, frame_rate, scale, seconds)
    axis = 40 + 2 * LANE + 4
    step = next(
        step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600) if seconds / step <= 20 or step == 3600
    )
    for tick in range(int(seconds / step + 1e-9) + 1):
        x = MARGIN + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axis}" y2="{axis + 6}" stroke="#888"/>')
        parts.append(_text(x - 8, axis + 20, f"{tick * step:g} s", size=11))
    parts += _token_cells(sequence, vocabulary, axis + 40)
    height = axis + 100
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def sequence_html(
    sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None = None, title: str = ""
) -> str:
    """Make a page of the picture and the table below it; it needs nothing else."""
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line_cells(line)) + "</tr>"
        for line in sequence_lines(sequence, vocabulary, frame_rate)
    )
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{escape(title)}</title><style>'
        "body{font-family:sans-serif;margin:1em}td,th{padding:.2em .8em;text-align:left}svg{max-width:100%;height:auto}"
        f"</style></head><body>{sequence_svg(sequence, vocabulary, frame_rate, title)}"
        f"<table><tr>{head}</tr>{rows}</table></body></html>\n"
    )


COLUMNS = ("from", "symbols", "modality", "tokens", "seconds", "words")


def line_cells(line: SequenceLine) -> tuple[str, ...]:
    """Return a line as the texts of `COLUMNS`."""
    known = line.start_seconds is not None and line.end_seconds is not None
    times = f"{line.start_seconds:.2f} to {line.end_seconds:.2f}" if known else ""
    tokens = str(line.num_tokens) if line.modality else ""
    return str(line.first_position), line.symbols, line.modality or "", tokens, times, line.content


def write_picture(
    path: Path, sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None, title: str
) -> None:
    """Write the picture, as its name says: .svg, or .html with the table.

    Raises:
        ConfigError: the name ends otherwise.
        OutputError: the file cannot be written.
    """
    makers = {".svg": sequence_svg, ".html": sequence_html}
    if path.suffix not in makers:
        raise ConfigError(f"{path}: a picture is a .svg or .html file.")
    with replace_file(path) as file:
        file.write(makers[path.suffix](sequence, vocabulary, frame_rate, title).encode())


def _symbols(sequence: JointSequence, vocabulary: JointVocabulary, start: int, stop: int) -> str:
    return " ".join(vocabulary.name(int(id)) or str(int(id)) for id in sequence.token_ids[start:stop])


def _times(segment: Segment, frame_rate: float | None) -> tuple[float | None, float | None]:
    if segment.frames is not None and frame_rate:
        return segment.frames[0] / frame_rate, segment.frames[1] / frame_rate
    if segment.words:
        return segment.words[0].start, max(word.end for word in segment.words)
    return None, None


def _content(segment: Segment) -> str:
    if segment.text is not None:
        return segment.text.strip()
    if segment.words:
        return " ".join(word.word for word in segment.words)
    return f"({segment.tokens.codes.shape[1] if segment.tokens else 0} units)"


def _segment_boxes(segment: Segment, frame_rate: float | None, scale: float, seconds: float) -> list[str]:
    """A box for the segment, and its words where they are said."""
    start, end = _times(segment, frame_rate)
    start, end = (0.0, seconds) if start is None or end is None else (start, end)
    y = 40 + (0 if segment.modality == "speech" else LANE)
    x, width = MARGIN + start * scale, max(2.0, (end - start) * scale)
    box = (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{LANE - 8}" rx="4" fill="{COLOURS[segment.modality]}" '
        f'fill-opacity="0.25" stroke="{COLOURS[segment.modality]}"><title>{escape(_content(segment))}</title></rect>'
    )
    if not segment.words:
        return [box, _text(x + 4, y + 23, _content(segment))]
    labels: Sequence[tuple[float, str]] = [(word.start, word.word) for word in segment.words]
    return [box, *(_text(MARGIN + at * scale + 3, y + 23, word, size=12) for at, word in labels)]


def _token_cells(sequence: JointSequence, vocabulary: JointVocabulary, y: int) -> list[str]:
    count = max(1, len(sequence.token_ids))
    cell = min(14.0, (WIDTH - MARGIN - 20) / count)
    parts = [_text(6, y + 14, "row")]
    for position, id in enumerate(sequence.token_ids.tolist()):
        x, name = MARGIN + position * cell, vocabulary.name(id)
        modality: Modality = "text" if id < vocabulary.text_size else "speech"
        colour = "#333" if name else COLOURS[modality]
        parts.append(
            f'<rect x="{x:.2f}" y="{y}" width="{cell * 0.9:.2f}" height="18" fill="{colour}">'
            f"<title>{position}: {escape(name or str(id))}</title></rect>"
        )
        if name:
            parts.append(_text(x, y + 34, name, size=11))
    return parts


def _text(x: float | int, y: float | int, content: str, size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(content)}</text>'


def print_sequence(sequence: JointSequence, vocabulary: JointVocabulary, frame_rate: float | None, title: str) -> None:
    """Print a row of speech and text as a table, one line a segment."""
    from rich.text import Text

    colours = {"speech": "cyan", "text": "yellow", "": "dim"}
    lines = sequence_lines(sequence, vocabulary, frame_rate)
    rows = [[Text(cell, style=colours[line.modality or ""]) for cell in line_cells(line)] for line in lines]
    print_table(COLUMNS, rows, title)
