"""Files that scikit-learn and joblib really wrote, and files that an attacker would write."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from vocable.errors import AssetError
from vocable.tokens.sklearn_kmeans import read_sklearn_centroids

cluster = pytest.importorskip("sklearn.cluster")
joblib = pytest.importorskip("joblib")


@pytest.fixture(scope="module", params=["KMeans", "MiniBatchKMeans"])
def model(request):
    frames = np.random.default_rng(0).normal(size=(300, 7)).astype(np.float32)
    kinds = {"KMeans": cluster.KMeans, "MiniBatchKMeans": cluster.MiniBatchKMeans}
    return kinds[request.param](n_clusters=11, n_init=1, random_state=0, max_iter=5).fit(frames)


def check(path: Path, model) -> None:
    centroids = read_sklearn_centroids(path)
    assert centroids.dtype == torch.float32
    assert np.array_equal(centroids.numpy(), model.cluster_centers_.astype(np.float32))


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_reads_what_joblib_writes(tmp_path: Path, model, compress):
    joblib.dump(model, tmp_path / "km.bin", compress=compress)
    check(tmp_path / "km.bin", model)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_every_pickle_protocol(tmp_path: Path, model, protocol: int):
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(model, protocol=protocol))
    check(tmp_path / "km.pkl", model)
    joblib.dump(model, tmp_path / "km.bin", protocol=protocol)
    check(tmp_path / "km.bin", model)


def test_reads_float64_and_fortran_order(tmp_path: Path, model):
    for centroids in (model.cluster_centers_.astype(np.float64), np.asfortranarray(model.cluster_centers_)):
        changed = cluster.KMeans(11)
        changed.cluster_centers_ = centroids
        joblib.dump(changed, tmp_path / "km.bin")
        check(tmp_path / "km.bin", model)
        (tmp_path / "km.pkl").write_bytes(pickle.dumps(changed))
        check(tmp_path / "km.pkl", model)


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, io.open])
def test_hostile_files_are_refused_and_do_nothing(tmp_path: Path, function, protocol: int):
    trace = tmp_path / "trace"
    arguments = {os.system: f"touch {trace}", io.open: f"{trace}"}.get(function, f"open({str(trace)!r}, 'w')")
    hostile = Hostile(function, arguments, "w") if function is io.open else Hostile(function, arguments)
    model = cluster.KMeans(2)
    model.cluster_centers_ = np.zeros((2, 2), dtype=np.float32)
    model.trap = hostile
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(hostile, protocol=protocol))
    joblib.dump(model, tmp_path / "hidden.bin", compress=3)
    for name in ("plain.pkl", "hidden.bin"):
        with pytest.raises(AssetError, match=r"a k-means file has no need of\. It was refused, and nothing of it"):
            read_sklearn_centroids(tmp_path / name)
    assert not trace.exists()


def test_a_hostile_object_array_is_refused(tmp_path: Path):
    trace = tmp_path / "trace"
    model = cluster.KMeans(2)
    model.cluster_centers_ = np.array([Hostile(os.system, f"touch {trace}")], dtype=object)
    joblib.dump(model, tmp_path / "km.bin")
    (tmp_path / "km.pkl").write_bytes(pickle.dumps(model))
    for name in ("km.bin", "km.pkl"):
        with pytest.raises(AssetError):
            read_sklearn_centroids(tmp_path / name)
    assert not trace.exists()


def test_names_that_only_look_allowed_are_refused(tmp_path: Path):
    for module, name in (
        ("sklearn.cluster", "os.system"),
        ("numpy.random.os", "system"),
        ("sklearn", "cluster.KMeans"),
    ):
        code = f"c{module}\n{name}\n)R.".encode()
        (tmp_path / "km.pkl").write_bytes(code)
        with pytest.raises(AssetError):
            read_sklearn_centroids(tmp_path / "km.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable k-means file"),
        (b"hello, this is no pickle", "is not a readable k-means file"),
        (pickle.dumps({"a": 1}), "holds no k-means codebook"),
        (pickle.dumps([1, 2]), "holds no k-means codebook"),
        (b"ZF0x1234", "joblib before 0.10"),
        (b"\x78\x9cbroken", "is not a readable k-means file"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60), "is not a readable k-means file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "km.bin").write_bytes(content)
    with pytest.raises(AssetError, match=f"km.bin.*{message}"):
        read_sklearn_centroids(tmp_path / "km.bin")


def test_a_truncated_file_is_refused(tmp_path: Path, model):
    joblib.dump(model, tmp_path / "km.bin")
    content = (tmp_path / "km.bin").read_bytes()
    (tmp_path / "km.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(AssetError, match="is not a readable k-means file"):
        read_sklearn_centroids(tmp_path / "km.bin")
    with pytest.raises(AssetError, match="no such file"):
        read_sklearn_centroids(tmp_path / "missing.bin")
