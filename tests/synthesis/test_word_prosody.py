"""Prosody by the word: what is asked for is done, to that word alone; what is measured is what was spoken."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vocable.errors import ConfigError
from vocable.synthesis.phonemes import WordPhonemes, read_given
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig
from vocable.synthesis.word_prosody import WordProsody, change_words, measure_word_prosody, plan_words
from vocable.types import Word

RATE = 16_000
WORDS = [WordPhonemes("ab", "ˈab", ""), WordPhonemes("ba", "bab", ","), WordPhonemes("bb", "bˈab", "")]
SENTENCES = [  # phonemes, and the word that is changed
    ("ðə ˈOld fˈɑɹməɹ kˈæɹid ɐ jˈɛlO bˈæskət tə ðə mˈɑɹkət.", 5),
    ("nˈObədi ɹəmˈɛmbəɹd ðə nˈʌmbəɹ ʌv ðə lˈɪTᵊl hˈWs.", 3),
    ("hɪz bɹˈʌðəɹ pˈAntᵻd ðə kˈɪʧən tˈAbᵊl jˈɛstəɹdˌA.", 4),
]


@pytest.fixture
def model() -> TextToSpeech:
    """A tiny model with durations of about 6 frames and voiced pitch."""
    decoder = SourceFilterConfig(content_dim=8, dim=16, hidden_dim=24, num_layers=2, kernel_size=3)
    config = TextToSpeechConfig(num_symbols=9, content_loops=1, prosody_dim=16, prosody_loops=1, decoder=decoder)
    symbols = {symbol: id for id, symbol in enumerate("abˈ .,", start=1)}
    model = TextToSpeech(config, symbols).eval()
    with torch.no_grad():
        model.prosody.duration_head.bias.fill_(1.9)
        model.prosody.head.bias[:2] = 1.8  # F0
    return model


def test_a_plan_with_nothing_asked_is_what_the_model_predicts(model):
    plan = plan_words(model, WORDS)
    assert plan.phonemes == "ˈab bab, bˈab"
    expected = model.predict_prosody(model.ids(plan.phonemes))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plan.prosody, expected, strict=True))
    assert torch.equal(plan.speak(model).waveform, model.speak(plan.phonemes).waveform)
    assert plan_words(model, WORDS, [None] * 3).times == plan.times


def test_lengths_and_pauses_are_those_that_were_asked_for(model):
    asked = [WordProsody(seconds=0.5, pause=0.2), WordProsody(stretch=2.0, pause=0.4), WordProsody(pause=0.3)]
    before, plan = plan_words(model, WORDS), plan_words(model, WORDS, asked)
    assert plan.phonemes == "ˈab, bab, bˈab"  # a mark where pauses are asked for
    found, plain = plan.word_prosody(), before.word_prosody()
    frame = 1 / 40
    assert found[0].seconds == pytest.approx(0.5, abs=frame)
    assert [word.pause for word in found] == pytest.approx([0.2, 0.4, 0.3], abs=frame)
    own = plan_words(model, WORDS, [replace(wish, stretch=None, seconds=None) for wish in asked]).word_prosody()[1]
    assert found[1].seconds == pytest.approx(2 * own.seconds, abs=frame)
    assert len(plan.speak(model).waveform) == 600 * int(plan.prosody.durations.sum())
    assert plain[0].pause == 0


def test_a_very_short_word_has_the_length_that_was_asked_for(model):
    plan = plan_words(model, [WordPhonemes("long", "ˈabababab", "."), *WORDS], [WordProsody(seconds=0.05), *[None] * 3])
    assert plan.word_prosody()[0].seconds == pytest.approx(0.05)


def test_pitch_and_energy_are_moved_where_the_word_is_heard(model):
    plain = plan_words(model, WORDS)
    now = plain.word_prosody()
    asked = [None, now[1].change(semitones=4.0, decibels=6.0), None]
    plan = plan_words(model, WORDS, [None, replace(asked[1], seconds=None, pause=None), None])
    start, end = (round(edge * 80) for edge in (plain.times[1].start, plain.times[1].end))
    ratio = 12 * np.log2((plan.prosody.f0 / plain.prosody.f0).numpy())
    louder = (plan.prosody.energy - plain.prosody.energy).numpy() / 2.9 * 20 / math.log(10)
    for change, size in ((ratio, 4), (louder, 6)):
        assert change[start + 2 : end - 2] == pytest.approx(size, abs=1e-3)
        assert change[: start - 2] == pytest.approx(0) and change[end + 2 :] == pytest.approx(0)
    assert torch.equal(plan.prosody.durations, plain.prosody.durations)
    found = plan.word_prosody()
    assert found[1].level - now[1].level == pytest.approx(4, abs=0.5)  # the steps at both ends are smoothed
    assert found[0].level == pytest.approx(now[0].level, abs=0.5)


def test_a_slope_turns_the_pitch_around_the_word_and_keeps_its_level(model):
    words = [WordPhonemes("ababa", "ˈababababa", ".")]
    now = plan_words(model, words).word_prosody()[0]
    found = plan_words(model, words, [WordProsody(slope=now.slope + 3)]).word_prosody()[0]
    assert found.slope - now.slope == pytest.approx(3, abs=0.2)
    assert found.level == pytest.approx(now.level, abs=0.1)


def test_reading_a_plan_and_asking_for_it_changes_nothing(model):
    plan = plan_words(model, WORDS)
    again = plan_words(model, WORDS, plan.word_prosody())
    assert torch.equal(again.prosody.durations, plan.prosody.durations)
    torch.testing.assert_close(again.prosody.f0, plan.prosody.f0, atol=0.05, rtol=0)
    torch.testing.assert_close(again.prosody.energy, plan.prosody.energy, atol=1e-3, rtol=0)


def chirp(words: list[tuple[float, float, float, float, float]], seconds: float) -> torch.Tensor:
    """Buzzes from (start, end, first Hz, last Hz, amplitude)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    sound = 1e-4 * torch.randn(len(time))
    for start, end, first, last, amplitude in words:
        inside = (time >= start) & (time < end)
        pitch = first * (last / first) ** ((time - start) / (end - start)).clamp(0, 1)
        phase = 2 * math.pi * torch.cumsum(torch.where(inside, pitch, 0.0), 0) / RATE
        sound += amplitude * inside * sum(torch.sin(k * phase) / k for k in range(1, 6))
    return sound


