"""The added ONNX output, what is refused, and the real model where it is cached."""

import shutil

import numpy as np
import pytest

from vocable.errors import AssetError, ConfigError, UnknownNameError
from vocable.testsets.kokoro_tts import Kokoro, voice_accent, with_output


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
