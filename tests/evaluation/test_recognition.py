"""The recognition probe: it learns what units say, not what they do not say, and counts what it leaves out."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vocable.errors import ConfigError, FingerprintError, UnknownNameError
from vocable.evaluation.comparison.compare import CompareConfig, compare_results
from vocable.evaluation.ctc_probe_model import (
    ProbeConfig,
    UnitRecogniser,
    collapse_path,
    epoch_batches,
    recognise,
)
from vocable.evaluation.recognition import Recognition, RecognitionConfig, probe_inputs
from vocable.evaluation.results import load_result, save_result
from vocable.evaluation.runner import run_benchmark
from vocable.recognition.ctc import min_frames
from vocable.tokens.streams import streams_of_card
from vocable.types import SpeechTokens, Utterance

LETTERS = "abcdefgh "
UNITS = 2 * len(LETTERS)
SMALL: dict[str, Any] = {"embedding_dim": 32, "hidden_dim": 24, "num_layers": 1, "dropout": 0.0, "batch_utterances": 8}
SMALL |= {"learning_rate": 1e-2, "num_resamples": 50}


class Source:
    """Tokens that were made by hand, in place of those of a folder."""

    def __init__(self, pairs, codebook_size=UNITS, num_codebooks=1, frame_rate: float | None = 50.0, name="hand"):
        self.pairs, self.excluded = list(pairs), Counter()
        self.utterances = [utterance for utterance, _ in self.pairs]
        self.card = {"codebook_size": codebook_size, "num_codebooks": num_codebooks, "frame_rate": frame_rate}
        self.card |= {"name": name, "fingerprint": name}
        (self.stream,) = streams_of_card(self.card)

    def __iter__(self):
        return iter(self.pairs)


def say(text: str, generator: torch.Generator, books: int = 1) -> SpeechTokens:
    """Each letter is one of two units of its own, for 2 to 4 frames; a second codebook says it once more."""
    numbers = torch.tensor([LETTERS.index(letter) for letter in text])
    codes = 2 * numbers + torch.randint(0, 2, (len(text),), generator=generator)
    durations = torch.randint(2, 5, (len(text),), generator=generator)
    return SpeechTokens(codes=codes.expand(books, -1).clone(), durations=durations)


def make_text(generator: torch.Generator) -> str:
    numbers = torch.randint(0, len(LETTERS) - 1, (12,), generator=generator).tolist()
    letters = [key for key, _ in itertools.groupby(LETTERS[number] for number in numbers)]
    return "".join(letters[:4]) + " " + "".join(letters[4:])


def spoken(first: int, count: int, seed: int, books: int = 1, mute: bool = False):
    """Utterances; with `mute`, units of one text and the letters of another."""
    generator, texts = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    for index in range(first, first + count):
        text = make_text(texts)
        tokens = say(make_text(generator) if mute else text, generator, books)
        yield Utterance(id=f"u{index}", audio=Path("x"), text=text, speaker=f"s{index % 4}"), tokens


def evaluate_recognition(train, test, **settings: Any):
    config = RecognitionConfig(manifest=Path("a"), test_manifest=Path("b"), device="cpu", **(SMALL | settings))
    return run_benchmark(Recognition(config, {"train": train, "test": test}))


def evaluate(train, test, books: int = 1, **settings: Any):
    sources = [Source(part, num_codebooks=books) for part in (train, test)]
    return evaluate_recognition(*sources, **({"epochs": 6} | settings))


@pytest.fixture(scope="module")
def learnt():
    return evaluate(spoken(0, 240, 0), spoken(240, 24, 1))


def test_it_learns_which_units_are_which_letter(learnt, tmp_path):
    assert learnt.scores["cer_units"].value < 0.05
    assert learnt.scores["wer_units"].num_speakers == 4 and learnt.scores["cer_units"].num_items == 24
    losses = learnt.measurements["train_loss"]
    assert len(losses) == 6 and losses[-1] < losses[0] / 3
    assert learnt.measurements["num_updates"] == 6 * 30
    assert learnt.measurements["characters"] == "".join(sorted(LETTERS))
    assert learnt.excluded == {}
    again = load_result(save_result(learnt, tmp_path))
    assert again.items == learnt.items and again.scores == learnt.scores
    for row in learnt.items:
        errors = sum(row[f"units_character_{edit}"] for edit in ("substitutions", "deletions", "insertions"))
        assert (errors == 0) == (row["reference"] == row["hypothesis"])
        assert row["units_character_reference_length"] == len(row["reference"])


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    def losses(seed):
        result = evaluate(spoken(0, 24, 0), spoken(240, 8, 1), epochs=1, dropout=0.2, seed=seed)
        return result.measurements["train_loss"], result.items

    assert losses(3) == losses(3)
    assert losses(3)[0] != losses(4)[0]


def test_other_letters_or_no_order_cannot_be_learnt(learnt):
    mute = evaluate(spoken(0, 240, 0, mute=True), spoken(240, 24, 1))
    shuffled = evaluate(spoken(0, 240, 0), spoken(240, 24, 1), control="shuffled")
    assert mute.scores["cer_units"].value > 0.5  # type: ignore[operator]
    assert shuffled.scores["cer_units"].value > 0.5  # type: ignore[operator]
    assert any("random order" in note for note in shuffled.notes)
    with pytest.raises(ConfigError, match="control"):
        compare_results({"a": learnt, "b": shuffled})
    settings = CompareConfig(num_resamples=50, num_permutations=200)
    found = compare_results({"units": learnt, "noise": mute}, settings)
    assert {d.measure: d.favours for d in found.differences} == {"cer_units": "units", "wer_units": "units"}
    assert found.scores["cer_units"]["noise"].value == mute.scores["cer_units"].value


def test_two_codebooks_and_runs():
    result = evaluate(spoken(0, 240, 0, books=2), spoken(240, 24, 1, books=2), books=2, input="runs")
    assert result.scores["cer_units"].value < 0.05  # type: ignore[operator]
    assert result.measurements["frame_repeats"] is None
    assert all(row["num_steps"] == len(row["reference"]) for row in result.items)  # a letter is a run here


def test_what_cannot_be_trained_on_is_counted_and_what_cannot_be_right_is_scored():
    def fast(id):  # three frames are two steps: too few for three letters
        tokens = SpeechTokens(codes=torch.tensor([[0, 2, 4]]))
        return Utterance(id=id, audio=Path("x"), text="abc"), tokens

    def silent(id, text):
        return Utterance(id=id, audio=Path("x"), text=text), SpeechTokens(codes=torch.tensor([[0, 2, 4]]))

    train = [*spoken(0, 10, 0), fast("f1"), fast("f2"), silent("e1", ""), silent("e2", None), silent("e3", " ?! ")]
    result = evaluate(train, [*spoken(20, 4, 1), fast("f3"), silent("e4", None)], epochs=1)
    assert result.excluded == {
        "train: no text": 3,
        "train: fewer steps than CTC needs for the characters": 2,
        "test: no text": 1,
    }
    assert result.measurements["num_train_utterances"] == 10 and result.measurements["test_impossible"] == 1
    assert [row["possible"] for row in result.items] == [True] * 4 + [False]
    assert result.items[-1]["units_character_reference_length"] == 3
    assert any("1 test utterances have fewer steps" in note for note in result.notes)
    with pytest.raises(ConfigError, match=r"0 utterances to train on and 4 to test.*train: fewer steps.*: 1"):
        evaluate([fast("f1")], spoken(20, 4, 1))


def test_characters_that_training_never_saw_are_errors():
    test = [(Utterance(id="t", audio=Path("x"), text="xyz ab"), say("ab ab ab", torch.Generator()))]
    result = evaluate(spoken(0, 10, 0), test, epochs=1)
    assert result.measurements["test_characters_not_in_train"] == 3


def test_what_does_not_belong_together_is_refused():
    train, test = list(spoken(0, 10, 0)), list(spoken(20, 4, 1))

    def check(error, match, first, second, **settings):
        with pytest.raises(error, match=match):
            evaluate_recognition(first, second, **settings)

    check(FingerprintError, "to train on was made for fingerprint hand", Source(train), Source(test, name="other"))
    check(ConfigError, "1 utterances are in both manifests, 'u3' for one", Source(train), Source(train[3:4]))
    check(
        FingerprintError,
        "u0, tokenizer 'hand': Tokens have 1 codebooks; expected 2",
        *(Source(p, 18, 2) for p in (train, test)),
    )
    check(FingerprintError, r"Ids run from \d+ to \d+, outside a codebook of 5", *(Source(p, 5) for p in (train, test)))
    sources = [Source(part, frame_rate=None) for part in (train, test)]
    check(ConfigError, "follow words and have no frames.*input=runs", *sources)
    check(UnknownNameError, "english", Source(train), Source(test), normaliser="englsh")
    assert evaluate_recognition(*sources, epochs=1, input="runs").items


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "units"}, "input is 'units'; it is frames or runs"),
        ({"control": "random"}, "control is 'random'"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4; it must be odd"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        ProbeConfig(**settings)


def test_frames_and_runs_by_hand():
    runs = SpeechTokens(codes=torch.tensor([[7, 2], [1, 1]]), durations=torch.tensor([3, 1]))
    frames = SpeechTokens(codes=torch.tensor([[7, 7, 7, 2], [1, 1, 1, 1]]))
    for tokens in (runs, frames):
        assert probe_inputs(tokens, 50.0, ProbeConfig()).tolist() == [[7, 7, 7, 2], [1, 1, 1, 1]]
        assert probe_inputs(tokens, 12.5, ProbeConfig(input="runs")).tolist() == [[7, 2], [1, 1]]
    slow = {49.95: 1, 75.0: 1, 33.3: 2, 25.0: 2, 12.5: 4}
    for rate, repeats in slow.items():
        assert probe_inputs(runs, rate, ProbeConfig()).shape == (2, 4 * repeats)
    assert ProbeConfig().num_steps(5) == 3 and ProbeConfig(input="runs").num_steps(5) == 5


def test_shuffling_keeps_runs_and_depends_on_seed_and_utterance():
    tokens = SpeechTokens(codes=torch.arange(30)[None], durations=torch.arange(1, 31))
    config = ProbeConfig(control="shuffled")
    shuffled = probe_inputs(tokens, 50.0, config, 5)
    assert torch.equal(shuffled[0].bincount(), torch.arange(1, 31))
    assert len(shuffled[0].unique_consecutive()) == 30  # runs stay whole
    assert torch.equal(shuffled, probe_inputs(tokens, 50.0, config, 5))
    for other in (probe_inputs(tokens, 50.0, config, 6), probe_inputs(tokens, 50.0, ProbeConfig(), 5)):
        assert not torch.equal(shuffled, other)


@pytest.mark.parametrize(
    ("path", "labels"),
    [([], []), ([0, 0], []), ([1, 1], [1]), ([1, 0, 1], [1, 1]), ([0, 2, 2, 0, 0, 1, 2], [2, 1, 2]), ([3], [3])],
)
def test_collapsing_a_path_by_hand(path, labels):
    assert collapse_path(torch.tensor(path, dtype=torch.long)) == labels


@given(st.lists(st.integers(1, 3), max_size=6))
def test_steps_needed_are_those_of_the_shortest_path(labels):
    shortest = next(
        length
        for length in itertools.count(0)
        if any(collapse_path(torch.tensor(path, dtype=torch.long)) == labels for path in _paths(labels, length))
    )
    assert min_frames(labels) == shortest


def _paths(labels, length):
    """All paths of this length that put the labels in order, with blanks between in all ways."""
    for places in itertools.combinations(range(length), len(labels)):
        path = [0] * length
        for place, label in zip(places, labels, strict=True):
            path[place] = label
        yield path


@pytest.mark.parametrize("settings", [{"input": "frames"}, {"input": "runs", "num_layers": 2}])
def test_padding_changes_nothing(settings):
    torch.manual_seed(0)
    config = ProbeConfig(embedding_dim=16, hidden_dim=16, **settings)
    model = UnitRecogniser(30, 2, 9, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # else a random network says one character only
    codes = [torch.randint(0, 30, (2, length)) for length in (1, 7, 40, 41, 2)]
    alone = [recognise(model, [one])[0] for one in codes]
    assert recognise(model, codes) == alone == recognise(model, codes, batch_utterances=2)
    assert max(map(len, alone)) >= 5
    padded = torch.zeros(2, 2, 41, dtype=torch.long)
    padded[0, :, :7], padded[1] = codes[1], codes[3]
    padded[0, :, 7:] = 29  # whatever stands in the padding
    with torch.inference_mode():
        together = model(padded, torch.tensor([7, 41]))[0, : config.num_steps(7)]
        single = model(codes[1][None], torch.tensor([7]))[0]
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)  # float32 sums in another order


def test_every_epoch_has_every_utterance_once_and_the_first_goes_from_short_to_long():
    lengths = torch.randint(1, 99, (53,), generator=torch.Generator().manual_seed(0)).tolist()
    config = ProbeConfig(batch_utterances=8)
    generator = torch.Generator().manual_seed(0)
    first, second, third = (list(epoch_batches(lengths, config, epoch, generator)) for epoch in range(3))
    for batches in (first, second, third):
        assert sorted(itertools.chain(*batches)) == list(range(53)) and len(batches) == 7
    order = [lengths[index] for index in itertools.chain(*first)]
    assert order == sorted(order)
    assert second != third and [len(b) for b in second].count(8) == 6
