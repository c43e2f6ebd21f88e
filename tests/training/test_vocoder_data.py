"""Segments are read from files as they are drawn, and are the same as from recordings that are held in memory."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tiny import TINY_DECODER
from vocable.audio.io import read_utterance
from vocable.errors import ManifestError, OutputError
from vocable.features.pitch import REFERENCE_HZ, bridge_voicing, measure_energy, measure_pitch
from vocable.features.speaker import SpeakerEncoder
from vocable.synthesis import VocoderConfig
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.tokens.runs import frames_of
from vocable.tokens.shard_columns import TokenRows
from vocable.training import measures, recordings
from vocable.training.measures import Kept, Measures
from vocable.training.vocoder_data import Content, Piece, Recording, VocoderData, voices_by_speech
from vocable.types import SpeechTokens, Utterance

RATE, HOP, NUM = TINY_DECODER.sample_rate, TINY_DECODER.hop_length, 4
KINDS = {"seekable": (RATE, "flac"), "resampled": (24_000, "flac"), "lossy": (RATE, "ogg"), "low": (11_025, "wav")}


def write_pairs(folder: Path, make_speechlike, file_rate: int, kind: str) -> list[tuple[Utterance, SpeechTokens]]:
    """Utterances from the middle of files, with units for each of their frames or a few more or less."""
    found = []
    for index in range(NUM):
        path = folder / f"{index}.{kind}"
        seconds = 2 + 0.3 * index
        loud = 0.05 + 0.25 * index  # the last ones would clip at the level that is wanted
        waveform = loud * make_speechlike(int(seconds * file_rate), seed=index, sample_rate=file_rate)
        soundfile.write(path, np.clip(waveform.numpy(), -1, 1), file_rate)
        utterance = Utterance(id=f"u{index}", audio=path, start=0.3137, duration=seconds - 0.5, speaker=f"s{index % 2}")
        num = int((seconds - 0.5) * 50) + index - 2
        codes = torch.from_numpy(np.random.default_rng(index).integers(0, 10, (1, num)))
        units, durations = torch.unique_consecutive(codes[0], return_counts=True)
        found.append((utterance, SpeechTokens(codes=units[None], durations=durations)))
    return found


@pytest.fixture(params=KINDS)
def pairs(request, tmp_path: Path, make_speechlike) -> list[tuple[Utterance, SpeechTokens]]:
    return write_pairs(tmp_path, make_speechlike, *KINDS[request.param])


@pytest.fixture
def seekable(tmp_path: Path, make_speechlike) -> list[tuple[Utterance, SpeechTokens]]:
    return write_pairs(tmp_path, make_speechlike, *KINDS["seekable"])


def make_data(pairs, decoder: SourceFilterConfig = TINY_DECODER, rate: float = 50.0, **settings) -> VocoderData:
    config = VocoderConfig(codebook_size=10, decoder=decoder, token_frame_rate=rate)
    return VocoderData(pairs, config, **{"batch_size": 4, "segment_seconds": 0.4, "loudness_db": -10.0} | settings)


def piece(recording: Recording, first: int) -> Piece:
    """From a frame on, in its own voice."""
    return Piece(recording, first, recording.measures.speaker)


def plain_recording(utterance: Utterance, tokens: SpeechTokens, loudness_db: float | None):
    """Samples, codes, pitch and energy of an utterance, computed on the whole of it."""
    codes = frames_of(tokens)
    num_frames = math.ceil(codes.shape[1] * 80 / 50)
    read = read_utterance(utterance, RATE)[: num_frames * HOP]
    waveform = torch.zeros(num_frames * HOP)
    waveform[: len(read)] = read
    if loudness_db is not None:
        waveform = waveform * (10 ** (loudness_db / 20) / waveform.square().mean().sqrt().clamp(min=1e-4))
        waveform = waveform / max(1.0, float(waveform.abs().max()) / 0.95)
    pitch = measure_pitch(waveform[None], RATE, HOP)
    samples = (waveform.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    return samples, codes, pitch, measure_energy(waveform, RATE, HOP)


@pytest.mark.parametrize(("kept", "loudness_db"), [(0, -10.0), (1 << 26, -10.0), (0, None)])
def test_recordings_and_their_parts_are_those_of_the_whole(pairs, tmp_path, monkeypatch, kept, loudness_db):
    monkeypatch.setattr(recordings, "KEPT_BYTES", kept)
    first = make_data(pairs, loudness_db=loudness_db, store=tmp_path / "run")
    again = make_data(TokenRows.of(pairs), loudness_db=loudness_db, store=tmp_path / "run")
    alone = make_data(pairs, loudness_db=loudness_db)
    for index, (utterance, tokens) in enumerate(pairs):
        waveform, codes, pitch, energy = plain_recording(utterance, tokens, loudness_db)
        own = soundfile.info(utterance.audio).samplerate
        # a resampled part lacks what the filter sees beyond the margin of 50 ms, and rounds to 16 bits otherwise
        tolerance = 0 if own == RATE else 3
        for data in (first, again, alone):
            recording = data.recording(index)
            assert torch.equal(recording.codes, codes) and recording.num_frames == len(waveform) // HOP
            torch.testing.assert_close(recording.measures.log_f0, pitch.log_f0[0])
            assert torch.equal(recording.measures.is_measured, pitch.voiced[0])
            torch.testing.assert_close(recording.measures.energy, energy)
            voiced = bridge_voicing(pitch.voiced[0], energy, RATE / HOP)
            assert torch.equal(recording.measures.voiced, voiced) and torch.equal(recording.f0 > 0, voiced)
            for start in (0, 7 * HOP, 50 * HOP, len(waveform) - 32 * HOP):
                expected = np.zeros(32 * HOP, np.int32)
                expected[: len(waveform) - start] = waveform[start : start + 32 * HOP]
                found = np.zeros(32 * HOP, np.int32)
                part = recording.read(start, 32 * HOP)
                found[: len(part)] = part
                assert np.abs(found - expected).max() <= tolerance, (index, start)
    is_exact = kept and soundfile.info(pairs[0][0].audio).samplerate == RATE
    for step in range(3):
        for a, b, c in zip(*(data[step] for data in (first, again, alone)), strict=True):
            assert torch.equal(a, b) if is_exact else torch.allclose(a, b, atol=2e-4)
            assert torch.allclose(a, c, atol=2e-4)


@pytest.mark.parametrize("file_rate", [RATE, 24_000, 11_025])
@pytest.mark.parametrize("more", [0, 3])
def test_whole_files_are_read_to_their_end(tmp_path, make_speechlike, monkeypatch, file_rate, more):
    """Tokens may last a little longer than the file: silence follows."""
    monkeypatch.setattr(recordings, "KEPT_BYTES", 0)
    soundfile.write(tmp_path / "a.wav", make_speechlike(file_rate, sample_rate=file_rate).numpy(), file_rate)
    utterance = Utterance(id="a", audio=tmp_path / "a.wav")
    data = make_data([(utterance, SpeechTokens(codes=torch.randint(0, 10, (1, 50 + more))))], loudness_db=None)
    recording = data.recording(0)
    whole = torch.zeros(recording.num_frames * HOP)
    whole[:RATE] = read_utterance(utterance, RATE)
    for first in range(0, recording.num_frames - 31, 7):
        found = data.batch([piece(recording, first)], 32).waveforms[0]
        torch.testing.assert_close(found, whole[first * HOP : (first + 32) * HOP], atol=2e-4, rtol=0)
    last = recording.num_frames - 32
    found = data.batch([piece(recording, last)], 32).waveforms[0]
    torch.testing.assert_close(found, whole[last * HOP :], atol=2e-4, rtol=0)


@pytest.mark.parametrize("rate", [50.0, 12.5, 75.0])
def test_what_a_segment_holds_belongs_together(seekable, rate):
    """Find each segment in the whole recordings by its samples alone; the rest must be what lies there."""
    pairs = []
    for utterance, _ in seekable:
        num = int(utterance.duration * rate)
        codes = torch.from_numpy(np.random.default_rng(num).integers(0, 10, (1, num)))
        pairs.append((utterance, SpeechTokens(codes=codes)))

    def targets(utterance: Utterance, num_frames: int):
        if utterance.id == "u1":
            return None
        torch.manual_seed(int(utterance.id[1:]))
        return Content(torch.randn(7, 4), torch.randint(0, 30, (7,)), torch.randint(0, 7, (num_frames,)))

    torch.manual_seed(1)
    encoder = SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()
    decoder = SourceFilterConfig(content_dim=4, dim=8, sample_rate=RATE, hop_length=HOP, n_fft=2 * HOP, speaker_dim=6)
    data = make_data(pairs, decoder, rate, batch_size=8, loudness_db=None, encoder=encoder, targets=targets)
    batch, count = data[0], 32
    assert batch.waveforms.shape == (8, count * HOP)
    wholes = [data.recording(index) for index in range(NUM)]
    seen, voices = set(), list[int]()
    for row in range(8):
        places = []
        for index, whole in enumerate(wholes):
            samples = torch.from_numpy(np.asarray(whole.read(0, whole.num_frames * HOP))).float() / 32767
            for first in range(whole.num_frames - count + 1):
                if torch.equal(samples[first * HOP : (first + count) * HOP], batch.waveforms[row]):
                    places.append((index, first))
        ((index, first),) = places
        seen.add(index)
        whole, frames = wholes[index], slice(first, first + count)
        torch.testing.assert_close(batch.f0[row], whole.f0[frames])
        torch.testing.assert_close(batch.energy[row], whole.measures.energy[frames])
        known = whole.f0[whole.measures.is_measured].log()
        assert torch.equal(batch.has_pitch[row], whole.measures.is_measured[frames])
        mean, deviation = batch.speaker_pitch[row]
        assert float(mean) == pytest.approx(float(known.median()), rel=1e-4)
        assert float(deviation) == pytest.approx(max(0.08, float(known.std())), rel=1e-3)
        voiced = batch.f0[row] > 0
        heights = (batch.f0[row][voiced].log() - mean) / deviation
        torch.testing.assert_close(batch.pitch[row][voiced], heights, atol=1e-3, rtol=1e-3)
        line = (whole.measures.log_f0[frames] + math.log(REFERENCE_HZ) - mean) / deviation
        torch.testing.assert_close(batch.pitch[row], line, atol=1e-4, rtol=1e-4)
        # the voice is that of the recording, or of another one of its speaker
        own = encoder.embed(read_utterance(pairs[index][0], RATE))
        torch.testing.assert_close(whole.measures.speaker, own, atol=1e-3, rtol=0)
        vectors = [wholes[one].measures.speaker for one in (index, (index + 2) % NUM)]
        (heard,) = (one for one, vector in enumerate(vectors) if torch.equal(vector, batch.speakers[row]))
        voices.append(heard)
        target = targets(pairs[index][0], whole.num_frames)
        if target is None:
            assert (batch.symbols[row] == -1).all() and not batch.content[row].any()
        else:
            assert torch.equal(batch.content[row], target.vectors[target.places[frames]])
            assert torch.equal(batch.symbols[row], target.ids[target.places[frames]])
        # the token that each frame lies in is the one that the whole utterance has at that time
        for frame in range(count):
            seconds = (first + frame + 0.5) / 80
            place = min(max(float(batch.positions[row, frame]), 0.0), batch.codes.shape[2] - 1)
            expected = min(max(seconds * rate - 0.5, 0.0), whole.codes.shape[1] - 1)
            assert place % 1 == pytest.approx(expected % 1, abs=1e-4)
            for mine, true in ((math.floor(place), math.floor(expected)), (math.ceil(place), math.ceil(expected))):
                assert batch.codes[row, 0, mine] == whole.codes[0, true]
        runs = batch.run_codes[row].repeat_interleave(batch.durations[row], 1)
        assert torch.equal(runs, batch.codes[row])
        inner = batch.run_mask[row]
        assert not inner[0] and inner[1 : int((batch.durations[row] > 0).sum()) - 1].all()
    assert len(seen) > 2 and set(voices) == {0, 1}


def test_the_voice_is_half_of_the_time_that_of_any_recording_of_the_speaker(pairs_of_speakers):
    """Speakers have six recordings, five, and one; speech of nobody in particular keeps its own voice."""
    data = pairs_of_speakers
    rng = np.random.default_rng(0)
    drawn = {index: [data._same_speaker(index, rng) for _ in range(400)] for index in range(13)}
    groups = {index: {one for one in range(11) if one % 2 == index % 2} for index in range(11)}
    for index, others in drawn.items():
        allowed = groups.get(index, {index})
        assert set(others) == allowed
        # half of the draws, and its part of the other half; four standard deviations of 400 draws are 0.1
        assert others.count(index) / 400 == pytest.approx(0.5 + 0.5 / len(allowed), abs=0.1)


@pytest.fixture
def pairs_of_speakers(seekable) -> VocoderData:
    utterance, tokens = seekable[0]
    names = [f"s{index % 2}" for index in range(11)] + ["alone", None]
    rows = [(replace(utterance, id=str(index), speaker=name), tokens) for index, name in enumerate(names)]
    decoder = SourceFilterConfig(content_dim=4, dim=8, sample_rate=RATE, hop_length=HOP, n_fft=2 * HOP, speaker_dim=6)
    return make_data(rows, decoder)


def test_runs_that_the_cut_may_have_shortened_are_marked(seekable):
    """A segment that holds all tokens of its utterance has whole runs only, as long as they are."""
    codes = torch.tensor([[1, 1, 2, 2, 2, 3, 3]])
    utterance = Utterance(id="a", audio=seekable[0][0].audio, start=0.0, duration=7 / 50)
    data = make_data([(utterance, SpeechTokens(codes=codes))], segment_seconds=0.125)
    batch = data.batch([piece(data.recording(0), 0)], 10)
    held = int(batch.durations[0].sum())
    assert batch.run_codes[0, 0, :3].tolist() == [1, 2, 3]
    if held >= 7:
        assert batch.durations[0].tolist()[:3] == [2, 3, 2] and batch.run_mask[0, :3].all()
    long = data.batch([piece(data.recording(0), 0)], 30)  # more frames than there are
    assert long.durations[0].tolist() == [2, 3, 2] and long.run_mask[0].all()


def silent_targets(utterance: Utterance, num_frames: int) -> Content:
    return Content(torch.ones(1, 4), torch.tensor([3]), torch.zeros(num_frames, dtype=torch.long))


def test_silence_follows_the_end(seekable):
    data = make_data(seekable[1:2], targets=silent_targets)
    recording = data.recording(0)
    first = recording.num_frames - 10
    batch = data.batch([piece(recording, first)], 30)
    assert batch.waveforms.shape == (1, 30 * HOP) and batch.waveforms[0, 10 * HOP :].abs().max() == 0
    assert batch.waveforms[0, : 8 * HOP].abs().max() > 0
    assert (batch.f0[0, 10:] == 0).all() and batch.symbols[0].tolist() == [3] * 10 + [-1] * 20
    assert not batch.has_pitch[0, 10:].any()
    assert all(item.isfinite().all() for item in batch if item.is_floating_point())


def test_recordings_are_measured_once(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "KEPT_BYTES", 0)
    calls = []
    monkeypatch.setattr(recordings, "measure_pitch", lambda *a: calls.append(1) or measure_pitch(*a))
    whole = make_data(pairs, store=tmp_path / "run")
    batches = [whole[step] for step in range(12)]
    assert len(calls) == NUM
    resumed = make_data(pairs, store=tmp_path / "run")
    assert torch.equal(resumed[11].pitch, batches[11].pitch) and len(calls) == NUM
    assert torch.allclose(resumed[11].waveforms, batches[11].waveforms, atol=2e-4)
    make_data(pairs, store=tmp_path / "run", loudness_db=-30.0).recording(0)  # measured at another level
    make_data(pairs[1:], store=tmp_path / "run").recording(0)  # another utterance has this number
    make_data(
        pairs, SourceFilterConfig(sample_rate=RATE, hop_length=HOP, n_fft=400, speaker_dim=6), store=tmp_path / "run"
    ).recording(0)
    assert len(calls) == NUM + 3
    make_data(pairs, store=None).recording(0)
    assert len(calls) == NUM + 4


def test_damaged_measures_are_made_again(seekable, tmp_path):
    store = tmp_path / "run"
    data = make_data(seekable, store=store)
    expected = [data.recording(index).measures for index in range(NUM)]
    (path,) = store.glob("measures-*.bin")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", content[:100] + b"\xff" + content[101:], bytes(len(content))):
        path.write_bytes(damaged)
        again = make_data(seekable, store=store)
        for index in range(NUM):
            assert all(map(_equal, again.recording(index).measures, expected[index]))
        assert path.read_bytes() == content
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        make_data(seekable, store=store).recording(0)


def ids_of(pairs) -> list[str]:
    return [utterance.id for utterance, _ in pairs]


def _equal(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_measures_and_vectors_come_back_from_the_file(seekable, tmp_path):
    file = measures.MeasuresFile(tmp_path / "new", ["x"], ids_of(seekable), np.array([5, 7, 1, 2]), 3)
    assert file.get(1) is None
    wanted = {
        index: Measures(0.5 + index, 1.25, torch.randn(3, num), torch.randn(3)) for index, num in ((1, 7), (3, 2))
    }
    for index, item in wanted.items():
        file.put(index, item)
    for index, item in wanted.items():
        found = file.get(index)
        assert found is not None and all(map(_equal, found, item))
    assert file.get(0) is None and file.get(2) is None
    other = measures.MeasuresFile(tmp_path / "new", ["x"], ids_of(seekable), np.array([5, 7, 1, 2]), 4)
    assert other.path != file.path


def test_speakers_are_heard_at_the_start_of_their_recordings(seekable):
    decoder = SourceFilterConfig(sample_rate=RATE, hop_length=HOP, n_fft=400, speaker_dim=6)
    encoder = SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()
    data = make_data(seekable, decoder, encoder=encoder, loudness_db=None)
    for index, (utterance, _) in enumerate(seekable):
        heard = encoder.embed(read_utterance(utterance, RATE))
        assert torch.nn.functional.cosine_similarity(data.recording(index).speaker.vector, heard, dim=0) > 0.999
    silent = make_data(seekable[:1], decoder, encoder=encoder, read=lambda *_: torch.zeros(24_000))
    speaker = silent.recording(0).speaker  # no voice, and the usual pitch
    assert speaker.vector.shape == (6,) and speaker.vector.abs().max() == 0
    assert speaker.pitch is not None and float(speaker.pitch[0].exp()) == pytest.approx(160, rel=1e-5)


def test_batches_depend_on_seed_and_step_only(seekable):
    first, other = make_data(seekable, seed=1), make_data(seekable, seed=1)
    _ = other[0], other[5]
    for a, b in zip(first[7], other[7], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[7].codes, make_data(seekable, seed=2)[7].codes)


def test_heavier_utterances_are_drawn_more_often(seekable):
    data = make_data(seekable, weights=[1.0, 0.0, 3.0, 0.0])
    lengths = [int(tokens.durations.sum()) for _, tokens in seekable]
    shares = np.array([lengths[0], 0, 3 * lengths[2], 0], dtype=float)
    assert data.shares.tolist() == pytest.approx((shares / shares.sum()).tolist())


def test_voices_are_ordered_by_their_speech(seekable):
    assert voices_by_speech(seekable) == ("s1", "s0")
    seconds = {"s0": 0.0, "s1": 0.0}
    for utterance, tokens in seekable:
        seconds[utterance.speaker] += int(tokens.durations.sum()) / 50
    assert voices_by_speech(seekable, seconds["s1"] - 0.01) == ("s1",)
    assert voices_by_speech(seekable, seconds["s1"] / 2 + 0.01, 100.0) == ()


def test_impossible_data_are_refused(seekable):
    with pytest.raises(ManifestError, match=r"None of 4 utterances lasts 4\.03 s"):
        make_data(seekable, segment_seconds=4.0)
    short = make_data(seekable[:1], read=lambda *_: torch.randn(8000))
    with pytest.raises(ManifestError, match=r"0\.50 s of audio, but tokens for 1\.46 s"):
        short[0]


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
