"""transformers is silent inside the block and as before after it, whatever happened in between."""

import pytest
from transformers.utils import logging

from vocable.assets.quiet import silenced_transformers


@pytest.mark.parametrize("bars", [True, False])
def test_bars_and_warnings_are_off_inside_only(bars, capsys):
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logger = logging.get_logger("transformers.models.made_up")
    try:
        logging.set_verbosity_warning()
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        with pytest.raises(ZeroDivisionError), silenced_transformers():
            assert not logging.is_progress_bar_enabled()
            logger.warning("inside")
            raise ZeroDivisionError
        assert logging.is_progress_bar_enabled() == bars
        assert logging.get_verbosity() == logging.WARNING
        assert logger.isEnabledFor(logging.WARNING)
    finally:
        logging.set_verbosity(level)
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    assert "inside" not in capsys.readouterr().err
