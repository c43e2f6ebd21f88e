"""`vocable codec encode` and `decode`: round trips, sizes, and files that are not what they should be."""

import json

import numpy as np
import pytest
import torch

from systems.lm_spt.test_long_recordings import make_tokenizer, sound
from systems.lm_spt.tiny_codec import HOP, RATE
from vocable.audio.io import read_audio
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import AudioFormatError, ConfigError
from vocable.tokens.code_files import pack_codes, read_codes, unpack_codes, write_codes
from vocable.types import SpeechTokens


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return make_tokenizer(name="tiny").save_pretrained(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(name="tiny")


@pytest.fixture
def speech(tmp_path):
    torch.manual_seed(0)
    for name, num_samples in (("a/one", 5 * HOP + 7), ("a/b/two", HOP - 1), ("three", 70 * HOP)):
        write_audio(tmp_path / "speech" / f"{name}.wav", sound(num_samples) * 0.3, RATE)
    return tmp_path / "speech"


def run(capsys, *words) -> tuple[int, str, str]:
    code = main(["codec", *map(str, words)])
    return code, *capsys.readouterr()


def test_sound_to_files_and_back(codec, tokenizer, speech, tmp_path, capsys):
    """A folder and a file become codes, and sound again that is as long as theirs and what `decode` gives."""
    codes, heard, semantic = (tmp_path / name for name in ("codes", "heard", "semantic"))
    code, out, err = run(capsys, "encode", speech / "a", speech / "three.wav", codes, "--tokenizer", codec)
    assert code == 0, err
    assert f"Files in {codes}: 3" in out and "Encoding" in err
    names = ["b/two", "one", "three"]
    assert sorted(path.relative_to(codes).as_posix() for path in codes.rglob("*.codes")) == [
        f"{n}.codes" for n in names
    ]
    assert run(capsys, "decode", codes, heard, "--tokenizer", codec)[0] == 0
    words = ["decode", codes / "one.codes", codes / "three.codes", semantic, "--tokenizer", codec]
    assert run(capsys, *words, "--levels", "semantic", "--format", "flac")[0] == 0
    assert sorted(path.name for path in semantic.iterdir()) == ["one.flac", "three.flac"]
    for name, source in zip(names, ("a/b/two", "a/one", "three"), strict=True):
        original = read_audio(speech / f"{source}.wav").waveform
        file = read_codes(codes / f"{name}.codes")
        assert file.num_samples == len(original) and file.name == f"{source.split('/')[-1]}.wav"
        assert file.card["fingerprint"] == tokenizer.fingerprint
        (tokens,) = tokenizer.encode([original])
        assert file.tokens == tokens
        found = read_audio(heard / f"{name}.wav")
        assert found.sample_rate == RATE and found.waveform.shape == original.shape
        wanted = tokenizer.decode([tokens])[0][: len(original)]
        torch.testing.assert_close(found.waveform, wanted, atol=1 / 32767, rtol=0)  # 16 bits
    alone = SpeechTokens(streams={"semantic": tokens.stream("semantic")})
    wanted = tokenizer.decode([alone])[0][: len(original)]
    torch.testing.assert_close(read_audio(semantic / "three.flac").waveform, wanted, atol=1 / 32767, rtol=0)


def test_fewer_levels_and_what_there_is_not(codec, tokenizer, speech, tmp_path, capsys):
    assert run(capsys, "encode", speech / "three.wav", tmp_path / "codes", "--tokenizer", codec)[0] == 0
    decode = ["decode", tmp_path / "codes", tmp_path / "heard", "--tokenizer", codec, "--levels"]
    assert run(capsys, *decode, 1)[0] == 0
    tokens = read_codes(tmp_path / "codes" / "three.codes").tokens
    semantic, acoustic = tokens.stream("semantic"), tokens.stream("acoustic")
    fewer = SpeechTokens(streams={"semantic": semantic, "acoustic": SpeechTokens(codes=acoustic.codes[:1])})
    found = read_audio(tmp_path / "heard" / "three.wav").waveform
    torch.testing.assert_close(found, tokenizer.decode([fewer])[0][: len(found)], atol=1 / 32767, rtol=0)
    for levels, said in ((3, "levels has 3"), (0, "levels has 0"), ("pitch", "no stream 'pitch'")):
        code, _, err = run(capsys, *decode, levels)
        assert code == 2 and said in err


def test_nothing_is_written_over(codec, speech, tmp_path, capsys):
    words = ["encode", speech / "three.wav", tmp_path / "codes", "--tokenizer", codec]
    assert run(capsys, *words)[0] == 0
    before = (tmp_path / "codes" / "three.codes").read_bytes()
    code, _, err = run(capsys, *words)
    assert code == 2 and "three.codes is there already" in err
    assert (tmp_path / "codes" / "three.codes").read_bytes() == before
    (speech / "a" / "three.wav").write_bytes((speech / "three.wav").read_bytes())
    code, _, err = run(capsys, "encode", speech / "three.wav", speech / "a" / "three.wav", tmp_path / "o", *words[3:])
    assert code == 2 and "two recordings of the same name" in err


def test_what_cannot_be_read_is_noted(codec, speech, tmp_path, capsys):
    (speech / "broken.wav").write_bytes(b"RIFF")
    code, out, err = run(capsys, "encode", speech, tmp_path / "codes", "--tokenizer", codec)
    assert code == 0 and "Left out: 1;" in out and "codes: 3" in out, err
    (row,) = map(json.loads, (tmp_path / "codes" / "rejected.jsonl").read_text().splitlines())
    assert row["id"] == "broken" and row["audio"].endswith("broken.wav")
    code, _, err = run(capsys, "encode", speech, tmp_path / "strict", "--tokenizer", codec, "--strict")
    assert code == 2 and "broken.wav" in err

    whole = (tmp_path / "codes" / "three.codes").read_bytes()
    damaged = {
        "short": whole[:-9],
        "flipped": whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:],
        "none": b"",
        "text": b"no",
    }
    for name, content in damaged.items():
        (tmp_path / "codes" / f"{name}.codes").write_bytes(content)
        with pytest.raises(AudioFormatError, match=f"{name}.codes: is (no whole file of codes|damaged)"):
            read_codes(tmp_path / "codes" / f"{name}.codes")
    code, out, _ = run(capsys, "decode", tmp_path / "codes", tmp_path / "heard", "--tokenizer", codec)
    assert code == 0 and "Left out: 4;" in out and "heard: 3" in out
    rows = [json.loads(line) for line in (tmp_path / "heard" / "rejected.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == set(damaged)
    code, _, err = run(capsys, "decode", tmp_path / "codes", tmp_path / "x", "--tokenizer", codec, "--strict")
    assert code == 2 and ".codes: is" in err


def test_codes_of_another_codec_are_refused(codec, tokenizer, speech, tmp_path, capsys):
    other = tokenizer.in_bfloat16().save_pretrained(tmp_path / "other")
    assert run(capsys, "encode", speech / "three.wav", tmp_path / "codes", "--tokenizer", codec)[0] == 0
    code, _, err = run(capsys, "decode", tmp_path / "codes", tmp_path / "heard", "--tokenizer", other)
    assert code == 2 and tokenizer.fingerprint in err and "do not belong together" in err
    assert not (tmp_path / "heard").exists()


def test_the_codec_that_ships(codec, speech, tmp_path, capsys, monkeypatch):
    """Its name is that of a folder in the package; where that is not there, the message says how to train one."""
    from vocable.assets import resolving

    monkeypatch.setattr(resolving, "SHIPPED", tmp_path)
    code, _, err = run(capsys, "encode", speech / "three.wav", tmp_path / "codes")
    assert code == 2 and "vocable train recipes/lm-spt/cpu-12.5hz.yaml --manifest" in err
    (tmp_path / "codec-12.5hz").symlink_to(codec)
    code, _, err = run(capsys, "encode", speech / "three.wav", tmp_path / "codes")
    assert code == 0, err


def test_size_is_the_nominal_rate_and_a_header(tokenizer, tmp_path):
    """Ten minutes at 12.5 x 9 bits a second: within 3 bytes a second."""
    positions = 7500
    streams = {
        name: SpeechTokens(codes=torch.randint(8, (levels, positions)))
        for name, levels in (("semantic", 1), ("acoustic", 2))
    }
    write_codes(tmp_path / "x.codes", SpeechTokens(streams=streams), tokenizer.card(), positions * HOP, "x.wav")
    nominal = tokenizer.bits_per_second / 8
    assert nominal == 12.5 * 9 / 8
    assert nominal <= (tmp_path / "x.codes").stat().st_size / 600 < nominal + 3
    assert read_codes(tmp_path / "x.codes").tokens == SpeechTokens(streams=streams)


@pytest.mark.parametrize("sizes", [(2048,) * 7, (1000, 5, 1, 4096), (2,), (1,)])
@pytest.mark.parametrize("positions", [0, 1, 13])
def test_packing_is_undone(sizes, positions):
    codes = torch.stack([torch.randint(size, (positions,)) for size in sizes])
    packed = pack_codes(codes, sizes)
    text = "".join(  # by hand
        format(int(code), f"0{(size - 1).bit_length()}b") if size > 1 else ""
        for row in codes.T
        for code, size in zip(row, sizes, strict=True)
    )
    padded = text + "0" * (-len(text) % 8)
    assert packed.tolist() == [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
    assert torch.equal(unpack_codes(packed, sizes, positions), codes)


def test_codes_outside_their_codebook_are_not_written():
    for codes in ([[0, 5]], [[-1, 2]]):
        with pytest.raises(ConfigError, match="the codebook has 0 to 4"):
            pack_codes(torch.tensor(codes), [5])
    with pytest.raises(ConfigError, match="2 levels"):
        pack_codes(torch.zeros(2, 3, dtype=torch.long), [5])
    with pytest.raises(ValueError, match="a code 7"):
        unpack_codes(np.array([0b11100000], dtype=np.uint8), [5], 1)


def test_units_with_durations_are_for_shards(tmp_path):
    card = {"name": "units", "streams": [{"name": "units", "codebook_sizes": [4], "rate": 50.0}]}
    runs = SpeechTokens(codes=torch.tensor([[1, 2]]), durations=torch.tensor([3, 1]))
    with pytest.raises(ConfigError, match="vocable tokenize"):
        write_codes(tmp_path / "x.codes", runs, card, 4, "x.wav")
