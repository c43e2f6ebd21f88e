from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.tokens.runs import Runs, collapse_runs, expand_runs


@given(units=st.lists(st.integers(0, 3), max_size=200))
def test_collapsing_matches_groupby_and_expanding_undoes_it(units: list[int]):
    frames = torch.tensor(units, dtype=torch.int64)
    runs = collapse_runs(frames)
    expected = [(unit, len(list(group))) for unit, group in groupby(units)]
    assert list(zip(runs.units.tolist(), runs.durations.tolist())) == expected
    assert torch.equal(expand_runs(runs), frames)


@given(pairs=st.lists(st.tuples(st.integers(0, 499), st.integers(1, 9)), max_size=50))
def test_expanding_repeats_each_unit(pairs: list[tuple[int, int]]):
    units = torch.tensor([unit for unit, _ in pairs], dtype=torch.int64)
    durations = torch.tensor([count for _, count in pairs], dtype=torch.int64)
    expected = [unit for unit, count in pairs for _ in range(count)]
    assert expand_runs(Runs(units, durations)).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_units_keep_their_type(dtype: torch.dtype):
    assert collapse_runs(torch.tensor([1, 1, 2], dtype=dtype)).units.dtype == dtype


def test_a_wrong_duration_is_refused():
    with pytest.raises(ValueError, match="duration 0; every run lasts at least 1 frame"):
        expand_runs(Runs(torch.tensor([1, 2]), torch.tensor([3, 0])))
    with pytest.raises(ValueError, match="2 units, but 1 durations"):
        expand_runs(Runs(torch.tensor([1, 2]), torch.tensor([3])))
