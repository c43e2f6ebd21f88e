"""The finite-scalar quantizer against numpy: bounds, digits, all codes, gradients; and in place of a codebook."""

import math

import numpy as np
import pytest
import torch

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import ConfigError, NumericsError
from vocable.tokens.quantizers import (
    FiniteScalarConfig,
    FiniteScalarQuantizer,
    SplitQuantizer,
    SplitQuantizerConfig,
    VectorQuantizerConfig,
)

LEVELS = [(8, 5, 5, 5), (2, 3), (7, 4, 6), (256,)]


def make_quantizer(levels=(8, 5, 5, 5), dim: int | None = None, **settings) -> FiniteScalarQuantizer:
    """Without `dim`, the maps in and out are identities."""
    quantizer = FiniteScalarConfig(dim=dim or len(levels), levels=levels, **settings).build()
    if dim is None:
        with torch.no_grad():
            for linear in (quantizer.project_in, quantizer.project_out):
                linear.weight.copy_(torch.eye(len(levels)))
                linear.bias.zero_()
    return quantizer


def slow_code(vector: np.ndarray, levels: tuple[int, ...]) -> tuple[int, list[float]]:
    """Code and values of one vector, a coordinate at a time."""
    code, place, values = 0, 1, []
    for number, size in zip(vector, levels):
        half = (size - 1) * 0.999 / 2
        offset = 0.0 if size % 2 else 0.5
        integer = round(math.tanh(number + math.tan(offset / half)) * half - offset)
        code += (integer + size // 2) * place
        place *= size
        values.append(integer / (size // 2))
    return code, values


def all_points(levels: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A vector in the middle of every cell of the grid, and the values it is rounded to, in the order of the codes."""
    axes, points = [], []
    for size in levels:
        half = (size - 1) * 0.999 / 2
        offset = 0.0 if size % 2 else 0.5
        integers = np.arange(size) - size // 2
        inside = np.clip((integers + offset) / half, -0.999, 0.999)
        axes.append(np.arctanh(inside) - math.tan(offset / half))
        points.append(integers / (size // 2))
    grids = [
        np.stack([grid.T.ravel() for grid in np.meshgrid(*values, indexing="ij")], -1) for values in (axes, points)
    ]
    return torch.from_numpy(grids[0]).float(), torch.from_numpy(grids[1]).float()


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_values_by_hand(levels):
    features = 2 * torch.randn(3, 200, len(levels))
    expected = [slow_code(vector, levels) for vector in features.view(-1, len(levels)).double().numpy()]
    for training in (True, False):
        output = make_quantizer(levels).train(training)(features)
        assert output.codes.flatten().tolist() == [code for code, _ in expected]
        torch.testing.assert_close(
            output.quantized.view(-1, len(levels)), torch.tensor([value for _, value in expected])
        )
        assert output.loss == output.commitment_loss == 0 and output.codebook_loss is None


@pytest.mark.parametrize("levels", LEVELS)
def test_every_code_is_reached_and_decodes_to_its_point(levels):
    quantizer = make_quantizer(levels).eval()
    vectors, points = all_points(levels)
    codes = torch.arange(math.prod(levels))[None]
    assert quantizer.config.codebook_size == codes.shape[1]
    assert torch.equal(quantizer.encode(vectors[None]), codes)
    torch.testing.assert_close(quantizer.decode(codes)[0], points)
    assert points.abs().max() == 1


def test_codes_become_vectors_and_codes_again():
    quantizer = make_quantizer(dim=12)
    features = torch.randn(2, 50, 12)
    mask = torch.arange(50) < torch.tensor([50, 20])[:, None]
    features = torch.where(mask[..., None], features, math.nan)
    codes = quantizer.encode(features, mask)
    output = quantizer.eval()(features, mask)
    assert torch.equal(output.codes, codes) and ((codes == -1) == ~mask).all()
    vectors = quantizer.decode(codes)
    assert torch.equal(vectors, output.quantized) and not vectors[~mask].any()
    points = torch.linalg.lstsq(
        quantizer.project_out.weight.double(), (vectors - quantizer.project_out.bias)[mask].T.double()
    )
    digits = points.solution.T * torch.tensor([4, 2, 2, 2]) + torch.tensor([4, 2, 2, 2])
    torch.testing.assert_close(digits, digits.round(), atol=1e-4, rtol=0)
    assert torch.equal((digits.round().long() * torch.tensor([1, 8, 40, 200])).sum(-1), codes[mask])


def test_gradient_passes_the_rounding():
    levels = (8, 5)
    quantizer = make_quantizer(levels)
    features, gradient = torch.randn(1, 30, 2, requires_grad=True), torch.randn(1, 30, 2)
    quantizer(features).quantized.backward(gradient)
    sizes = torch.tensor(levels)
    half = (sizes - 1) * 0.999 / 2
    shift = torch.tensor([math.tan(0.5 / half[0]), 0.0])
    slope = half / torch.tensor([4, 2]) / torch.cosh(features.detach() + shift).square()
    torch.testing.assert_close(features.grad, gradient * slope)
    learned = {name for name, parameter in quantizer.named_parameters() if parameter.grad.any()}
    assert learned == {"project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"}


def test_inference_does_not_depend_on_the_batch():
    quantizer = make_quantizer((8, 8, 8, 5, 5, 5), dim=48).eval()
    lengths = (37, 1, 400, 64)
    clips = [torch.randn(length, 48) for length in lengths]
    features = torch.full((4, 400, 48), math.nan)
    for row, clip in zip(features, clips):
        row[: len(clip)] = clip
    mask = torch.arange(400) < torch.tensor(lengths)[:, None]
    together = quantizer(features, mask)
    decoded = quantizer.decode(together.codes)
    for row, clip in enumerate(clips):
        alone = quantizer(clip[None])
        assert torch.equal(together.codes[row, : len(clip)], alone.codes[0])
        assert torch.equal(together.quantized[row, : len(clip)], alone.quantized[0])
        assert torch.equal(decoded[row, : len(clip)], quantizer.decode(alone.codes)[0])
    assert quantizer(torch.zeros(0, 5, 48)).quantized.shape == (0, 5, 48)
    assert quantizer.encode(torch.zeros(2, 5, 48), torch.zeros(2, 5, dtype=torch.bool)).eq(-1).all()


def test_features_in_half_precision_are_quantized_in_full():
    quantizer = make_quantizer(dim=12)
    coarse = torch.randn(2, 30, 12).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(coarse)
    expected = quantizer(coarse.float())
    assert torch.equal(found.codes, expected.codes) and found.quantized.dtype == torch.bfloat16
    assert torch.equal(found.quantized, expected.quantized.to(torch.bfloat16))


def test_usage_and_the_alarm():
    quantizer = make_quantizer((3, 3), window_frames=50)
    features = torch.zeros(1, 40, 2)
    assert quantizer(features).statistics.top_share == 1 and quantizer.usage.last_window is None
    assert quantizer(features).statistics.collapsed and quantizer.usage.last_window.num_frames == 80
    other = quantizer.eval()(all_points((3, 3))[0][None]).statistics
    assert other.num_frames == 9 and other.usage == 1 and other.collapsed
    assert quantizer.usage.latest.num_frames == 80


def test_a_saved_quantizer_is_the_same(tmp_path):
    one, other = make_quantizer(dim=12).eval(), make_quantizer(dim=12).eval()
    features = torch.randn(1, 40, 12)
    assert not torch.equal(one.encode(features), other.encode(features))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(one(features).quantized, other(features).quantized)


def test_in_place_of_a_semantic_codebook():
    acoustic = {"level": {"dim": 6, "codebook_size": 8, "init": "random"}, "num_levels": 2}
    semantic = {"kind": "finite_scalar", "dim": 6, "levels": [4, 3]}
    config = config_from_dict(SplitQuantizerConfig, {"semantic": semantic, "acoustic": acoustic, "subtract": True})
    assert config.semantic == FiniteScalarConfig(dim=6, levels=(4, 3))
    assert config_from_dict(SplitQuantizerConfig, config_to_dict(config)) == config
    plain = config_from_dict(SplitQuantizerConfig, {"semantic": {"dim": 6}, "acoustic": acoustic})
    assert plain.semantic == VectorQuantizerConfig(dim=6)
    assert config_from_dict(SplitQuantizerConfig, config_to_dict(plain)) == plain
    quantizer = SplitQuantizer(config).eval()
    first, second = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    output, codes = quantizer(first, second), quantizer.encode(first, second)
    assert torch.equal(codes[0][:, 0], output.semantic.codes) and torch.equal(codes[1], output.acoustic.codes)
    assert torch.equal(quantizer.decode(*codes), output.quantized)
    assert quantizer.usage_metrics()["semantic_usage"] == 0
    assert quantizer.train()(first, second).loss > 0 and quantizer.usage_metrics()["semantic_usage"] > 0


def test_wrong_requests_are_refused():
    quantizer = make_quantizer((3, 3))
    with pytest.raises(ConfigError, match="go from -2 to 1, but the grid has 9 points"):
        quantizer.decode(torch.tensor([[-2, 1]]))
    with pytest.raises(ConfigError, match="go from 0 to 9, but the grid has 9 points"):
        quantizer.decode(torch.tensor([[0, 9]]))
    with pytest.raises(ConfigError, match=r"Features have 5 dimensions, but quantizer.dim is 2"):
        quantizer(torch.randn(1, 4, 5))
    with pytest.raises(NumericsError, match=r"hold NaN or infinite values. Lower the learning rate"):
        quantizer(torch.tensor([[[math.inf, 0.0]]]))
    assert quantizer.encode(torch.tensor([[[1e30, -1e30], [0, 0]]])).tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "quantizer.dim is 0"),
        ({"levels": ()}, r"quantizer.levels is \[\]; give one coordinate or more, each of 2 to 256 values"),
        ({"levels": (8, 1)}, r"quantizer.levels is \[8, 1\]"),
        ({"levels": (8, 257)}, r"quantizer.levels is \[8, 257\]"),
        ({"levels": (8,) * 7}, "which makes 2097152 codes; the most is 1048576"),
        ({"window_frames": 0}, "quantizer.window_frames is 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        FiniteScalarConfig(**{"dim": 4, **settings})
