"""Labels of words, times of words, and what happens to words without any."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import AlignmentError, ConfigError
from vocable.recognition.aligner import Stamp, Timed
from vocable.recognition.ctc import CTCPath, ctc_viterbi
from vocable.recognition.matching import match_stamps
from vocable.recognition.normalise import SpokenWord, spoken_words
from vocable.recognition.words import CTCVocabulary, complete_times, times_from_path, word_labels

LETTERS = CTCVocabulary(symbols={chr(65 + index): index + 2 for index in range(26)}, blank=0, delimiter=1)


def test_labels_know_their_words():
    labels, owners, notes = word_labels(spoken_words("Ab-é it's 2"), LETTERS)
    written = "".join(" " if label == 1 else chr(63 + label) for label in labels)
    assert written == "AB E ITS TWO"
    assert owners == [0, 0, None, 0, None, 1, 1, 1, None, 2, 2, 2]
    assert [(note.index, note.note) for note in notes] == [(0, "'é' is aligned as 'e'")]


def test_a_letter_without_a_symbol_is_noted_or_refused():
    labels, owners, notes = word_labels(spoken_words("aжb жж c"), LETTERS)
    assert ([label - 2 for label in labels if label != 1], owners) == ([0, 1, 2], [0, 0, None, 2])
    assert [(n.index, n.word) for n in notes] == [(0, "aжb"), (1, "жж"), (1, "жж")]
    assert "the vocabulary lacks 'ж'" in notes[0].note
    with pytest.raises(AlignmentError, match="lacks 'ж', of the word 'aжb'"):
        word_labels(spoken_words("aжb"), LETTERS, strict=True)
    with pytest.raises(AlignmentError, match=r"Nothing of the text 'жж' can be written in the model's symbols, A B"):
        word_labels(spoken_words("жж"), LETTERS)


def test_blank_and_delimiter_must_differ():
    with pytest.raises(ConfigError, match="the same symbol, 1"):
        CTCVocabulary(symbols={}, blank=1, delimiter=1)


def test_confidence_is_the_geometric_mean_over_the_frames_of_the_letters():
    path = CTCPath(
        torch.tensor([[1, 3], [4, 5], [5, 6], [7, 8]]), torch.tensor([0.9, 0.5, 0.4, 0.1, 0.2, 0.3, 1, 0.8]).log()
    )
    times = times_from_path(path, [0, 0, None, 2], 3, frame_rate=50.0, offset=0.01)
    assert times[1] is None
    assert times[0][:2] == pytest.approx((0.03, 0.11)) and times[2][:2] == pytest.approx((0.15, 0.17))
    assert times[0].confidence == pytest.approx((0.5 * 0.4 * 0.2) ** (1 / 3))
    assert times[2].confidence == pytest.approx(0.8)


def test_words_are_found_where_the_posteriors_have_them():
    words = spoken_words("Hello hello, well")
    labels, owners, _ = word_labels(words, LETTERS)
    frames = []  # each label two frames, a blank after each: also between the two l of a word
    for label in labels:
        frames += [label, label, 0]
    log_probs = torch.full((len(frames), 28), math.log(0.2 / 27))
    log_probs[torch.arange(len(frames)), torch.tensor(frames)] = math.log(0.8)
    (path,) = ctc_viterbi(log_probs[None], [labels])
    times = times_from_path(path, owners, 3, frame_rate=100.0)
    assert [t[:2] for t in times] == [pytest.approx(t) for t in [(0, 0.14), (0.18, 0.32), (0.36, 0.47)]]
    assert [t.confidence for t in times] == [pytest.approx(0.8)] * 3


def plain(*words: str) -> list[SpokenWord]:
    return [SpokenWord(word=word, spoken=(word,)) for word in words]


def test_missing_words_share_the_gap_by_letters():
    times = [None, Timed(1.0, 1.2, 0.5), None, None, Timed(1.8, 2.0)]
    done = complete_times(plain("a", "b", "cc", "d", "e"), times, 2.5, max_missing=0.6)
    spans = [(word.start, word.end) for word in done.words]
    assert spans == [(0.0, 1.0), (1.0, 1.2), (1.2, 1.6), (1.6, 1.8), (1.8, 2.0)]
    assert (done.interpolated, done.confidence) == ((0, 2, 3), (None, 0.5, None, None, None))
    assert [note.index for note in done.notes] == [0, 2, 3]
    with pytest.raises(AlignmentError, match=r"3 of 5 words were not found \('a', 'cc', 'd'\)"):
        complete_times(plain("a", "b", "cc", "d", "e"), times, 2.5)


def test_words_that_are_not_spoken_do_not_count_as_missing():
    words = spoken_words("one — two")
    done = complete_times(words, [Timed(0.1, 0.4), None, Timed(0.5, 0.8)], 1.0, max_missing=0.0)
    assert [(w.word, w.start, w.end) for w in done.words] == [("one", 0.1, 0.4), ("—", 0.4, 0.5), ("two", 0.5, 0.8)]
    with pytest.raises(AlignmentError, match=r"0 of 0 words were not found \(there is no word\)"):
        complete_times(spoken_words("— …"), [None, None], 1.0)


TIMES = st.one_of(st.none(), st.tuples(st.floats(-1, 4), st.floats(0, 2)).map(lambda p: Timed(p[0], p[0] + p[1])))


@given(st.lists(TIMES, min_size=1, max_size=8))
def test_times_are_in_order_and_inside(times):
    words = plain(*["ab"] * len(times))
    if all(time is None for time in times):
        return
    done = complete_times(words, times, 2.0, max_missing=1.0)
    starts = [word.start for word in done.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= 2.0 for word in done.words)
    moved = {note.index for note in done.notes if "moved" in note.note}
    for index, (word, time) in enumerate(zip(done.words, times)):
        if time is not None and index not in moved:
            assert max(abs(word.start - time.start), abs(word.end - time.end)) <= 0.1001  # rounded to 0.1 ms


def test_stamps_find_their_words():
    words = spoken_words("Grandma Rose paid $5 for, well, twenty-one very ripe pears.")
    heard = "grandma Roes paid five dollars for 21 ripe Pears again"
    stamps = [Stamp(word, float(i), i + 0.9, 0.5 + i / 100) for i, word in enumerate(heard.split())]
    times, unused = match_stamps(words, stamps)
    assert [None if t is None else t[:2] for t in times] == [
        (0.0, 0.9),
        (1.0, 1.9),
        (2.0, 2.9),
        (3.0, 4.9),  # five dollars
        (5.0, 5.9),
        None,  # well
        (6.0, 6.9),  # 21
        None,  # very
        (7.0, 7.9),
        (8.0, 8.9),
    ]
    assert times[1].note == "stands as 'roes' in the other list" and times[0].note is None
    assert times[3].confidence == 0.53 and unused == [stamps[-1]]


def test_a_stamp_of_several_words_is_divided_by_letters():
    times, unused = match_stamps(spoken_words("nineteen eighty four"), [Stamp("1984", 1.0, 2.8)])
    assert [t[:2] for t in times] == [pytest.approx(t) for t in [(1.0, 1.8), (1.8, 2.4), (2.4, 2.8)]]
    assert unused == []
