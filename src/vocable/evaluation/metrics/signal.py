"""How close a recording is to its original, sample by sample or frame by frame.

    original, copy (16 kHz)  ->  aligned  ->  STOI, PESQ, mel distance, correlation of pitch and energy, voicing

All need a reference that says the same in the same time: they measure resynthesis, not generation. STOI: Taal et al.,
2011; PESQ: ITU-T P.862.2; both by their usual packages. A resynthesis from few units is another rendering of the same
words, and scores low on STOI and PESQ even where it is clear: read them beside word error rates.
"""

import difflib
import math
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocable.errors import AudioFormatError, ConfigError, missing_extra
from vocable.features.pitch import measure_pitch
from vocable.types import Word

SAMPLE_RATE = 16_000
MAX_SHIFT_SECONDS = 0.1
"""Delays that alignment looks for, either way."""
ENVELOPE_HOP = 16
"""Samples; the coarse alignment is to 1 ms."""
FINE_SHIFT_SAMPLES = 32
"""The fine alignment searches 2 ms around the coarse one."""
MIN_WAVEFORM_CORRELATION = 0.5
"""Below this the waveforms do not agree in phase, and only their envelopes are aligned."""

SILENT_PEAK = 1e-3
"""A recording whose peak is below, -60 dB of full scale, is silent."""

MEL_SIZES = {512: 40, 1024: 80, 2048: 120}
"""Window in samples, and mel bands, of the mel distance."""
MEL_FLOOR = 1e-4
PITCH_HOP = 160
"""Samples per frame of pitch and energy: 10 ms."""
ENERGY_RANGE = math.log(1e-6)
"""Frames are not counted as quieter than 60 dB below the loudest."""
MIN_FRAMES = 10
"""Correlations of fewer frames are not computed."""
TOLERANCE_SECONDS = 0.05
"""Words count as equally long up to this difference."""


class Aligned(NamedTuple):
    """Two recordings of equal length that start together, and how far the second had to be moved."""

    original: Float[Tensor, " samples"]
    copy: Float[Tensor, " samples"]
    shift_samples: int
    """Positive when the copy came late."""


def check_pair(original: Float[Tensor, " samples"], copy: Float[Tensor, " samples"]) -> None:
    """Refuse what no reference metric can score.

    Raises:
        AudioFormatError: one is silent, or not one-dimensional and finite; the message is the reason for a count.
    """
    for name, waveform in (("original", original), ("copy", copy)):
        if waveform.ndim != 1 or waveform.numel() == 0 or not torch.isfinite(waveform).all():
            raise AudioFormatError(f"{name} is empty or not finite")
        if float(waveform.abs().max()) < SILENT_PEAK:
            raise AudioFormatError(f"{name} is silent")


def align(
    original: Float[Tensor, " samples"],
    copy: Float[Tensor, " samples"],
    sample_rate: int = SAMPLE_RATE,
    max_shift_seconds: float = MAX_SHIFT_SECONDS,
) -> Aligned:
    """Move the copy to where it correlates best with the original, and cut both to what they share.

    First the envelopes are correlated, at steps of 1 ms, which also works for vocoders that do not keep the phase. Then
    the waveforms, 2 ms around: that shift is taken where they correlate by at least `MIN_WAVEFORM_CORRELATION`.
    """
    hop = ENVELOPE_HOP * sample_rate // SAMPLE_RATE
    coarse = _best_shift(_envelope(original, hop), _envelope(copy, hop), 0, int(max_shift_seconds * sample_rate) // hop)
    fine = _best_shift(original, copy, coarse.shift * hop, FINE_SHIFT_SAMPLES)
    shift = fine.shift if fine.correlation >= MIN_WAVEFORM_CORRELATION else coarse.shift * hop
    first, second = original[max(0, -shift) :], copy[max(0, shift) :]
    length = min(len(first), len(second))
    return Aligned(first[:length], second[:length], shift)


def stoi(original: Float[Tensor, " samples"], copy: Float[Tensor, " samples"], extended: bool = False) -> float:
    """Short-time objective intelligibility of an aligned copy at 16 kHz, about 0 to 1, by the package pystoi.

    Raises:
        AudioFormatError: fewer than 0.4 s are not silent; the package would score that 1e-5.
        MissingDependencyError: pystoi is not installed.
    """
    try:
        import pystoi
    except ImportError as error:
        raise missing_extra("pystoi", "eval", "STOI") from error
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(original.double().numpy(), copy.double().numpy(), SAMPLE_RATE, extended=extended))
        except RuntimeWarning as warning:
            if "Not enough STFT frames" not in str(warning):
                raise
            raise AudioFormatError("too short for STOI: less than 0.4 s that is not silent") from warning