def test_a_recording_is_measured():
    octave = [(0.2, 0.6, 120, 120, 0.1), (0.6, 1.0, 200, 200 * 2 ** (6 / 12), 0.2), (1.3, 1.8, 150, 75, 0.05)]
    words = [Word(word="w", start=start, end=end) for start, end, *_ in octave]
    found = measure_word_prosody(chirp(octave, 2.0), RATE, words, median_hz=120.0)
    assert [word.seconds for word in found] == pytest.approx([0.4, 0.4, 0.5])
    assert [word.pause for word in found] == pytest.approx([0, 0.3, 0.2], abs=1e-6)
    levels = [0, 12 * math.log2(200 / 120) + 3, 12 * math.log2(150 / 120) - 6]
    assert [word.level for word in found] == pytest.approx(levels, abs=0.4)
    assert [word.slope for word in found] == pytest.approx([0, 6, -12], abs=0.8)
    assert found[1].energy - found[0].energy == pytest.approx(6.02, abs=0.5)
    assert found[1].energy - found[2].energy == pytest.approx(12.04, abs=1)
    own = measure_word_prosody(chirp(octave[:1], 1.0), RATE, words[:1])[0]
    assert own.level == pytest.approx(0, abs=0.1) and own.energy == pytest.approx(0, abs=1e-6)


