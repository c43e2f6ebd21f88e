import errno
import json
import math

import numpy as np
import pytest
import torch

from vocable.errors import ConfigError, OutputError
from vocable.tokens.feature_files import read_feature_files, write_feature_files
from vocable.tokens.kmeans import KMeans, KMeansConfig, _add_rows_in_order, _as_passes, add_rows, fit_kmeans
from vocable.tokens.kmeans_init import kmeans_plus_plus, sample_frames
from vocable.tokens.kmeans_report import KMeansReport


def make_clusters(num_frames: int, num_clusters: int, dim: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(num_clusters, dim, generator=generator)
    labels = torch.randint(num_clusters, (num_frames,), generator=generator)
    return centres[labels] + spread * torch.randn(num_frames, dim, generator=generator)


def slow_distances(features: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    return (features.double()[:, None] - centroids.double()[None]).square().sum(-1)


def slow_lloyd_step(features: torch.Tensor, centroids: torch.Tensor) -> tuple[list[list[float]], float]:
    """Plain Python: one frame after the other."""
    codebook_size, dim = centroids.shape
    sums, counts, inertia = [[0.0] * dim for _ in range(codebook_size)], [0] * codebook_size, 0.0
    for frame in features.tolist():
        distances = [sum((x - c) ** 2 for x, c in zip(frame, centroid)) for centroid in centroids.tolist()]
        nearest = distances.index(min(distances))
        inertia += distances[nearest]
        counts[nearest] += 1
        sums[nearest] = [total + x for total, x in zip(sums[nearest], frame)]
    return [[total / count for total in row] for row, count in zip(sums, counts)], inertia


@pytest.mark.parametrize(("num_frames", "block_frames"), [(1, 7), (7, 7), (100, 7), (257, 4096)])
def test_assignment_matches_brute_force(num_frames: int, block_frames: int):
    features, centroids = torch.randn(num_frames, 16), torch.randn(9, 16)
    units = KMeans(centroids, block_frames).assign(features)
    assert torch.equal(units, slow_distances(features, centroids).argmin(-1))
    assert units.dtype == torch.int64


def test_assignment_of_no_frames_is_empty():
    assert KMeans(torch.randn(4, 3)).assign(torch.empty(0, 3)).shape == (0,)


def test_assignment_ignores_autocast_and_reads_bfloat16():
    kmeans = KMeans(torch.randn(50, 32))
    features = torch.randn(300, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kmeans.assign(features), slow_distances(features, kmeans.centroids).argmin(-1))
    coarse = features.to(torch.bfloat16)
    assert torch.equal(kmeans.assign(coarse), kmeans.assign(coarse.float()))


def test_features_of_another_width_are_refused():
    with pytest.raises(ConfigError, match="Features have 12 dimensions, but the codebook was fitted on 8"):
        KMeans(torch.randn(4, 8)).assign(torch.randn(3, 12))


def test_one_pass_matches_a_slow_lloyd_step():
    features = make_clusters(120, 5, 6)
    init = features[:5].clone()
    config = KMeansConfig(num_clusters=5, max_iterations=1, tolerance=0.0, block_frames=17)
    kmeans, report = fit_kmeans(features, config, init=init)
    expected, inertia_before = slow_lloyd_step(features, init)
    torch.testing.assert_close(kmeans.centroids, torch.tensor(expected), atol=1e-6, rtol=1e-6)
    distances = slow_distances(features, kmeans.centroids).min(-1)
    assert report.inertia == pytest.approx((inertia_before, float(distances.values.sum())), rel=1e-6)
    assert report.occupancy == tuple(torch.bincount(distances.indices, minlength=5).tolist())
    assert report.iterations == 1 and not report.converged


def test_equals_scikit_learn_from_the_same_start():
    cluster = pytest.importorskip("sklearn.cluster")
    features = make_clusters(2000, 12, 10, spread=2.0)
    init = features[:12].clone()
    frames = features.numpy()
    reference = cluster.KMeans(12, init=init.numpy(), n_init=1, tol=0, max_iter=300, algorithm="lloyd").fit(frames)
    kmeans, report = fit_kmeans(features, KMeansConfig(num_clusters=12, max_iterations=300, tolerance=0.0), init=init)
    assert report.converged
    torch.testing.assert_close(kmeans.centroids, torch.from_numpy(reference.cluster_centers_), atol=1e-4, rtol=1e-4)
    assert (kmeans.assign(features).numpy() == reference.predict(frames)).all()
    assert report.inertia[-1] == pytest.approx(reference.inertia_, rel=1e-5)


def test_inertia_never_rises_and_blobs_are_found():
    features = make_clusters(3000, 8, 6, spread=0.3)
    report = fit_kmeans(features, KMeansConfig(num_clusters=8, init_frames=500, tolerance=0.0)).report
    assert all(after <= before * (1 + 1e-9) for before, after in zip(report.inertia, report.inertia[1:]))
    # 8 blobs of spread 0.3 in 6 dimensions: a perfect fit leaves 6 * 0.3^2 per frame
    assert report.mean_squared_distance == pytest.approx(6 * 0.09, rel=0.05)
    assert report.converged and report.dead_codes == ()


def test_blocks_order_and_seed():
    features = make_clusters(1500, 30, 8, spread=2.0)
    config = KMeansConfig(num_clusters=20, init_frames=300, max_iterations=5, seed=3)
    kmeans, report = fit_kmeans(features, config)
    again = fit_kmeans(features.clone(), config)
    assert torch.equal(kmeans.centroids, again.kmeans.centroids)
    assert report.inertia == again.report.inertia
    pieces = list(features.flip(0).split([1, 700, 99, 700]))
    shuffled = fit_kmeans(lambda: iter(pieces), config)
    # float64 sums in another order: at most the last bits of float32
    torch.testing.assert_close(shuffled.kmeans.centroids, kmeans.centroids, atol=1e-5, rtol=1e-5)
    other = fit_kmeans(features, KMeansConfig(num_clusters=20, init_frames=300, max_iterations=5, seed=4))
    assert not torch.equal(other.kmeans.centroids, kmeans.centroids)


def test_an_iterator_that_can_be_read_only_once_is_refused():
    with pytest.raises(TypeError, match="generator, which can be read only once"):
        _as_passes(block for block in [torch.randn(10, 2)])


def test_empty_entries_are_revived():
    features = make_clusters(600, 6, 4, spread=0.5)
    far = torch.full((3, 4), 1e3) + torch.arange(3.0)[:, None]
    init = torch.cat([features[:3], far])
    config = KMeansConfig(num_clusters=6, init_frames=600, max_iterations=40, tolerance=0.0)
    kmeans, report = fit_kmeans(features, config, init=init)
    assert report.num_revived >= 3
    assert report.dead_codes == () and min(report.occupancy) > 0
    assert kmeans.centroids.abs().max() < 100


def test_entries_that_cannot_be_revived_are_reported_dead():
    features = torch.tensor([[0.0], [1.0]]).repeat(5, 1)
    init = torch.tensor([[0.0], [1.0], [50.0]])
    config = KMeansConfig(num_clusters=3, init_frames=10, max_iterations=4)
    report = fit_kmeans(features, config, init=init).report
    assert report.dead_codes == (2,) and not report.converged
    assert report.occupancy == (5, 5, 0)
    assert report.entropy_bits == pytest.approx(1.0) and report.perplexity == pytest.approx(2.0)


def test_report_survives_saving(tmp_path):
    report = fit_kmeans(torch.randn(100, 3), KMeansConfig(num_clusters=4, init_frames=50)).report
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert KMeansReport(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}) == report
    shares = [count / 100 for count in json.loads((tmp_path / "report.json").read_text())["occupancy"]]
    assert report.entropy_bits == pytest.approx(-sum(share * math.log2(share) for share in shares))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.randn(3, 2), "3 frames for 4 clusters. Give more speech"),
        (torch.ones(50, 2), "Only 1 of the 50 sampled frames are different"),
        (torch.tensor([[math.nan, 0.0]] * 9), "block 0 holds NaN"),
        ([torch.randn(9, 2), torch.randn(9, 3)], "block 1 has 3 dimensions; block 0 has 2"),
    ],
)
def test_features_that_cannot_be_clustered(features, message):
    with pytest.raises(ConfigError, match=message):
        fit_kmeans(features, KMeansConfig(num_clusters=4, init_frames=50))


