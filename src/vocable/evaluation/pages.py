"""The templates of all pages: strict, and with all text from outside escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from vocable.errors import missing_extra

TEMPLATES = Path(__file__).parent / "templates"


def page_template(name: str, folder: Path = TEMPLATES) -> Any:
    """Return a jinja2 template of a folder; one that uses an unknown name fails instead of staying blank.

    Templates know `show` and `interval`, and the filter `base64` for sound.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "The page") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"show": show, "interval": interval}
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template(name)


def show(value: Any) -> str:
    """A number with four digits, a dash for None, text as it is."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval, or a dash."""
    return "-" if low is None or high is None else f"{low:.4g} to {high:.4g}"
