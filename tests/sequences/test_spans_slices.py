"""Which words are spoken, which frames and which text belong to a word: every word, frame and letter exactly once."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequences.joint_examples import FRAME_RATE, frames_of, random_example
from vocable.errors import ConfigError, ManifestError
from vocable.sequences.spans import BernoulliSpans, PoissonSpans, RangeSpans, plan_spans
from vocable.sequences.word_slices import slice_frames, word_borders, word_texts
from vocable.types import Word

policies = st.one_of(
    st.builds(
        lambda a, b, c, d, first: RangeSpans(speech_words=(a, a + b), text_words=(c, c + d), first=first),
        st.integers(1, 6),
        st.integers(0, 6),
        st.integers(1, 6),
        st.integers(0, 6),
        st.sampled_from(["random", "speech", "text"]),
    ),
    st.builds(PoissonSpans, mean_words=st.floats(0.1, 20), speech_share=st.floats(0, 1)),
    st.builds(BernoulliSpans, switch=st.floats(0, 1), first=st.sampled_from(["random", "speech", "text"])),
)


@given(policy=policies, num_words=st.integers(1, 60), seed=st.integers(0, 99), epoch=st.integers(0, 9))
@settings(deadline=None)
def test_spans_hold_every_word_once_and_alternate(policy, num_words, seed, epoch):
    spans = plan_spans(policy, num_words, seed=seed, epoch=epoch, id="a")
    assert [word for span in spans for word in range(span.start, span.stop)] == list(range(num_words))
    assert all(before.modality != after.modality for before, after in itertools.pairwise(spans))
    assert all(span.start < span.stop for span in spans)
    assert spans == plan_spans(policy, num_words, seed=seed, epoch=epoch, id="a")
    spoken = sum(span.stop - span.start for span in spans if span.modality == "speech")
    if isinstance(policy, PoissonSpans):
        assert spoken == math.ceil(policy.speech_share * num_words - 1e-9)
    elif policy.first != "random":
        assert spans[0].modality == policy.first
    if isinstance(policy, RangeSpans):
        for span in spans[:-1]:
            low, high = policy.speech_words if span.modality == "speech" else policy.text_words
            assert low <= span.stop - span.start <= high


def test_seed_epoch_and_id_each_draw_anew():
    plans = [
        plan_spans(RangeSpans(), 60, seed=seed, epoch=epoch, id=id)
        for seed, epoch, id in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    ]
    assert all(plans[0] != other for other in plans[1:])


def lengths(policy, modality, count=300, num_words=400):
    spans = [s for i in range(count) for s in plan_spans(policy, num_words, seed=i, epoch=0, id="a")[1:-1]]
    return np.array([span.stop - span.start for span in spans if span.modality == modality])


def test_lengths_follow_their_distribution():
    spoken = lengths(RangeSpans(speech_words=(5, 15), text_words=(10, 30)), "speech", count=60)
    assert set(spoken) == set(range(5, 16))
    assert spoken.mean() == pytest.approx(10, abs=0.5)
    coins = lengths(BernoulliSpans(switch=0.25), "text", count=30)
    assert coins.mean() == pytest.approx(4, abs=0.4)
    poisson = lengths(PoissonSpans(mean_words=10.0, speech_share=0.3), "speech", count=60)
    # spans that touch are one, and the last is shortened: both move the mean a little
    assert poisson.mean() == pytest.approx(10, abs=1.0)


def test_both_modalities_begin_equally_often():
    firsts = [plan_spans(RangeSpans(), 20, seed=0, epoch=0, id=str(i))[0].modality for i in range(400)]
    assert 160 < firsts.count("speech") < 240


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RangeSpans(speech_words=(0, 3)), "speech_words is 0 to 3"),
        (lambda: RangeSpans(text_words=(5, 3)), "text_words is 5 to 3"),
        (lambda: PoissonSpans(mean_words=0.0), "mean_words is 0"),
        (lambda: BernoulliSpans(switch=1.5), r"switch is 1\.5"),
        (lambda: plan_spans(RangeSpans(), 0, seed=0, epoch=0, id="x"), "Utterance 'x' has no words"),
    ],
)
def test_impossible_spans_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def owner_by_hand(words, frame, pause):
    """The word of a frame: the last one whose cut is not after the frame's centre."""
    centre, owner = (frame + 0.5) / FRAME_RATE, 0
    for index in range(1, len(words)):
        end, start = words[index - 1].end, words[index].start
        cut = {"middle": (end + start) / 2, "before": max(end, start), "after": min(end, start)}[pause]
        if centre >= cut - 1e-9:
            owner = index
    return owner


