"""Streaming synthesis gives the samples of whole-utterance synthesis."""

import math

import pytest
import torch

from synthesis.small_vocoders import as_frames, make_units, make_vocoder
from vocable.audio.io import Audio
from vocable.errors import FingerprintError
from vocable.features.speaker import SpeakerEncoder
from vocable.synthesis import StreamingVocoder, UnitVocoder
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.synthesis.vocoder import VocoderConfig
from vocable.types import SpeechTokens

VOICES = {"voices": ("ann", "bob"), "decoder": {"speaker_dim": 6}}
SETTINGS = [
    {"collapsed": False},
    {"collapsed": False, **VOICES},
    {},
    {**VOICES, "frontend": {"lookahead": 1}},
    {"collapsed": False, "frontend": {"lookahead": 0}, "decoder": {"lookahead": 2}},
    {"collapsed": False, "frontend": {"lookahead": 0}, "decoder": {"lookahead": 0}},
    {"collapsed": False, "frontend": {"lookahead": 2}, "decoder": {"lookahead": 1, "n_fft": 400}},
]


def stream(vocoder: UnitVocoder, tokens: SpeechTokens, chunk: int, voice=None) -> list[torch.Tensor]:
    streaming = StreamingVocoder(vocoder, voice)
    pieces = []
    for first in range(0, tokens.codes.shape[1], chunk):
        part = slice(first, first + chunk)
        durations = None if tokens.durations is None else tokens.durations[part]
        pieces.append(streaming.push(SpeechTokens(codes=tokens.codes[:, part], durations=durations)))
    return [*pieces, streaming.finish()]


def check(vocoder: UnitVocoder, tokens: SpeechTokens, chunk: int, voice=None, collapsed: bool = False) -> None:
    (whole,) = vocoder.synthesize([tokens], voice)
    pieces = stream(vocoder, tokens, chunk, voice)
    joined = torch.cat(pieces)
    assert joined.shape == whole.shape
    assert whole.abs().amax() > 0.05 and whole.abs().median() < 0.9  # something that is not clipped all along
    # products of other shapes round differently in float32; an F0 so near the middle of two sixteenths of a hertz that
    # it is rounded up here and down there moves the phase of a frame by a thousandth of a cycle
    difference = (joined - whole).abs()
    assert difference.max() < 0.02
    assert (difference > 1e-5).float().mean() < 0.01
    if chunk < 20:
        assert sum(len(piece) > 0 for piece in pieces) > 2  # did not just wait for the end


@pytest.mark.parametrize("chunk", [1, 7, 200])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_chunks_equal_the_whole(chunk, settings):
    vocoder = make_vocoder(**settings)
    check(vocoder, SpeechTokens(codes=make_units(45)), chunk, "bob" if "voices" in settings else None)


@pytest.mark.parametrize("rate", [12.5, 25.0, 75.0, 80.0, 100.0, 21.53])
@pytest.mark.parametrize("lookahead", [None, 0])
def test_chunks_equal_the_whole_at_any_rate(rate, lookahead):
    ahead = {"lookahead": lookahead}
    vocoder = make_vocoder(collapsed=False, token_frame_rate=rate, frontend=ahead, decoder=ahead | {"n_fft": 400})
    for chunk in (1, 13):
        check(vocoder, SpeechTokens(codes=make_units(30)), chunk)


def test_voices_that_are_copied_stream_too():
    vocoder = make_vocoder(decoder={"speaker_dim": 6}, collapsed=False)
    vocoder._encoder[:] = [SpeakerEncoder(hidden_dim=8, embedding_dim=6).eval()]
    time = torch.arange(24_000) / 16_000
    buzz = torch.stack([torch.sin(2 * math.pi * 150 * k * time) / k for k in range(1, 9)]).sum(0)
    spoken = Audio(0.1 * buzz, 16_000)
    whisper = Audio(0.1 * torch.randn(24_000), 16_000)
    for voice in (torch.randn(6), spoken, whisper):
        check(vocoder, SpeechTokens(codes=make_units(40)), 5, voice)


