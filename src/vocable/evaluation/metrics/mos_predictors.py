"""The predictors of opinion scores by name: distillmos, dnsmos, utmos, each with `:PATH` for weights of your own.

load_mos("dnsmos")              # the ONNX file of the installed package speechmos
load_mos("utmos:SpeechMOS")     # a clone of the torch hub repository
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vocable.registry import look_up

if TYPE_CHECKING:
    from torch import Tensor


class MosPredictor(Protocol):
    """Anything that scores recordings from 1 to 5 without a reference."""

    name: str
    sample_rate: int
    """Hz, of the waveforms it reads."""
    weights: Mapping[str, str]
    """Name and hash, for results."""

    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """One score per waveform, (samples,)."""
        ...


def load_mos(name: str, device: str = "cpu") -> MosPredictor:
    """Load a predictor of opinion scores.

    Args:
        name: distillmos, dnsmos or utmos; after a colon, where its weights are: the asset or folder of DistillMOS, the
            ONNX file of DNSMOS, the torch hub repository of UTMOS. A folder alone holds DistillMOS weights.
        device: where it runs; DNSMOS runs on the CPU.

    Raises:
        UnknownNameError: no such predictor.
        AssetError, MissingDependencyError: its weights are not at hand; the message says how to get them.
    """
    if Path(name).is_dir():
        return _distillmos(name, device)
    kind, _, where = name.partition(":")
    return look_up("MOS predictor", kind, PREDICTORS)(where or None, device)


def _distillmos(where: str | None, device: str) -> MosPredictor:
    from vocable.evaluation.metrics.mos import load_distillmos

    return load_distillmos(where or "distillmos", device)


def _dnsmos(where: str | None, device: str) -> MosPredictor:
    from vocable.evaluation.metrics.dnsmos import DNSMOS

    return DNSMOS(Path(where) if where else None)


def _utmos(where: str | None, device: str) -> MosPredictor:
    from vocable.evaluation.metrics.utmos import UTMOS

    return UTMOS(Path(where) if where else None, device)


PREDICTORS: Mapping[str, Callable[[str | None, str], MosPredictor]] = {
    "distillmos": _distillmos,
    "dnsmos": _dnsmos,
    "utmos": _utmos,
}
