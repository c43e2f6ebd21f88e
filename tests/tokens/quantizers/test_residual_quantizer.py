"""The residual quantizer against loops in numpy: levels, sums, gradients, losses, dropout, first codebooks, masks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from vocable.errors import ConfigError, NumericsError
from vocable.tokens.codebook_training import fit_first_codebook, nearest_codes
from vocable.tokens.quantizers import (
    ResidualQuantizer,
    ResidualQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
)
from vocable.tokens.quantizers.frames import check_features

FACTORISED = {"code_dim": 3, "distance": "cosine", "update": "gradient"}
KINDS = [{}, {"update": "gradient"}, FACTORISED]


def make_quantizer(num_levels: int = 3, dropout: float = 0.0, sizes=None, **settings) -> ResidualQuantizer:
    """Random codebooks, and no revival, unless asked otherwise."""
    level = VectorQuantizerConfig(**{"dim": 6, "codebook_size": 9, "init": "random", "dead_share": None, **settings})
    return ResidualQuantizer(
        ResidualQuantizerConfig(level=level, num_levels=num_levels, dropout=dropout, codebook_sizes=sizes)
    )


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three clips of 20, 1 and 13 frames; padding is NaN."""
    features = torch.randn(3, 20, 6)
    mask = torch.arange(20) < torch.tensor([20, 1, 13])[:, None]
    return torch.where(mask[..., None], features, math.nan), mask


