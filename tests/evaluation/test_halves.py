"""Cutting at a word: the same cut in text and units, nothing lost, and what cannot be cut is counted."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sequences.joint_examples import FRAME_RATE, frames_of, random_example
from vocable.errors import ConfigError
from vocable.evaluation.halves import CutConfig, SpeechForm, cut_all, cut_utterance, words_in_prompt
from vocable.evaluation.unusable import UnusableError
from vocable.sequences.word_slices import word_borders
from vocable.types import SpeechTokens, Utterance, Word


def utterance_of(example, **changes):
    return Utterance(
        **{"id": example.id, "audio": Path("x.wav"), "text": example.text, "words": example.words} | changes
    )


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), collapsed=st.booleans())
def test_halves_put_together_are_the_utterance(seed, share, collapsed):
    example = random_example(seed, num_words=2 + seed % 20)
    config = CutConfig(share=share, min_words=1)
    cut = cut_utterance(utterance_of(example), config, example.tokens, SpeechForm(FRAME_RATE, collapsed))
    assert cut.prompt.text + cut.continuation.text == example.text
    assert frames_of(cut.prompt.tokens) + frames_of(cut.continuation.tokens) == frames_of(example.tokens)
    count = cut.prompt.num_words
    assert 1 <= count < len(example.words) and count + cut.continuation.num_words == len(example.words)
    assert len(cut.prompt.text.split()) == count
    borders = word_borders(example.words, example.tokens.num_frames, FRAME_RATE)
    assert cut.prompt.tokens.num_frames == int(borders[count])
    assert (cut.prompt.tokens.durations is not None) == collapsed


def test_how_many_words_the_prompt_gets():
    counts = {n: words_in_prompt(n, CutConfig(min_words=1)) for n in (2, 3, 4, 9)}
    assert counts == {2: 1, 3: 1, 4: 2, 9: 4}
    assert words_in_prompt(10, CutConfig(share=0.3)) == 3
    assert words_in_prompt(5, CutConfig(share=0.9)) == 3  # two are left


def test_a_run_over_the_cut_becomes_two():
    words = tuple(Word(word=w, start=s, end=s + 0.1) for w, s in (("one", 0.0), ("two", 0.1)))
    tokens = SpeechTokens(codes=torch.tensor([[4, 7, 2]]), durations=torch.tensor([3, 4, 3]))
    utterance = Utterance(id="a", audio=Path("x.wav"), words=words)
    cut = cut_utterance(utterance, CutConfig(min_words=1), tokens, SpeechForm(50.0, True))
    assert cut.prompt.text + cut.continuation.text == "one two"  # without a text, the words are the text
    assert (cut.prompt.tokens.units.tolist(), cut.prompt.tokens.durations.tolist()) == ([4, 7], [3, 2])
    assert (cut.continuation.tokens.units.tolist(), cut.continuation.tokens.durations.tolist()) == ([7, 2], [2, 3])


def test_what_cannot_be_cut_is_counted():
    good = random_example(1, num_words=6)
    empty = SpeechTokens(codes=torch.zeros(1, 0, dtype=torch.long))
    few = SpeechTokens(codes=torch.tensor([[1, 2]]))
    tokens = {"good": good.tokens, "empty": empty, "few": few}
    utterances = [
        utterance_of(good, id="good"),
        utterance_of(good, id="no words", words=None),
        utterance_of(random_example(2, num_words=3), id="short"),
        utterance_of(good, id="empty"),
        utterance_of(good, id="few"),
        utterance_of(good, id="unread"),
    ]
    config, form = CutConfig(), SpeechForm(FRAME_RATE, True)
    found, left_out = cut_all(utterances, lambda u: cut_utterance(u, config, tokens.get(u.id), form))
    assert [one.id for one in found] == ["good"]
    assert left_out == {
        "no word times": 1,
        "fewer than 4 words": 1,
        "no tokens: audio unreadable or refused": 2,
        "words and tokens do not fit each other": 1,
    }
    kept, early = cut_all(utterances, lambda u: cut_utterance(u, config))
    assert len(kept) == 4 and early == {"no word times": 1, "fewer than 4 words": 1}
    blank = utterance_of(good, text=None, words=tuple(Word(word=" ", start=0.0, end=1.0) for _ in range(4)))
    with pytest.raises(UnusableError, match="no text"):
        cut_utterance(blank, config)


@pytest.mark.parametrize(
    ("settings", "named"), [({"share": 0}, "share"), ({"share": 1}, "share"), ({"min_words": 0}, "min_words")]
)
def test_settings_are_checked(settings, named):
    with pytest.raises(ConfigError, match=named):
        CutConfig(**settings)
