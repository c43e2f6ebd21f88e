"""Unit vocabularies, the units layout, and their errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError, UnknownNameError
from vocable.sequences import Layout, UnitsLayout, UnitVocabulary, layout_from_card
from vocable.tokens.runs import collapse_runs
from vocable.types import SpeechTokens

unit_lists = st.lists(st.integers(0, 9), min_size=1, max_size=60)


def tokens(units, collapsed=False):
    frames = torch.tensor(units)
    if not collapsed:
        return SpeechTokens(codes=frames[None])
    runs = collapse_runs(frames)
    return SpeechTokens(codes=runs.units[None], durations=runs.durations)


@given(units=unit_lists, collapsed_input=st.booleans())
def test_frames_layout_round_trip(units, collapsed_input):
    layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=10), collapsed=False)
    row = layout.build(tokens(units, collapsed_input))
    assert row.tolist() == [1, *(unit + 2 for unit in units), 1]
    assert layout.revert(row).units.tolist() == units


@given(units=unit_lists, collapsed_input=st.booleans())
def test_collapsed_layout_drops_repeats(units, collapsed_input):
    layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=10))
    row = layout.build(tokens(units, collapsed_input))
    expected = [unit for i, unit in enumerate(units) if i == 0 or units[i - 1] != unit]
    assert layout.revert(row).units.tolist() == expected
    assert layout.build(layout.revert(row)).tolist() == row.tolist()


def test_boundaries_can_be_left_out():
    vocabulary = UnitVocabulary(codebook_size=10)
    assert UnitsLayout(vocabulary=vocabulary, bos=False, eos=False).build(tokens([3, 4])).tolist() == [5, 6]
    assert UnitsLayout(vocabulary=vocabulary, eos=False).build(tokens([3, 4])).tolist() == [1, 5, 6]


def test_published_offset_and_special_ids_above_the_units():
    vocabulary = UnitVocabulary(codebook_size=500, unit_offset=10, pad_id=1, bos_eos_id=600)
    assert vocabulary.size == 601
    assert vocabulary.token_ids(torch.tensor([0, 499])).tolist() == [10, 509]
    # after the shift back, special symbols would be negative or too large: they are dropped
    assert vocabulary.units(torch.tensor([1, 10, 509, 600])).tolist() == [0, 499]
    assert (~vocabulary.bans()).nonzero()[:, 0].tolist() == [*range(10, 510), 600]


def test_default_vocabulary_has_two_more_rows_than_units():
    vocabulary = UnitVocabulary(codebook_size=500)
    assert (vocabulary.size, vocabulary.pad_id, vocabulary.bos_eos_id, vocabulary.unit_offset) == (502, 0, 1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 1}, "at least 2 entries"),
        ({"codebook_size": 5, "pad_id": 3}, "pad_id is 3, which is negative or the id of a unit"),
        ({"codebook_size": 5, "pad_id": 1}, "both 1"),
        ({"codebook_size": 5, "unit_offset": -1}, "unit_offset is -1"),
    ],
)
def test_impossible_vocabularies_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        UnitVocabulary(**settings)


def test_a_unit_outside_the_codebook_is_named():
    with pytest.raises(ConfigError, match=r"Unit 12 is outside the vocabulary's 10 units"):
        UnitVocabulary(codebook_size=10).token_ids(torch.tensor([3, 12]))


def test_layout_card_round_trip():
    layout = UnitsLayout(vocabulary=UnitVocabulary(codebook_size=7, unit_offset=4), collapsed=False, eos=False)
    assert layout_from_card(layout.card()) == layout
    assert isinstance(layout, Layout)
    with pytest.raises(UnknownNameError, match=r"Unknown layout 'unitz'. Did you mean 'units'"):
        layout_from_card({"name": "unitz"})
