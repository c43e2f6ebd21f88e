"""The templates of all pages that an evaluation writes: strict, and with all text from outside escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vocable.errors import missing_extra

TEMPLATES = Path(__file__).parent / "templates"


def page_template(name: str) -> Any:
    """Return a jinja2 template of `evaluation/templates`; one that uses an unknown name fails instead of staying blank.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing_extra("jinja2", "report", "The page") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)