def pesq(original: Float[Tensor, " samples"], copy: Float[Tensor, " samples"]) -> float:
    """Perceptual evaluation of speech quality, wide band (P.862.2), of a copy at 16 kHz, 1.0 to 4.64.

    Raises:
        AudioFormatError: the recording is too short, or no utterance is found in it.
        MissingDependencyError: the package pesq is not installed.
    """
    try:
        import pesq as package
    except ImportError as error:
        raise missing_extra("pesq", "pesq", "PESQ (which is compiled when it is installed)") from error
    try:
        return float(package.pesq(SAMPLE_RATE, original.numpy(), copy.numpy(), "wb"))
    except package.PesqError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise AudioFormatError(f"PESQ refuses: {reason or type(error).__name__}") from error


def mel_distance(
    original: Float[Tensor, " samples"], copy: Float[Tensor, " samples"], sample_rate: int = SAMPLE_RATE
) -> float:
    """Mean absolute difference of log-mel magnitudes at three window sizes, in natural-log units; 0 when equal.

    For windows of 512, 1024 and 2048 samples (Hann, hop a quarter, frames centred): magnitudes divided by the root of
    the window's energy, 40, 80 and 120 triangular bands of unit area on Slaney's scale up to half the sample rate,
    floor 1e-4, natural logarithm. The mean over bands and frames is averaged over the windows. Not comparable between
    sample rates. Source: the multi-scale mel loss of DAC (Kumar et al., 2023, arXiv:2306.06546).
    Differs: three windows instead of seven, and levels as given, without normalisation.
    """
    distances = []
    for size, bands in MEL_SIZES.items():
        one, other = (_log_mel(waveform, size, bands, sample_rate) for waveform in (original, copy))
        distances.append((one - other).abs().mean())
    return float(torch.stack(distances).mean())


class FrameAgreement(NamedTuple):
    """How pitch and energy of a copy follow the original; None where there are too few frames to say."""

    f0_correlation: float | None
    """Pearson, of log f0, over frames that are voiced in both."""
    voicing_agreement: float
    """Share of frames that are voiced in both or in neither."""
    energy_correlation: float | None
    """Pearson, of log energy, over all frames."""


def frame_agreement(
    original: Float[Tensor, " samples"], copy: Float[Tensor, " samples"], sample_rate: int = SAMPLE_RATE
) -> FrameAgreement:
    """Compare pitch, voicing and energy of an aligned copy in frames of 10 ms; pitch is measured with YIN.

    Energy is the power of the frame, not counted below a millionth of the loudest frame's.

    Raises:
        AudioFormatError: there are fewer than `MIN_FRAMES` frames.
    """
    hop = PITCH_HOP * sample_rate // SAMPLE_RATE
    length = min(len(original), len(copy)) // hop * hop
    if length < MIN_FRAMES * hop:
        raise AudioFormatError(f"too short for pitch and energy: less than {MIN_FRAMES} frames of 10 ms")
    pair = torch.stack([original[:length], copy[:length]])
    pitch = measure_pitch(pair, sample_rate, hop)
    voiced = pitch.voiced[0] & pitch.voiced[1]
    power = pair.double().reshape(2, -1, hop).square().mean(-1)
    energy = (power / power.amax(-1, keepdim=True)).clamp(min=math.exp(ENERGY_RANGE)).log()
    return FrameAgreement(
        f0_correlation=pearson(pitch.log_f0[0, voiced].numpy(), pitch.log_f0[1, voiced].numpy()),
        voicing_agreement=float((pitch.voiced[0] == pitch.voiced[1]).double().mean()),
        energy_correlation=pearson(energy[0].numpy(), energy[1].numpy()),
    )


