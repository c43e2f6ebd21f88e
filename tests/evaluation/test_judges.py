"""Judges of quality, voice and words: shapes and bad input without weights; pinned outputs with them."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from vocable.assets.weights import read_weights, weights_key, weights_record
from vocable.audio.pieces import cut_at_quiet
from vocable.errors import AssetError, AudioFormatError, ConfigError
from vocable.evaluation.judges import check_judge, judge_relation
from vocable.evaluation.metrics import mos
from vocable.features import speaker
from vocable.recognition.transcribe import WhisperTranscriber, load_whisper


def synthetic_speech(num_samples: int, seed: int, pitch: float = 120.0) -> Tensor:
    """Harmonics that wobble in pitch and loudness, and noise; from numpy, whose draws stay the same."""
    time = np.arange(num_samples) / 16_000
    phase = 2 * np.pi * (pitch * time + 3 * np.sin(2 * np.pi * 0.7 * time))
    voiced = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.5 + 0.5 * np.sin(2 * np.pi * 3.5 * time))
    noise = np.random.default_rng(seed).standard_normal(num_samples)
    return torch.from_numpy((0.08 * voiced + 0.02 * noise).astype(np.float32))


@pytest.fixture(scope="module")
def random_mos() -> mos.DistillMOS:
    torch.manual_seed(0)
    return mos.DistillMOS().eval()


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    [(100, [0]), (122_880, [0]), (122_881, [0, 1]), (122_880 + 32_000, [0, 16_000, 32_000])],
)
def test_windows_cover_the_recording(num_samples: int, starts: list[int]):
    waveform = torch.arange(1.0, num_samples + 1)
    windows = mos._cut_windows(waveform)
    assert [int(window[0]) - 1 for window in windows] == starts
    assert all(len(window) == mos.WINDOW_SAMPLES for window in windows)
    assert float(windows[-1].max()) == num_samples  # the end is heard


@pytest.mark.parametrize("batch_windows", [1, 2, 8])
def test_a_recording_gets_the_mean_of_its_own_windows(random_mos: mos.DistillMOS, monkeypatch, batch_windows: int):
    monkeypatch.setattr(random_mos, "forward", lambda windows: windows[:, 0])  # a window's score: its first sample
    ramp = torch.arange(122_880.0 + 32_000)  # windows start at 0, 16,000 and 32,000
    scores = random_mos.predict([torch.full((10,), 7.0), ramp, torch.full((10,), 9.0)], batch_windows)
    assert scores == [7, 16_000, 9]
    assert random_mos.predict([]) == []


def test_quality_depends_neither_on_the_batch_nor_on_the_level(random_mos: mos.DistillMOS):
    loud, other = synthetic_speech(8000, 0), synthetic_speech(4000, 1)
    (alone,) = random_mos.predict([loud])
    together = random_mos.predict([loud / 10, other])
    assert together[0] == pytest.approx(alone, abs=1e-4) and 1 < alone < 5


@pytest.mark.parametrize("bad", [torch.zeros(0), torch.full((100,), math.nan), torch.zeros(2, 100)])
def test_bad_waveforms_are_refused(random_mos: mos.DistillMOS, bad: Tensor):
    with pytest.raises(AudioFormatError, match="cannot be scored"):
        random_mos.predict([bad])
    with pytest.raises(AudioFormatError, match="has no speaker"):
        speaker.SpeakerEncoder().embed(bad)


def test_silence_has_no_speaker():
    with pytest.raises(AudioFormatError, match="silence has no speaker"):
        speaker.SpeakerEncoder().embed(torch.zeros(16_000))


def test_other_weights_are_refused(random_mos: mos.DistillMOS):
    with pytest.raises(AssetError, match="not the weights of DistillMOS"):
        mos.load_released_weights(random_mos, {"cnn.cnn.0.weight": torch.zeros(1)})
    with pytest.raises(AssetError, match="Resemblyzer"):
        speaker.load_released_weights(speaker.SpeakerEncoder(), {"linear.weight": torch.zeros(1)})


def test_weight_files_are_found_and_hashed(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(AssetError, match=r"holds no \.safetensors file"):
        read_weights(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(read_weights(tmp_path)["a"], torch.ones(2))
    before = weights_record("judge", tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert before["name"] == "judge" and before != weights_record("judge", tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(AssetError, match="found 2"):
        read_weights(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"not weights")
    with pytest.raises(AssetError, match="not readable"):
        read_weights(tmp_path / "b.safetensors")


def test_a_record_names_the_asset_behind_the_name_that_was_asked_for(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from vocable.assets import get_asset, resolve

    asset = get_asset("smollm2-135m")
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "real"))
    cached = tmp_path / "real" / asset.name
    cached.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, cached / "model.safetensors")
    other = tmp_path / asset.name  # of the same name, but nobody's asset
    shutil.copytree(cached, other)
    card = {"name": asset.name, "recipe": asset.recipe, "packages": [archive.key for archive in asset.archives]}
    (cached / "vocable_asset.json").write_text(json.dumps(card))
    (tmp_path / "link").symlink_to(cached)
    asked = "HuggingFaceTB/SmolLM2-135M"
    record = weights_record(asked, resolve(asked))
    assert record["name"] == asked and record["asset"] == "smollm2-135m" and "4 bits" in record["asset_is"]
    assert weights_key(record) == {"name": asked, "sha256": record["sha256"]}  # what is kept on disk is found again
    assert weights_record("mine", tmp_path / "link")["asset"] == "smollm2-135m"
    assert weights_record("mine", other) == {"name": "mine", "sha256": record["sha256"]}


@pytest.mark.parametrize(
    ("num_samples", "starts"),
    # windows of 160 frames of 160 samples, every 77 frames; the last is kept when 3/4 of it lies inside
    [
        (1000, [0]),
        (25_600, [0]),
        (25_600 + 5919, [0]),
        (25_600 + 5920, [0, 77]),
        (100_000, [0, 77, 154, 231, 308, 385, 462]),
    ],
)
def test_speaker_windows(num_samples: int, starts: list[int]):
    assert speaker._window_starts(num_samples) == starts


def test_speaker_vectors_have_length_one():
    vector = speaker.SpeakerEncoder().eval().embed(synthetic_speech(40_000, 0))
    assert vector.shape == (256,)
    assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.asset("distillmos")
def test_quality_matches_the_released_package():
    # Made with the package distillmos 0.9.1 (its CPU output on these waveforms); float sums run in another order.
    released = {(8000, 0): 2.2826037, (130_000, 2): 1.3817275}
    found = mos.load_distillmos().predict([synthetic_speech(*key) for key in released])
    assert found == pytest.approx(list(released.values()), abs=2e-5)


@pytest.mark.asset("resemblyzer")
def test_voices_match_the_released_package():
    # Made with Resemblyzer 0.1.4's VoiceEncoder.embed_utterance, after its normalize_volume, on the same waveform.
    released = [0.0, 0.0749527, 0.0249030, 0.0, 0.0011854, 0.0575792, 0.0065802, 0.0623447]
    found = speaker.load_speaker_encoder().embed(synthetic_speech(48_000, 1))
    torch.testing.assert_close(found[:8], torch.tensor(released), atol=1e-5, rtol=0)


@pytest.mark.asset("resemblyzer")
def test_one_pitch_is_more_like_itself_than_another():
    encoder = speaker.load_speaker_encoder()
    low, low_again, high = (synthetic_speech(32_000, seed, pitch) for seed, pitch in [(0, 100), (1, 100), (2, 230)])
    voice, again, other = (encoder.embed(waveform) for waveform in (low, low_again, high))
    assert float(voice @ again) > 0.9 > float(voice @ other)
    assert float(voice @ voice) == pytest.approx(1, abs=1e-5)


def test_text_does_not_depend_on_the_batch(tiny_transcriber: WhisperTranscriber):
    waveforms = [synthetic_speech(length, seed) for seed, length in enumerate([3000, 40_000, 16_000])]
    together = tiny_transcriber.transcribe(waveforms)
    assert together == [tiny_transcriber.transcribe([waveform])[0] for waveform in waveforms]
    assert all(text for text in together) and "<" not in "".join(together)
    assert tiny_transcriber.transcribe([]) == []


def test_a_long_recording_is_cut_where_it_is_quiet():
    waveform = torch.ones(70 * 1000)
    waveform[27_500:27_700] = 0
    pieces = cut_at_quiet(waveform, 1000)
    assert len(pieces) == 3 and all(len(piece) <= 30_000 for piece in pieces)
    assert 27_500 <= len(pieces[0]) <= 27_700
    assert torch.equal(torch.cat(pieces), waveform)
    (whole,) = cut_at_quiet(waveform[:30_000], 1000)
    assert len(whole) == 30_000


def test_a_long_recording_is_transcribed_in_pieces(tiny_transcriber: WhisperTranscriber):
    waveform = synthetic_speech(31 * 16_000, 0)
    parts = [tiny_transcriber.transcribe([piece])[0] for piece in cut_at_quiet(waveform, 16_000)]
    assert len(parts) == 2
    assert tiny_transcriber.transcribe([waveform]) == [" ".join(parts)]


def test_english_only_recognisers_refuse_other_languages(tiny_transcriber: WhisperTranscriber):
    parts = (tiny_transcriber.model, tiny_transcriber.feature_extractor, tiny_transcriber.tokenizer)
    with pytest.raises(ConfigError, match="transcribes English only, not 'fr'"):
        WhisperTranscriber(*parts, name="openai/whisper-tiny.en", language="fr")


def test_a_folder_without_whisper_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AssetError, match="not a complete Whisper checkpoint"):
        load_whisper(str(tmp_path))


@pytest.mark.parametrize(
    ("judge", "encoder", "relation"),
    [
        ("openai/whisper-base", "openai/whisper-base", "same"),
        ("openai/whisper-base", "models/Whisper-Base/", "same"),
        ("openai/whisper-base", "openai/whisper-tiny.en", "same family"),
        ("openai/whisper-base", "facebook/hubert-base-ls960", "different"),
        ("openai/whisper-base", None, "unknown"),
    ],
)
def test_judges_are_compared_by_name(judge: str, encoder: str | None, relation: str):
    assert judge_relation(judge, encoder) == relation


def test_a_judge_of_its_own_features_is_refused_unless_allowed():
    tokenizer = SimpleNamespace(card=lambda: {"encoder": {"name": "openai/whisper-base"}})
    with pytest.raises(ConfigError, match=r"also the tokenizer's encoder 'openai/whisper-base'.*--same-judge allow"):
        check_judge("openai/whisper-base", tokenizer, "refuse")  # type: ignore[arg-type]  # only its card is read
    assert check_judge("openai/whisper-base", tokenizer, "allow") == "same"  # type: ignore[arg-type]
