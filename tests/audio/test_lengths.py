"""Files whose headers are wrong about their length, or silent: every sample is read, or the reason is given."""

import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from vocable.audio.io import audio_info, iterate_audio, read_audio
from vocable.audio.opening import open_sound
from vocable.errors import AudioFormatError

RATE = 16_000


@pytest.fixture
def samples(make_speechlike) -> np.ndarray:
    return make_speechlike(2 * RATE + 123).clamp(-1, 1).numpy()


@pytest.fixture
def wav(tmp_path, samples) -> bytes:
    soundfile.write(tmp_path / "whole.wav", samples, RATE)
    return (tmp_path / "whole.wav").read_bytes()


def read(path: Path) -> np.ndarray:
    """Read a file whole, and check that its length, its stretches and its blocks agree with that."""
    whole = read_audio(path).waveform
    assert audio_info(path).num_samples == len(whole)
    assert torch.equal(torch.cat(list(iterate_audio(path, block_seconds=0.5))), whole)
    rate = audio_info(path).sample_rate
    assert torch.equal(read_audio(path, start=1.0, duration=0.5).waveform, whole[rate:][: rate // 2])
    return whole.numpy()


def samples_of(wav: bytes) -> np.ndarray:
    return np.frombuffer(wav[44:], "<i2").astype(np.float32) / 32768


def sized(wav: bytes, riff: int, data: int) -> bytes:
    return wav[:4] + struct.pack("<I", riff) + wav[8:40] + struct.pack("<I", data) + wav[44:]


# --- WAV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0, 0), (36, 0), ("right", "+44"), ("+44", "+44"), ("right", "+5000")],
    ids=["killed recorder", "killed after its header", "header counted", "header counted in both", "RIFF is right"],
)
def test_wav_with_wrong_sizes_is_read_to_its_end_with_one_note(tmp_path, wav, caplog, riff, data):
    sizes = {"right": (len(wav) - 8, len(wav) - 44), "+44": (len(wav) + 36, len(wav)), "+5000": (0, len(wav) + 4956)}
    riff, data = (sizes[value][i] if isinstance(value, str) else value for i, value in enumerate((riff, data)))
    path = tmp_path / "odd.wav"
    path.write_bytes(sized(wav, riff, data))
    np.testing.assert_array_equal(read(path), samples_of(wav))
    (note,) = caplog.messages
    assert f"its header says {data} bytes of audio, but it holds {len(wav) - 44}" in note


def test_wav_whose_end_is_missing_is_refused_and_one_without_samples_too(tmp_path, wav):
    (tmp_path / "cut.wav").write_bytes(wav[:-5000])
    with pytest.raises(AudioFormatError, match=r"cut short: the header says \d+ bytes of audio, there are \d+\. Copy"):
        read_audio(tmp_path / "cut.wav")
    listed = b"LIST\x04\0\0\0INFO"
    (tmp_path / "none.wav").write_bytes(sized(wav[:44], 36 + len(listed), 0) + listed)
    with pytest.raises(AudioFormatError, match="holds no samples"):
        read_audio(tmp_path / "none.wav")


@pytest.mark.parametrize("size", [2000, 0xFFFFFFFF])
def test_wav_beyond_4_gib_is_refused_not_cut(tmp_path, wav, size):
    path = tmp_path / "long.wav"
    path.write_bytes(sized(wav[:44], size, size))
    with path.open("r+b") as file:
        file.truncate(44 + (1 << 32) + 2000)  # sparse: it takes no room
    with pytest.raises(AudioFormatError, match=r"long\.wav: holds more than the 4 GiB"):
        audio_info(path)
    path.unlink()


# --- FLAC -----------------------------------------------------------------------------------------------------------


def test_flac_of_unknown_length_is_counted(tmp_path, samples):
    soundfile.write(tmp_path / "known.flac", samples, RATE)
    content = bytearray((tmp_path / "known.flac").read_bytes())
    content[21] &= 0xF0  # STREAMINFO: 36 bits, the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "piped.flac").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "piped.flac"), read(tmp_path / "known.flac"))


# --- MP3 ------------------------------------------------------------------------------------------------------------


def mp3(path: Path, samples: np.ndarray, rate: int, mode: str) -> bytes:
    soundfile.write(path, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.2)
    return path.read_bytes()


def without_tag(content: bytes) -> bytes:
    place = max(content.find(b"Xing"), content.find(b"Info"))
    return content[:place] + bytes(4) + content[place + 4 :]


@pytest.mark.parametrize(("rate", "mode"), [(16_000, "VARIABLE"), (16_000, "CONSTANT"), (44_100, "CONSTANT")])
@pytest.mark.parametrize("in_front", [b"", b"ID3\x04\0\0\0\0\x02\x00" + b"Info\xff\xfb\x90\x64" * 32])
@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(125)])
def test_mp3_without_its_tag_gives_every_sample(tmp_path, samples, rate, mode, in_front, behind):
    # the first part is loud and long, the rest silent: a variable rate that the first frames say nothing about
    samples = np.concatenate([np.zeros(4 * RATE, np.float32), samples])
    content = mp3(tmp_path / "tagged.mp3", samples, rate, mode)
    tagged = read_audio(tmp_path / "tagged.mp3").waveform.numpy()
    (tmp_path / "plain.mp3").write_bytes(in_front + without_tag(content) + behind)
    plain = read(tmp_path / "plain.mp3")
    # without the tag, its frame and the encoder's delay are heard too: 1152 (576 below 32 kHz) and 576 + 529 samples
    shift = len(plain) - len(tagged)
    delay = (1152 if rate > 32_000 else 576) + 576 + 529
    assert shift >= delay
    np.testing.assert_allclose(plain[delay:][: len(tagged)], tagged, atol=1e-5)


