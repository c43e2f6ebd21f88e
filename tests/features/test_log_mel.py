"""Log-mel frames: counts, places and errors (the values are compared with Whisper's in parity/)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocable.errors import ConfigError
from vocable.features import LogMelConfig, LogMelEncoder, log_mel


@settings(deadline=None)
@given(num_samples=st.integers(1, 5_000), hop_length=st.sampled_from([160, 256, 600]))
def test_one_frame_a_hop(num_samples, hop_length):
    config = LogMelConfig(hop_length=hop_length, n_fft=512)
    frames = log_mel(torch.zeros(num_samples), config)
    assert (
        frames.shape == (max(num_samples // hop_length, 1), 80) == (LogMelEncoder(config).num_frames(num_samples), 80)
    )


def test_a_tone_shows_in_its_band_and_an_impulse_in_its_frame():
    config = LogMelConfig()
    time = torch.arange(16_000) / 16_000
    low, high = (log_mel(torch.sin(2 * math.pi * hertz * time), config).mean(0).argmax() for hertz in (300, 3_000))
    assert 3 <= low <= 9 and 45 <= high <= 60  # Slaney's scale: linear to 1 kHz in the lower third, then logarithmic
    impulse = torch.zeros(16_000)
    impulse[42 * 160] = 1.0
    assert log_mel(impulse, config).sum(1).argmax() == 42


def test_rows_of_a_batch_are_clips_and_scaling_is_by_clip():
    clips = torch.stack([torch.randn(8_000), 1e-3 * torch.randn(8_000)])
    for config in (LogMelConfig(), LogMelConfig(scaling="whisper"), LogMelConfig(log_base="e", floor=1e-5)):
        together = log_mel(clips, config)
        for row, clip in zip(together, clips, strict=True):
            torch.testing.assert_close(row, log_mel(clip, config), atol=1e-5, rtol=1e-5)


def test_gradients_flow_through_silence():
    silence = torch.zeros(2, 4_000, requires_grad=True)
    log_mel(silence, LogMelConfig()).sum().backward()
    assert silence.grad.isfinite().all()


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"log_mel.hop_length is 0; it must be positive"):
        LogMelConfig(hop_length=0)
    with pytest.raises(ConfigError, match=r"covers 0.0 to 9000.0 Hz; at a sample rate of 16000 Hz"):
        LogMelConfig(max_frequency=9000.0)
