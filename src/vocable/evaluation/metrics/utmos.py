"""UTMOS, strong learner: predicted opinion score of speech synthesis, 1 to 5, with weights that you bring.

    waveform -> the torch hub model `utmos22_strong` in a local folder -> 1..5

Its weights are in no package, so nothing is downloaded here: clone the hub repository tarepan/SpeechMOS, put its
weights into torch's hub cache, and name the folder. Source: UTMOS (Saeki et al., 2022, arXiv:2204.02152).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vocable.errors import AssetError, AudioFormatError

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE = 16_000
ENTRY = "utmos22_strong"
CHECKPOINT = "utmos22_strong*.pt"
REMEDY = (
    "Clone the torch hub repository tarepan/SpeechMOS, run it once where the network can be reached (its weights, "
    "utmos22_strong_step7459_v1.pt, then lie in torch's hub cache under checkpoints/), and pass --mos utmos:FOLDER. "
    "Without it, use distillmos or dnsmos."
)


class UTMOS:
    """The predictor.

    Args:
        folder: a clone of the hub repository; None looks for one in torch's hub cache. Its code is run.
        device: where it runs.

    Raises:
        AssetError: there is no such folder, or its weights are not in torch's hub cache.
    """

    name = "utmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = MappingProxyType({})
    """Name and hash, for results."""

    def __init__(self, folder: Path | None = None, device: str = "cpu") -> None:
        import torch

        repository = Path(folder) if folder is not None else _cached_repository(Path(torch.hub.get_dir()))
        if not (repository / "hubconf.py").is_file():
            raise AssetError(f"{repository} holds no hubconf.py: it is no torch hub repository. {REMEDY}")
        checkpoints = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob(CHECKPOINT))
        if not checkpoints:
            raise AssetError(f"No {CHECKPOINT} in {Path(torch.hub.get_dir()) / 'checkpoints'}. {REMEDY}")
        model: Any = torch.hub.load(str(repository), ENTRY, source="local", verbose=False)
        self._model = model.to(device).eval()
        self._device = device
        digest = hashlib.sha256(checkpoints[-1].read_bytes()).hexdigest()
        self.weights = {"name": checkpoints[-1].stem, "sha256": digest}

    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """Score recordings at 16 kHz, (samples,), one by one, so that no padding counts.

        Raises:
            AudioFormatError: one is empty, not one-dimensional, or holds NaN or infinity.
        """
        import torch

        scores = []
        for waveform in waveforms:
            if waveform.ndim != 1 or not waveform.numel() or not torch.isfinite(waveform).all():
                raise AudioFormatError(f"A waveform of shape {tuple(waveform.shape)} cannot be scored.")
            with torch.inference_mode():
                scores.append(float(self._model(waveform[None].float().to(self._device), SAMPLE_RATE)))
        return scores


def _cached_repository(hub: Path) -> Path:
    found = sorted(hub.glob("tarepan_SpeechMOS_*"))
    if not found:
        raise AssetError(f"UTMOS is not at hand: {hub} holds no tarepan_SpeechMOS_*. {REMEDY}")
    return found[-1]
