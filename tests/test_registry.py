"""A misspelt name is answered with the nearest one."""

import pytest

from vocable.errors import UnknownNameError
from vocable.registry import look_up


def test_known_name_is_found():
    assert look_up("task", "sblimp", {"sblimp": 1, "swuggy": 2}) == 1


def test_unknown_name_says_which_is_nearest():
    with pytest.raises(
        UnknownNameError, match=r"Unknown task 'sblmip'\. Did you mean 'sblimp'\? Known: sblimp, swuggy\."
    ):
        look_up("task", "sblmip", {"sblimp": 1, "swuggy": 2})


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(UnknownNameError, match=r"Unknown task 'zzzz'\. Known"):
        look_up("task", "zzzz", {"sblimp": 1})
