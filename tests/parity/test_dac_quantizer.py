"""The residual quantizer with DAC's settings, on the same weights as the one in transformers."""

import pytest
import torch

from vocable.tokens.quantizers import (
    ResidualQuantizer,
    ResidualQuantizerConfig,
    SplitQuantizer,
    SplitQuantizerConfig,
    VectorQuantizerConfig,
)


def dac_level(dim: int, codebook_size: int) -> VectorQuantizerConfig:
    """One level of DAC: 8-dimensional entries found by angle, which learn by their own loss and are never revived."""
    learning = {"update": "gradient", "init": "random", "dead_share": None}
    return VectorQuantizerConfig(dim=dim, codebook_size=codebook_size, code_dim=8, distance="cosine", **learning)


@pytest.fixture
def pair():
    """Our quantizer and transformers', with equal weights."""
    from transformers import DacConfig
    from transformers.models.dac.modeling_dac import DacResidualVectorQuantizer

    reference = DacResidualVectorQuantizer(
        DacConfig(hidden_size=32, codebook_dim=8, codebook_size=50, n_codebooks=4, quantizer_dropout=0.5)
    )
    ours = ResidualQuantizer(ResidualQuantizerConfig(level=dac_level(32, 50), num_levels=4, dropout=0.5))
    for level, theirs in zip(ours.levels, reference.quantizers):
        level.load_state_dict(
            {
                **level.state_dict(),
                "codebook": theirs.codebook.weight.data,
                "project_in.weight": theirs.in_proj.weight.data[..., 0],
                "project_in.bias": theirs.in_proj.bias.data,
                "project_out.weight": theirs.out_proj.weight.data[..., 0],
                "project_out.bias": theirs.out_proj.bias.data,
            }
        )
    return ours, reference


def check_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    # float32 sums run in another order; ten times the worst difference seen, 9e-6
    torch.testing.assert_close(ours, reference, atol=9e-5, rtol=9e-5)


def test_codes_sums_and_losses(pair):
    ours, reference = (quantizer.eval() for quantizer in pair)
    features = torch.randn(3, 60, 32)
    quantized, codes, _, commitment, codebook = reference(features.mT)
    output = ours(features)
    assert torch.equal(output.codes, codes)
    check_close(output.quantized, quantized.mT)
    check_close(output.commitment_loss, commitment.mean())
    check_close(output.codebook_loss, codebook.mean())
    check_close(ours.decode(codes[:, :2]), reference.from_codes(codes[:, :2])[0].mT)


def test_dropout_and_gradients(pair):
    ours, reference = (quantizer.train() for quantizer in pair)
    features, gradient = torch.randn(6, 20, 32), torch.randn(6, 20, 32)
    results = []
    for quantizer in pair:
        torch.manual_seed(2)
        leaf = features.clone().requires_grad_()
        quantized = ours(leaf).quantized if quantizer is ours else reference(leaf.mT)[0].mT
        quantized.backward(gradient)
        results.append((quantized.detach(), leaf.grad))
    torch.manual_seed(2)
    assert (ours.draw_num_levels(6)[:3] < 4).any()
    check_close(*(quantized for quantized, _ in results))
    check_close(*(grad for _, grad in results))
    for level, theirs in zip(ours.levels, reference.quantizers):
        check_close(level.project_in.weight.grad, theirs.in_proj.weight.grad[..., 0])
        check_close(level.project_out.weight.grad, theirs.out_proj.weight.grad[..., 0])


def test_number_of_parameters_of_the_released_quantizer():
    acoustic = ResidualQuantizerConfig(level=dac_level(1024, 4096), dropout=0.5)
    quantizer = SplitQuantizer(SplitQuantizerConfig(semantic=dac_level(1024, 16384), acoustic=acoustic, subtract=True))
    # the release keeps a length beside each row of its 16 maps (weight norm): 0.51 M in all
    lengths = 8 * (8 + 1024)
    assert sum(parameter.numel() for parameter in quantizer.parameters()) + lengths == 508_032