def test_mp3_files_one_after_another_are_refused_not_cut(tmp_path, samples):
    content = mp3(tmp_path / "one.mp3", samples, RATE, "VARIABLE")
    for between in (b"", b"TAG" + bytes(125)):
        (tmp_path / "two.mp3").write_bytes(content + between + content)
        with pytest.raises(AudioFormatError, match=r"two\.mp3: holds several MP3 files one after another"):
            audio_info(tmp_path / "two.mp3")
    (tmp_path / "one.mp3").write_bytes(content + b"TAG" + bytes(125))
    assert audio_info(tmp_path / "one.mp3").num_samples == len(samples)


# --- Ogg ------------------------------------------------------------------------------------------------------------


def pages_of(content: bytes) -> list[bytes]:
    pages, place = [], 0
    while place < len(content):
        size = 27 + content[place + 26] + sum(content[place + 27 : place + 27 + content[place + 26]])
        pages.append(content[place : place + size])
        place += size
    return pages


def with_checksum(page: bytes) -> bytes:
    """RFC 3533: CRC of polynomial 0x04c11db7, from 0, over the page with a checksum of 0."""
    page = page[:22] + bytes(4) + page[26:]
    crc = 0
    for value in page:
        crc ^= value << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


def captured_later(content: bytes, shift: int) -> bytes:
    """The stream as one gets it who listens in later: granule positions do not begin at 0."""
    head, pages = pages_of(content)[:2], pages_of(content)[2:]
    moved = [page[:6] + struct.pack("<q", struct.unpack("<q", page[6:14])[0] + shift) + page[14:] for page in pages]
    return b"".join(head + [with_checksum(page) for page in moved])


