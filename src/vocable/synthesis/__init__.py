"""Units and codes -> waveform: vocoders, durations, and one way to open any synthesizer."""

from vocable.synthesis.opening import load_synthesizer
from vocable.synthesis.streaming import StreamingVocoder
from vocable.synthesis.unit_hifigan import UnitHiFiGAN, UnitHiFiGANConfig
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig

__all__ = ["StreamingVocoder", "UnitHiFiGAN", "UnitHiFiGANConfig", "UnitVocoder", "VocoderConfig", "load_synthesizer"]
