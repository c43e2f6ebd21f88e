"""Units and codes -> waveform: vocoders and durations."""
