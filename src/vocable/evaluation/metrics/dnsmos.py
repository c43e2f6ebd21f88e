"""Predicted opinion scores of noise suppression, P.835: speech (SIG), background (BAK) and overall (OVRL), 1 to 5.

    waveform 16 kHz -> repeated to at least 9.01 s -> windows of 9.01 s every second -> ONNX model -> polynomial -> mean

Made for denoised speech: it separates speech synthesisers less well than DistillMOS does. Source: DNSMOS P.835 (Reddy
et al., 2022, arXiv:2110.01763). Weights and constants: the package speechmos (MIT), of which only the ONNX file is
read.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vocable.errors import AssetError, AudioFormatError, missing_extra

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 144_160
"""9.01 s."""
MODEL_FILE = Path("dnsmos_models") / "sig_bak_ovr.onnx"

# released polynomials, highest power first: from the network's output to the scale of listeners
TO_SCALE = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


class DnsmosScores(NamedTuple):
    """Of one recording."""

    sig: float
    bak: float
    ovrl: float


class DNSMOS:
    """The predictor; `predict` gives OVRL.

    Args:
        model: the ONNX file; None takes that of the installed package speechmos.

    Raises:
        MissingDependencyError: onnxruntime or speechmos is not installed.
        AssetError: `model` is not a readable ONNX file.
    """

    name = "dnsmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = MappingProxyType({})
    """Name and hash, for results."""

    def __init__(self, model: Path | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "dnsmos", "DNSMOS") from error
        path = Path(model) if model is not None else _packaged_model()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class
            raise AssetError(f"{path}: not a readable ONNX model: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self.weights = {"name": "dnsmos-p835", "sha256": hashlib.sha256(content).hexdigest()}

    def scores(self, waveform: Tensor) -> DnsmosScores:
        """Score one recording at 16 kHz, (samples,).

        Raises:
            AudioFormatError: it is empty, not one-dimensional, or holds NaN or infinity.
        """
        windows = cut_windows(np.asarray(waveform, dtype=np.float32))
        raw = np.concatenate([np.asarray(self._session.run(None, {self._input: w[None]})[0]) for w in windows])
        scaled = (np.polyval(TO_SCALE[name], raw[:, i]).mean() for i, name in enumerate(("sig", "bak", "ovrl")))
        return DnsmosScores(*(float(value) for value in scaled))

    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """Overall score of each recording at 16 kHz; errors as for `scores`."""
        return [self.scores(waveform).ovrl for waveform in waveforms]


def cut_windows(waveform: np.ndarray) -> list[np.ndarray]:
    """Windows of 9.01 s every second; a shorter recording is first doubled until it is long enough."""
    if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
        raise AudioFormatError(
            f"A waveform of shape {waveform.shape} cannot be scored: it must have one dimension, at least one sample, "
            "and no NaN or infinity."
        )
    while len(waveform) < WINDOW_SAMPLES:
        waveform = np.concatenate([waveform, waveform])
    # the released code counts whole seconds: a window that would begin in the last, broken one is left out
    count = int(len(waveform) // SAMPLE_RATE - WINDOW_SAMPLES / SAMPLE_RATE) + 1
    windows = [waveform[i * SAMPLE_RATE : i * SAMPLE_RATE + WINDOW_SAMPLES] for i in range(count)]
    return [window for window in windows if len(window) == WINDOW_SAMPLES]


def _packaged_model() -> Path:
    found = importlib.util.find_spec("speechmos")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / MODEL_FILE).is_file():
            return Path(folder) / MODEL_FILE
    raise missing_extra("speechmos", "dnsmos", "DNSMOS (its weights come with that package)")
