"""Waveforms: read, write, resample, crop; and manifests, which say where they are."""
