"""Predicted mean opinion score of a recording, from 1 (bad) to 5 (excellent), without a reference.

    load_mos("distillmos")          # an asset; or distillmos:FOLDER
    load_mos("dnsmos")              # the ONNX file of the installed package speechmos; or dnsmos:FILE
    load_mos("utmos:SpeechMOS")     # a clone of the torch hub repository

All listen at 16 kHz, and rank speech systems: absolute values depend on what listeners heard in the training data. Each
class names its source.
"""

import hashlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.assets.weights import read_weights, weights_record
from vocable.errors import AssetError, AudioFormatError, missing_extra
from vocable.registry import look_up

SAMPLE_RATE = 16_000
"""Hz; what all predictors read."""
NO_WEIGHTS: Mapping[str, str] = MappingProxyType({})

WINDOW_SAMPLES = 122_880
"""7.68 s: what the 384 positions of DistillMOS see."""
MAX_HOP_SAMPLES = 16_000
"""Windows of a longer recording start at most this far apart, evenly spread from its start to its end."""
FFT_SAMPLES, HOP_SAMPLES = 320, 160
NUM_POSITIONS, TRANSFORMER_DIM, NUM_HEADS, NUM_LAYERS = 384, 200, 8, 7
CNN_CHANNELS = (2, 64, 64, 128, 256, 256, 256)
RELEASED_NAMES = {
    "transformer_pool_attn.norm_input.": "norm_features.",
    "transformer_pool_attn.norm_trans.": "norm_output.",
    "transformer_pool_attn.transformer.norm.": "norm_input.",
    "transformer_pool_attn.transformer.linear_proj.": "projection.",
    "transformer_pool_attn.transformer.transformer_encoder.": "transformer.",
    "transformer_pool_attn.pool.linear1.": "pool_hidden.",
    "transformer_pool_attn.pool.linear2.": "pool_score.",
    "transformer_pool_attn.pool.linear3.": "output.",
}
"""Beginnings of parameter names in the released weights of DistillMOS, and ours."""

DNSMOS_WINDOW_SAMPLES = 144_160
"""9.01 s."""
DNSMOS_FILE = Path("dnsmos_models") / "sig_bak_ovr.onnx"
DNSMOS_SCALES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
"""Released polynomials, highest power first: from the network's output to the scale of listeners."""

UTMOS_ENTRY = "utmos22_strong"
UTMOS_REMEDY = (
    "Clone the torch hub repository tarepan/SpeechMOS, run it once where the network can be reached (its weights, "
    "utmos22_strong_step7459_v1.pt, then lie in torch's hub cache under checkpoints/), and pass --mos utmos:FOLDER. "
    "Without it, use distillmos or dnsmos."
)


class MosPredictor(Protocol):
    """Anything that scores recordings from 1 to 5 without a reference."""

    name: str
    sample_rate: int
    """Hz, of the waveforms it reads."""
    weights: Mapping[str, str]
    """Name and hash, for results."""

    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """Return one score per waveform, (samples,).

        Raises:
            AudioFormatError: a waveform is empty, not one-dimensional, or holds NaN or infinity.
        """
        ...


def load_mos(name: str, device: str = "cpu") -> MosPredictor:
    """Load a predictor of opinion scores.

    Args:
        name: distillmos, dnsmos or utmos; after a colon, where its weights are: the asset or folder of DistillMOS, the
            ONNX file of DNSMOS, the torch hub repository of UTMOS. A folder alone holds DistillMOS weights.
        device: where it runs; DNSMOS runs on the CPU.

    Raises:
        UnknownNameError: no such predictor.
        AssetError, MissingDependencyError: its weights are not available; the message says how to get them.
    """
    if Path(name).is_dir():
        return load_distillmos(name, device)
    kind, _, where = name.partition(":")
    return look_up("MOS predictor", kind, PREDICTORS)(where or None, device)


