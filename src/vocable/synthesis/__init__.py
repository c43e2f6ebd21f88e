"""Units and codes -> waveform: vocoders and durations."""

from vocable.synthesis.streaming import StreamingVocoder
from vocable.synthesis.unit_hifigan import UnitHiFiGAN, UnitHiFiGANConfig
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig

__all__ = ["StreamingVocoder", "UnitHiFiGAN", "UnitHiFiGANConfig", "UnitVocoder", "VocoderConfig"]
