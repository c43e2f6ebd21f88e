"""Waveforms to frames: log-mel, the HuBERT family, Whisper.

    encoder = load_encoder(EncoderConfig(name="openai/whisper-tiny.en", layer=2))
    (frames,) = encoder.encode([waveform])        # (frames, dim)

`base.py` says what every encoder does and promises; one file per family. Previous stage: audio/. Next: tokens/.
"""

from vocable.features.base import FeatureEncoder
from vocable.features.config import EncoderConfig
from vocable.features.loading import load_encoder
from vocable.features.log_mel import LogMelConfig, LogMelEncoder, log_mel

__all__ = ["EncoderConfig", "FeatureEncoder", "LogMelConfig", "LogMelEncoder", "load_encoder", "log_mel"]
