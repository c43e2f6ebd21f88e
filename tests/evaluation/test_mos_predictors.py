"""MOS predictors by name, and what is said when their weights are absent."""

import sys

import numpy as np
import pytest
import torch

from vocable.errors import AssetError, AudioFormatError, MissingDependencyError, UnknownNameError
from vocable.evaluation.metrics import mos
from vocable.evaluation.metrics.mos import load_mos

HUB_CODE = """
import torch

class Loudness(torch.nn.Module):
    def forward(self, wave, sr):
        assert sr == 16000
        return 1 + wave.abs().amax(1)

def utmos22_strong(progress=True):
    return Loudness()
"""


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'dnsmos'"):
        load_mos("dnsmoss")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.5, 7), (9.01, 1), (10.0, 1), (10.5, 1), (11.0, 2), (11.5, 2), (20.0, 11)]
)
def test_windows_of_dnsmos_as_the_released_code_counts_them(seconds, expected):
    waveform = np.arange(round(seconds * 16_000), dtype=np.float32)
    windows = mos.cut_dnsmos_windows(waveform)
    doubled = len(waveform)
    while doubled < mos.DNSMOS_WINDOW_SAMPLES:
        doubled *= 2
    # the released arithmetic, written out
    count = int(np.floor(doubled / 16_000) - 9.01) + 1
    starts = [i for i in range(count) if int((i + 9.01) * 16_000) <= doubled]
    assert len(windows) == len(starts) == expected
    assert all(len(window) == mos.DNSMOS_WINDOW_SAMPLES for window in windows) and windows
    assert windows[0][0] == 0 and (len(windows) < 2 or windows[1][0] == waveform[16_000 % len(waveform)])


def test_bad_waveforms_have_no_score():
    for bad in (np.zeros((2, 3)), np.zeros(0), np.array([np.nan])):
        with pytest.raises(AudioFormatError, match="cannot be scored"):
            mos.cut_dnsmos_windows(bad)


def test_dnsmos_without_its_package(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("vocable.evaluation.metrics.mos.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"weights come with that package.*vocable\[dnsmos\]"):
        load_mos("dnsmos")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        load_mos("dnsmos")


def test_dnsmos_with_a_broken_file(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(AssetError, match=r"a\.onnx: not a readable ONNX model"):
        load_mos(f"dnsmos:{tmp_path / 'a.onnx'}")


def test_dnsmos_against_the_released_arithmetic(make_speechlike):
    """The released class cannot be imported without librosa; its network and polynomials are asked here directly."""
    pytest.importorskip("speechmos", reason="its weights come with speechmos")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load_mos("dnsmos")
    speech = make_speechlike(11 * 16_000)
    session = onnxruntime.InferenceSession(mos._packaged_dnsmos())
    overall = []
    for start in (0, 16_000):
        window = speech.numpy()[None, start : start + 144_160]
        _, _, raw = session.run(None, {"input_1": window})[0][0]
        overall.append(-0.06766283 * raw**2 + 1.11546468 * raw + 0.04602535)
    assert model.predict([speech])[0] == pytest.approx(np.mean(overall), abs=1e-5)
    assert len(model.weights["sha256"]) == 64
    noisy = speech + 0.3 * torch.randn(len(speech), generator=torch.Generator().manual_seed(0))
    assert model.predict([noisy])[0] < model.predict([speech])[0]


def test_utmos_runs_the_users_hub_repository(tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    with pytest.raises(AssetError, match=r"UTMOS is not at hand.*Clone the torch hub repository"):
        load_mos("utmos")
    repository = hub / "tarepan_SpeechMOS_v1.2.0"
    repository.mkdir(parents=True)
    with pytest.raises(AssetError, match=r"holds no hubconf\.py"):
        load_mos("utmos")
    (repository / "hubconf.py").write_text(HUB_CODE)
    with pytest.raises(AssetError, match=r"No utmos22_strong\*\.pt in"):
        load_mos("utmos")
    (hub / "checkpoints").mkdir()
    (hub / "checkpoints" / "utmos22_strong_step7459_v1.pt").write_bytes(b"weights")
    model = load_mos(f"utmos:{repository}")
    assert model.predict([torch.tensor([0.1, -0.5]), torch.tensor([0.25])]) == [1.5, 1.25]
    assert model.weights["name"] == "utmos22_strong_step7459_v1"
    with pytest.raises(AudioFormatError, match="cannot be scored"):
        model.predict([torch.zeros(0)])