class DistillMOS(nn.Module):
    """A small predictor (4.1 M parameters), distilled from one on XLS-R features; lenient to noisy formant speech.

        waveform -> windows of 7.68 s -> compressed complex spectrum -> CNN -> transformer -> weighted mean -> 1..5

    `predict` takes any length of waveform, `forward` whole windows.
    Source: Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality Assessment (Stahl
    and Gamper, 2025, arXiv:2502.05356); shapes and constants from the released weights, variant 7.
    """

    name = "distillmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = MappingProxyType({"name": "random"})
    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        convolutions = []
        for index, (before, after) in enumerate(itertools.pairwise(CNN_CHANNELS)):
            frequency_stride = 1 if index == 0 else 2
            time_stride = 2 if index == len(CNN_CHANNELS) - 2 else 1
            convolutions.append(
                nn.Conv2d(before, after, kernel_size=3, stride=(frequency_stride, time_stride), padding=(0, 1))
            )
        self.convolutions = nn.ModuleList(convolutions)
        input_dim = CNN_CHANNELS[-1] * 4  # 161 frequencies become 4
        self.norm_features = nn.BatchNorm1d(input_dim)
        self.norm_input = nn.BatchNorm1d(input_dim)
        self.projection = nn.Linear(input_dim, TRANSFORMER_DIM)
        layer = nn.TransformerEncoderLayer(
            TRANSFORMER_DIM, NUM_HEADS, dim_feedforward=2 * TRANSFORMER_DIM, dropout=0.0, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, NUM_LAYERS, enable_nested_tensor=False)
        self.norm_output = nn.BatchNorm1d(TRANSFORMER_DIM)
        self.pool_hidden = nn.Linear(TRANSFORMER_DIM, 2 * TRANSFORMER_DIM)
        self.pool_score = nn.Linear(2 * TRANSFORMER_DIM, 1)
        self.output = nn.Linear(TRANSFORMER_DIM, 1)
        self.register_buffer("positions", _position_table(), persistent=False)

    def forward(self, windows: Float[Tensor, "windows samples"]) -> Float[Tensor, " windows"]:
        """Score windows of exactly `WINDOW_SAMPLES` samples; each is first scaled to a peak of 1."""
        windows = windows / (windows.abs().amax(1, keepdim=True) + 1e-8)
        x = _compressed_spectrum(windows)  # (windows, 2, frequencies, frames)
        for convolution in self.convolutions:
            x = nn.functional.leaky_relu(convolution(x), 0.1)
        x = x.flatten(1, 2)  # (windows, channels * frequencies, positions)
        x = self.norm_input(self.norm_features(x)).mT
        x = self.transformer(self.projection(x) + self.positions)
        x = self.norm_output(x.mT).mT
        attention = self.pool_score(self.pool_hidden(x).relu()).softmax(1)  # (windows, positions, 1)
        pooled = (attention * x).sum(1)
        return 1 + 4 * self.output(pooled).squeeze(-1).sigmoid()

    @torch.inference_mode()
    def predict(self, waveforms: Sequence[Float[Tensor, " samples"]], batch_windows: int = 8) -> list[float]:
        """Score recordings; a long one gets the mean over its windows, a short one zeros at its end."""
        windows, owners = [], []
        for index, waveform in enumerate(waveforms):
            cut = _cut_windows(waveform)
            windows.extend(cut)
            owners.extend([index] * len(cut))
        device = self.positions.device
        scores = [
            self(torch.stack(windows[start : start + batch_windows]).to(device)).cpu()
            for start in range(0, len(windows), batch_windows)
        ]
        flat = torch.cat(scores) if scores else torch.zeros(0)
        owner = torch.tensor(owners, dtype=torch.long)
        return [float(flat[owner == index].mean()) for index in range(len(waveforms))]


def load_distillmos(name: str = "distillmos", device: str = "cpu") -> DistillMOS:
    """Build the predictor with its released weights.

    Raises:
        AssetError: the weights are not available, or are not DistillMOS weights.
    """
    from vocable.assets import resolve

    model = DistillMOS()
    folder = resolve(name)
    load_released_weights(model, read_weights(folder))
    model.weights = weights_record(name, folder)
    return model.to(device).eval()


def load_released_weights(model: DistillMOS, released: Mapping[str, Tensor]) -> None:
    """Copy tensors under their released names into `model`.

    Raises:
        AssetError: a tensor is missing, left over, or of another shape.
    """
    state = {_our_name(name): tensor for name, tensor in released.items()}
    state.pop("positions", None)  # we compute the table
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AssetError(f"These are not the weights of DistillMOS variant 7: {error}") from error


