"""Change how a recording sounds: rooms, background noise, loudness; and join two recordings without a click.

Arithmetic on NumPy waveforms, float32, one axis. Used by consistency.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vocable.errors import AudioFormatError

COLOURS = {"brown": -2.0, "pink": -1.0, "white": 0.0, "blue": 1.0}
"""Slope of the power spectrum: power goes with frequency to this exponent."""
LOWEST_NOISE_HZ = 50.0
"""Below this, coloured noise is flat: brown noise would be all rumble."""
DIRECT_TO_REVERBERANT_DB = 3.0


def coloured_noise(num_samples: int, colour: str, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise with a mean power of one whose power spectrum follows `COLOURS[colour]`."""
    spectrum = np.fft.rfft(generator.standard_normal(num_samples))
    frequencies = np.maximum(np.fft.rfftfreq(num_samples, 1 / sample_rate), LOWEST_NOISE_HZ)
    noise = np.fft.irfft(spectrum * frequencies ** (COLOURS[colour] / 2), num_samples)
    return (noise / np.sqrt(np.mean(np.square(noise)))).astype(np.float32)


def impulse_response(decay_seconds: float, sample_rate: int, generator: np.random.Generator) -> np.ndarray:
    """Return a synthetic room: the direct sound, then noise that has lost 60 dB after `decay_seconds`.

    Source: the statistical model of late reverberation (Moorer, 1979, doi:10.2307/3680280). Differs: no early
    reflections; the energy of the tail is 3 dB below that of the direct sound in every room.
    """
    num_samples = max(round(decay_seconds * sample_rate), 2)
    decay = 10 ** (-3 * np.arange(num_samples) / num_samples)
    tail = generator.standard_normal(num_samples) * decay
    tail[: max(round(0.002 * sample_rate), 1)] = 0.0
    tail *= 10 ** (-DIRECT_TO_REVERBERANT_DB / 20) / np.sqrt(np.sum(np.square(tail)) + 1e-12)
    tail[0] = 1.0
    return tail.astype(np.float32)


def convolve(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the first `len(waveform)` samples of the convolution, by FFT."""
    size = len(waveform) + len(response) - 1
    product = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    return np.fft.irfft(product, size)[: len(waveform)].astype(np.float32)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise, scaled so that the power of the speech is `snr_db` above its own.

    Raises:
        AudioFormatError: the noise is silent.
    """
    power = np.mean(np.square(noise))
    if power < 1e-12:
        raise AudioFormatError("The noise is silent. Use another noise file.")
    gain = np.sqrt(np.mean(np.square(waveform)) / power) * 10 ** (-snr_db / 20)
    return (waveform + gain * noise).astype(np.float32)


def at_level(waveform: np.ndarray, level_dbfs: float) -> np.ndarray:
    """Scale to a root mean square of `level_dbfs`, dB below full scale.

    Raises:
        AudioFormatError: the waveform is silent.
    """
    level = np.sqrt(np.mean(np.square(waveform)))
    if level < 1e-6:
        raise AudioFormatError("A recording is silent where its halves are cut. Leave it out.")
    return (waveform * (10 ** (level_dbfs / 20) / level)).astype(np.float32)


def crossfade(first: np.ndarray, second: np.ndarray, fade_samples: int) -> np.ndarray:
    """Join two waveforms; the last samples of one and the first of the other overlap, faded linearly.

    The result has `len(first) + len(second) - fade_samples` samples.
    """
    if fade_samples == 0:
        return np.concatenate([first, second])
    ramp = (np.arange(fade_samples, dtype=np.float32) + 0.5) / fade_samples
    middle = first[-fade_samples:] * (1 - ramp) + second[:fade_samples] * ramp
    return np.concatenate([first[:-fade_samples], middle, second[fade_samples:]]).astype(np.float32)


def quiet_seam(waveform: np.ndarray, sample_rate: int, frame_seconds: float = 0.02) -> int:
    """Return the middle of the quietest frame in the middle third of a recording, in samples."""
    frame = max(round(frame_seconds * sample_rate), 1)
    first, last = len(waveform) // 3, 2 * len(waveform) // 3
    starts = range(first, max(last - frame, first + 1), frame)
    powers = [float(np.mean(np.square(waveform[start : start + frame]))) for start in starts]
    return starts[int(np.argmin(powers))] + frame // 2


def loop_to(noise: np.ndarray, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return `num_samples` of a noise from a random place, repeated if it is shorter."""
    start = int(generator.integers(len(noise)))
    return np.resize(np.concatenate([noise[start:], noise[:start]]), num_samples)


def limit(waveforms: Sequence[np.ndarray], peak: float = 0.97) -> list[np.ndarray]:
    """Scale waveforms by one common factor so that no sample passes `peak`."""
    loudest = max(float(np.abs(waveform).max()) for waveform in waveforms)
    return [waveform * min(1.0, peak / max(loudest, 1e-9)) for waveform in waveforms]
