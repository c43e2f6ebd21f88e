"""The vector quantizer against slow oracles: search, moving averages, gradients, masks, first codebook, revival."""

import logging
import math

import pytest
import torch

from vocable.errors import ConfigError, NumericsError
from vocable.tokens.code_usage import CodeUsage, code_statistics
from vocable.tokens.codebook_training import draw_frames, nearest_codes
from vocable.tokens.kmeans import KMeans
from vocable.tokens.quantizers import VectorQuantizer, VectorQuantizerConfig


def make_quantizer(**settings) -> VectorQuantizer:
    """A random codebook, and no revival, unless asked otherwise."""
    settings = {"dim": 6, "codebook_size": 9, "init": "random", "dead_share": None, **settings}
    return VectorQuantizer(VectorQuantizerConfig(**settings))


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three clips of 20, 1 and 13 frames; padding is NaN."""
    features = torch.randn(3, 20, 6)
    mask = torch.arange(20) < torch.tensor([20, 1, 13])[:, None]
    return torch.where(mask[..., None], features, math.nan), mask


def make_blobs(num_frames: int, num_blobs: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(num_blobs, dim, generator=generator)
    labels = torch.arange(num_frames) % num_blobs
    return centres[labels] + 0.1 * torch.randn(num_frames, dim, generator=generator)


def slow_codes(frames: torch.Tensor, codebook: torch.Tensor, distance: str = "euclidean") -> torch.Tensor:
    frames, codebook = frames.double(), codebook.double()
    if distance == "cosine":
        return torch.stack([torch.cosine_similarity(frame[None], codebook).argmax() for frame in frames])
    return torch.stack([(codebook - frame).square().sum(-1).argmin() for frame in frames])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_codes_match_brute_force(distance):
    frames, codebook = 3 * torch.randn(5000, 6), torch.randn(40, 6) * torch.rand(40, 1)
    assert torch.equal(nearest_codes(frames, codebook, distance), slow_codes(frames, codebook, distance))
    quantizer = make_quantizer(codebook_size=40, distance=distance).eval()
    codes = quantizer(frames.view(50, 100, 6)).codes
    assert torch.equal(codes.flatten(), slow_codes(frames, quantizer.codebook, distance))


def test_codes_are_the_units_of_kmeans():
    frames, codebook = torch.randn(3000, 16), torch.randn(30, 16)
    assert torch.equal(nearest_codes(frames, codebook), KMeans(codebook).assign(frames))


def test_moving_averages_match_their_closed_form():
    quantizer = make_quantizer(decay=0.8, epsilon=1e-3)
    decay, epsilon, size = 0.8, 1e-3, 9
    batches = [torch.randn(2, 30, 6) for _ in range(6)]
    first = quantizer.codebook.double()
    codebook, seen = first, []
    for batch in batches:
        frames = batch.view(-1, 6).double()
        codes = slow_codes(frames, codebook)
        choices = torch.nn.functional.one_hot(codes, size).double()
        seen.append((choices.sum(0), choices.T @ frames))
        quantizer(batch)
        # at the start, every entry has had a uniform share of the first batch; then geometric weights
        steps = len(seen)
        weights = [(1 - decay) * decay ** (steps - 1 - index) for index in range(steps)]
        counts = decay**steps * 60 / size + sum(weight * count for weight, (count, _) in zip(weights, seen))
        sums = decay**steps * 60 / size * first + sum(weight * total for weight, (_, total) in zip(weights, seen))
        codebook = sums / ((counts + epsilon) / (60 + size * epsilon) * 60)[:, None]
        # float32 averages against float64: about ten times the worst difference seen
        torch.testing.assert_close(quantizer.codebook.double(), codebook, atol=3e-6, rtol=3e-6)


def test_entries_settle_on_the_mean_of_their_frames():
    quantizer = make_quantizer(codebook_size=2, decay=0.5, dim=1)
    quantizer.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    frames = torch.tensor([[-4.0, -2.0, 3.0, 5.0]])[..., None]
    for _ in range(40):
        quantizer(frames)
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[-3.0], [4.0]]))


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_gradient_of_the_result_reaches_the_features_alone_and_unchanged(update):
    quantizer = make_quantizer(update=update)
    features, gradient = torch.randn(2, 10, 6, requires_grad=True), torch.randn(2, 10, 6)
    expected = torch.nn.functional.embedding(
        slow_codes(features.detach().view(-1, 6), quantizer.codebook), (quantizer.codebook.detach().clone())
    ).view(2, 10, 6)
    output = quantizer(features)
    assert torch.equal(output.quantized, expected)
    output.quantized.backward(gradient)
    assert torch.equal(features.grad, gradient)
    assert quantizer.codebook.grad is None or not quantizer.codebook.grad.any()


def test_losses_of_a_gradient_codebook():
    quantizer = make_quantizer(update="gradient", commitment_weight=0.25, codebook_weight=2.0)
    features, mask = make_batch()
    frames = features[mask].requires_grad_()
    features = torch.zeros_like(features).masked_scatter(mask[..., None], frames)
    codebook = quantizer.codebook.detach().clone()
    output = quantizer(features, mask)
    entries = codebook[slow_codes(frames.detach(), codebook)]
    distance = (frames.detach() - entries).square().mean()
    torch.testing.assert_close(output.commitment_loss, distance)
    torch.testing.assert_close(output.codebook_loss, distance)
    torch.testing.assert_close(output.loss, 2.25 * distance)
    output.loss.backward()
    differences = 2 * (frames.detach() - entries) / frames.numel()
    torch.testing.assert_close(frames.grad, 0.25 * differences)
    expected = torch.zeros_like(codebook).index_add_(0, slow_codes(frames.detach(), codebook), -2 * differences)
    torch.testing.assert_close(quantizer.codebook.grad, expected)


def test_a_gradient_codebook_learns():
    quantizer = make_quantizer(update="gradient", codebook_size=4)
    features = make_blobs(200, 4)[None]
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = quantizer(features).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_rotation_differs_in_the_gradient_only():
    features = torch.randn(1, 30, 6)
    results = []
    for estimator in ("straight_through", "rotation"):
        quantizer = make_quantizer(estimator=estimator)
        leaf = features.clone().requires_grad_()
        output = quantizer(leaf)
        output.quantized.sum().backward()
        results.append((output.quantized.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


@pytest.mark.parametrize("settings", [{}, {"update": "gradient"}, {"code_dim": 3, "distance": "cosine"}])
def test_masked_frames_change_nothing(settings):
    features, mask = make_batch()
    with_padding, without = make_quantizer(**settings), make_quantizer(**settings)
    without.load_state_dict(with_padding.state_dict())
    padded, plain = with_padding(features, mask), without(features[mask][None])
    assert torch.equal(padded.codes[mask], plain.codes[0]) and (padded.codes[~mask] == -1).all()
    assert torch.equal(padded.quantized[mask], plain.quantized[0]) and not padded.quantized[~mask].any()
    assert torch.equal(padded.loss, plain.loss) and padded.statistics == plain.statistics
    for name, value in with_padding.state_dict().items():
        assert torch.equal(value, without.state_dict()[name]), name


def test_a_batch_of_padding_alone_is_no_step():
    quantizer = make_quantizer(update="gradient")
    before = {name: value.clone() for name, value in quantizer.state_dict().items() if name != "initialised"}
    output = quantizer(torch.full((2, 5, 6), math.nan), torch.zeros(2, 5, dtype=torch.bool))
    assert output.loss == 0 and output.statistics.num_frames == 0 and (output.codes == -1).all()
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())
    assert quantizer.eval()(torch.zeros(0, 5, 6)).quantized.shape == (0, 5, 6)


@pytest.mark.parametrize("training", [True, False])
def test_autocast_gives_the_codes_of_float32(training):
    quantizer = make_quantizer(code_dim=4, codebook_size=200, dim=32).train(training)
    other = make_quantizer(code_dim=4, codebook_size=200, dim=32).train(training)
    other.load_state_dict(quantizer.state_dict())
    features = torch.randn(4, 50, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(features)
    expected = other(features)
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.quantized, expected.quantized)
    assert torch.equal(quantizer.codebook, other.codebook)
    coarse = features.to(torch.bfloat16)
    assert quantizer(coarse).quantized.dtype == torch.bfloat16
    assert torch.equal(quantizer.encode(coarse), quantizer.encode(coarse.float()))


@pytest.mark.parametrize("settings", [{}, {"code_dim": 5, "distance": "cosine", "update": "gradient"}])
def test_inference_does_not_depend_on_the_batch(settings):
    quantizer = make_quantizer(dim=48, codebook_size=64, **settings).eval()
    lengths = (37, 1, 400, 64)
    clips = [torch.randn(length, 48) for length in lengths]
    features = torch.full((4, 400, 48), math.nan)
    for row, clip in zip(features, clips):
        row[: len(clip)] = clip
    mask = torch.arange(400) < torch.tensor(lengths)[:, None]
    together, before = quantizer(features, mask), {k: v.clone() for k, v in quantizer.state_dict().items()}
    for row, clip in enumerate(clips):
        alone = quantizer(clip[None])
        assert torch.equal(together.codes[row, : len(clip)], alone.codes[0])
        assert torch.equal(together.quantized[row, : len(clip)], alone.quantized[0])
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(quantizer.train().encode(features, mask), together.codes)  # also of a module in training


@pytest.mark.parametrize("settings", [{}, {"code_dim": 3}])
def test_codes_decode_to_their_vectors(settings):
    quantizer = make_quantizer(**settings).eval()
    features, mask = make_batch()
    output = quantizer(features, mask)
    assert torch.equal(quantizer.decode(output.codes), output.quantized)
    assert torch.equal(quantizer.decode(output.codes)[1, :1], quantizer.decode(output.codes[1:2, :1])[0])
    with pytest.raises(ConfigError, match="go from 0 to 9, but the codebook has 9 entries"):
        quantizer.decode(torch.tensor([[0, 9]]))


def test_a_saved_quantizer_goes_on_as_if_never_saved():
    batches = [torch.randn(2, 40, 6) for _ in range(12)]
    settings = {"init": "kmeans", "dead_share": 0.5, "revive_every": 3, "decay": 0.5}
    one, other = make_quantizer(**settings), make_quantizer(**settings, seed=0)
    for batch in batches[:5]:
        one(batch)
    other.load_state_dict(one.state_dict())
    for batch in batches[5:]:
        one(batch), other(batch)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_first_codebook_is_kmeans_of_the_first_batch():
    features = make_blobs(270, 9).view(3, 90, 6)
    quantizer = make_quantizer(init="kmeans")
    with pytest.raises(ConfigError, match="codebook is random as yet"):
        quantizer.encode(features)
    output = quantizer(features)
    assert output.statistics.usage == 1 and output.statistics.perplexity == pytest.approx(9)
    assert output.commitment_loss.item() == pytest.approx(0.01, rel=0.1)  # the spread of the blobs, squared
    again = make_quantizer(init="kmeans")
    again(features)
    assert torch.equal(again.codebook, quantizer.codebook)
    other = make_quantizer(init="kmeans", seed=1)
    other(features)
    assert not torch.equal(other.codebook, quantizer.codebook)


def test_first_codebook_by_angle():
    directions = torch.nn.functional.normalize(torch.randn(9, 6), dim=-1).repeat(30, 1)
    frames = directions * (0.1 + 10 * torch.rand(270, 1))  # all lengths
    output = make_quantizer(init="kmeans", distance="cosine")(frames[None])
    assert output.statistics.perplexity == pytest.approx(9)
    assert torch.equal(output.codes[0, :9], output.codes[0, 9:18])


def test_first_codebook_from_several_batches():
    features = make_blobs(27, 9)[None]
    quantizer = make_quantizer(init="kmeans", init_batches=3)
    start = quantizer.codebook.clone()
    for clip in features.split(9, dim=1):
        assert torch.equal(quantizer.codebook, start)
        output = quantizer(clip[:, :8])
    assert not torch.equal(quantizer.codebook, start) and output.commitment_loss.item() < 0.1
    with pytest.raises(ConfigError, match=r"first training batches: There are 8 frames for 9 clusters.*init_batches"):
        make_quantizer(init="kmeans")(features[:, :8])


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_dead_codes_are_revived_by_frames_of_the_batch(update):
    quantizer = make_quantizer(update=update, dead_share=0.1, revive_every=4, decay=0.5)
    with torch.no_grad():
        quantizer.codebook[2:] += 1000
    frames = make_blobs(90, 9)
    for step in range(1, 9):
        output = quantizer(frames[None])
        assert (quantizer.codebook.detach()[2:] > 500).all() == (step < 4)
        if step == 4:  # by then the averaged count of an unused code is 1/16 of a uniform share
            revived = quantizer.codebook.detach()[2:]
            assert output.statistics.num_revived == 7 and len(revived.unique(dim=0)) == 7
            assert all((frames == entry).all(-1).any() for entry in revived)
    assert output.statistics.num_revived < 14  # revived codes are used, so most of them live
    assert quantizer.codebook.abs().max() < 100


def test_codes_are_left_dead_where_asked():
    quantizer = make_quantizer(decay=0.1, dead_share=None)
    quantizer.codebook[2:] += 1e4
    for _ in range(6):
        output = quantizer(torch.randn(1, 30, 6))
    assert output.statistics.num_revived == 0 and output.statistics.usage <= 2 / 9


def test_drawn_frames_are_different_and_depend_on_their_set_alone():
    frames = torch.cat([torch.randn(30, 4), torch.zeros(500, 4)])
    drawn = draw_frames(frames, 8, seed=3)
    assert torch.equal(drawn, draw_frames(frames[torch.randperm(530)], 8, seed=3))
    assert not torch.equal(drawn, draw_frames(frames, 8, seed=4))
    assert len(drawn.unique(dim=0)) == 8
    assert len(draw_frames(torch.zeros(20, 4), 8, seed=0)) == 1


def test_statistics_against_their_formulas():
    found = code_statistics(torch.tensor([6, 2, 0, 0]), num_revived=3)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.num_frames == 8 and found.usage == 0.5 and found.top_share == 0.75 and found.num_revived == 3
    assert found.perplexity == pytest.approx(math.exp(entropy))
    assert found.normalised_entropy == pytest.approx(entropy / math.log(4))
    assert code_statistics(torch.zeros(4, dtype=torch.int64)).perplexity == 0


def test_windows_end_and_collapse_is_told_once(caplog):
    usage = CodeUsage(20, window_frames=100, least_perplexity=0.1, largest_share=0.6)
    even, one = torch.full((20,), 3), torch.tensor([60] + [0] * 19)
    caplog.set_level(logging.INFO, "vocable")
    assert usage.add(even).num_frames == 60 and usage.last_window is None
    window = usage.add(even)
    assert window.num_frames == 120 and not window.collapsed and usage.last_window == window
    assert usage.add(one).num_frames == 60  # a new window; not yet judged
    assert usage.add(one, num_revived=2).collapsed and usage.last_window.num_revived == 2
    assert usage.add(even).collapsed  # the last whole window
    usage.add(one), usage.add(one)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "over 120 frames perplexity is 1.0 of 20 codes and one code has 100% of the frames" in warnings[0]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 3


def test_alarm_of_a_collapsing_quantizer():
    quantizer = make_quantizer(window_frames=50, collapse_perplexity=0.5)
    statistics = [quantizer(torch.full((1, 20, 6), 0.5)).statistics for _ in range(4)]
    assert [entry.collapsed for entry in statistics] == [False, False, True, True]
    assert quantizer.usage.last_window.perplexity == 1 and quantizer.usage.last_window.num_frames == 60
    assert quantizer.eval()(torch.randn(1, 8, 6)).statistics.collapsed


def test_broken_numbers_are_found():
    features = torch.randn(1, 20, 6)
    features[0, 3, 2] = math.inf
    with pytest.raises(NumericsError, match=r"hold NaN or infinite values. Lower the learning rate"):
        make_quantizer()(features)


def test_wrong_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"Features have 5 dimensions, but quantizer.dim is 6"):
        make_quantizer()(torch.randn(1, 4, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebook_size": 1}, "quantizer.codebook_size is 1; it must be at least 2"),
        ({"code_dim": 0}, "quantizer.code_dim is 0"),
        ({"decay": 1.0}, "quantizer.decay is 1.0; it must be at least 0 and below 1"),
        ({"epsilon": 0.0}, "quantizer.epsilon is 0.0; it must be above 0"),
        ({"dead_share": 2.0}, "dead_share is 2.0; it is a fraction of a uniform share.*Set it to null"),
        ({"revive_every": 0}, "quantizer.revive_every is 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        VectorQuantizerConfig(dim=4, **settings)


def test_same_codes_as_vector_quantize_pytorch():
    reference_package = pytest.importorskip("vector_quantize_pytorch")
    reference = reference_package.VectorQuantize(
        dim=6, codebook_size=9, decay=0.8, eps=1e-5, rotation_trick=False, kmeans_init=False, threshold_ema_dead_code=0
    )
    quantizer = make_quantizer(decay=0.8)
    quantizer.codebook.copy_(reference._codebook.embed[0])
    features = torch.randn(3, 40, 6)
    quantized, codes, _ = reference(features)
    output = quantizer(features)
    assert torch.equal(codes, output.codes)
    torch.testing.assert_close(quantized, output.quantized)


def test_usage_goes_on_where_it_was_saved():
    import json

    def steps(usage, numbers):
        return [usage.add(torch.bincount(torch.randint(5, (30,)) * (n < 4), minlength=20), 1) for n in numbers]

    torch.manual_seed(1)
    whole = CodeUsage(20, window_frames=100, least_perplexity=0.1, largest_share=0.6)
    expected = steps(whole, range(10))
    torch.manual_seed(1)
    first, second = (CodeUsage(20, window_frames=100, least_perplexity=0.1, largest_share=0.6) for _ in range(2))
    found = steps(first, range(6))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + steps(second, range(6, 10)) == expected
    assert second.last_window == whole.last_window and whole.last_window.collapsed
