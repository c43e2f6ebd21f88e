"""Streaming synthesis gives the samples of whole-utterance synthesis."""

import pytest
import torch

from vocable.errors import FingerprintError
from vocable.synthesis import StreamingVocoder, UnitVocoder, VocoderConfig
from vocable.types import SpeechTokens


def make_vocoder(**settings) -> UnitVocoder:
    torch.manual_seed(0)
    config = VocoderConfig(
        codebook_size=20, dim=16, hidden_dim=32, num_layers=2, prosody_dim=8, pitch_layers=1, **settings
    )
    vocoder = UnitVocoder(config).eval()
    for parameter in vocoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vocoder


def make_units(num: int) -> torch.Tensor:
    return torch.randint(0, 20, (1, num), generator=torch.Generator().manual_seed(1))


def stream(vocoder: UnitVocoder, tokens: SpeechTokens, chunk: int, voice: str | None = None) -> list[torch.Tensor]:
    streaming = StreamingVocoder(vocoder, voice)
    pieces = []
    for first in range(0, tokens.codes.shape[1], chunk):
        part = slice(first, first + chunk)
        durations = None if tokens.durations is None else tokens.durations[part]
        pieces.append(streaming.push(SpeechTokens(codes=tokens.codes[:, part], durations=durations)))
    return [*pieces, streaming.finish()]


@pytest.mark.parametrize("chunk", [1, 7, 13, 200])
@pytest.mark.parametrize(
    "settings",
    [
        {"excitation": "none", "collapsed": False},
        {"excitation": "harmonic", "collapsed": False},
        {"excitation": "harmonic", "voices": ("ann", "bob")},
        {"excitation": "harmonic", "token_frame_rate": 25.0, "hop_length": 320, "n_fft": 960, "collapsed": False},
    ],
)
def test_chunks_equal_the_whole(chunk, settings):
    vocoder = make_vocoder(**settings)
    voice = "bob" if "voices" in settings else None
    tokens = SpeechTokens(codes=make_units(90))
    (whole,) = vocoder.synthesize([tokens], voice)
    pieces = stream(vocoder, tokens, chunk, voice)
    joined = torch.cat(pieces)
    assert joined.shape == whole.shape
    # products of other shapes may round differently in float32; worst difference seen 2e-7
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)
    if chunk < 20:
        assert sum(len(piece) > 0 for piece in pieces) > 2  # did not just wait for the end


def test_long_utterances_do_not_drift():
    vocoder = make_vocoder(collapsed=False)
    tokens = SpeechTokens(codes=make_units(3000))  # one minute
    (whole,) = vocoder.synthesize([tokens])
    difference = torch.cat(stream(vocoder, tokens, 101)) - whole
    assert difference[-16_000:].abs().max() < 1e-5


def test_runs_with_durations_stream_too():
    vocoder = make_vocoder()
    tokens = SpeechTokens(codes=make_units(40), durations=torch.arange(40) % 5 + 1)
    (whole,) = vocoder.synthesize([tokens])
    torch.testing.assert_close(torch.cat(stream(vocoder, tokens, 3)), whole, atol=1e-5, rtol=0)


def test_stream_stays_behind_by_its_lookahead():
    vocoder = make_vocoder(collapsed=False)
    streaming = StreamingVocoder(vocoder)
    given = len(streaming.push(SpeechTokens(codes=make_units(60))))
    assert given == (60 - vocoder.reach) * 320
    assert streaming.lookahead_seconds == vocoder.reach / 50


def test_memory_does_not_grow_with_the_utterance():
    vocoder = make_vocoder(collapsed=False)
    streaming = StreamingVocoder(vocoder)
    for _ in range(30):
        streaming.push(SpeechTokens(codes=make_units(5)))
    assert streaming.frames.shape[1] <= 2 * vocoder.reach + 5


def test_foreign_tokens_are_refused():
    with pytest.raises(FingerprintError, match="codebook of 20"):
        StreamingVocoder(make_vocoder()).push(SpeechTokens(codes=torch.tensor([[20]])))


def test_nothing_in_nothing_out():
    assert len(StreamingVocoder(make_vocoder()).finish()) == 0
