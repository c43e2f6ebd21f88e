"""Segments are read from files as they are drawn, and are the same as from recordings that are held in memory."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vocable.audio.io import read_part, read_utterance
from vocable.errors import OutputError
from vocable.features.pitch import measure_pitch
from vocable.synthesis import VocoderConfig
from vocable.tokens.shard_columns import TokenRows
from vocable.training import measures, vocoder_data
from vocable.training.measures import Kept
from vocable.training.vocoder_data import VocoderData, voices_by_speech
from vocable.types import SpeechTokens, Utterance

RATE, HOP, NUM = 16_000, 320, 5
KINDS = {"seekable": (RATE, "flac"), "resampled": (24_000, "flac"), "lossy": (RATE, "ogg")}


@pytest.fixture(params=KINDS)
def pairs(request, tmp_path: Path, make_speechlike) -> list[tuple[Utterance, SpeechTokens]]:
    """Utterances from the middle of files, with units for each of their frames or a few more or less."""
    file_rate, kind = KINDS[request.param]
    found = []
    for index in range(NUM):
        path = tmp_path / f"{index}.{kind}"
        seconds = 2 + 0.3 * index
        loud = 0.05 + 0.2 * index  # the last ones would clip at the level that is wanted
        waveform = loud * make_speechlike(int(seconds * file_rate), seed=index)
        soundfile.write(path, np.clip(waveform.numpy(), -1, 1), file_rate)
        utterance = Utterance(id=f"u{index}", audio=path, start=0.3137, duration=seconds - 0.5, speaker=f"s{index % 2}")
        num = int((seconds - 0.5) * 50) + index - 2
        codes = torch.from_numpy(np.random.default_rng(index).integers(0, 10, (1, num)))
        units, durations = torch.unique_consecutive(codes[0], return_counts=True)
        found.append((utterance, SpeechTokens(codes=units[None], durations=durations)))
    return found


def make_data(pairs, **settings) -> VocoderData:
    config = VocoderConfig(voices=voices_by_speech(pairs), codebook_size=10)
    sizes = {"batch_size": 4, "segment_frames": 20, "prosody_batch": 2, "prosody_frames": 60, "loudness_db": -10.0}
    return VocoderData(pairs, config, **sizes | settings)


def plain_clip(utterance: Utterance, tokens: SpeechTokens, loudness_db: float | None):
    """Samples, codes and pitch of an utterance, computed on the whole of it."""
    codes = tokens.codes.repeat_interleave(tokens.durations, dim=1)
    waveform = read_utterance(utterance, RATE)
    num_frames = min(codes.shape[1], len(waveform) // HOP)
    waveform = waveform[: num_frames * HOP]
    if loudness_db is not None:
        waveform = waveform * (10 ** (loudness_db / 20) / waveform.square().mean().sqrt().clamp(min=1e-4))
        waveform = waveform / max(1.0, float(waveform.abs().max()) / 0.95)
    pitch = measure_pitch(waveform[None], RATE, HOP)
    return (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy(), codes[:, :num_frames], pitch


@pytest.mark.parametrize("loudness_db", [-10.0, None])
@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_clips_and_their_parts_are_those_of_the_whole_recording(pairs, tmp_path, monkeypatch, kept, loudness_db):
    monkeypatch.setattr(vocoder_data, "KEPT_BYTES", kept)
    first = make_data(pairs, loudness_db=loudness_db, store=tmp_path / "run")
    again = make_data(TokenRows.of(pairs), loudness_db=loudness_db, store=tmp_path / "run")
    alone = make_data(pairs, loudness_db=loudness_db)
    for index, (utterance, tokens) in enumerate(pairs):
        waveform, codes, pitch = plain_clip(utterance, tokens, loudness_db)
        for data in (first, again, alone):
            clip = data.clip(index)
            assert torch.equal(clip.codes, codes) and clip.voice == data.config.voices.index(utterance.speaker)
            assert torch.equal(clip.log_f0, pitch.log_f0[0]) and torch.equal(clip.voiced, pitch.voiced[0])
            for start in (0, 7 * HOP, len(waveform) - 20 * HOP):
                assert np.array_equal(clip.read(start, 20 * HOP), waveform[start : start + 20 * HOP])
            assert np.array_equal(clip.waveform, waveform)
    for step in range(3):
        batches = [[*segments, *prosody] for data in (first, again, alone) for segments, prosody in [data[step]]]
        for a, b, c in zip(*batches, strict=True):
            assert all(torch.equal(x, y) and torch.equal(x, z) for x, y, z in zip(*map(_tensors, (a, b, c))))


def _tensors(item):
    return (item,) if isinstance(item, torch.Tensor) else tuple(item)


def test_recordings_are_measured_once(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(vocoder_data, "KEPT_BYTES", 0)
    calls = []
    monkeypatch.setattr(vocoder_data, "measure_pitch", lambda *a: calls.append(1) or measure_pitch(*a))
    whole = make_data(pairs, store=tmp_path / "run")
    batches = [whole[step] for step in range(20)]
    assert len(calls) == NUM
    resumed = make_data(pairs, store=tmp_path / "run")
    assert torch.equal(resumed[19][0].waveforms, batches[19][0].waveforms) and len(calls) == NUM
    make_data(pairs, store=tmp_path / "run", loudness_db=-30.0).clip(0)  # measured at another level
    make_data(pairs[1:], store=tmp_path / "run").clip(0)  # another utterance has this number
    assert len(calls) == NUM + 2
    make_data(pairs, store=None).clip(0)
    assert len(calls) == NUM + 3


def test_damaged_measures_are_made_again(pairs, tmp_path):
    data = make_data(pairs, store=tmp_path)
    expected = [data.clip(index).log_f0 for index in range(NUM)]
    (path,) = tmp_path.glob("measures-*.bin")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:100] + b"\xff" + content[101:], bytes(len(content))):
        path.write_bytes(damaged)
        again = make_data(pairs, store=tmp_path)
        assert all(torch.equal(again.clip(index).log_f0, expected[index]) for index in range(NUM))
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        make_data(pairs, store=tmp_path).clip(0)


def test_parts_are_read_only_where_they_equal_the_whole(pairs):
    utterance = pairs[0][0]
    part = read_part(utterance, RATE, 1000, 500)
    if "resampled" in str(utterance.audio.parent):
        assert part is None
    if part is not None:
        assert torch.equal(part, read_utterance(utterance, RATE)[1000:1500])


def test_what_is_kept_stays_below_its_limit():
    kept: Kept[str] = measures.Kept(10)
    for key in range(5):
        kept.put(key, str(key), 3)
    assert [kept.get(key) for key in range(5)] == [None, None, "2", "3", "4"] and kept.num_bytes == 9
    kept.get(2)
    kept.put(5, "5", 4)
    assert [kept.get(key) for key in (2, 3, 4, 5)] == ["2", None, "4", "5"]
    kept.put(6, "too large", 11)
    assert kept.num_bytes == 0 and kept.get(6) is None
