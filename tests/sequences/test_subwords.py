"""Unit subwords: reversible, spans that add up, folders that check themselves, errors that name the value."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.audio.manifest import absolute
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.sequences.subword_rate import measure_rate
from vocable.sequences.subwords import (
    LINE_UNITS,
    MAX_UNITS,
    PRIVATE_AREAS,
    SubwordConfig,
    UnitSubwords,
    text_to_units,
    units_to_text,
)
from vocable.tokens.runs import collapse_runs
from vocable.types import SpeechTokens, Utterance

CARD = {"codebook_size": 12, "num_codebooks": 1, "fingerprint": "0123456789abcdef", "frame_rate": 50.0}
SYLLABLES = [[1, 1, 2, 2, 2], [3, 4, 4], [5, 5, 6, 7, 7], [8, 9], [10, 10, 10]]


def speech(seed, syllables=30):
    """Frames of a language of five syllables."""
    draw = random.Random(seed)
    return torch.tensor([unit for _ in range(syllables) for unit in draw.choice(SYLLABLES)])


def corpus(count=40, collapsed=False):
    for index in range(count):
        frames = speech(index)
        tokens = SpeechTokens(codes=frames[None])
        if collapsed:
            runs = collapse_runs(frames)
            tokens = SpeechTokens(codes=runs.units[None], durations=runs.durations)
        yield Utterance(id=f"u{index}", audio=absolute("x.wav"), text="one two three"), tokens


@pytest.fixture(scope="module", params=[("bpe", "runs"), ("bpe", "frames"), ("unigram", "runs"), ("unigram", "frames")])
def subwords(request):
    model, over = request.param
    return UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=40, model=model, over=over))


def by_hand(frames, over):
    """Units and durations, counted one frame after the other."""
    units, durations = [], []
    for frame in frames:
        if over == "runs" and units and units[-1] == frame:
            durations[-1] += 1
        else:
            units.append(frame)
            durations.append(1)
    return units, durations


@given(frames=st.lists(st.integers(0, 11), max_size=120), collapsed_input=st.booleans())
@settings(max_examples=30, deadline=None)
def test_encoding_is_undone_and_spans_add_up(subwords, frames, collapsed_input):
    units, durations = by_hand(frames, subwords.card.over)
    tokens = SpeechTokens(codes=torch.tensor(frames, dtype=torch.long)[None])
    if collapsed_input:
        runs = collapse_runs(tokens.units)
        tokens = SpeechTokens(codes=runs.units[None], durations=runs.durations)
    found = subwords.encode(tokens)
    assert subwords.decode(found.ids).tolist() == units
    place = frame = 0
    for id, count, (start, stop) in zip(found.ids, found.num_units.tolist(), found.frames.tolist(), strict=True):
        assert subwords.decode(id[None]).tolist() == units[place : place + count]
        assert (start, stop) == (frame, frame + sum(durations[place : place + count]))
        place, frame = place + count, stop
    assert (place, frame) == (len(units), len(frames))


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_string_of_subwords_can_be_decoded(subwords, data):
    ids = data.draw(st.lists(st.integers(0, subwords.size - 1), max_size=20))
    parts = [subwords.decode(torch.tensor([id])).tolist() for id in ids]
    whole = subwords.decode(torch.tensor(ids, dtype=torch.long)).tolist()
    assert whole == [unit for part in parts for unit in part]


def test_bpe_finds_the_syllables_and_shortens():
    subwords = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=40))
    assert subwords.size == 40
    pieces = {tuple(subwords.decode(torch.tensor([id])).tolist()) for id in range(subwords.size)}
    assert {(1, 2), (3, 4), (5, 6, 7), (8, 9)} <= pieces
    tokens = SpeechTokens(codes=speech(999)[None])
    assert len(subwords.encode(tokens).ids) < 0.6 * len(collapse_runs(tokens.units).units)


def noisy_speech(seed, syllables):
    """Sixty syllables of 2 to 5 units; every seventh unit is another one."""
    syllable_draws = [random.Random(number) for number in range(60)]
    language = [[draw.randrange(50) for _ in range(draw.randint(2, 5))] for draw in syllable_draws]
    draw = random.Random(seed)
    units = [unit for _ in range(syllables) for unit in draw.choice(language)]
    return torch.tensor([unit if draw.random() > 0.15 else draw.randrange(50) for unit in units])


@pytest.mark.parametrize("model", ["bpe", "unigram"])
def test_long_utterances_do_not_hide_subwords(model):
    data = [
        (utterance, SpeechTokens(codes=noisy_speech(seed, 300)[None])) for seed, (utterance, _) in enumerate(corpus(12))
    ]
    config = SubwordConfig(vocabulary_size=200, model=model)
    subwords = UnitSubwords.fit(data, CARD | {"codebook_size": 50}, config)
    assert subwords.size == 200
    found = subwords.encode(SpeechTokens(codes=noisy_speech(999, 400)[None]))
    assert found.num_units.float().mean() > 1.5


def test_longest_subword_is_limited():
    subwords = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=200, max_units=3))
    assert int(subwords.lengths.max()) == 3


def test_units_that_were_never_seen_are_subwords_too():
    subwords = UnitSubwords.fit(corpus(3), CARD | {"codebook_size": 500}, SubwordConfig(vocabulary_size=510))
    tokens = SpeechTokens(codes=torch.tensor([[499, 0, 250]]))
    assert subwords.decode(subwords.encode(tokens).ids).tolist() == [499, 0, 250]


def test_long_utterances_are_learned_from_whole():
    frames = torch.cat([torch.zeros(3 * LINE_UNITS["bpe"], dtype=torch.long), torch.tensor([7, 8, 9] * 50)])
    config = SubwordConfig(vocabulary_size=30, over="frames")
    long = [(Utterance(id="a", audio=absolute("x.wav")), SpeechTokens(codes=frames[None]))]
    subwords = UnitSubwords.fit(long, CARD, config)
    end = subwords.encode(SpeechTokens(codes=torch.tensor([[7, 8, 9] * 4])))
    assert len(end.ids) < 6


def test_training_share_leaves_utterances_out_by_id():
    half = SubwordConfig(vocabulary_size=60, training_share=0.5)
    seen = []
    one = UnitSubwords.fit(corpus(), CARD, half, on_utterance=lambda u: seen.append(u.id))
    two = UnitSubwords.fit(reversed(list(corpus())), CARD, half)
    whole = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=60))
    assert len(seen) == 40
    assert one.model != whole.model
    assert {tuple(one.decode(torch.tensor([i])).tolist()) for i in range(one.size)} == {
        tuple(two.decode(torch.tensor([i])).tolist()) for i in range(two.size)
    }


def test_private_characters_round_trip_at_the_borders_of_all_areas():
    sizes = [last - first + 1 for first, last in PRIVATE_AREAS]
    borders = [0, sizes[0] - 1, sizes[0], sizes[0] + sizes[1] - 1, sizes[0] + sizes[1], MAX_UNITS - 1]
    text = units_to_text(torch.tensor(borders))
    assert [ord(char) for char in text] == [0xE000, 0xF8FF, 0xF0000, 0xFFFFD, 0x100000, 0x10FFFD]
    assert text_to_units(text).tolist() == borders
    with pytest.raises(ConfigError, match="Unit 137468 is outside Unicode's 137,468 private characters"):
        units_to_text(torch.tensor([3, MAX_UNITS]))
    with pytest.raises(ConfigError, match="'a' is not the character of a unit"):
        text_to_units("a")


def test_codebooks_beyond_the_first_area_work():
    card = CARD | {"codebook_size": 6500}
    tokens = SpeechTokens(codes=torch.tensor([[6399, 6400, 6499, 6399, 6400]]))
    utterance = Utterance(id="a", audio=absolute("x.wav"))
    subwords = UnitSubwords.fit([(utterance, tokens)], card, SubwordConfig(vocabulary_size=6501))
    assert subwords.decode(subwords.encode(tokens).ids).tolist() == [6399, 6400, 6499, 6399, 6400]


def test_folder_round_trip(subwords, tmp_path):
    again = UnitSubwords.load(subwords.save(tmp_path / "subwords"))
    assert again.card == subwords.card
    assert again.fingerprint == subwords.fingerprint
    tokens = SpeechTokens(codes=speech(5)[None])
    assert torch.equal(again.encode(tokens).ids, subwords.encode(tokens).ids)
    written = json.loads((tmp_path / "subwords" / "subwords.json").read_text())
    assert (written["codebook_size"], written["over"]) == (12, subwords.card.over)
    again.check("0123456789abcdef", "the shards")
    with pytest.raises(FingerprintError, match="made for fingerprint 0123456789abcdef, but the shards has"):
        again.check("f" * 16, "the shards")


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(AssetError, match=r"no unit subwords here.*vocable subwords fit"):
        UnitSubwords.load(tmp_path)
    one = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=30)).save(tmp_path / "one")
    two = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=31)).save(tmp_path / "two")
    (two / "subwords.model").replace(one / "subwords.model")
    with pytest.raises(AssetError, match=r"subwords\.model is not the model that subwords\.json describes"):
        UnitSubwords.load(one)
    card = json.loads((one / "subwords.json").read_text())
    (one / "subwords.json").write_text(json.dumps(card | {"format": 2}))
    with pytest.raises(AssetError, match="format 2, this version reads format 1"):
        UnitSubwords.load(one)


@pytest.mark.parametrize(
    ("card", "config", "message"),
    [
        ({"codebook_size": MAX_UNITS + 1}, {"vocabulary_size": 200_000}, "Unicode has 137,468 private characters"),
        ({"codebook_size": 500}, {"vocabulary_size": 100}, "vocabulary_size is 100, but the 500 single units"),
        ({"num_codebooks": 8}, {}, "has 8 codebooks"),
        ({"codebook_size": 5}, {}, r"Unit \d+ is outside the codebook of 5 units"),
    ],
)
def test_what_does_not_fit_is_refused(card, config, message):
    with pytest.raises(ConfigError, match=message):
        UnitSubwords.fit(corpus(2), CARD | card, SubwordConfig(**config))


def test_ids_and_units_out_of_range_are_refused():
    subwords = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=40))
    with pytest.raises(ConfigError, match=r"Id 40 is outside the 40 subwords"):
        subwords.decode(torch.tensor([3, 40]))
    with pytest.raises(ConfigError, match="Unit 12 is outside the codebook of 12"):
        subwords.encode(SpeechTokens(codes=torch.tensor([[12]])))
    with pytest.raises(ConfigError, match=r"training_share is 0\.0"):
        SubwordConfig(training_share=0.0)


def test_rates_by_hand():
    subwords = UnitSubwords.fit(corpus(), CARD, SubwordConfig(vocabulary_size=12))  # single units only
    with_text = Utterance(id="a", audio=absolute("x.wav"), text="one two")
    silent = Utterance(id="b", audio=absolute("x.wav"))
    data = [
        (with_text, SpeechTokens(codes=torch.tensor([[1, 1, 2, 2, 2, 3, 3, 3, 3, 3]]))),
        (silent, SpeechTokens(codes=torch.tensor([[4, 5]]), durations=torch.tensor([20, 20]))),
    ]
    rate = measure_rate(subwords, data, 50.0, lambda text: len(text.split()))
    assert (rate.num_utterances, rate.seconds, rate.num_with_text) == (2, 1.0, 1)
    assert (rate.frames_per_second, rate.runs_per_second, rate.subwords_per_second) == (50.0, 5.0, 5.0)
    assert (rate.text_tokens_per_second, rate.subwords_per_text_token) == (10.0, 1.5)
    assert (rate.units_per_subword, rate.num_subwords_used, rate.seconds_per_subword) == (1.0, 5, 0.2)
    assert measure_rate(subwords, data, 50.0).text_tokens_per_second is None
    with pytest.raises(ConfigError, match="hold no audio"):
        measure_rate(subwords, [], 50.0)
