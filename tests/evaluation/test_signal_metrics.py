"""Signal metrics against hand-made signals, slow sums, and a second implementation."""

import math

import numpy as np
import pytest
import torch

from vocable.errors import AudioFormatError, ConfigError, MissingDependencyError
from vocable.evaluation.metrics import signal
from vocable.types import Word

RATE = signal.SAMPLE_RATE


def tone(frequency, seconds: float = 1.0) -> torch.Tensor:
    """A buzz with a steady or moving pitch."""
    time = torch.arange(int(seconds * RATE)) / RATE
    f0 = frequency(time) if callable(frequency) else torch.full_like(time, frequency)
    phase = 2 * math.pi * f0.double().cumsum(0) / RATE
    return (0.1 * sum((k * phase).sin() / k for k in range(1, 8))).float()  # type: ignore[union-attr]


@pytest.mark.parametrize("shift", [0, 1, 37, 800, -5, -400])
def test_alignment_finds_the_delay(make_speechlike, shift):
    speech = make_speechlike(3 * RATE)
    original, copy = speech[2000:40_000], speech[2000 - shift : 40_000]
    found = signal.align(original, 0.5 * copy)
    assert found.shift_samples == shift
    torch.testing.assert_close(found.original, 2 * found.copy)
    assert len(found.original) >= 37_000


def test_alignment_of_another_phase_goes_by_the_envelope(make_speechlike):
    speech = make_speechlike(2 * RATE, seed=1) * torch.sin(torch.arange(2 * RATE) / 9000).square()
    spectrum = torch.fft.rfft(speech)
    turned = torch.fft.irfft(spectrum * 1j, n=len(speech))  # every phase by a quarter: the same sound
    late = torch.cat([torch.zeros(480), turned])[: len(speech)]
    found = signal.align(speech, late)
    assert abs(found.shift_samples - 480) <= 40  # 2.5 ms


def test_delays_beyond_the_limit_are_not_looked_for(make_speechlike):
    speech = make_speechlike(2 * RATE)
    found = signal.align(speech, torch.cat([torch.zeros(8000), speech]), max_shift_seconds=0.01)
    assert abs(found.shift_samples) <= 160 + signal.FINE_SHIFT_SAMPLES


def test_mel_distance_equals_the_loss_of_vocoders(make_speechlike):
    from vocable.training.vocoder_losses import MultiScaleMelLoss

    one, other = make_speechlike(RATE), make_speechlike(RATE, seed=2)
    expected = MultiScaleMelLoss(RATE)(one[None], other[None]).item()
    assert signal.mel_distance(one, other) == pytest.approx(expected, rel=1e-5)
    assert signal.mel_distance(one, one) == 0


def test_mel_distance_of_another_level_is_its_logarithm():
    loud = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert signal.mel_distance(loud, loud * 2) == pytest.approx(math.log(2), abs=1e-3)


def test_pitch_that_follows_and_pitch_that_turns_round():
    rising, falling = tone(lambda t: 120 + 60 * t), tone(lambda t: 180 - 60 * t)
    higher = tone(lambda t: 1.3 * (120 + 60 * t))
    assert signal.frame_agreement(rising, higher).f0_correlation == pytest.approx(1, abs=0.01)
    assert signal.frame_agreement(rising, falling).f0_correlation == pytest.approx(-1, abs=0.02)
    assert signal.frame_agreement(rising, higher).voicing_agreement > 0.95


def test_voicing_and_energy():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    half = torch.cat([tone(150.0, 0.5), noise[: RATE // 2]])
    agreement = signal.frame_agreement(half, tone(150.0))
    assert agreement.voicing_agreement == pytest.approx(0.5, abs=0.08)
    assert signal.frame_agreement(noise, noise).f0_correlation is None  # nothing voiced
    swell = torch.linspace(0.1, 1, RATE)
    assert signal.frame_agreement(tone(150.0) * swell, tone(200.0) * swell).energy_correlation > 0.95  # type: ignore
    assert signal.frame_agreement(tone(150.0) * swell, tone(200.0) * swell.flip(0)).energy_correlation < -0.6  # type: ignore


def test_pearson_against_numpy():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 40))
    assert signal.pearson(x, x + y) == pytest.approx(np.corrcoef(x, x + y)[0, 1])
    assert signal.pearson(x[:9], y[:9]) is None
    assert signal.pearson(np.ones(40), y) is None
    with pytest.raises(ConfigError, match="40 values cannot be correlated with 39"):
        signal.pearson(x, y[:39])


def test_stoi_orders_noise_and_refuses_what_is_too_short(make_speechlike):
    pytest.importorskip("pystoi")
    speech = make_speechlike(2 * RATE)
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(1))
    scores = [signal.stoi(speech, speech + level * noise) for level in (0.0, 0.05, 0.5)]
    assert scores[0] == pytest.approx(1, abs=1e-4) and scores[0] > scores[1] > scores[2]
    with pytest.raises(AudioFormatError, match="too short for STOI"):
        signal.stoi(speech[:4000], speech[:4000])


def test_pesq_orders_noise_and_refuses_what_is_too_short(make_speechlike):
    pytest.importorskip("pesq")
    speech = make_speechlike(2 * RATE)
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(1))
    assert signal.pesq(speech, speech) == pytest.approx(4.64, abs=0.01)  # the top of P.862.2
    assert signal.pesq(speech, speech + 0.05 * noise) < 3
    with pytest.raises(AudioFormatError, match="PESQ refuses"):
        signal.pesq(speech[:1000], speech[:1000])


@pytest.mark.parametrize(("package", "extra"), [("pystoi", "eval"), ("pesq", "pesq")])
def test_missing_packages_name_the_install_line(monkeypatch, package, extra):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install 'vocable\[{extra}\]'"):
        {"pystoi": signal.stoi, "pesq": signal.pesq}[package](torch.zeros(RATE), torch.zeros(RATE))


def test_silence_and_nothing_are_refused():
    good = tone(100.0)
    signal.check_pair(good, good)
    for bad, reason in ((good * 1e-4, "is silent"), (good[:0], "is empty"), (good * math.nan, "not finite")):
        with pytest.raises(AudioFormatError, match=f"copy {reason}|copy is empty or {reason}"):
            signal.check_pair(good, bad)
    with pytest.raises(AudioFormatError, match="less than 10 frames"):
        signal.frame_agreement(good[:1500], good[:1500])


def words(*rows: tuple[str, float]) -> list[Word]:
    """Words one after the other, with their durations."""
    found, time = [], 0.0
    for word, duration in rows:
        found.append(Word(word=word, start=time, end=time + duration))
        time += duration
    return found


def test_durations_by_hand():
    original = words(("The", 0.1), ("cat,", 0.3), ("sat.", 0.4), ("…", 0.1), ("down", 0.2))
    copy = words(("the", 0.15), ("cat", 0.36), ("mat", 0.4), ("sat", 0.38), ("dawn", 0.2))
    found = signal.compare_durations(original, copy)
    # the +50 ms (just right), cat +60 ms, sat -20 ms; down was not said again; "…" is no word
    assert (found.num_consistent, found.num_matched, found.num_words) == (2, 3, 4)
    assert found.mean_difference == pytest.approx((0.05 + 0.06 + 0.02) / 3)
    assert signal.compare_durations(original, copy, 0.025).num_consistent == 1
    assert signal.compare_durations(original, []) == (0, 0, 4, None)