def without_end(content: bytes) -> bytes:
    pages = pages_of(content)
    last = pages[-1]
    return b"".join([*pages[:-1], with_checksum(last[:5] + bytes([last[5] & ~4]) + last[6:])])


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
class TestOgg:
    def content(self, path: Path, samples: np.ndarray, subtype: str) -> bytes:
        soundfile.write(path, samples, RATE, format="OGG", subtype=subtype)
        return path.read_bytes()

    def test_stream_captured_while_it_runs_is_that_of_its_start(self, tmp_path, samples, subtype):
        content = self.content(tmp_path / "whole.ogg", samples, subtype)
        (tmp_path / "live.ogg").write_bytes(captured_later(content, 3600 * 48_000))
        np.testing.assert_array_equal(read(tmp_path / "live.ogg"), read(tmp_path / "whole.ogg"))

    def test_streams_one_after_another_are_read_one_after_another(self, tmp_path, samples, subtype):
        first = self.content(tmp_path / "a.ogg", samples, subtype)
        second = self.content(tmp_path / "b.ogg", samples[::-1], subtype)
        (tmp_path / "chained.ogg").write_bytes(first + second + first)
        a, b = read(tmp_path / "a.ogg"), read(tmp_path / "b.ogg")
        np.testing.assert_array_equal(read(tmp_path / "chained.ogg"), np.concatenate([a, b, a]))

    def test_streams_of_different_kinds_are_refused(self, tmp_path, samples, subtype):
        first = self.content(tmp_path / "a.ogg", samples, subtype)
        soundfile.write(tmp_path / "b.ogg", np.stack([samples, samples], 1), 48_000, format="OGG", subtype=subtype)
        (tmp_path / "chained.ogg").write_bytes(first + (tmp_path / "b.ogg").read_bytes())
        with pytest.raises(
            AudioFormatError, match=r"2 streams one after another, of different kinds \(16000 Hz with 1"
        ):
            audio_info(tmp_path / "chained.ogg")

    def test_without_its_end_mark_it_is_read_with_a_note(self, tmp_path, samples, subtype, caplog):
        content = self.content(tmp_path / "whole.ogg", samples, subtype)
        (tmp_path / "endless.ogg").write_bytes(without_end(content))
        found, whole = read(tmp_path / "endless.ogg"), read(tmp_path / "whole.ogg")
        np.testing.assert_array_equal(found, whole)
        (note,) = caplog.messages
        assert "does not say that it is the last" in note
        (tmp_path / "endless.ogg").write_bytes(without_end(content)[:-100])
        with pytest.raises(AudioFormatError, match="cut short: its last Ogg page is not whole"):
            audio_info(tmp_path / "endless.ogg")


# --- what FFmpeg reads ----------------------------------------------------------------------------------------------


def write_media(path: Path, samples: np.ndarray, codec: str, rate: int) -> None:
    import av

    with av.open(path, "w") as container:
        stream = cast(Any, container.add_stream(codec, rate=rate, layout="mono"))
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for part in av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".m4a", "aac"), (".m4b", "alac"), (".aac", "aac"), (".ac3", "ac3"), (".mka", "pcm_s16le"), (".wv", "wavpack")],
)
def test_what_libsndfile_lacks_is_read_through_ffmpeg(tmp_path, make_speechlike, suffix, codec):
    pytest.importorskip("av")
    rate = 48_000 if codec == "ac3" else RATE
    samples = make_speechlike(2 * rate).clamp(-1, 1).numpy()
    path = tmp_path / f"speech{suffix}"
    write_media(path, samples, codec, rate)
    found = read(path)
    assert audio_info(path).sample_rate == rate
    assert abs(len(found) - len(samples)) <= 3 * 1024  # frames at both ends, where the container cannot trim them
    best = max(np.corrcoef(found[shift:][:rate], samples[:rate])[0, 1] for shift in (0, 256, 1024, 2048))
    assert best > (0.99 if codec in ("alac", "wavpack", "pcm_s16le") else 0.9)


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(500))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(AudioFormatError, match=r"a\.m4a: not audio that can be read .*pip install 'vocable\[media\]'"):
        audio_info(tmp_path / "a.m4a")


def test_what_ffmpeg_finds_damaged_or_cut_short_is_refused(tmp_path, samples):
    pytest.importorskip("av")
    write_media(tmp_path / "a.mka", samples, "pcm_s16le", RATE)
    content = (tmp_path / "a.mka").read_bytes()
    (tmp_path / "cut.mka").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioFormatError, match=r"cut\.mka: the file is cut short: the header says 2\.\d+ s"):
        audio_info(tmp_path / "cut.mka")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(500))
    with pytest.raises(AudioFormatError, match=r"a\.m4a: FFmpeg cannot read it"):
        audio_info(tmp_path / "a.m4a")


def test_files_are_closed(tmp_path, wav):
    (tmp_path / "odd.wav").write_bytes(sized(wav, 0, 0))
    with open_sound(tmp_path / "odd.wav") as sound:
        source = cast(Any, sound).source
        assert not source.closed
    assert source.closed