def test_a_whisper_and_silence_have_no_pitch():
    words = [Word(word="a", start=0.1, end=0.5), Word(word="b", start=0.5, end=0.9)]
    for sound in (torch.zeros(RATE), 0.1 * torch.randn(RATE)):
        found = measure_word_prosody(sound, RATE, words)
        assert found[0].energy == pytest.approx(0, abs=1.5)
        assert sum(word.level is None for word in found) >= 1 or sound.any()
    assert found[0].change(semitones=3.0, decibels=2.0).energy == found[0].energy + 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"energy": math.nan}, "energy is nan; it must be a finite number"),
        ({"level": math.inf}, "level is inf"),
        ({"seconds": 0.0}, r"seconds is 0\.0; it must be above 0"),
        ({"stretch": -1.0}, r"stretch is -1\.0"),
        ({"seconds": 0.2, "stretch": 2.0}, "seconds or a stretch, not both"),
        ({"pause": -0.1}, "cannot be negative"),
    ],
)
def test_impossible_prosody_is_refused(given: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        WordProsody(**given)


def test_words_that_do_not_fit_are_refused(model):
    with pytest.raises(ConfigError, match="2 word prosodies for 3 words"):
        plan_words(model, WORDS, [None, None])
    with pytest.raises(ConfigError, match="holds no phoneme"):
        plan_words(model, [])
    sound = torch.zeros(RATE)
    bad = [
        ([], "at least one"),
        ([(0.5, 0.2)], "in order"),
        ([(0.1, 0.3), (0.2, 0.4)], "in order"),
        ([(0.1, 1.5)], "1.50 s"),
    ]
    for times, message in bad:
        words = [Word(word="w", start=start, end=end) for start, end in times]
        with pytest.raises(ConfigError, match=message):
            measure_word_prosody(sound, RATE, words)
    with pytest.raises(ConfigError, match="multiple of 80"):
        measure_word_prosody(sound, 22_050, [Word(word="w", start=0.1, end=0.2)])


@pytest.fixture(scope="module")
def hibari() -> TextToSpeech:
    return TextToSpeech.from_pretrained("hibari")


@pytest.mark.asset("hibari")
def test_the_voice_does_what_is_asked_of_a_word(hibari: TextToSpeech):
    """The sound is measured, not the plan: of three sentences, a word in the middle."""
    rows = []
    with torch.inference_mode():
        for phonemes, place in SENTENCES:
            words = read_given(phonemes)
            plain = plan_words(hibari, words)
            now = plain.word_prosody()[place]
            keep = replace(now, seconds=None, pause=None)
            spoken = plain.speak(hibari).waveform
            before = measure_word_prosody(spoken, 24_000, plain.times, median_hz=192.0)
            row = {}
            for name, wish in {
                "semitones": keep.change(semitones=4.0),
                "decibels": keep.change(decibels=6.0),
                "stretch": WordProsody(stretch=1.5),
                "pause": WordProsody(pause=0.4),
            }.items():
                plan = plan_words(hibari, words, [wish if index == place else None for index in range(len(words))])
                sound = plan.speak(hibari).waveform
                after = measure_word_prosody(sound, 24_000, plan.times, median_hz=192.0)
                others = [i for i in range(len(words)) if abs(i - place) > 1 and before[i].level and after[i].level]
                level = np.median([after[i].energy - before[i].energy for i in others])
                row[name] = {
                    "semitones": after[place].level - before[place].level,
                    "decibels": after[place].energy - before[place].energy - level,
                    "stretch": after[place].seconds / before[place].seconds,
                    "elsewhere_semitones": np.median([abs(after[i].level - before[i].level) for i in others]),
                    "elsewhere_seconds": max(abs(after[i].seconds - before[i].seconds) for i in others),
                }
                if name == "pause":
                    gap = plan.times[place + 1].start - plan.times[place].end
                    inside = sound[int((plan.times[place].end + 0.1) * 24_000) :][: int((gap - 0.2) * 24_000)]
                    row[name]["gap"] = gap
                    row[name]["level"] = float(10 * (inside.square().mean() / sound.square().mean()).log10())
            rows.append(row)

    def mean(change: str, measure: str) -> float:
        return float(np.mean([row[change][measure] for row in rows]))

    assert mean("semitones", "semitones") == pytest.approx(4, abs=0.5)
    assert mean("decibels", "decibels") == pytest.approx(5, abs=1.2)  # 5.0 away from the words' ends
    assert mean("stretch", "stretch") == pytest.approx(1.5, abs=0.1)
    assert mean("pause", "gap") == pytest.approx(0.4, abs=0.03) and mean("pause", "level") < -20
    for change in ("semitones", "decibels", "stretch"):
        assert mean(change, "elsewhere_semitones") < 0.3
        assert mean(change, "elsewhere_seconds") < 1e-9


def test_silence_at_the_end_of_a_sound_belongs_to_the_pause(model, monkeypatch):
    """Half of the frames of the sound before a comma are made silent: the word ends so much earlier."""
    words = WORDS[1:]
    plain = plan_words(model, words)
    predict = TextToSpeech.predict_prosody
    frames = plain.prosody.durations.tolist()
    first = 2 * (sum(frames[:3]) - 2)  # of the sound before the comma, which is heard two frames early
    silence = 2 * (frames[3] // 2)

    def quiet(*args, **kwargs):
        prosody = predict(*args, **kwargs)
        energy = prosody.energy.clone()
        energy[first + 2 * frames[3] - silence : first + 2 * frames[3]] = -9.0
        return prosody._replace(energy=energy)

    monkeypatch.setattr(TextToSpeech, "predict_prosody", quiet)
    plan = plan_words(model, words)
    assert plain.times[0].end - plan.times[0].end == pytest.approx(silence / 80)
    assert (plan.times[0].start, plan.times[1]) == (plain.times[0].start, plain.times[1])
    assert plan.phones[2].end == pytest.approx(plan.times[0].end) and plan.phones[3].start == plan.phones[2].end
    found = plan_words(model, words, [WordProsody(seconds=0.5, pause=0.4), None]).word_prosody()[0]
    assert (found.seconds, found.pause) == (pytest.approx(0.5), pytest.approx(0.4))
    found = plan_words(model, words, [WordProsody(pause=0.025), None]).word_prosody()[0]
    assert found.pause == pytest.approx(0.025)


def test_changes_are_asked_of_the_words_that_they_name(model):
    plan = plan_words(model, [*WORDS, WORDS[0]])
    now = plan.word_prosody()
    changes = [{"word": "BA", "semitones": 2, "pause": 0.3}, {"word": "ab", "nth": 2, "stretch": 2, "decibels": -3}]
    assert change_words(plan, changes) == [
        None,
        WordProsody(level=now[1].level + 2, pause=0.3),
        None,
        WordProsody(stretch=2.0, energy=now[3].energy - 3),
    ]
    bad = [
        ({"word": "cc", "stretch": 2}, "no word 'cc' to change. Words: ab, ba, bb, ab"),
        ({"word": "ab", "stretch": 2}, "is there 2 times; say which one"),
        ({"word": "ab", "nth": 3}, "nth is 3; the word 'ab' is there 2 times: 1 to 2"),
        ({"word": "ba", "pitch": 2}, "something else than word, nth, stretch"),
        ({"stretch": 2}, "does not name its word"),
        ("ba", "does not name its word"),
        ({"word": "ba", "stretch": "two"}, "a value that is no number"),
        ({"word": "ba", "stretch": 0}, "must be above 0"),
    ]
    for change, message in bad:
        with pytest.raises(ConfigError, match=message):
            change_words(plan, [change])
