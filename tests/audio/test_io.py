"""Reading and writing audio: round trips, crops, streams, and everything a file can be other than good audio."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocable import files
from vocable.audio.io import audio_info, iterate_audio, read_audio, read_utterance
from vocable.audio.waveforms import check_waveform, resample
from vocable.audio.writing import encode_audio, write_audio, write_audio_blocks
from vocable.errors import AudioFormatError, OutputError, UnknownNameError
from vocable.types import Utterance

RATE = 16_000
# 16-bit files: libsndfile rounds x * 32767 and divides by 32768 when it reads
PCM16_STEP = 2 / 32768

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def speech(make_speechlike) -> torch.Tensor:
    return make_speechlike(2 * RATE).clamp(-1, 1)


def tone(num_samples: int, sample_rate: int = RATE) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(num_samples) / sample_rate)


# --- round trips ---------------------------------------------------------------------------------------------------


@quick
@given(
    samples=st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=300),
    sample_rate=st.sampled_from([8000, 16000, 22050, 44100]),
    suffix=st.sampled_from([".wav", ".flac", ".WAV"]),
)
def test_writing_then_reading_gives_the_waveform_back(tmp_path, samples, sample_rate, suffix):
    path = tmp_path / "new folder" / f"round{suffix}"
    waveform = torch.tensor(samples)
    write_audio(path, waveform, sample_rate)
    audio = read_audio(path)
    assert audio.sample_rate == sample_rate
    assert audio.waveform.dtype == torch.float32
    torch.testing.assert_close(audio.waveform, waveform, atol=PCM16_STEP, rtol=0)
    assert not list(path.parent.glob("*.tmp"))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_every_format_keeps_length_rate_and_sound(tmp_path, speech, suffix):
    path = tmp_path / f"speech{suffix}"
    write_audio(path, speech, RATE)
    info = audio_info(path)
    assert (info.sample_rate, info.num_samples, info.num_channels, info.duration) == (RATE, 2 * RATE, 1, 2.0)
    found = read_audio(path).waveform
    assert len(found) == len(speech)
    assert torch.corrcoef(torch.stack([found, speech]))[0, 1] > 0.8


def test_values_out_of_range_are_clipped_not_wrapped(tmp_path):
    write_audio(tmp_path / "loud.wav", torch.tensor([2.0, -2.0, 0.5]), RATE)
    assert read_audio(tmp_path / "loud.wav").waveform.tolist() == pytest.approx([1, -1, 0.5], abs=PCM16_STEP)


def test_the_content_decides_not_the_name(tmp_path, speech):
    for suffix in (".flac", ".mp3", ".opus"):
        write_audio(tmp_path / f"a{suffix}", speech, RATE)
        for name in ("really.wav", "noname", "odd.raw"):
            (tmp_path / name).write_bytes((tmp_path / f"a{suffix}").read_bytes())
            if name != "odd.raw":
                assert audio_info(tmp_path / name).num_samples == len(speech)
                assert torch.equal(read_audio(tmp_path / name).waveform, read_audio(tmp_path / f"a{suffix}").waveform)
            else:  # headerless samples have no rate: refused with a reason, not a TypeError
                with pytest.raises(AudioFormatError, match=r"odd\.raw: not audio that can be read"):
                    audio_info(tmp_path / name)


def test_unicode_names_and_long_names(tmp_path, speech):
    for name in ("голос и речь.flac", "音声 ß.wav", "x" * 250 + ".wav"):
        write_audio(tmp_path / name, speech, RATE)
        assert audio_info(tmp_path / name).num_samples == len(speech)


# --- channels, rates, crops -----------------------------------------------------------------------------------------


@quick
@given(channels=st.integers(1, 6), num_samples=st.integers(2, 50), seed=st.integers(0, 1000))
def test_downmix_is_the_mean_over_channels(tmp_path, channels, num_samples, seed):
    frames = np.random.default_rng(seed).uniform(-1, 1, (num_samples, channels)).astype(np.float32)
    soundfile.write(tmp_path / "m.wav", frames, RATE, subtype="FLOAT")
    expected = np.array([sum(frame) / channels for frame in frames.tolist()], dtype=np.float32)
    np.testing.assert_allclose(read_audio(tmp_path / "m.wav").waveform, expected, atol=1e-6)


@quick
@given(num_samples=st.integers(100, 3000), rates=st.permutations([8000, 16000, 22050, 24000, 44100, 48000]))
def test_resampled_length(num_samples, rates):
    from_rate, to_rate = rates[:2]
    assert abs(len(resample(tone(num_samples), from_rate, to_rate)) - num_samples * to_rate / from_rate) <= 1


def test_resampling_keeps_a_tone_a_tone():
    found = resample(tone(44_100, 44_100), 44_100, RATE)
    torch.testing.assert_close(found[500:-500], tone(len(found))[500:-500], atol=1e-3, rtol=0)
    same = tone(100)
    assert resample(same, RATE, RATE) is same


def test_downmix_comes_before_resampling(tmp_path):
    left, right = tone(8000, 8000), torch.randn(8000) * 0.1
    soundfile.write(tmp_path / "s.wav", torch.stack([left, right], 1).numpy(), 8000, subtype="FLOAT")
    expected = resample((left + right) / 2, 8000, RATE)
    torch.testing.assert_close(read_audio(tmp_path / "s.wav", RATE).waveform, expected)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
@pytest.mark.parametrize("kind", ["speech", "tone"])
def test_a_crop_is_a_slice_of_the_whole(tmp_path, speech, suffix, kind):
    # the tone as MP3 and Vorbis is where libsndfile's seeking goes wrong
    waveform = torch.cat([speech] * 3) if kind == "speech" else tone(6 * RATE)
    path = tmp_path / f"a{suffix}"
    write_audio(path, waveform, RATE)
    whole = read_audio(path).waveform
    assert torch.equal(read_audio(path, start=3.1, duration=0.7).waveform, whole[49_600:60_800])
    assert torch.equal(read_audio(path, start=5.5).waveform, whole[88_000:])


def test_a_crop_does_not_decode_what_comes_before(tmp_path, speech, monkeypatch):
    write_audio(tmp_path / "a.flac", torch.cat([speech] * 10), RATE)
    frames_read = []
    original = soundfile.SoundFile.read

    def read(self, frames=-1, **options):
        frames_read.append(frames)
        return original(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    read_audio(tmp_path / "a.flac", start=15.0, duration=1.0)
    assert frames_read == [RATE]


def test_read_utterance_crops_and_resamples(tmp_path, speech):
    write_audio(tmp_path / "a.wav", speech, RATE)
    utterance = Utterance(id="a", audio=tmp_path / "a.wav", start=0.5, duration=1.0)
    expected = resample(read_audio(tmp_path / "a.wav").waveform[8000:24_000], RATE, 24_000)
    assert torch.equal(read_utterance(utterance, 24_000), expected)


def test_a_crop_may_reach_a_little_past_the_end_only(tmp_path, speech):
    path = tmp_path / "a.wav"
    write_audio(path, speech, RATE)
    assert len(read_audio(path, start=1.0, duration=1.4).waveform) == RATE
    for start, duration, message in [
        (1.0, 2.0, "asked for 1 s to 3 s, but the file is 2 s long"),
        (5.0, None, "asked for 5 s on, but the file is 2 s long"),
        (-1.0, None, r"start is -1\.0 s; it must be 0 or more"),
        (float("nan"), None, "start is nan s"),
        (0.0, 0.0, r"duration is 0\.0 s; it must be more than 0"),
        (0.0, 1e-5, "0 samples; speech needs at least 2"),
    ]:
        with pytest.raises(AudioFormatError, match=message):
            read_audio(path, start=start, duration=duration)


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".ogg"])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(16000, None), (16000, 24000), (44100, 16000), (16000, 8000)])
def test_streamed_blocks_joined_are_the_whole(tmp_path, speech, monkeypatch, suffix, from_rate, to_rate):
    monkeypatch.setattr("vocable.audio.io.FILE_BLOCK_FRAMES", 3001)
    path = tmp_path / f"a{suffix}"
    write_audio(path, speech if suffix == ".wav" else tone(len(speech)), from_rate)
    whole = read_audio(path, to_rate, start=0.1).waveform
    blocks = list(iterate_audio(path, to_rate, block_seconds=0.25, start=0.1))
    size = round(0.25 * (to_rate or from_rate))
    assert {len(block) for block in blocks[:-1]} == {size}
    assert 0 < len(blocks[-1]) <= size
    # soxr's stream and its one-shot function agree to the last bits of float32
    torch.testing.assert_close(torch.cat(blocks), whole, atol=1e-6, rtol=0)


def sparse_wav(path: Path, seconds: int, sample_rate: int) -> None:
    """A wav of silence that takes no room on disk."""
    num_bytes = 2 * seconds * sample_rate
    header = b"RIFF" + struct.pack("<I", 36 + num_bytes) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    header += b"data" + struct.pack("<I", num_bytes)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + num_bytes)


def test_three_hours_are_streamed_in_little_memory(tmp_path):
    seconds = 3 * 3600
    sparse_wav(tmp_path / "long.wav", seconds, 2000)
    tracemalloc.start()
    total = sum(len(block) for block in iterate_audio(tmp_path / "long.wav", 4000, block_seconds=60.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == seconds * 4000
    assert peak < 20e6  # the whole would be 173 MB
    assert len(read_audio(tmp_path / "long.wav", start=seconds - 1.0).waveform) == 2000


def test_blocks_can_be_written_as_they_come(tmp_path, speech):
    write_audio(tmp_path / "in.wav", speech, RATE)
    count = write_audio_blocks(tmp_path / "out.flac", iterate_audio(tmp_path / "in.wav", 8000, 0.3), 8000)
    audio = read_audio(tmp_path / "out.flac")
    assert (audio.sample_rate, len(audio.waveform), count) == (8000, 16_000, 16_000)


# --- what is not good audio -----------------------------------------------------------------------------------------


def test_missing_folder_empty_and_text(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio" * 50)
    for name, message in [
        ("nowhere.wav", r"nowhere\.wav: no such file\. Check the path"),
        ("", "is a folder, not an audio file"),
        ("empty.wav", r"empty\.wav: the file is empty \(0 bytes\)"),
        ("text.wav", r"text\.wav: not audio that can be read \(Format not recognised\).*convert"),
    ]:
        for read in (audio_info, read_audio, lambda path: next(iterate_audio(path))):
            with pytest.raises(AudioFormatError, match=message):
                read(tmp_path / name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_located(tmp_path, bad):
    samples = tone(RATE).numpy().copy()
    samples[[700, 900]] = bad
    soundfile.write(tmp_path / "bad.wav", samples, RATE, subtype="FLOAT")
    message = r"bad\.wav.*: 2 of 16000 samples are NaN or infinite, the first is sample 700"
    with pytest.raises(AudioFormatError, match=message):
        read_audio(tmp_path / "bad.wav")
    with pytest.raises(AudioFormatError, match=message):
        list(iterate_audio(tmp_path / "bad.wav"))


@pytest.mark.parametrize(
    ("num_samples", "message"), [(0, "holds no samples"), (1, "1 sample; speech needs at least 2")]
)
def test_too_short(tmp_path, num_samples, message):
    soundfile.write(tmp_path / "short.wav", np.zeros(num_samples, np.float32), RATE)
    with pytest.raises(AudioFormatError, match=message):
        read_audio(tmp_path / "short.wav")


def test_two_samples_that_resampling_swallows(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(2, np.float32), 48_000)
    with pytest.raises(AudioFormatError, match=r"short\.wav: 0 samples; speech needs at least 2"):
        read_audio(tmp_path / "short.wav", 8000)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_cut_short_files_are_noticed(tmp_path, speech, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".aiff":
        soundfile.write(whole, speech.numpy(), RATE)
    else:
        write_audio(whole, speech, RATE)
    content = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioFormatError, match=r"cut short|not audio that can be read"):
        read_audio(path)
    with pytest.raises(AudioFormatError, match=r"opy or download"):
        list(iterate_audio(path, 8000))


def test_a_header_written_before_the_length_was_known_is_fine(tmp_path, speech):
    write_audio(tmp_path / "a.wav", speech, RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"  # as ffmpeg leaves it when it writes to a pipe
    (tmp_path / "piped.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "piped.wav").waveform) == len(speech)


def test_check_waveform_and_rates():
    with pytest.raises(AudioFormatError, match=r"x: the waveform has shape \(2, 5\)"):
        check_waveform(torch.zeros(2, 5), "x")
    with pytest.raises(AudioFormatError, match="x: 0 samples"):
        check_waveform(torch.zeros(0), "x")
    with pytest.raises(AudioFormatError, match="sample_rate is 0"):
        resample(tone(10), RATE, 0)
    check_waveform(tone(2), "x")


# --- writing fails without loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus", ".mp3"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_output_error_and_the_old_file_stays(tmp_path, speech, monkeypatch, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "open_temporary", lambda path: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device\. What was there is unchanged"):
        write_audio(path, speech, RATE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_size_limit_is_an_output_error_too(tmp_path, speech):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a real failing write, in the middle of the file
    try:
        with pytest.raises(OutputError, match=r"new\.wav: cannot be written: .*Nothing was written"):
            write_audio(tmp_path / "new.wav", speech, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_breaks_half_way_leaves_the_old_file(tmp_path, speech):
    def blocks():
        yield speech
        raise AudioFormatError("half way")

    write_audio(tmp_path / "out.wav", speech[:100], RATE)
    before = (tmp_path / "out.wav").read_bytes()
    with pytest.raises(AudioFormatError, match="half way"):
        write_audio_blocks(tmp_path / "out.wav", blocks(), RATE)
    assert (tmp_path / "out.wav").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out.wav"]


def test_what_cannot_be_written(tmp_path, speech):
    with pytest.raises(AudioFormatError, match=r"suffix '\.m4a' cannot be written\. Known: wav, flac, ogg, opus, mp3"):
        write_audio(tmp_path / "a.m4a", speech, RATE)
    with pytest.raises(AudioFormatError, match="sample_rate is 22050 Hz, but opus knows only 8000, 12000"):
        write_audio(tmp_path / "a.opus", speech, 22_050)
    with pytest.raises(AudioFormatError, match="samples are NaN"):
        write_audio(tmp_path / "a.wav", torch.tensor([0.0, float("nan")]), RATE)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_audio(tmp_path / "folder.wav", speech, RATE)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_audio(tmp_path / "file" / "a.wav", speech, RATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("sample_rate", [16_000, 22_050, 11_000, 96_000])
def test_encoded_bytes_can_be_read_back(tmp_path, speech, format, sample_rate):
    (tmp_path / "page").write_bytes(encode_audio(speech[:RATE], sample_rate, format))
    info = audio_info(tmp_path / "page")
    assert info.duration == pytest.approx(RATE / sample_rate, abs=1e-3)
    assert info.sample_rate == sample_rate or format in ("opus", "mp3")


def test_unknown_encoding_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'opus'"):
        encode_audio(tone(100), RATE, "opsu")


def test_stretches_of_a_lossy_file_are_those_of_the_whole_also_after_it_was_replaced(tmp_path, make_speechlike):
    path = tmp_path / "a.opus"
    for seed in (0, 1):
        write_audio(path, make_speechlike(48_000, seed=seed), 16_000)
        whole = read_audio(path).waveform
        for start in (0.0, 1.5, 0.25):
            stretch = read_audio(path, start=start, duration=0.5).waveform
            assert torch.equal(stretch, whole[round(start * 16_000) :][: len(stretch)])