def test_nan_in_a_later_pass_is_found():
    with pytest.raises(ConfigError, match="features hold NaN"):
        fit_kmeans(
            torch.tensor([[math.nan], [1.0]]),
            KMeansConfig(num_clusters=2, init_frames=2),
            init=torch.tensor([[0.0], [1.0]]),
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 1}, "kmeans.num_clusters is 1; it must be at least 2"),
        ({"max_iterations": 0}, "kmeans.max_iterations is 0"),
        ({"num_clusters": 100, "init_frames": 99}, "at least one frame per cluster"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        KMeansConfig(**settings)


def test_init_of_the_wrong_size_is_refused():
    with pytest.raises(ConfigError, match=r"init has shape \(3, 2\); expected \(4, dim\)"):
        fit_kmeans(torch.randn(9, 2), KMeansConfig(num_clusters=4), init=torch.randn(3, 2))


def test_the_sample_of_samples_is_the_sample():
    features = torch.randn(1000, 5)
    whole = sample_frames([features], 40, seed=1)
    shuffled = features[torch.randperm(1000)]
    parts = [sample_frames(list(part.split(33)), 40, seed=1) for part in shuffled.split([300, 700])]
    assert torch.equal(sample_frames(parts, 40, seed=1), whole)
    assert not torch.equal(sample_frames([features], 40, seed=2), whole)
    assert whole.shape == (40, 5)


def test_the_sample_is_drawn_evenly():
    """Frames of each kind must be drawn in proportion: here there are two, told apart by their first value."""
    features = torch.cat([torch.zeros(5000, 1), torch.ones(5000, 1)])
    features = torch.cat([features, torch.randn(10_000, 3)], dim=-1)
    shares = torch.stack([sample_frames([features], 1000, seed)[:, 0].mean() for seed in range(5)])
    # standard deviation of one share: 0.5 / sqrt(1000) = 0.016
    assert (shares - 0.5).abs().max() < 0.08


def test_kmeans_plus_plus_takes_one_frame_of_every_far_blob():
    centres = 100 * torch.eye(12)
    sample = (centres[:, None] + 0.01 * torch.randn(12, 30, 12)).reshape(-1, 12)
    chosen = kmeans_plus_plus(sample, 12, seed=0)
    assert sorted(slow_distances(chosen, centres).argmin(-1).tolist()) == list(range(12))


def test_the_sum_used_on_accelerators_equals_index_add():
    units, rows = torch.randint(6, (200,)), torch.randn(200, 3, dtype=torch.float64)
    expected = torch.zeros(8, 3, dtype=torch.float64)
    add_rows(expected, units, rows)
    sums = torch.zeros(8, 3, dtype=torch.float64)
    _add_rows_in_order(sums, units, rows)
    torch.testing.assert_close(sums, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_codebook_every_time():
    features = make_clusters(5000, 30, 24)
    config = KMeansConfig(num_clusters=20, init_frames=1000, max_iterations=6)
    first, again = (fit_kmeans(features, config, device="cuda").kmeans for _ in range(2))
    assert torch.equal(first.centroids, again.centroids)
    init = features[:20]
    ours, reference = (fit_kmeans(features, config, device, init=init) for device in ("cuda", "cpu"))
    assert ours.report.inertia[0] == pytest.approx(reference.report.inertia[0], rel=1e-6)
    assert torch.equal(ours.kmeans.assign(features[:500]).cpu(), reference.kmeans.assign(features[:500]))


def test_fitting_from_files(tmp_path):
    features = make_clusters(1000, 10, 5)
    paths = write_feature_files(features.split(130), tmp_path, frames_per_file=300)
    assert [len(np.load(path)) for path in paths] == [390, 390, 220]
    blocks = read_feature_files(paths)
    assert torch.equal(torch.cat(list(blocks())), features)
    config = KMeansConfig(num_clusters=6, init_frames=200, max_iterations=4)
    from_files, in_memory = fit_kmeans(blocks, config), fit_kmeans(features, config)
    torch.testing.assert_close(from_files.kmeans.centroids, in_memory.kmeans.centroids, atol=1e-6, rtol=1e-6)


def test_features_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match=r"features-00000\.npy: cannot write features \(No space left on device\)"):
        write_feature_files([torch.randn(3, 2)], tmp_path)