def _our_name(released: str) -> str:
    """Our parameter's name for a released one."""
    if released.endswith("position_encoding.pe"):
        return "positions"
    if released.startswith("cnn.cnn."):  # convolutions sit at even places, activations between them
        _, _, place, kind = released.split(".")
        return f"convolutions.{int(place) // 2}.{kind}"
    for prefix, ours in RELEASED_NAMES.items():
        if released.startswith(prefix):
            return ours + released.removeprefix(prefix)
    return released


def _compressed_spectrum(windows: Float[Tensor, "windows samples"]) -> Float[Tensor, "windows 2 frequencies frames"]:
    """Complex spectrum (20 ms Hann windows every 10 ms) whose magnitudes are raised to 0.3, phases kept."""
    margin = (FFT_SAMPLES - HOP_SAMPLES) // 2
    padded = nn.functional.pad(windows, (margin, margin), mode="reflect")
    window = torch.hann_window(FFT_SAMPLES, device=windows.device)
    spectrum = torch.stft(padded, FFT_SAMPLES, HOP_SAMPLES, window=window, center=False, return_complex=True)
    magnitude = spectrum.abs().clamp_min(1e-12)
    spectrum = spectrum * magnitude.pow(-0.7)
    return torch.stack([spectrum.real, spectrum.imag], dim=1)


def _cut_windows(waveform: Float[Tensor, " samples"]) -> list[Float[Tensor, " samples"]]:
    """Windows of 7.68 s, evenly spread over the recording, at most one second apart."""
    _check(waveform)
    waveform = waveform.float()
    excess = max(waveform.numel() - WINDOW_SAMPLES, 0)
    waveform = nn.functional.pad(waveform, (0, max(WINDOW_SAMPLES - waveform.numel(), 0)))
    num_hops = math.ceil(excess / MAX_HOP_SAMPLES)
    # the same truncation as the released code: the score moves by up to 0.04 when a window moves by one sample
    starts = [int(share * excess) for share in np.linspace(0, 1, num_hops + 1)]
    return [waveform[start : start + WINDOW_SAMPLES] for start in starts]


def _position_table() -> Float[Tensor, "positions dim"]:
    """Sines and cosines, alternating, with wavelengths up to 2 pi times twice the number of positions."""
    position = torch.arange(NUM_POSITIONS).unsqueeze(1)
    rate = torch.exp(torch.arange(0, TRANSFORMER_DIM, 2) * (-math.log(2 * NUM_POSITIONS) / TRANSFORMER_DIM))
    return torch.stack([torch.sin(position * rate), torch.cos(position * rate)], dim=-1).flatten(1)


class DnsmosScores(NamedTuple):
    """Scores of one recording: speech, background, overall."""

    sig: float
    bak: float
    ovrl: float


