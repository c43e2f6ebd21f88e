"""The split quantizer: sums, the subtraction, gradients as the formula says, codes to vectors, usage."""

import logging
import math

import pytest
import torch

from vocable.errors import ConfigError
from vocable.tokens.code_usage import usage_metrics
from vocable.tokens.quantizers import (
    ResidualQuantizerConfig,
    SplitQuantizer,
    SplitQuantizerConfig,
    VectorQuantizerConfig,
)

PLAIN = {"dim": 6, "codebook_size": 9, "init": "random", "dead_share": None}
FACTORISED = {**PLAIN, "code_dim": 3, "distance": "cosine", "update": "gradient"}


def make_quantizer(subtract: bool, settings=None, num_levels: int = 3, **acoustic) -> SplitQuantizer:
    settings = settings or PLAIN
    semantic = VectorQuantizerConfig(**{**settings, "seed": 100, "codebook_size": 14})
    levels = ResidualQuantizerConfig(level=VectorQuantizerConfig(**settings), num_levels=num_levels, **acoustic)
    return SplitQuantizer(SplitQuantizerConfig(semantic=semantic, acoustic=levels, subtract=subtract))


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two streams of three clips of 20, 1 and 13 frames; padding is NaN."""
    mask = torch.arange(20) < torch.tensor([20, 1, 13])[:, None]
    semantic, acoustic = (torch.where(mask[..., None], torch.randn(3, 20, 6), math.nan) for _ in range(2))
    return semantic, acoustic, mask


@pytest.mark.parametrize("settings", [PLAIN, FACTORISED])
@pytest.mark.parametrize("subtract", [False, True])
def test_both_quantizers_and_their_sum(settings, subtract):
    quantizer = make_quantizer(subtract, settings).eval()
    semantic, acoustic, mask = make_batch()
    output = quantizer(semantic, acoustic, mask)
    first = quantizer.semantic(semantic, mask)
    entries = quantizer.semantic.decode(first.codes)
    second = quantizer.acoustic(acoustic - entries if subtract else acoustic, mask)
    assert torch.equal(output.semantic.codes, first.codes) and torch.equal(output.acoustic.codes, second.codes)
    assert torch.equal(output.semantic.quantized, first.quantized)
    assert torch.equal(output.quantized, entries + second.quantized) and not output.quantized[~mask].any()
    assert torch.equal(output.loss, first.loss + second.loss)
    codes = quantizer.encode(semantic, acoustic, mask)
    assert torch.equal(codes[0], first.codes[:, None]) and torch.equal(codes[1], second.codes)
    assert torch.equal(quantizer.decode(*codes), output.quantized)
    assert torch.equal(quantizer.decode(codes[0]), output.semantic.quantized)
    two = quantizer.decode(codes[0], codes[1][:, :2])
    assert torch.equal(two, entries + quantizer.acoustic.decode(codes[1][:, :2])) and not torch.equal(two, entries)
    other = make_quantizer(not subtract, settings).eval()
    other.load_state_dict(quantizer.state_dict())
    assert not torch.equal(other(semantic, acoustic, mask).acoustic.codes, second.codes)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_in_parallel_is_straight_through(training):
    quantizer = make_quantizer(False, dropout=0.5).train(training)
    semantic, acoustic, gradient = (torch.randn(4, 10, 6) for _ in range(3))
    semantic.requires_grad_(), acoustic.requires_grad_()
    quantizer(semantic, acoustic).quantized.backward(gradient)
    assert torch.equal(semantic.grad, gradient) and torch.equal(acoustic.grad, gradient)


def test_gradient_of_the_subtraction():
    quantizer = make_quantizer(True)
    semantic, acoustic, gradient = (torch.randn(2, 10, 6) for _ in range(3))
    semantic.requires_grad_(), acoustic.requires_grad_()
    output = quantizer(semantic, acoustic)
    # z = s_q + a_q(a - s_q), both straight-through: dz/da = 1, dz/ds = 1 - 1 = 0
    output.quantized.backward(gradient, retain_graph=True)
    assert torch.equal(acoustic.grad, gradient) and torch.equal(semantic.grad, torch.zeros_like(gradient))
    # s_q alone, as the auxiliary decoder reads it: ds_q/ds = 1
    output.semantic.quantized.backward(gradient)
    assert torch.equal(semantic.grad, gradient)


def test_gradient_of_the_subtraction_through_maps():
    quantizer = make_quantizer(True, FACTORISED)
    semantic, acoustic, gradient = (torch.randn(1, 10, 6) for _ in range(3))
    semantic.requires_grad_(), acoustic.requires_grad_()
    output = quantizer(semantic, acoustic)
    output.quantized.backward(gradient, retain_graph=True)
    # s_q = S s + constants, a_q = A (a - s_q) + constants with A = 1 - (1 - A_3) (1 - A_2) (1 - A_1), as in residual.py
    whole = torch.eye(6)
    maps = [
        level.project_out.weight @ level.project_in.weight for level in (quantizer.semantic, *quantizer.acoustic.levels)
    ]
    left = (whole - maps[3]) @ (whole - maps[2]) @ (whole - maps[1])
    torch.testing.assert_close(acoustic.grad[0], gradient[0] @ (whole - left), atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(semantic.grad[0], gradient[0] @ left @ maps[0], atol=2e-6, rtol=2e-6)
    # the acoustic losses, too, reach the semantic features: through s_q, with the sign turned
    semantic.grad = acoustic.grad = None
    output.acoustic.loss.backward()
    torch.testing.assert_close(semantic.grad[0], -acoustic.grad[0] @ maps[0], atol=2e-6, rtol=2e-6)
    assert semantic.grad.any()


def test_gradient_to_the_semantic_features_in_parallel_stays_in_its_level():
    quantizer = make_quantizer(False, FACTORISED)
    semantic, acoustic = torch.randn(1, 10, 6, requires_grad=True), torch.randn(1, 10, 6, requires_grad=True)
    output = quantizer(semantic, acoustic)
    output.semantic.quantized.sum().backward(retain_graph=True)
    assert acoustic.grad is None
    output.acoustic.loss.backward()
    assert acoustic.grad.any()
    assert torch.autograd.grad(quantizer(semantic, acoustic).acoustic.loss, semantic, allow_unused=True)[0] is None


@pytest.mark.parametrize("subtract", [False, True])
def test_inference_does_not_depend_on_the_batch(subtract):
    quantizer = make_quantizer(subtract, FACTORISED).eval()
    semantic, acoustic, mask = make_batch()
    together = quantizer(semantic, acoustic, mask)
    for row, length in enumerate(mask.sum(1)):
        alone = quantizer(semantic[row : row + 1, :length], acoustic[row : row + 1, :length])
        assert torch.equal(alone.quantized[0], together.quantized[row, :length])
        assert torch.equal(alone.acoustic.codes[0], together.acoustic.codes[row, :, :length])


def test_number_of_acoustic_levels_on_request():
    quantizer = make_quantizer(True).eval()
    semantic, acoustic, mask = make_batch()
    codes = quantizer.encode(semantic, acoustic, mask)
    output = quantizer(semantic, acoustic, mask, torch.tensor([1, 2, 3]))
    for row in range(3):
        expected = quantizer.decode(codes[0][row : row + 1], codes[1][row : row + 1, : row + 1])
        assert torch.equal(output.quantized[row], expected[0])


def test_half_precision_in_and_out():
    quantizer = make_quantizer(True, FACTORISED).eval()
    semantic, acoustic = (torch.randn(1, 20, 6).to(torch.bfloat16) for _ in range(2))
    output, expected = quantizer(semantic, acoustic), quantizer(semantic.float(), acoustic.float())
    assert torch.equal(output.acoustic.codes, expected.acoustic.codes)
    for found in (output.quantized, output.semantic.quantized, output.acoustic.quantized):
        assert found.dtype == torch.bfloat16
    assert torch.equal(output.quantized, expected.quantized.to(torch.bfloat16))


def test_usage_of_every_codebook_for_the_logs(caplog):
    caplog.set_level(logging.INFO, "vocable")
    quantizer = make_quantizer(False, {**PLAIN, "window_frames": 150, "collapse_top_share": None}, num_levels=2)
    for _ in range(3):
        output = quantizer(torch.randn(1, 40, 6), torch.randn(1, 40, 6))
    names = ("semantic", "acoustic_1", "acoustic_2")
    assert tuple(quantizer.usages()) == names
    statistics = dict(zip(names, (output.semantic.statistics, *output.acoustic.statistics)))
    metrics = quantizer.usage_metrics()
    assert len(metrics) == 18 and metrics["acoustic_2_perplexity"] == statistics["acoustic_2"].perplexity
    for name, entry in statistics.items():
        assert entry.num_frames == 120 and entry.usage > 0.4
        assert usage_metrics(entry, f"{name}_").items() <= metrics.items()
    quantizer(torch.randn(1, 40, 6), torch.randn(1, 40, 6))  # 160 frames: a whole window
    window = quantizer.usages()["semantic"].last_window
    quantizer(torch.zeros(1, 40, 6), torch.zeros(1, 40, 6))
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"codes of {name} over 160 frames" for name in names
    ]
    assert window.num_frames == 160 and quantizer.usage_metrics()["semantic_usage"] == window.usage


def test_wrong_requests_are_refused():
    quantizer = make_quantizer(False).eval()
    codes, more = quantizer.encode(torch.randn(1, 4, 6), torch.randn(1, 4, 6))
    with pytest.raises(ConfigError, match="There is one semantic level; the codes have 2"):
        quantizer.decode(torch.cat([codes, codes], dim=1))
    with pytest.raises(ConfigError, match="have 0 levels; this quantizer decodes from 1 to 3"):
        quantizer.decode(codes, more[:, :0])
    with pytest.raises(ConfigError, match="of 1 clips of 4 frames, the acoustic codes of 1 of 1: they do not go"):
        quantizer.decode(codes, more[..., :1])
    with pytest.raises(ConfigError, match="go from 14 to 14, but the codebook has 14 entries"):
        quantizer.decode(torch.full_like(codes, 14), more)
    with pytest.raises(ConfigError, match=r"semantic.dim is 6, but quantizer.acoustic.level.dim is 5"):
        SplitQuantizerConfig(
            semantic=VectorQuantizerConfig(dim=6), acoustic=ResidualQuantizerConfig(level=VectorQuantizerConfig(dim=5))
        )
