"""Waveform -> frames: log-mel, the HuBERT family, Whisper encoders."""
