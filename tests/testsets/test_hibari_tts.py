"""hibari speaks with word times; who speaks where nobody is named."""

import json
from importlib import metadata

import numpy as np
import pytest
import torch

from vocable.assets import is_available
from vocable.audio.manifest import read_manifest
from vocable.cli import main
from vocable.errors import ConfigError, UnknownNameError
from vocable.testsets import hibari_tts, speak
from vocable.testsets.hibari_tts import Hibari
from vocable.testsets.plan import SpokenText
from vocable.testsets.speak import SpeechConfig, SynthesizerConfig, say

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
TEXT = "The whale came closer, and listened."


def is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


needs_phonemes = pytest.mark.skipif(not is_installed("hibari-tts"), reason="needs the extra [voice]")


@pytest.fixture(scope="module")
def hibari() -> Hibari:
    return Hibari(phonemizer="hibari")


@needs_phonemes
@pytest.mark.asset("hibari")
def test_spoken_words_lie_where_the_waveform_is_loud(hibari: Hibari):
    speech = hibari.speak(TEXT, "heart")
    assert [word.word for word in speech.words] == ["The", "whale", "came", "closer", "and", "listened"]
    assert len(speech.waveform) % 600 == 0 and speech.sample_rate == 24_000
    spoken = [phone for phone in speech.phones if phone.phone != "sil"]
    assert spoken[0].start == pytest.approx(speech.words[0].start)
    assert spoken[-1].end == pytest.approx(speech.words[-1].end)
    assert all(before.end <= word.start < word.end for before, word in zip(speech.words, speech.words[1:]))
    power = np.square(speech.waveform)
    inside = np.mean([power[int(w.start * 24_000) : int(w.end * 24_000)].mean() for w in speech.words])
    outside = power[: int(speech.words[0].start * 24_000) - 2_400].mean()
    assert inside > 100 * outside
    with pytest.raises(UnknownNameError, match="Did you mean 'heart'"):
        hibari.speak("Hello.", "heartt")


@pytest.mark.asset("hibari")
def test_long_texts_are_spoken_in_parts_with_times_that_go_on(hibari: Hibari, monkeypatch: pytest.MonkeyPatch):
    symbols = "ðə wˈAl, kˈAm klˈOsəɹ."
    whole = hibari.speak_symbols(symbols)
    monkeypatch.setattr(hibari_tts, "MAX_SYMBOLS", 12)
    parts = hibari.speak_symbols(symbols)
    first, second = hibari.speak_symbols("ðə wˈAl,"), hibari.speak_symbols("kˈAm klˈOsəɹ.")
    assert np.array_equal(parts.waveform, np.concatenate([first.waveform, second.waveform]))
    assert [word.word for word in parts.words] == [word.word for word in whole.words]
    start = len(first.waveform) / 24_000
    assert [w.start - start for w in parts.words[2:]] == pytest.approx([w.start for w in second.words])
    assert [p.end - start for p in parts.phones[len(first.phones) :]] == pytest.approx([p.end for p in second.phones])


@pytest.mark.asset("hibari")
def test_rounding_to_bfloat16_is_hardly_heard(hibari: Hibari, monkeypatch: pytest.MonkeyPatch):
    spoken = {}
    for autocasts in (False, True):
        monkeypatch.setattr(hibari, "autocasts", autocasts)
        spoken[autocasts] = hibari.speak_symbols("ðə wˈAl kˈAm klˈOsəɹ.")
    assert spoken[True].words == spoken[False].words
    window = torch.hann_window(1024)
    exact, rounded = (
        torch.stft(torch.from_numpy(spoken[key].waveform), 1024, 256, window=window, return_complex=True).abs()
        for key in (False, True)
    )
    error = (exact - rounded).square().sum() / exact.square().sum()
    assert 10 * np.log10(float(error)) < -25  # seen: -37 dB


@pytest.mark.asset("hibari")
def test_it_speaks_faster_when_told_and_only_within_bounds(hibari: Hibari):
    fast = Hibari(speed=1.5, phonemizer="given")
    lengths = [len(speaker.speak_symbols("ðə wˈAl kˈAm klˈOsəɹ.").waveform) for speaker in (hibari, fast)]
    assert 1.2 < lengths[0] / lengths[1] < 1.7  # frames are whole, and at least one a symbol
    with pytest.raises(ConfigError, match="hibari speaks between"):
        Hibari(speed=3)


@pytest.mark.asset("hibari")
def test_words_are_spoken_from_their_phones(hibari: Hibari):
    config = SpeechConfig(synthesizer="hibari")
    speech = say(SpokenText(text="cat", phones=("K", "AE1", "T")), "heart", config)
    assert np.array_equal(speech.waveform, hibari.speak_symbols("kˈæt").waveform)
    with pytest.raises(ConfigError, match="not phones of ARPAbet"):
        say(SpokenText(text="Haus", phones=("h", "aʊ", "s")), "heart", config)


@pytest.mark.parametrize(
    ("fetched", "voices", "expected"),
    [
        ({"kokoro", "hibari"}, (), "kokoro"),
        ({"kokoro"}, (), "kokoro"),
        ({"hibari"}, (), "hibari"),
        ({"hibari"}, ("heart",), "hibari"),
        ({"hibari"}, ("af_heart", "am_michael"), "kokoro"),  # whose error says how to fetch it
        (set(), (), "kokoro"),
    ],
)
def test_who_speaks_where_nobody_is_named(monkeypatch: pytest.MonkeyPatch, fetched, voices, expected):
    monkeypatch.setattr(speak, "is_available", lambda name: name in fetched)
    monkeypatch.setattr(speak, "default_phonemizer", lambda: "espeak-ng")
    found = SynthesizerConfig().settle(voices)
    assert (found.synthesizer, found.phonemizer) == (expected, "espeak-ng")
    assert found.settle(("other",)) == found
    assert SynthesizerConfig(synthesizer="hibari", phonemizer="hibari").settle().phonemizer == "hibari"
    assert SynthesizerConfig(command="say {text} {wav}").settle().synthesizer is None


def test_a_command_and_a_synthesizer_are_not_both_named():
    with pytest.raises(ConfigError, match="or a command that speaks; not both"):
        SpeechConfig(command="say {text} {wav}", synthesizer="hibari")


@needs_phonemes
@pytest.mark.asset("hibari")
def test_stories_are_built_with_one_voice(tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("# One [train]\nThe sun rose at 7:30. The bird sang.\n# Two [test]\nIt rained.\n", encoding="utf-8")
    out = tmp_path / "stories"
    assert (
        main(["stories", "build", str(out), "--text", str(text), "--synthesizer", "hibari", "--num-threads", "1"]) == 0
    )
    utterances = read_manifest(out / "manifest.jsonl")
    assert [word.word for word in utterances[0].words] == ["The", "sun", "rose", "at", "7:30", "The", "bird", "sang"]
    assert {utterance.speaker for utterance in utterances} == {"heart"}
    assert "hibari 0.2.1, phonemes by hibari" in (out / "build.json").read_text(encoding="utf-8")
    assert "1 voices" in capsys.readouterr().out


@needs_phonemes
@pytest.mark.asset("hibari")
@pytest.mark.skipif(is_available("kokoro"), reason="kokoro is there")
def test_pairs_are_spoken_by_hibari_where_kokoro_is_missing(tmp_path):
    out = tmp_path / "pairs"
    assert main(["evaluate", "build", "sentences", str(out), "--num-pairs", "6"]) == 0
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert card["voices"] == ["heart"] and card["speech"]["synthesizer"] == "hibari"
    assert card["num_left_out"] == 0