@pytest.mark.parametrize("rate", [50.0, 86.1328125])
def test_long_utterances_do_not_drift(rate):
    vocoder = make_vocoder(collapsed=False, token_frame_rate=rate)
    tokens = SpeechTokens(codes=make_units(int(60 * rate)))  # one minute
    (whole,) = vocoder.synthesize([tokens])
    difference = (torch.cat(stream(vocoder, tokens, 101)) - whole).abs()
    assert difference.max() < 0.02 and (difference > 1e-4).float().mean() < 0.01  # as in `check`
    assert difference[-8000:].max() < 0.02


def test_runs_with_durations_stream_too():
    tokens = SpeechTokens(codes=make_units(40), durations=torch.arange(40) % 5 + 1)
    check(make_vocoder(), tokens, 3)


def test_codes_of_several_codebooks_stream_too():
    tokens = SpeechTokens(codes=make_units(40, codebooks=2))
    check(make_vocoder(num_codebooks=2, collapsed=False), tokens, 3)


@pytest.mark.parametrize("rate", [50.0, 12.5, 75.0, 80.0, 100.0])
@pytest.mark.parametrize("settings", [{}, {"frontend": {"lookahead": 1}, "decoder": {"lookahead": 2}}], ids=str)
def test_stream_stays_behind_by_its_lookahead(rate, settings):
    vocoder = make_vocoder(collapsed=False, token_frame_rate=rate, **settings)
    streaming, reach = StreamingVocoder(vocoder), vocoder.config.reach[1]
    assert streaming.lookahead_seconds == reach / 80
    given, first = 0, None
    for pushed in range(1, int((reach + 1) / 80 * rate) + 8):
        given += len(streaming.push(as_frames(1, seed=pushed)))
        frames = int(pushed * 80 / rate + 1e-9)  # frames that are pushed whole
        assert given == max(0, frames - reach) * 100
        if given and first is None:
            first = pushed / rate
    # the first frame is given with the token that completes the frames it waits for
    assert first is not None and (reach + 1) / 80 <= first + 1e-9 < (reach + 1) / 80 + 1 / rate + 1e-6


def test_a_stream_may_stay_behind_little():
    quick = VocoderConfig(
        codebook_size=100,
        frontend=FrontendConfig(lookahead=2),
        decoder=SourceFilterConfig(lookahead=3),
    )
    assert quick.reach[1] / 80 < 0.15
    usual = VocoderConfig(codebook_size=100)
    assert usual.reach[1] / 80 > 0.5


def test_memory_does_not_grow_with_the_utterance():
    vocoder = make_vocoder(collapsed=False)
    streaming = StreamingVocoder(vocoder)
    kept = set()
    for seed in range(30):
        streaming.push(as_frames(5, seed))
        kept.add(streaming.codes.shape[1])
    reach = sum(vocoder.config.reach) * vocoder.config.tokens_per_frame
    assert max(kept) <= reach + 5 + 3
    runs = StreamingVocoder(make_vocoder())
    for seed in range(30):
        runs.push(SpeechTokens(codes=make_units(5, seed=seed)))
        assert runs.runs.shape[1] <= 2 * runs.vocoder.duration_predictor.reach + 5


def test_foreign_tokens_are_refused():
    with pytest.raises(FingerprintError, match="codebook of 20"):
        StreamingVocoder(make_vocoder()).push(SpeechTokens(codes=torch.tensor([[20]])))


def test_nothing_in_nothing_out():
    assert len(StreamingVocoder(make_vocoder()).finish()) == 0
    streaming = StreamingVocoder(make_vocoder(collapsed=False))
    assert len(streaming.push(SpeechTokens(codes=torch.full((1, 4), -1)))) == 0
    assert len(streaming.finish()) == 0
    short = stream(make_vocoder(collapsed=False), SpeechTokens(codes=make_units(1)), 1)
    assert [len(piece) for piece in short] == [0, 160]
