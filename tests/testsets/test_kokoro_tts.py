"""Word times from durations, the added ONNX output, and the real model where it is cached."""

import shutil

import numpy as np
import pytest

from vocable.errors import AssetError, ConfigError, UnknownNameError
from vocable.testsets.english_phonemes import WordPhonemes
from vocable.testsets.kokoro_tts import Kokoro, phone_times, phoneme_string, voice_accent, with_output, word_times


def test_words_and_pauses_become_one_string_with_spans():
    text, spans = phoneme_string([WordPhonemes("oh", "ˈO", ","), WordPhonemes("no", "nˈO", "")])
    assert text == "ˈO, nˈO"
    assert [text[first:last] for first, last in spans] == ["ˈO", "nˈO"]


def test_word_times_add_up_durations_and_share_the_space():
    spans = [(0, 2), (3, 5), (7, 8)]  # "ab cd, e"
    durations = np.array([1, 2, 2, 1, 1, 4, 3, 5])
    words = word_times(["ab", "cd", "e"], spans, durations, first_frame=10)
    frame = 0.025
    # the space (2 frames) is shared; the comma and the space after it (7 frames) are silence
    expected = [(10, 14), (14, 17), (24, 29)]
    assert [(round(w.start / frame), round(w.end / frame)) for w in words] == expected


def test_phone_times_give_marks_and_spaces_to_their_neighbours():
    #                     a  b  space ˈ  c  ː  ,  space d  .
    durations = np.array([1, 2, 2, 1, 3, 1, 4, 2, 5, 6])
    phones = phone_times("ab ˈcː, d.", durations, first_frame=10)
    expected = [("a", 10, 11), ("b", 11, 14), ("c", 14, 20), ("sil", 20, 26), ("d", 26, 31), ("sil", 31, 37)]
    assert [(p.phone, round(p.start / 0.025), round(p.end / 0.025)) for p in phones] == expected


def test_british_voices_speak_british():
    assert voice_accent("bm_george") == "en-gb"
    assert voice_accent("af_heart") == "en-us"


def test_added_output_is_an_output_of_the_graph():
    # field 7 (graph) of the model, holding field 12 (output), holding field 1 (name)
    assert with_output(b"model", "/a/b") == b"model" + b"\x3a\x08" + b"\x62\x06" + b"\x0a\x04/a/b"


def test_missing_model_file_is_named(tmp_path):
    with pytest.raises(AssetError, match=r"model\.onnx is missing"):
        Kokoro(tmp_path)


def test_speed_out_of_range_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"between 0\.5"):
        Kokoro(tmp_path, speed=3.0)


@pytest.mark.asset("kokoro")
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_spoken_words_lie_where_the_waveform_is_loud():
    kokoro = Kokoro()
    speech = kokoro.speak("The whale came closer, and listened.", "am_michael")
    assert [word.word for word in speech.words] == ["The", "whale", "came", "closer", "and", "listened"]
    assert len(speech.waveform) % 600 == 0
    spoken = [phone for phone in speech.phones if phone.phone != "sil"]
    assert spoken[0].start == pytest.approx(speech.words[0].start)
    assert spoken[-1].end == pytest.approx(speech.words[-1].end)
    assert all(a.end == pytest.approx(b.start) for a, b in zip(speech.phones, speech.phones[1:]))
    ends = [0.0] + [word.end for word in speech.words]
    assert all(before <= word.start < word.end for before, word in zip(ends, speech.words))
    power = np.square(speech.waveform)
    inside = np.mean([power[int(w.start * 24_000) : int(w.end * 24_000)].mean() for w in speech.words])
    outside = power[: int(speech.words[0].start * 24_000) - 2_400].mean()
    assert inside > 100 * outside
    with pytest.raises(UnknownNameError, match="Did you mean 'am_michael'"):
        kokoro.speak("Hello.", "am_micheal")