@given(seed=st.integers(0, 500), pause=st.sampled_from(["middle", "before", "after"]), collapsed=st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_frame_belongs_to_one_word(seed, pause, collapsed):
    example = random_example(seed)
    tokens, words = example.tokens, example.words
    borders = word_borders(words, tokens.num_frames, FRAME_RATE, pause).tolist()
    assert (borders[0], borders[-1], len(borders)) == (0, tokens.num_frames, len(words) + 1)
    assert all(before < after for before, after in itertools.pairwise(borders))  # a frame at least for each word
    slices = [slice_frames(tokens, a, b, collapsed=collapsed) for a, b in itertools.pairwise(borders)]
    assert [unit for part in slices for unit in frames_of(part)] == frames_of(tokens)
    assert all((part.durations is not None) == collapsed for part in slices)
    owners = [owner_by_hand(words, frame, pause) for frame in range(tokens.num_frames)]
    if set(owners) == set(range(len(words))) and owners == sorted(owners):  # no word was too short for a frame
        assert owners == [word for word, part in enumerate(slices) for _ in range(part.num_frames)]


def test_borders_by_hand():
    words = (Word(word="a", start=0.1, end=0.2), Word(word="b", start=0.3, end=0.4), Word(word="c", start=0.4, end=0.9))
    assert word_borders(words, 50, 50.0).tolist() == [0, 12, 20, 50]  # 0.25 s is the centre of frame 12
    assert word_borders(words, 50, 50.0, "before").tolist() == [0, 15, 20, 50]
    assert word_borders(words, 50, 50.0, "after").tolist() == [0, 10, 20, 50]


def test_a_run_over_a_border_becomes_two():
    words = (Word(word="a", start=0.0, end=0.1), Word(word="b", start=0.1, end=0.2))
    example = random_example(0)
    tokens = type(example.tokens)(codes=torch.tensor([[7, 2]]), durations=torch.tensor([8, 2]))
    borders = word_borders(words, 10, 50.0).tolist()
    first, second = (slice_frames(tokens, a, b, collapsed=True) for a, b in itertools.pairwise(borders))
    assert (first.units.tolist(), first.durations.tolist()) == ([7], [5])
    assert (second.units.tolist(), second.durations.tolist()) == ([7, 2], [3, 2])


def test_a_word_without_a_centre_gets_one_frame():
    words = [Word(word="a", start=0.1, end=0.1), Word(word="b", start=0.1, end=0.1), Word(word="c", start=0.1, end=0.1)]
    assert word_borders(words, 50, 50.0).tolist() == [0, 5, 6, 50]
    assert word_borders(words, 3, 50.0).tolist() == [0, 1, 2, 3]


def test_times_that_cannot_be_are_refused():
    words = (Word(word="a", start=0.0, end=0.1), Word(word="late", start=5.0, end=5.1))
    with pytest.raises(ManifestError, match="no word times"):
        word_borders((), 10, 50.0)
    with pytest.raises(ManifestError, match="2 words share 1 frames"):
        word_borders(words, 1, 50.0)
    with pytest.raises(ManifestError, match=r"The last word, 'late', starts at 5 s, but the units end at 2 s"):
        word_borders(words, 100, 50.0)


def spoken(text):
    return [Word(word=word, start=i / 10, end=i / 10) for i, word in enumerate(text.split())]


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("The cat sat.", "the cat sat", ["The", " cat", " sat."]),
        ("“Well”, he said — (no)!", "well he said no", ["“Well”,", " he", " said —", " (no)!"]),
        ("Don’t  go\nnow", "don't go now", ["Don’t", "  go", "\nnow"]),
        ("well-known, two–three", "well known two three", ["well-", "known,", " two–", "three"]),
        ("a cat", "the cat", ["the", " cat"]),  # other words: as they are
        ("the cat sat", "the cat", ["the", " cat"]),
        ("seventeen cats", "even cats", ["even", " cats"]),
        (None, "the cat", ["the", " cat"]),
    ],
)
def test_texts_of_words(text, words, pieces):
    assert word_texts(text, spoken(words)) == pieces


@given(text=st.text(alphabet="ab ,.'\n(—é", max_size=40))
@settings(deadline=None)
def test_pieces_put_together_are_the_text(text):
    words = "".join(char if char.isalnum() or char == "'" else " " for char in text)
    found = spoken(words)
    if found:
        assert len(word_texts(text, found)) == len(found)
        assert "".join(word_texts(text, found)) == text
