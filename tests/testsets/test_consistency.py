"""Consistency pairs: what changes, what does not, and where the seam is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from vocable.audio.io import read_audio
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import AudioFormatError, ConfigError, UnknownNameError
from vocable.evaluation.pairs import read_pair_set
from vocable.testsets import acoustics
from vocable.testsets.consistency import (
    LEVELS,
    ConsistencyConfig,
    TwinPlan,
    build_consistency,
    one_recording,
    plan_twins,
    two_speakers,
)
from vocable.types import Utterance

RATE = 16_000
CONFIG = ConsistencyConfig(pairs_per_task=4, half_seconds=1.2, min_half_seconds=0.8)


@pytest.fixture
def recordings(tmp_path, make_speechlike) -> list[Utterance]:
    found = []
    for index in range(8):
        path = tmp_path / f"clip{index}.wav"
        waveform = make_speechlike(RATE * 2 + 1_600 * index, seed=index)
        write_audio(path, waveform, RATE)
        sex = {"gender": "fm"[index % 2]}
        found.append(
            Utterance(
                id=path.stem,
                audio=path,
                duration=len(waveform) / RATE,
                speaker=f"s{index % 4}",
                extra=sex,
                language="en",
            )
        )
    return found


def seams_of(plan: TwinPlan, config: ConsistencyConfig = CONFIG) -> int:
    whole = read_audio(plan.sources[0].audio).waveform.numpy()
    return min(acoustics.quiet_seam(whole, RATE), round(config.half_seconds * RATE))


def test_a_whole_set(recordings, tmp_path):
    config = replace(CONFIG, tasks=("speaker", "gender", "room", "noise", "loudness"))
    build_consistency(recordings, tmp_path / "out", config, {"seed": 0})
    pair_set = read_pair_set(tmp_path / "out")
    assert pair_set.benchmark == "salmon"
    assert Counter(item.group["task"] for item in pair_set.items) == {
        "speaker_consistency": 4,
        "gender_consistency": 4,
        "rir_consistency": 4,
        "bg_all_consistency": 4,
        "loudness_consistency": 4,
    }
    for item in pair_set.items:
        positive, negative = (
            read_audio(pair_set.utterances[h[0].speech].audio).waveform for h in (item.positive, item.negative)
        )  # type: ignore[index]
        assert len(positive) == len(negative)  # length tells nothing
        difference = np.flatnonzero(np.abs((positive - negative).numpy()) > 2 / 32768)
        assert len(difference) and difference[0] > 0.5 * RATE  # the first halves are equal to the sample
        assert item.group["kind"] == "consistency"


def test_second_halves_are_right_once_and_wrong_once(recordings):
    for task in ("speaker", "room", "noise"):
        for plan in plan_twins(recordings, task, CONFIG):
            make = two_speakers if task == "speaker" else one_recording
            right_a, wrong_a, right_b, wrong_b = make(plan, CONFIG)
            tail = round(0.5 * RATE)
            np.testing.assert_array_equal(right_a[-tail:], wrong_b[-tail:])
            np.testing.assert_array_equal(right_b[-tail:], wrong_a[-tail:])
            assert not np.array_equal(right_a[-tail:], wrong_a[-tail:])


def test_speakers_share_a_gender_or_differ_in_it(recordings):
    def genders(task):
        plans = plan_twins(recordings, task, CONFIG)
        for plan in plans:
            a1, a2, b1, b2 = plan.sources
            assert a1.speaker == a2.speaker != b1.speaker == b2.speaker and a1.id != a2.id
        return {tuple(source.extra["gender"] for source in plan.sources) for plan in plans}

    assert genders("speaker") <= {("f",) * 4, ("m",) * 4}
    assert genders("gender") <= {("f", "f", "m", "m"), ("m", "m", "f", "f")}


def test_the_level_changes_at_the_seam_and_nowhere_else(recordings):
    (plan, *_) = plan_twins(recordings, "loudness", CONFIG)
    right, wrong, _, _ = one_recording(plan, CONFIG)
    seam, fade = seams_of(plan), round(CONFIG.fade_seconds * RATE) // 2
    np.testing.assert_array_equal(right[: seam - fade], wrong[: seam - fade])
    first, second = (LEVELS[name] for name in plan.conditions)
    change = 10 ** ((second - first) / 20)
    np.testing.assert_allclose(wrong[seam + fade :], right[seam + fade :] * change, rtol=1e-4)
    ramp = (np.arange(2 * fade) + 0.5) / (2 * fade)
    inside = right[seam - fade : seam + fade] * (1 - ramp + ramp * change)
    np.testing.assert_allclose(wrong[seam - fade : seam + fade], inside, rtol=1e-3, atol=1e-6)


def test_even_what_is_right_has_a_seam(recordings):
    """Another stretch of the same noise: a listener who hears the cut hears it in both halves."""
    (plan, *_) = plan_twins(recordings, "noise", CONFIG)
    right, _, other, _ = one_recording(plan, replace(CONFIG, snr_db=-60))  # the noise alone, so to say
    seam = seams_of(plan)

    def tilt(waveform):
        power = np.abs(np.fft.rfft(waveform)) ** 2
        return np.log(power[: len(power) // 4].sum() / power[len(power) // 4 :].sum())

    assert tilt(right[:seam]) == pytest.approx(tilt(right[seam:]), abs=0.6)  # one colour on both sides
    assert tilt(right) != pytest.approx(tilt(other), abs=0.6)  # and another one in the twin


def test_the_same_seed_gives_the_same_samples(recordings):
    (plan, *_) = plan_twins(recordings, "room", CONFIG)
    for first, second in zip(one_recording(plan, CONFIG), one_recording(plan, CONFIG)):
        np.testing.assert_array_equal(first, second)
    (other, *_) = plan_twins(recordings, "room", replace(CONFIG, seed=1))
    assert not np.array_equal(one_recording(plan, CONFIG)[0], one_recording(other, replace(CONFIG, seed=1))[0])


def test_a_stopped_run_goes_on(recordings, tmp_path):
    out = tmp_path / "out"
    build_consistency(recordings, out, CONFIG, {})
    whole = (out / "pairs.jsonl").read_bytes()
    (out / "pairs.jsonl").unlink()
    files = sorted((out / "audio").iterdir())
    times = {path: path.stat().st_mtime_ns for path in files[4:]}
    files[0].unlink()
    build_consistency(recordings, out, CONFIG, {})
    assert (out / "pairs.jsonl").read_bytes() == whole and sorted((out / "audio").iterdir()) == files
    assert sum(path.stat().st_mtime_ns == times[path] for path in times) >= len(times) - 3


def test_a_recording_that_cannot_be_used_is_left_out_in_twos(recordings, tmp_path):
    recordings[0].audio.write_bytes(b"no audio")
    config = replace(CONFIG, tasks=("room",), pairs_per_task=16)
    pair_set = build_consistency(recordings, tmp_path / "out", config, {})
    assert len(pair_set.items) == 14 and pair_set.card["num_left_out"] == 2
    assert "clip0" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_what_recordings_lack_is_said(recordings, tmp_path):
    strangers = [replace(recording, speaker=f"s{n}") for n, recording in enumerate(recordings)]
    with pytest.raises(ConfigError, match=r"two speakers .* 0 speakers have two recordings"):
        plan_twins(strangers, "speaker", CONFIG)
    with pytest.raises(ConfigError, match="key 'sex'"):
        plan_twins(recordings, "gender", replace(CONFIG, gender_key="sex"))
    with pytest.raises(ConfigError, match=r"duration of 20\.0 s"):
        plan_twins(recordings, "room", replace(CONFIG, min_half_seconds=10.0, half_seconds=10.0))
    with pytest.raises(UnknownNameError, match="Did you mean 'speaker'"):
        ConsistencyConfig(tasks=("speeker",))
    with pytest.raises(ConfigError, match="two at least"):
        ConsistencyConfig(noise_files=("a.wav",))


def test_noise_of_ones_own(recordings, tmp_path):
    folder = tmp_path / "noise"
    for name, hertz in (("hum", 100), ("beep", 2_000)):
        tone = np.sin(2 * np.pi * hertz * np.arange(RATE // 2) / RATE)
        write_audio(folder / f"{name}.wav", torch.from_numpy(tone).float(), RATE)
    write_manifest(recordings, tmp_path / "manifest.jsonl")
    out = tmp_path / "out"
    assert main(["evaluate", "build", "consistency", str(tmp_path / "manifest.jsonl"), str(out), "--tasks", "noise",
                 "--pairs-per-task", "4", "--noise", str(folder), "--min-half-seconds", "0.8"]) == 0  # fmt: skip
    assert {item.group["change"] for item in read_pair_set(out).items} == {"hum to beep", "beep to hum"}


def test_crossfade_by_hand():
    joined = acoustics.crossfade(np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.0]), 2)
    np.testing.assert_allclose(joined, [1.0, 0.75, 0.25, 0.0])
    same = np.arange(10.0)
    np.testing.assert_allclose(acoustics.crossfade(same[:6], same[2:], 4), same)  # equal overlap: nothing changes


def test_convolution_against_numpy():
    generator = np.random.default_rng(0)
    waveform, response = generator.standard_normal(500), generator.standard_normal(80)
    expected = np.convolve(waveform, response)[:500]
    np.testing.assert_allclose(acoustics.convolve(waveform, response), expected, atol=1e-4)


def test_a_room_decays_by_sixty_decibels():
    response = acoustics.impulse_response(0.5, RATE, np.random.default_rng(0))
    energy = np.cumsum(np.square(response[::-1]))[::-1]  # Schroeder's backward integral
    level = 10 * np.log10(energy[400:] / energy[400])
    half_way = level[len(response) // 2 - 400]
    assert half_way == pytest.approx(-30 * (len(response) / 2 - 400) / (len(response) / 2), abs=2)
    assert np.sum(np.square(response[1:])) == pytest.approx(10**-0.3, rel=1e-3)


@pytest.mark.parametrize(("colour", "slope"), list(acoustics.COLOURS.items()))
def test_noise_has_the_slope_of_its_colour(colour, slope):
    noise = acoustics.coloured_noise(1 << 16, colour, RATE, np.random.default_rng(1))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [
        (hertz, power[(frequencies >= hertz) & (frequencies < 2 * hertz)].mean()) for hertz in (250, 500, 1000, 2000)
    ]
    fitted = np.polyfit(np.log([hertz for hertz, _ in octaves]), np.log([mean for _, mean in octaves]), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.1)
    assert np.mean(np.square(noise)) == pytest.approx(1.0, rel=1e-4)


def test_signal_to_noise_and_level():
    speech, noise = np.full(100, 0.5), np.tile([1.0, -1.0], 50)
    mixed = acoustics.add_noise(speech, noise, snr_db=20.0)
    assert np.std(mixed) == pytest.approx(0.05)
    assert np.sqrt(np.mean(np.square(acoustics.at_level(speech, -20.0)))) == pytest.approx(0.1)
    with pytest.raises(AudioFormatError, match="silent"):
        acoustics.at_level(np.zeros(10), -20.0)
    with pytest.raises(AudioFormatError, match="noise is silent"):
        acoustics.add_noise(speech, np.zeros(100), 0.0)


def test_the_seam_is_where_it_is_quiet():
    waveform = np.ones(3_000)
    waveform[1_600:1_900] = 0.01
    assert 1_600 <= acoustics.quiet_seam(waveform, 8_000) <= 1_900


def test_short_noise_goes_round_and_round():
    looped = acoustics.loop_to(np.arange(5), 12, np.random.default_rng(0))
    assert len(looped) == 12 and set(np.diff(looped)) <= {1, -4}


def test_one_factor_for_all_keeps_what_is_shared():
    loud, soft = acoustics.limit([np.array([2.0, 1.0]), np.array([0.5, 1.0])])
    np.testing.assert_allclose(loud, [0.97, 0.485])
    np.testing.assert_allclose(soft, [0.2425, 0.485])