class DNSMOS:
    """Scores of noise suppression, P.835; `predict` gives the overall one. Made for denoised speech.

        waveform -> repeated to at least 9.01 s -> windows of 9.01 s every second -> ONNX model -> polynomial -> mean

    It separates speech synthesisers less well than DistillMOS does. Source: DNSMOS P.835 (Reddy et al., 2022,
    arXiv:2110.01763). Weights and constants: the package speechmos (MIT), of which only the ONNX file is read.

    Args:
        model: the ONNX file; None takes that of the installed package speechmos.

    Raises:
        MissingDependencyError: onnxruntime or speechmos is not installed.
        AssetError: `model` is not a readable ONNX file.
    """

    name = "dnsmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = NO_WEIGHTS

    def __init__(self, model: Path | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_extra("onnxruntime", "dnsmos", "DNSMOS") from error
        path = Path(model) if model is not None else _packaged_dnsmos()
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
        """Score one recording, (samples,); errors as for `predict`."""
        windows = cut_dnsmos_windows(np.asarray(waveform, dtype=np.float32))
        raw = np.concatenate([np.asarray(self._session.run(None, {self._input: w[None]})[0]) for w in windows])
        scaled = (np.polyval(powers, raw[:, i]).mean() for i, powers in enumerate(DNSMOS_SCALES.values()))
        return DnsmosScores(*(float(value) for value in scaled))

    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """Overall score of each recording."""
        return [self.scores(waveform).ovrl for waveform in waveforms]


def cut_dnsmos_windows(waveform: np.ndarray) -> list[np.ndarray]:
    """Windows of 9.01 s every second; a shorter recording is first doubled until it is long enough."""
    _check(waveform)
    while len(waveform) < DNSMOS_WINDOW_SAMPLES:
        waveform = np.concatenate([waveform, waveform])
    # the released code counts whole seconds: a window that would begin in the last, broken one is left out
    count = int(len(waveform) // SAMPLE_RATE - DNSMOS_WINDOW_SAMPLES / SAMPLE_RATE) + 1
    windows = [waveform[i * SAMPLE_RATE : i * SAMPLE_RATE + DNSMOS_WINDOW_SAMPLES] for i in range(count)]
    return [window for window in windows if len(window) == DNSMOS_WINDOW_SAMPLES]


def _packaged_dnsmos() -> Path:
    found = importlib.util.find_spec("speechmos")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / DNSMOS_FILE).is_file():
            return Path(folder) / DNSMOS_FILE
    raise missing_extra("speechmos", "dnsmos", "DNSMOS (its weights come with that package)")


class UTMOS:
    """The strong learner of UTMOS: predicted opinion score of speech synthesis, with weights that you bring.

    Its weights are in no package, so nothing is downloaded here: clone the hub repository tarepan/SpeechMOS, put its
    weights into torch's hub cache, and name the folder. Source: UTMOS (Saeki et al., 2022, arXiv:2204.02152).

    Args:
        folder: a clone of the hub repository; None looks for one in torch's hub cache. Its code is run.

    Raises:
        AssetError: there is no such folder, or its weights are not in torch's hub cache.
    """

    name = "utmos"
    sample_rate = SAMPLE_RATE
    weights: Mapping[str, str] = NO_WEIGHTS

    def __init__(self, folder: Path | None = None, device: str = "cpu") -> None:
        hub = Path(torch.hub.get_dir())
        repository = Path(folder) if folder is not None else _cached_repository(hub)
        if not (repository / "hubconf.py").is_file():
            raise AssetError(f"{repository} holds no hubconf.py: it is no torch hub repository. {UTMOS_REMEDY}")
        checkpoints = sorted((hub / "checkpoints").glob(f"{UTMOS_ENTRY}*.pt"))
        if not checkpoints:
            raise AssetError(f"No {UTMOS_ENTRY}*.pt in {hub / 'checkpoints'}. {UTMOS_REMEDY}")
        model: Any = torch.hub.load(str(repository), UTMOS_ENTRY, source="local", verbose=False)
        self._model = model.to(device).eval()
        self._device = device
        digest = hashlib.sha256(checkpoints[-1].read_bytes()).hexdigest()
        self.weights = {"name": checkpoints[-1].stem, "sha256": digest}

    @torch.inference_mode()
    def predict(self, waveforms: Sequence[Tensor]) -> list[float]:
        """Score recordings one by one, so that no padding counts."""
        for waveform in waveforms:
            _check(waveform)
        rows = (waveform[None].float().to(self._device) for waveform in waveforms)
        return [float(self._model(row, SAMPLE_RATE)) for row in rows]


def _cached_repository(hub: Path) -> Path:
    found = sorted(hub.glob("tarepan_SpeechMOS_*"))
    if not found:
        raise AssetError(f"UTMOS is not at hand: {hub} holds no tarepan_SpeechMOS_*. {UTMOS_REMEDY}")
    return found[-1]


def _check(waveform: Any) -> None:
    """Refuse a tensor or array that is not one recording."""
    if waveform.ndim != 1 or not len(waveform) or not bool(torch.isfinite(torch.as_tensor(waveform)).all()):
        raise AudioFormatError(
            f"A waveform of shape {tuple(waveform.shape)} cannot be scored: it must have one dimension, at least one "
            "sample, and no NaN or infinity."
        )


PREDICTORS: Mapping[str, Callable[[str | None, str], MosPredictor]] = {
    "distillmos": lambda where, device: load_distillmos(where or "distillmos", device),
    "dnsmos": lambda where, device: DNSMOS(Path(where) if where else None),
    "utmos": lambda where, device: UTMOS(Path(where) if where else None, device),
}
"""From where the weights are, and a device, to the predictor."""
