"""Words of copies against those of originals: measured values, counts, correlations, edits and their place."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vocable.audio.writing import write_audio
from vocable.errors import ConfigError, ManifestError
from vocable.evaluation.delivery import Delivery, DeliveryConfig, co_moments, word_values
from vocable.evaluation.runner import run_benchmark
from vocable.evaluation.signal import Pair
from vocable.types import Utterance, Word

CONFIG = DeliveryConfig(manifest=Path("m.jsonl"), copies=Path("c.jsonl"))


def speak(words, pause=0.1):
    """Buzzes of (seconds, Hz, amplitude), with pauses between them, and the times of each."""
    sound, times, place = [torch.zeros(1600)], [], 0.1
    for index, (seconds, hertz, amplitude) in enumerate(words):
        moments = torch.arange(round(seconds * 16_000)) / 16_000
        buzz = sum((2 * torch.pi * k * hertz * moments).sin() / k for k in range(1, 6))
        sound += [amplitude * buzz / 2, torch.zeros(round(pause * 16_000))]
        times.append(Word(word=f"w{index}", start=place, end=place + seconds))
        place += seconds + pause
    return torch.cat(sound), tuple(times)


@pytest.fixture
def write(tmp_path):
    def make(name, words, **keys):
        waveform, times = speak(words)
        path = tmp_path / f"{name}.wav"
        write_audio(path, waveform, 16_000)
        return Utterance(id=path.stem, audio=path, words=times, **keys)

    return make


def evaluate(pairs, config=CONFIG, excluded=None):
    return run_benchmark(Delivery(config, {"pairs": (pairs, excluded or Counter())}))


def test_values_of_words_are_those_that_were_played():
    played = [(0.3, 120.0, 0.1), (0.5, 240.0, 0.2), (0.2, 180.0, 0.1)]
    waveform, times = speak(played)
    found = word_values(waveform, [*times, Word(word="pause", start=0.41, end=0.49)])
    np.testing.assert_allclose(found[:3, 0], [0.3, 0.5, 0.2], atol=1e-9)
    np.testing.assert_allclose(found[:3, 1] - found[0, 1], [0, 12, 12 * np.log2(1.5)], atol=0.2)
    np.testing.assert_allclose(found[:3, 2] - found[0, 2], [0, 6.02, 0], atol=0.3)
    assert np.isnan(found[3, 1]) and found[3, 2] < found[0, 2] - 30


def test_a_copy_at_another_speed_is_compared_word_by_word(write):
    """By hand: 10 words, of which the copy makes every other one 30 ms longer and one 60 ms longer."""
    generator = np.random.default_rng(0)
    pairs = []
    for index in range(3):
        words = [(0.2 + 0.02 * k, float(generator.uniform(100, 250)), 0.05 + 0.01 * k) for k in range(10)]
        longer = np.array([0.03 * (k % 2) + 0.06 * (k == 2) for k in range(10)])
        copy = [(s + float(more), 1.1 * h, a / 2) for (s, h, a), more in zip(words, longer, strict=True)]
        speaker = f"s{index}"
        pairs.append(Pair(write(f"o{index}", words, speaker=speaker), write(f"c{index}", copy)))
    scores = evaluate(pairs).scores
    assert scores["duration_consistency_25ms"].value == pytest.approx(0.4)
    assert scores["duration_consistency_40ms"].value == scores["duration_consistency_50ms"].value == pytest.approx(0.9)
    assert scores["pitch_correlation"].value == pytest.approx(1, abs=0.02)  # a tenth higher throughout
    assert scores["energy_correlation"].value == pytest.approx(1, abs=0.02)
    lengths = np.array([0.2 + 0.02 * k for k in range(10)])
    assert scores["duration_correlation"].value == pytest.approx(np.corrcoef(lengths, lengths + longer)[0, 1])
    assert scores["duration_correlation"].num_speakers == 3 and scores["words_in_common"].value == 1
    assert "pitch_spill" not in scores


def test_correlation_is_over_words_of_all_utterances_about_their_own_means():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 3, 8))
    y[0, 2] = np.nan
    sums = [co_moments("a", *pair) for pair in zip(x, y)]
    known = np.isfinite(y)
    centred = [np.concatenate([row[k] - row[k].mean() for row, k in zip(side, known)]) for side in (x, y)]
    product, square, other = (sum(one[f"a_{part}"] for one in sums) for part in ("product", "square", "copy_square"))
    assert product / (square * other) ** 0.5 == pytest.approx(np.corrcoef(*centred)[0, 1])


def test_edits_that_stay_in_place_and_one_that_does_not(write):
    words = [(0.3, 120.0 + 5 * k, 0.1) for k in range(6)]
    original = write("o", words)
    local = write(
        "local", [(s + 0.1 * (k in (2, 3)), h * (2 if k == 2 else 1), a) for k, (s, h, a) in enumerate(words)]
    )
    wide = write("wide", [(s + 0.1, h, a) for s, h, a in words])
    edited = [replace(one, extra={"changed": [2, 3]}) for one in (local, wide)]
    scores = evaluate([Pair(original, edited[0])]).scores
    assert scores["duration_change_changed"].value == pytest.approx(0.1)
    assert scores["duration_change_kept"].value == pytest.approx(0, abs=1e-9)
    assert scores["duration_spill"].value == pytest.approx(0, abs=1e-6)
    assert scores["pitch_change_changed"].value == pytest.approx(6, abs=0.2)  # one of two by an octave
    assert scores["pitch_spill"].value < 0.05
    assert evaluate([Pair(original, edited[1])]).scores["duration_spill"].value == pytest.approx(1)
    same = evaluate([Pair(original, replace(original, extra={"changed": [1]}))]).scores
    assert same["duration_change_changed"].value == 0 and same["duration_spill"].value is None  # nothing changed


def test_what_cannot_be_compared_is_counted(write, tmp_path):
    good = write("good", [(0.3, 120.0, 0.1)] * 3)
    silent = write("silent", [(0.3, 120.0, 0.0)] * 3)
    other = replace(good, words=tuple(replace(word, word=f"x{word.word}") for word in good.words))
    pairs = [
        Pair(good, good), Pair(replace(good, words=None), good), Pair(good, replace(good, words=None)),
        Pair(good, silent), Pair(good, other), Pair(good, replace(good, audio=tmp_path / "none.wav")),
    ]  # fmt: skip
    result = evaluate(pairs)
    assert len(result.items) == 1
    assert result.excluded == {
        "no word times in the original": 1, "no word times in the copy": 1, "copy is silent": 1,
        "no word in common": 1, "unreadable audio": 1,
    }  # fmt: skip
    with pytest.raises(ManifestError, match="None of 1 pairs could be compared"):
        evaluate(pairs[1:2])
    with pytest.raises(ConfigError, match="tolerances"):
        replace(CONFIG, tolerances=())