def levels_by_hand(frames: torch.Tensor, quantizer: ResidualQuantizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (levels, frames), vectors that each level adds, and squared errors of each level, a frame at a time."""
    codes, added, errors = [], [], []
    residual = frames.detach().double().numpy().copy()
    for level in quantizer.levels:
        state = {name: value.detach().double().numpy() for name, value in level.state_dict().items()}
        codebook, into, out = state["codebook"], state.get("project_in.weight"), state.get("project_out.weight")
        numbers, vectors, squares = [], [], []
        for frame in residual:
            inside = frame if into is None else into @ frame + state["project_in.bias"]
            if level.config.distance == "cosine":
                scores = codebook @ inside / np.linalg.norm(codebook, axis=1) / np.linalg.norm(inside)
            else:
                scores = -np.square(codebook - inside).sum(1)
            number = int(scores.argmax())
            entry = codebook[number]
            numbers.append(number)
            vectors.append(entry if out is None else out @ entry + state["project_out.bias"])
            squares.append(np.square(inside - entry).mean())
        residual = residual - np.stack(vectors)
        codes.append(numbers), added.append(vectors), errors.append(squares)
    return np.array(codes), np.array(added), np.array(errors)


def check_close(tensor: torch.Tensor, array: np.ndarray) -> None:
    torch.testing.assert_close(tensor.detach().double(), torch.from_numpy(np.asarray(array)), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_levels_by_hand(settings, training):
    quantizer = make_quantizer(sizes=(9, 30, 5), **settings).train(training)
    features = torch.randn(2, 40, 6)
    codes, added, errors = levels_by_hand(features.view(-1, 6), quantizer)
    output = quantizer(features)
    assert torch.equal(output.codes, torch.from_numpy(codes).view(3, 2, 40).transpose(0, 1))
    check_close(output.quantized.view(-1, 6), added.sum(0))
    check_close(output.commitment_loss, errors.mean(1).sum())
    weight = 0.25 + (settings.get("update") == "gradient")
    check_close(output.loss, weight * errors.mean(1).sum())
    assert (output.codebook_loss is None) == (settings.get("update") != "gradient")
    assert [statistics.num_frames for statistics in output.statistics] == [80, 80, 80]
    assert output.statistics[1].usage == len(set(codes[1])) / 30


@pytest.mark.parametrize("settings", KINDS)
def test_codes_become_vectors_and_codes_again(settings):
    quantizer = make_quantizer(**settings).eval()
    features, mask = make_batch()
    output = quantizer(features, mask)
    codes = quantizer.encode(features, mask)
    assert torch.equal(codes, output.codes) and ((codes == -1) == ~mask[:, None]).all()
    assert torch.equal(quantizer.decode(codes), output.quantized)  # to the bit, also through maps
    _, added, _ = levels_by_hand(features[mask], quantizer)
    for number in (1, 2, 3):
        first = quantizer.decode(codes[:, :number])
        check_close(first[mask], added[:number].sum(0))
        assert not first[~mask].any()
        fewer = quantizer(features, mask, num_levels=torch.full((3,), number))
        assert torch.equal(fewer.quantized, first) and torch.equal(fewer.codes[:, :number], codes[:, :number])
        assert (fewer.codes[:, number:] == -1).all()


@pytest.mark.parametrize("settings", [{}, {"code_dim": 5, "distance": "cosine", "update": "gradient"}])
def test_inference_does_not_depend_on_the_batch(settings):
    quantizer = make_quantizer(dim=48, codebook_size=64, num_levels=5, **settings).eval()
    lengths = (37, 1, 400, 64)
    clips = [torch.randn(length, 48) for length in lengths]
    features = torch.full((4, 400, 48), math.nan)
    for row, clip in zip(features, clips):
        row[: len(clip)] = clip
    mask = torch.arange(400) < torch.tensor(lengths)[:, None]
    together, before = quantizer(features, mask), {k: v.clone() for k, v in quantizer.state_dict().items()}
    for row, clip in enumerate(clips):
        alone = quantizer(clip[None])
        assert torch.equal(together.codes[row, :, : len(clip)], alone.codes[0])
        assert torch.equal(together.quantized[row, : len(clip)], alone.quantized[0])
    assert torch.equal(quantizer.train().encode(features, mask), together.codes)  # also of a module in training
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_the_sum_is_straight_through(update, training):
    quantizer = make_quantizer(update=update, dropout=0.5).train(training)
    features, gradient = torch.randn(4, 10, 6, requires_grad=True), torch.randn(4, 10, 6)
    quantizer(features).quantized.backward(gradient)
    assert torch.equal(features.grad, gradient)
    for level in quantizer.levels:
        assert level.codebook.grad is None or not level.codebook.grad.any()


def test_gradient_of_the_sum_through_maps():
    quantizer = make_quantizer(**FACTORISED)
    features, gradient = torch.randn(1, 10, 6, requires_grad=True), torch.randn(1, 10, 6)
    quantizer(features).quantized.backward(gradient)
    # r_(i+1) = r_i - A_i r_i - constants, with A_i = out_i in_i by the straight-through estimate; the sum is r_1 - r_4
    left = torch.eye(6)
    for level in quantizer.levels:
        left = (torch.eye(6) - level.project_out.weight @ level.project_in.weight) @ left
    torch.testing.assert_close(features.grad[0], gradient[0] @ (torch.eye(6) - left), atol=2e-6, rtol=2e-6)


def test_losses_of_all_levels_reach_the_encoder():
    quantizer = make_quantizer(update="gradient", commitment_weight=0.5)
    features = torch.randn(1, 12, 6, requires_grad=True)
    codes, added, _ = levels_by_hand(features[0], quantizer)
    quantizer(features).loss.backward()
    # 0.5 |x - (q_1 + ... + q_i)|^2 of every level i, as a mean over 12 frames of width 6
    errors = features.detach()[0].double().numpy() - np.cumsum(added, 0)
    check_close(features.grad[0], (0.5 * 2 * errors / 72).sum(0))
    for level, numbers, error in zip(quantizer.levels, codes, errors):
        expected = np.zeros((9, 6))
        np.add.at(expected, numbers, -2 * error / 72)  # of |q_i - r_i|^2, where r_i - q_i is the error after level i
        check_close(level.codebook.grad, expected)


def test_rotation_turns_features_onto_the_sum():
    straight, turned = make_quantizer(), make_quantizer(estimator="rotation")
    features = torch.randn(1, 30, 6)
    gradients = []
    for quantizer in (straight, turned):
        leaf = features.clone().requires_grad_()
        output = quantizer(leaf).quantized
        output.backward(output.detach())  # the gradient points along the sum: after the turn, along the features
        gradients.append((output.detach(), leaf.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    cosines = torch.cosine_similarity(gradients[1][1], features, dim=-1)
    torch.testing.assert_close(cosines, torch.ones(1, 30))


def test_dropout_draws_as_published():
    quantizer = make_quantizer(num_levels=5, dropout=0.3)
    torch.manual_seed(3)
    draws = torch.stack([quantizer.draw_num_levels(11) for _ in range(4000)])
    assert (draws[:, 3:] == 5).all()  # floor(0.3 * 11) items are drawn
    shares = torch.bincount(draws[:, :3].flatten(), minlength=6) / (4000 * 3)
    assert shares[0] == 0
    assert (shares[1:] - 0.2).abs().max() < 4 * math.sqrt(0.2 * 0.8 / 12000)  # four standard deviations
    torch.manual_seed(3)
    assert torch.equal(quantizer.draw_num_levels(11), draws[0])
    generators = [torch.Generator().manual_seed(8) for _ in range(2)]
    first, second = (quantizer.draw_num_levels(100, generator) for generator in generators)
    assert torch.equal(first, second)
    assert (make_quantizer(dropout=0.29).draw_num_levels(100)[29:] == 3).all()
    counts = sum((make_quantizer(dropout=0.29).draw_num_levels(100)[28] < 3).long() for _ in range(30))
    assert counts > 0  # 0.29 * 100 is a little below 29 in floating point
    assert (make_quantizer(dropout=0.5).draw_num_levels(1) == 3).all()


@pytest.mark.parametrize("settings", KINDS)
def test_dropped_levels_add_nothing_and_learn_nothing(settings):
    quantizer = make_quantizer(num_levels=3, dropout=0.5, decay=0.5, **settings)
    state = {name: value.clone() for name, value in quantizer.state_dict().items()}
    features, mask = make_batch()
    features = torch.cat([features, torch.randn(1, 20, 6)])
    mask = torch.cat([mask, torch.ones(1, 20, dtype=torch.bool)])
    codes, added, errors = levels_by_hand(features[mask], quantizer)
    torch.manual_seed(4)
    numbers = quantizer.draw_num_levels(4)
    assert numbers.tolist() == [2, 1, 3, 3]
    torch.manual_seed(4)
    output = quantizer(features, mask)
    item = torch.arange(4)[:, None].expand(4, 20)[mask]
    kept = torch.arange(3)[:, None] < numbers[item]  # (levels, frames)
    check_close(output.quantized[mask], (added * kept[..., None].numpy()).sum(0))
    check_close(output.commitment_loss, (errors * kept.numpy()).sum() / len(item))  # 0 where dropped, as in DAC
    found = output.codes.transpose(1, 2)[mask].T
    assert torch.equal(found, torch.from_numpy(np.where(kept, codes, -1)))
    assert [entry.num_frames for entry in output.statistics] == kept.sum(1).tolist()
    # each level by itself on the frames that it keeps ends in the same state
    residual = features[mask]
    for index, config in enumerate(quantizer.config.levels()):
        alone = VectorQuantizer(config)
        prefix = f"levels.{index}."
        alone.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        alone(residual[kept[index]][None])
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(quantizer.state_dict()[prefix + name], value, atol=2e-6, rtol=2e-6)
        residual = residual - torch.from_numpy(added[index]).float()
    # encode knows no dropout
    assert (quantizer.encode(features, mask).transpose(1, 2)[mask] >= 0).all()
    assert (quantizer.eval()(features, mask).codes.transpose(1, 2)[mask] >= 0).all()


def test_dropout_repeats_with_the_seed():
    batches = [torch.randn(4, 10, 6) for _ in range(3)]
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        quantizer = make_quantizer(dropout=0.75)
        for batch in batches:
            quantizer(batch)
        states.append(quantizer.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("settings", [{}, {"code_dim": 3, "distance": "cosine"}])
def test_the_second_codebook_is_kmeans_of_the_first_residual(settings):
    features = torch.randn(27, 10, 6)
    quantizer = make_quantizer(init="kmeans", update="gradient", dropout=1.0, **settings)  # no EMA step after k-means
    with pytest.raises(ConfigError, match="codebook is random as yet"):
        quantizer.encode(features)
    output = quantizer(features)
    assert (output.codes >= 0).all()  # dropout waits for all codebooks
    residual = features.view(-1, 6)
    for index, level in enumerate(quantizer.levels):
        inside = level.project_in(residual).detach()
        expected = fit_first_codebook([inside], 9, level.config.distance, level.config.init_iterations, index)
        torch.testing.assert_close(level.codebook.detach(), expected, atol=1e-5, rtol=1e-5)
        assert bool(level.initialised)
        codes = nearest_codes(inside, level.codebook, level.config.distance)
        residual = residual - level.project_out(level.codebook[codes]).detach()
    assert (quantizer(features).codes == -1).any()


def test_levels_start_one_after_another():
    quantizer = make_quantizer(num_levels=2, init="kmeans", init_batches=2, update="gradient")
    batches = [torch.randn(2, 30, 6) for _ in range(3)]
    started = []
    for batch in batches:
        output = quantizer(batch)
        started.append([bool(level.initialised) for level in quantizer.levels])
        assert ((output.codes[:, 1] == -1).all()) == (not started[-1][0])
        assert output.statistics[1].num_frames == (0 if len(started) == 1 else 60 * (len(started) - 1))
    assert started == [[False, False], [True, False], [True, True]]
    first = quantizer.levels[0]
    residuals = [batch.view(-1, 6) - first.decode(first.encode(batch)).view(-1, 6) for batch in batches[1:]]
    expected = fit_first_codebook([residual.detach() for residual in residuals], 9, "euclidean", 10, 1)
    torch.testing.assert_close(quantizer.levels[1].codebook.detach(), expected)


def test_kmeans_levels_shrink_the_error():
    features = torch.randn(2, 300, 6)
    quantizer = make_quantizer(num_levels=4, init="kmeans", codebook_size=16, dead_share=0.1, decay=0.9)
    for _ in range(10):
        quantizer(features)
    codes = quantizer.encode(features)
    errors = [(quantizer.decode(codes[:, :number]) - features).square().mean() for number in range(1, 5)]
    assert all(later < 0.75 * former for former, later in pairwise(errors))


@pytest.mark.parametrize("settings", KINDS)
def test_masked_frames_change_nothing(settings):
    features, mask = make_batch()
    with_padding, without = make_quantizer(**settings), make_quantizer(**settings)
    without.load_state_dict(with_padding.state_dict())
    padded, plain = with_padding(features, mask), without(features[mask][None])
    assert torch.equal(padded.codes.transpose(1, 2)[mask], plain.codes[0].T)
    assert torch.equal(padded.quantized[mask], plain.quantized[0]) and not padded.quantized[~mask].any()
    assert torch.equal(padded.loss, plain.loss) and padded.statistics == plain.statistics
    for name, value in with_padding.state_dict().items():
        assert torch.equal(value, without.state_dict()[name]), name


def test_a_batch_of_padding_alone_is_no_step():
    quantizer = make_quantizer(dropout=0.5, **FACTORISED)
    before = {name: value.clone() for name, value in quantizer.state_dict().items() if "initialised" not in name}
    output = quantizer(torch.full((2, 5, 6), math.nan), torch.zeros(2, 5, dtype=torch.bool))
    assert output.loss == 0 and (output.codes == -1).all() and not output.quantized.any()
    assert all(torch.equal(quantizer.state_dict()[name], value) for name, value in before.items())
    assert quantizer.eval()(torch.zeros(0, 5, 6)).quantized.shape == (0, 5, 6)
    assert quantizer.encode(torch.zeros(0, 5, 6)).shape == (0, 3, 5)


def test_features_in_half_precision_are_quantized_in_full():
    quantizer = make_quantizer(**FACTORISED).eval()
    coarse = torch.randn(2, 30, 6).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(coarse)
    expected = quantizer(coarse.float())
    assert torch.equal(found.codes, expected.codes) and found.quantized.dtype == torch.bfloat16
    assert torch.equal(found.quantized, expected.quantized.to(torch.bfloat16))


def test_a_saved_quantizer_goes_on_as_if_never_saved(tmp_path):
    batches = [torch.randn(4, 40, 6) for _ in range(12)]
    settings = {"init": "kmeans", "dead_share": 0.5, "revive_every": 3, "decay": 0.5, "dropout": 0.5}
    one, other = make_quantizer(**settings), make_quantizer(**settings)
    for batch in batches[:5]:
        one(batch)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    for quantizer in (one, other):
        torch.manual_seed(0)
        for batch in batches[5:]:
            quantizer(batch)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert torch.equal(one.encode(batches[0]), other.encode(batches[0]))


def test_each_level_revives_its_own_dead_codes():
    quantizer = make_quantizer(num_levels=2, dead_share=0.1, revive_every=4, decay=0.5)
    with torch.no_grad():
        quantizer.levels[1].codebook[2:] += 1000
    frames = torch.randn(1, 200, 6)
    for step in range(1, 5):
        output = quantizer(frames)
        assert (quantizer.levels[1].codebook[2:] > 500).all() == (step < 4)
    assert [entry.num_revived for entry in output.statistics] == [0, 7]


def test_wrong_requests_are_refused():
    quantizer = make_quantizer().eval()
    features = torch.randn(2, 4, 6)
    codes = quantizer.encode(features)
    for wrong in (codes[:, :0], torch.cat([codes, codes], dim=1)):
        with pytest.raises(ConfigError, match=rf"have {wrong.shape[1]} levels; .* decodes from 1 to 3 levels"):
            quantizer.decode(wrong)
    with pytest.raises(ConfigError, match="go from 0 to 9, but the codebook has 9 entries"):
        quantizer.decode(torch.tensor([[[0, 1], [0, 9]]]))
    for numbers in ([0, 1], [1, 4]):
        with pytest.raises(ConfigError, match=rf"num_levels goes from {numbers[0]} to {numbers[1]}; .* 1 to 3"):
            quantizer(features, num_levels=torch.tensor(numbers))
    with pytest.raises(ConfigError, match="Features have 5 dimensions"):
        quantizer(features[..., :5])
    with pytest.raises(ConfigError, match=r"The mask has shape \(2, 3\)"):
        check_features(features, torch.ones(2, 3, dtype=torch.bool), 6)
    features[0, 1, 2] = math.inf
    with pytest.raises(NumericsError, match="hold NaN or infinite values"):
        quantizer.train()(features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_levels": 0}, "quantizer.num_levels is 0; it must be at least 1"),
        ({"dropout": 1.5}, "quantizer.dropout is 1.5; it is a share of the items, from 0 to 1"),
        ({"sizes": (8, 8)}, "codebook_sizes has 2 sizes, but quantizer.num_levels is 3"),
        ({"sizes": (8, 1, 8)}, "quantizer.codebook_size is 1; it must be at least 2"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_quantizer(**settings)
