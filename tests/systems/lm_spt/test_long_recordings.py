"""Recordings of any length: windows against one pass, blocks against the whole, memory; weights of half the bytes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from systems.lm_spt.tiny_codec import HOP, RATE, VOCOS, VOICE, codec_config
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.frame_transformer import FrameTransformerConfig
from vocable.features.windows import plan_windows
from vocable.systems.lm_spt.config import CodecConfig
from vocable.systems.lm_spt.conv_transformer import ConvTransformerConfig
from vocable.systems.lm_spt.dac import DacDecoderConfig, DacEncoderConfig
from vocable.systems.lm_spt.decoders import CodecDecoder, SourceFilterCodecDecoder
from vocable.systems.lm_spt.model import LmSptCodec
from vocable.systems.lm_spt.networks import make_decoder
from vocable.systems.lm_spt.tokenizer import ACOUSTIC, SEMANTIC, LmSptTokenizer, LmSptTokenizerConfig
from vocable.tokens.tokenizer import load_tokenizer
from vocable.types import SpeechTokens

ODD = (3, 4, 8, 5)
"""Strides of 480 samples, one of them odd."""
WINDOWS = {"window_seconds": 4.0, "context_seconds": 1.0}


def sound(num_samples: int) -> torch.Tensor:
    """Noise whose level and colour change every 500 samples."""
    noise = torch.randn(num_samples + 500)
    low = noise.unfold(0, 8, 1).mean(1)[: num_samples + 493]
    share, gain = (torch.rand(num_samples // 500 + 1).repeat_interleave(500)[:num_samples] for _ in range(2))
    return (share * noise[:num_samples] + (1 - share) * 3 * low[:num_samples]) * gain**3


def make_codec(config: CodecConfig) -> LmSptCodec:
    """A codec whose codebooks have their first values."""
    torch.manual_seed(1)
    codec = LmSptCodec(config)
    codec.train()
    with torch.no_grad():
        for _ in range(4):
            codec.quantizer(*codec.features(sound(80 * codec.config.hop_length).view(4, -1)))
    assert codec.has_codebooks
    return codec.eval()


def make_tokenizer(config: CodecConfig | None = None, **settings) -> LmSptTokenizer:
    config = config or codec_config()
    return LmSptTokenizer(make_codec(config), LmSptTokenizerConfig(codec=config, **(WINDOWS | settings)))


def dac_config() -> CodecConfig:
    encoder = DacEncoderConfig(width=4, strides=ODD)
    decoder = DacDecoderConfig(width=32, strides=ODD[::-1], sample_rate=6000)
    auxiliary = replace(VOCOS, sample_rate=6000, upsample=(4,))
    return codec_config(sample_rate=6000, encoder=encoder, decoder=decoder, auxiliary=auxiliary)


def codes_of(tokens: SpeechTokens) -> torch.Tensor:
    return torch.cat([tokens.stream(SEMANTIC).codes, tokens.stream(ACOUSTIC).codes])


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("make", [codec_config, dac_config])
def test_windows_give_the_codes_of_one_pass(make):
    """Rounding may move a code that lies between two entries: at most one token in a hundred here, none seen."""
    tokenizer = make_tokenizer(make())
    hop = tokenizer.config.codec.hop_length
    waveform = sound(151 * hop - 7)
    assert len(plan_windows(151, tokenizer.window_tokens, tokenizer.context_tokens)) > 3
    whole = torch.cat(tokenizer.codec.encode(waveform))
    found = codes_of(tokenizer.encode([waveform])[0])
    assert found.shape == whole.shape == (3, 151)
    assert len(set(map(tuple, whole.T.tolist()))) > 10  # codes that say something
    assert (found != whole).any(0).float().mean() < 0.01


def test_attention_hears_its_window_and_context():
    transformer = FrameTransformerConfig(
        num_layers=1, width=8, num_heads=2, feedforward_dim=8, attention="full", reach_frames=None
    )
    encoder = ConvTransformerConfig(width=2, strides=(4, 4, 5, 8), transformer=transformer)
    tokenizer = make_tokenizer(codec_config(encoder=encoder))
    assert tokenizer.codec.reach is None
    assert (tokenizer.window_tokens, tokenizer.context_tokens) == (52, 13)  # not less than four contexts
    waveform = sound(80 * HOP)
    pieces = []
    for window in plan_windows(80, 52, 13):
        codes = torch.cat(tokenizer.codec.encode(waveform[window.start * HOP : window.stop * HOP].clone()))
        pieces.append(codes[:, window.keep])
    assert torch.equal(codes_of(tokenizer.encode([waveform])[0]), torch.cat(pieces, 1))
    other = LmSptTokenizer(tokenizer.codec, replace(tokenizer.config, context_seconds=0.5))
    assert other.fingerprint != tokenizer.fingerprint  # other windows, other codes
    limited = make_tokenizer()
    assert LmSptTokenizer(limited.codec, replace(limited.config, window_seconds=9)).fingerprint == limited.fingerprint


@pytest.mark.parametrize("num_samples", [1, HOP - 1, HOP, HOP + 1, 50 * HOP, 50 * HOP + 1, 130 * HOP + 77])
def test_blocks_give_the_bits_of_the_whole(tokenizer, num_samples):
    waveform = sound(num_samples)
    whole = codes_of(tokenizer.encode_stream([waveform]))
    assert whole.shape == (3, -(-num_samples // HOP))
    for size in (HOP // 3 + 1, 37 * HOP + 5):
        blocks = [torch.empty(0), *waveform.split(size)]
        assert torch.equal(codes_of(tokenizer.encode_stream(iter(blocks))), whole)
    if num_samples > 1:
        company = [torch.randn(3 * HOP), waveform, torch.zeros(77 * HOP)]
        assert torch.equal(codes_of(tokenizer.encode(company)[1]), whole)


def test_streams_refuse_what_is_no_sound(tokenizer):
    with pytest.raises(AudioFormatError, match="no sample"):
        tokenizer.encode_stream([torch.empty(0)])
    with pytest.raises(AudioFormatError, match="NaN"):
        tokenizer.encode_stream([torch.zeros(50), torch.tensor([0.0, float("nan")])])
    with pytest.raises(ConfigError, match="longer than the context"):
        LmSptTokenizerConfig(window_seconds=2.0, context_seconds=1.0)
    narrow = make_tokenizer(window_seconds=0.1, context_seconds=0.0)
    assert narrow.window_tokens == 4 * narrow.context_tokens  # a window holds more than its context


def decoders() -> dict[str, CodecDecoder]:
    configs = {"source_filter": VOICE, "vocos": VOCOS, "dac": dac_config().decoder}
    torch.manual_seed(2)
    made = {name: make_decoder(config, 6, 12.5).eval() for name, config in configs.items()}
    voiced = made["source_filter"]
    assert isinstance(voiced, SourceFilterCodecDecoder)
    with torch.no_grad():
        voiced.prosody.weight.mul_(3)
        voiced.prosody.bias.copy_(torch.tensor([0.0, 2.0, 0.0]))
    return made


@pytest.mark.parametrize("name", ["source_filter", "vocos", "dac"])
@pytest.mark.parametrize("num_tokens", [1, 33, 150, 151])
def test_decoding_in_windows_is_decoding_of_the_whole(name, num_tokens):
    """Within 1e-4 of the loudest sample, where 1.5e-6 was seen: room for an F0 on the other side of its grid."""
    decoder = decoders()[name]
    vectors = torch.randn(1, num_tokens, 6)
    with torch.inference_mode():
        whole = decoder(vectors)[0]
        pieces = list(decoder.stretches(vectors, 1))
        (one,) = decoder.stretches(vectors, 200)
    found = torch.cat(pieces)
    assert torch.equal(one, whole)  # one window is one pass
    assert found.shape == whole.shape == (num_tokens * decoder.hop_length,)
    assert (found - whole).abs().max() < 1e-4 * whole.abs().max()
    if num_tokens > 100:
        assert len(pieces) > 3
    if num_tokens > 100 and name == "source_filter":  # windows that know nothing of each other do not continue a voice
        hop, plan = decoder.hop_length, decoder.plan(num_tokens, 1)
        with torch.inference_mode():
            alone = [decoder(vectors[:, w.start : w.stop])[0, w.keep.start * hop : w.keep.stop * hop] for w in plan]
        assert (torch.cat(alone) - whole).abs().max() > 0.1 * whole.abs().max()


def test_windows_begin_where_a_frame_begins():
    """100 samples a frame, 640 a token: every fifth token begins with a frame."""
    decoder = SourceFilterCodecDecoder(VOICE, 6, 12.5)
    assert decoder.grid == 5 and decoder.context_tokens() % 5 == 0
    for window in decoder.plan(500, 61)[1:]:
        assert window.start * HOP % 100 == 0 and window.keep_start * HOP % 100 == 0


def test_long_tokens_are_decoded_in_windows(tokenizer, monkeypatch):
    tokens = tokenizer.encode([sound(90 * HOP)])[0]
    semantic = SpeechTokens(streams={SEMANTIC: tokens.stream(SEMANTIC)})
    whole = tokenizer.decode([tokens, semantic])
    monkeypatch.setattr("vocable.systems.lm_spt.decoders.WINDOW_SECONDS", 3.0)
    for found, wanted in zip(tokenizer.decode([tokens, semantic]), whole, strict=True):
        assert found.shape == (90 * HOP,)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_decoding_refuses_what_does_not_fit(tokenizer):
    tokens = tokenizer.encode([torch.randn(6 * HOP) * 0.1])[0]
    semantic, acoustic = tokens.stream(SEMANTIC).codes, tokens.stream(ACOUSTIC).codes

    def decode(semantic, acoustic=None):
        streams = {SEMANTIC: SpeechTokens(codes=semantic)}
        streams |= {} if acoustic is None else {ACOUSTIC: SpeechTokens(codes=acoustic)}
        return tokenizer.decode([SpeechTokens(streams=streams)])[0]

    assert decode(semantic, acoustic[:1]).shape == decode(semantic).shape == (6 * HOP,)
    for wrong in (-2, -1, 8):
        with pytest.raises(ConfigError, match="codebook has"):
            decode(torch.full_like(semantic, wrong), acoustic)
        with pytest.raises(ConfigError, match="codebook has"):
            decode(semantic, torch.full_like(acoustic, wrong))
    with pytest.raises(ConfigError, match="3 levels"):
        decode(semantic, torch.cat([acoustic, acoustic[:1]]))
    with pytest.raises(ConfigError, match="6 semantic and 5 acoustic"):
        decode(semantic, acoustic[:, :5])


def test_silence_has_codes_and_a_sound(tokenizer):
    silent = tokenizer.encode([torch.zeros(120 * HOP)])[0]
    inner = codes_of(silent)[:, 20:-20]  # every token hears the same
    assert (inner == inner[:, :1]).all()
    assert tokenizer.decode([silent])[0].isfinite().all()


HOUR = f"""
import resource, torch
torch.set_num_threads(1)
from systems.lm_spt.test_long_recordings import make_tokenizer
tokenizer = make_tokenizer(window_seconds=30.0)
generator = torch.Generator().manual_seed(0)
def blocks(seconds):
    for _ in range(seconds // 30):
        yield torch.randn(30 * {RATE}, generator=generator) * 0.1
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
tokenizer.encode_stream(blocks(120))
before = peak()
tokens = tokenizer.encode_stream(blocks(3600))
assert tokens.stream("acoustic").codes.shape == (2, 45_000), tokens
print(peak() - before)
"""


def test_an_hour_takes_the_memory_of_two_minutes():
    """An hour of float32 at 8 kHz is 110 MB."""
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run([sys.executable, "-c", HOUR], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 25


def test_bfloat16_keeps_fingerprint_and_codes(tmp_path):
    tokenizer = make_tokenizer()
    rounded = tokenizer.in_bfloat16()
    assert rounded is not None and rounded.in_bfloat16() is None
    assert rounded.fingerprint != tokenizer.fingerprint and rounded.name == tokenizer.name
    for folder, one in (("full", tokenizer), ("half", rounded)):
        one.save_pretrained(tmp_path / folder)
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_tokenizer(tmp_path / "half")
    assert loaded.fingerprint == rounded.fingerprint
    waveform = sound(20 * HOP)
    tokens = rounded.encode([waveform])
    assert torch.equal(codes_of(loaded.encode([waveform])[0]), codes_of(tokens[0]))
    assert torch.equal(loaded.decode(tokens)[0], rounded.decode(tokens)[0])
    stored = rounded.saved_tensors()
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.bfloat16}
    for key, value in tokenizer.saved_tensors().items():
        assert torch.equal(
            stored[key].float(), value.bfloat16().float() if value.is_floating_point() else value.float()
        )
    # the same values, stored in float32, are the same tokenizer
    widened = LmSptTokenizer(rounded.codec, replace(rounded.config, dtype="float32"))
    assert widened.fingerprint == rounded.fingerprint
