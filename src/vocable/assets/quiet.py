"""Load and run models of transformers without its own bars and warnings between our lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def silenced_transformers() -> Iterator[None]:
    """Without its progress bars, and without its warnings; both are as before afterwards.

    It would list every weight of layers that are left out, and warn about its own generation settings.
    """
    from transformers.utils import logging

    level, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_bars:
            logging.enable_progress_bar()