def pearson(x: Float[np.ndarray, " frames"], y: Float[np.ndarray, " frames"]) -> float | None:
    """Pearson correlation; None with fewer than `MIN_FRAMES` frames, or when one of them never changes."""
    if len(x) != len(y):
        raise ConfigError(f"{len(x)} values cannot be correlated with {len(y)}.")
    if len(x) < MIN_FRAMES:
        return None
    a, b = (np.asarray(values, dtype=np.float64) - np.mean(values, dtype=np.float64) for values in (x, y))
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 1e-12 else None


class DurationCounts(NamedTuple):
    """Counts of the words of one utterance."""

    num_consistent: int
    """Said in both, durations within the tolerance."""
    num_matched: int
    """Said in both."""
    num_words: int
    """Words of the original."""
    mean_difference: float | None
    """Mean absolute difference of durations of matched words, in seconds; None without any."""


def compare_durations(
    original: Sequence[Word], copy: Sequence[Word], tolerance_seconds: float = TOLERANCE_SECONDS
) -> DurationCounts:
    """Match the words of two alignments in order, by their letters and digits, and compare durations.

    Source: TASTE (Tseng et al., 2025, arXiv:2504.07053), which aligns both recordings and counts the same words.
    Differs: where the words differ, those of the longest common subsequence are compared and the others counted,
    instead of leaving out the utterance. Published numbers also use 25 and 40 ms: the tolerance belongs to the score.
    """
    pairs = [(original[first], copy[second]) for first, second in match_words(original, copy)]
    differences = [abs((a.end - a.start) - (b.end - b.start)) for a, b in pairs]
    return DurationCounts(
        # a microsecond of grace: times are rounded in files
        num_consistent=sum(difference <= tolerance_seconds + 1e-6 for difference in differences),
        num_matched=len(pairs),
        num_words=sum(bool(_spelling(word.word)) for word in original),
        mean_difference=sum(differences) / len(differences) if differences else None,
    )


def match_words(original: Sequence[Word], copy: Sequence[Word]) -> list[tuple[int, int]]:
    """Return the places of the words that both have, in order, by their letters and digits; marks are no words."""
    spelt = [[_spelling(word.word) for word in words] for words in (original, copy)]
    matcher = difflib.SequenceMatcher(a=spelt[0], b=spelt[1], autojunk=False)
    return [
        (block.a + i, block.b + i)
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
        if spelt[0][block.a + i]
    ]


class _Shift(NamedTuple):
    shift: int
    correlation: float


def _best_shift(first: Tensor, second: Tensor, centre: int, radius: int) -> _Shift:
    """The shift near `centre` at which `second[i + shift]` is most like `first[i]`, and how like, -1 to 1."""
    size = 1 << (len(first) + len(second)).bit_length()
    spectrum = torch.fft.rfft(first.double(), n=size).conj() * torch.fft.rfft(second.double(), n=size)
    correlation = torch.fft.irfft(spectrum, n=size)
    shifts = torch.arange(centre - radius, centre + radius + 1)
    shifts = shifts[(shifts > -len(first)) & (shifts < len(second))]
    shifts = shifts[shifts.abs().sort(stable=True).indices]  # the smallest of equally good ones
    best = int(correlation[shifts % size].argmax())
    norm = math.sqrt(float(first.double().square().sum()) * float(second.double().square().sum()))
    return _Shift(int(shifts[best]), float(correlation[shifts[best] % size]) / max(norm, 1e-12))


def _envelope(waveform: Tensor, hop: int) -> Tensor:
    """Amplitude in steps of `hop`, over windows of 10 ms, less its mean."""
    width = 10 * hop
    padded = torch.nn.functional.pad(waveform.double().square(), (width // 2, width // 2))
    envelope = padded.unfold(0, width, hop).mean(-1).sqrt()
    return envelope - envelope.mean()


def _log_mel(waveform: Tensor, size: int, bands: int, sample_rate: int) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        size // 2 + 1, bands, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
    )
    window = torch.hann_window(size)
    waveform = torch.nn.functional.pad(waveform.float(), (0, max(0, size - len(waveform))))
    spectrum = torch.stft(waveform, size, size // 4, window=window, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-10).sqrt() / window.square().sum().sqrt()
    unit_area = torch.from_numpy(filters).float() * (sample_rate / size)  # in bins, not in Hz
    return (magnitude.mT @ unit_area).clamp(min=MEL_FLOOR).log()


def _spelling(word: str) -> str:
    return re.sub(r"[\W_]+", "", word.lower())
