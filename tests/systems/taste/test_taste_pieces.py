"""Recordings longer than the window: cuts in pauses, every word in one piece, mismatches named."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import AlignmentError
from vocable.systems.taste.pieces import Piece, check_amount, cut_pieces, time_words
from vocable.types import Word

RATE = 1000


def words_at(*times):
    return tuple(Word(word=f"w{index}", start=float(start), end=float(end)) for index, (start, end) in enumerate(times))


@st.composite
def spoken(draw):
    """Words of up to 3 s with pauses of up to 15 s."""
    place, times = 0.0, []
    for pause, length in draw(st.lists(st.tuples(st.floats(0, 15), st.floats(0.01, 3)), min_size=1, max_size=40)):
        times.append((place + pause, place + pause + length))
        place = times[-1][1]
    return words_at(*times), place + draw(st.floats(0, 40))


@given(case=spoken())
@settings(max_examples=80, deadline=None)
def test_every_word_lies_whole_in_the_one_piece_it_belongs_to(case):
    times, seconds = case
    sound = torch.zeros(int(seconds * RATE) + 1)
    pieces = cut_pieces(sound, RATE, [word.word for word in times], times, 10.0)
    assert [index for one in pieces for index in range(one.first, one.last)] == list(range(len(times)))
    for one in pieces:
        assert 0 <= one.start < one.stop <= len(sound) and one.stop - one.start <= 10 * RATE + 1
        for word in times[one.first : one.last]:
            assert one.start / RATE - 0.002 <= word.start and word.end <= one.stop / RATE + 0.002
    for before, after in itertools.pairwise(pieces):
        assert before.stop <= after.start


def test_cut_lies_in_the_longest_pause_of_the_last_seconds():
    # by hand: 10 s fit; pauses end at 2, 6.5 (1 s) and 9 (0.2 s), the first is the longest but too early
    times = words_at((0, 1), (3, 5.5), (6.5, 8.8), (9, 9.5), (9.7, 12))
    pieces = cut_pieces(torch.zeros(13 * RATE), RATE, [word.word for word in times], times, 10.0)
    assert pieces == [Piece(0, 6000, 0, 2), Piece(6000, 13000, 2, 5)]


def test_silence_around_words_is_left_out():
    times = words_at((20, 21), (60, 61))
    pieces = cut_pieces(torch.zeros(100 * RATE), RATE, ["a", "b"], times, 10.0)
    assert pieces == [Piece(19_000, 22_000, 0, 1), Piece(59_000, 62_000, 1, 2)]


def test_without_times_words_follow_the_sound():
    """Sound of 8 s, silence of 4 s, sound of 4 s: two thirds of the letters before the silence, where the cut is."""
    sound = torch.zeros(16 * RATE)
    generator = torch.Generator().manual_seed(0)
    sound[: 8 * RATE] = 0.1 * torch.randn(8 * RATE, generator=generator)
    sound[12 * RATE :] = 0.1 * torch.randn(4 * RATE, generator=generator)
    words = ["abcd"] * 12
    first, second = cut_pieces(sound, RATE, words, None, 10.0)
    assert first[2:] == (0, 8) and second[2:] == (8, 12)
    assert first.start == 0 and second.stop == 16 * RATE and 8 * RATE <= first.stop == second.start <= 12 * RATE


@pytest.mark.parametrize("seconds", [31, 600])
def test_silence_is_shared_out_by_time(seconds):
    words = ["word"] * seconds
    pieces = cut_pieces(torch.zeros(seconds * RATE), RATE, words, None, 30.0)
    assert [index for one in pieces for index in range(one.first, one.last)] == list(range(seconds))
    assert all(one.stop - one.start <= 30 * RATE for one in pieces)
    for one in pieces:  # a word a second, each in the piece that holds its middle
        assert one.first == round(one.start / RATE - 0.01) or abs(one.first - one.start / RATE) <= 1


def test_short_recordings_stay_whole_and_empty_texts_have_no_pieces():
    assert cut_pieces(torch.zeros(30 * RATE), RATE, ["a", "b"], None, 30.0) == [Piece(0, 30 * RATE, 0, 2)]
    assert cut_pieces(torch.zeros(90 * RATE), RATE, [], None, 30.0) == []


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (words_at((0, 11), (11, 12)), "'w0' lasts from 0 s to 11 s, too long for the 10 s"),
        (words_at((5, 6), (4, 5)), "'w1' starts at 4 s, before 'w0'"),
        (words_at((0, 1), (14, 15)), "'w1', starts at 14 s, but the recording ends at 13 s"),
    ],
)
def test_times_that_cannot_be_are_named(times, message):
    with pytest.raises(AlignmentError, match=message):
        cut_pieces(torch.zeros(13 * RATE), RATE, [word.word for word in times], times, 10.0)


def test_words_are_timed_by_their_letters():
    timed = (
        Word(word="don't", start=0.0, end=0.5),
        Word(word="well", start=0.6, end=0.8),
        Word(word="known", start=0.8, end=1.0),
    )
    found = time_words(["Don’t", "—", "well-known!"], timed)
    assert found == (
        Word(word="Don’t", start=0.0, end=0.5),
        Word(word="—", start=0.5, end=0.5),
        Word(word="well-known!", start=0.6, end=1.0),
    )
    assert time_words([], ()) == () and time_words(["..."], ())[0].end == 0
    with pytest.raises(AlignmentError, match="words 'do not', but the words with times are \"don't well known\""):
        time_words(["do", "not"], timed)


def test_texts_too_long_for_their_recording_are_refused():
    check_amount(["a" * 20], 1, RATE)
    check_amount(["a" * 100], 2 * RATE, RATE)
    with pytest.raises(AlignmentError, match=r"101 letters, 'aaa.*, but the recording lasts 2.00 s"):
        check_amount(["a" * 101], 2 * RATE, RATE)
