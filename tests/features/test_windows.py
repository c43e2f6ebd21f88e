"""Long recordings: windows keep every frame once, streams equal wholes, and what a window cannot hear is measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.tiny_encoders import HUBERT_FAMILY, WHISPER
from vocable.features import EncoderConfig, load_encoder
from vocable.features.windows import plan_windows

SECOND = 16_000


@given(
    num_frames=st.integers(1, 500),
    context=st.integers(0, 20),
    extra=st.integers(1, 60),
)
def test_windows_keep_every_frame_once_with_context(num_frames, context, extra):
    window = 2 * context + extra
    windows = plan_windows(num_frames, window, context)
    kept = [frame for w in windows for frame in range(w.keep_start, w.keep_stop)]
    assert kept == list(range(num_frames))
    for w in windows:
        assert 0 <= w.start <= w.keep_start < w.keep_stop <= w.stop <= num_frames
        assert w.stop - w.start <= window
        assert w.keep_start - w.start >= context or w.start == 0
        assert w.stop - w.keep_stop >= context or w.stop == num_frames
    assert (len(windows) == 1) == (num_frames <= window)


def stream(waveform: torch.Tensor, sizes: list[int]):
    """Cut a waveform into blocks of these sizes, again and again."""
    start, index = 0, 0
    while start < len(waveform):
        stop = start + sizes[index % len(sizes)]
        yield waveform[start:stop]
        start, index = stop, index + 1


@pytest.mark.parametrize("name", [*HUBERT_FAMILY, "whisper-none", "whisper-30s", "whisper-none-remove", "log-mel"])
@pytest.mark.parametrize("num_samples", [7 * SECOND + 1_234, 2 * SECOND, 3 * SECOND, 3 * SECOND + 1, 200])
def test_a_stream_is_the_whole_to_the_bit(tiny_checkpoint, make_speechlike, name, num_samples):
    settings = {"window_seconds": 3.0, "context_seconds": 0.4}
    if name.startswith(WHISPER):
        _, settings["padding"], settings["positions"] = f"{name}-keep".split("-")[:3]
    folder = name if name == "log-mel" else str(tiny_checkpoint(WHISPER if name.startswith(WHISPER) else name))
    encoder = load_encoder(EncoderConfig(name=folder, layer=0 if name == "log-mel" else 2, **settings))
    waveform = make_speechlike(num_samples)
    (whole,) = encoder.encode([waveform])
    assert len(whole) == encoder.num_frames(num_samples)
    for sizes in ([SECOND], [1_001, 37, 5 * SECOND], [num_samples]):
        assert torch.equal(torch.cat(list(encoder.encode_stream(stream(waveform, sizes)))), whole)


def test_a_stream_holds_one_window(tiny_checkpoint, make_speechlike, monkeypatch):
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0, window_seconds=2.0, context_seconds=0.5))
    longest = []
    run = encoder._run_exact
    monkeypatch.setattr(encoder, "_run_exact", lambda clips: longest.append(len(clips[0])) or run(clips))
    pieces = list(encoder.encode_stream(stream(make_speechlike(20 * SECOND), [4_000])))
    assert max(longest) <= 2 * SECOND + 4_000
    assert len(pieces) == len(longest) >= 19
    assert sum(map(len, pieces)) == encoder.num_frames(20 * SECOND)


@pytest.mark.parametrize("name", ["hubert-large", "wav2vec2-large", "wavlm-large"])
def test_windows_are_exact_where_the_model_hears_less_than_the_context(tiny_checkpoint, make_speechlike, name):
    """Layer 0 of a model without a norm over time hears 16 frames around its own: windows may change only rounding."""
    waveform = make_speechlike(8 * SECOND + 777)
    settings = {"name": str(tiny_checkpoint(name)), "layer": 0, "normalise": False, "context_seconds": 0.4}
    (whole,) = load_encoder(EncoderConfig(**settings)).encode([waveform])
    (windowed,) = load_encoder(EncoderConfig(**settings, window_seconds=2.0)).encode([waveform])
    torch.testing.assert_close(windowed, whole, atol=1e-4, rtol=1e-4)
    assert (whole[1:] - whole[:-1]).abs().mean() > 0.01  # frames out of place would show


def test_log_mel_windows_are_exact_up_to_rounding(make_speechlike):
    waveform = make_speechlike(8 * SECOND + 777)
    settings = {"name": "log-mel", "layer": 0, "context_seconds": 0.1}
    (whole,) = load_encoder(EncoderConfig(**settings)).encode([waveform])
    (windowed,) = load_encoder(EncoderConfig(**settings, window_seconds=1.0)).encode([waveform])
    torch.testing.assert_close(windowed, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-base", WHISPER])
def test_more_context_brings_windows_closer_to_the_whole(tiny_checkpoint, make_speechlike, name):
    """With norms over time and attention over everything, windows are an approximation: context makes it better."""
    waveform = make_speechlike(12 * SECOND)
    folder = str(tiny_checkpoint(name))
    (whole,) = load_encoder(EncoderConfig(name=folder, layer=2)).encode([waveform])
    errors = []
    for context in (0.0, 1.0):
        config = EncoderConfig(name=folder, layer=2, window_seconds=4.0 + 2 * context, context_seconds=context)
        (windowed,) = load_encoder(config).encode([waveform])
        assert windowed.shape == whole.shape
        errors.append(float((windowed - whole).norm() / whole.norm()))
    assert 0 < errors[1] < errors[0]


def test_whisper_reads_recordings_beyond_30_seconds(tiny_checkpoint, make_speechlike):
    encoder = load_encoder(EncoderConfig(name=str(tiny_checkpoint(WHISPER)), layer=1))
    (features,) = encoder.encode([make_speechlike(65 * SECOND)])
    assert len(features) == 65 * 50
