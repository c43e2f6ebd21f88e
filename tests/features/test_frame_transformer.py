"""What a frame sees, and that padding and neighbours in the batch are never seen."""

import math

import pytest
import torch

from vocable.errors import ConfigError
from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig, _turn, _turns

SMALL = {"width": 16, "num_heads": 2, "feedforward_dim": 32}


def make_network(**settings) -> FrameTransformer:
    return FrameTransformer(FrameTransformerConfig(**{**SMALL, "num_layers": 3, "dropout": 0.0, **settings}), 6, 5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("settings", "furthest"),
    [
        ({"attention": "causal"}, 0),
        ({"attention": "lookahead", "lookahead_frames": 2}, 2),  # through all three layers together
        ({"attention": "full"}, 11),
    ],
)
def test_frames_see_as_far_ahead_as_asked(settings, furthest, training):
    network = make_network(**settings).train(training)
    frames = torch.randn(1, 12, 6, requires_grad=True)
    out = network(frames)
    for position in range(12):
        (gradient,) = torch.autograd.grad(out[0, position].sum(), frames, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        assert torch.equal(seen, torch.arange(12) <= position + furthest)


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_padding_and_neighbours_are_not_seen(attention):
    network = make_network(attention=attention)
    clips = [torch.randn(length, 6) for length in (9, 30, 0, 1)]
    frames = torch.full((4, 30, 6), math.nan)
    for row, clip in zip(frames, clips):
        row[: len(clip)] = clip
    mask = torch.arange(30) < torch.tensor([len(clip) for clip in clips])[:, None]
    trained, done = network(frames, mask), network.eval()(frames, mask)
    assert not trained[~mask].any() and not done[~mask].any()
    for row, clip in enumerate(clips):
        if len(clip):
            alone = network(clip[None])
            assert torch.equal(done[row, : len(clip)], alone[0])  # in evaluation mode, to the bit
            # masked sums round otherwise than short ones
            torch.testing.assert_close(trained[row, : len(clip)], alone[0], atol=1e-5, rtol=1e-5)


def test_gradients_pass_padding_without_harm():
    network = make_network()
    frames = torch.full((2, 5, 6), math.nan)
    frames[0, :3] = torch.randn(3, 6)
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    network(frames, mask).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_rotated_products_depend_on_the_distance_alone():
    query, key = torch.randn(8).expand(20, 8), torch.randn(8).expand(20, 8)
    turns = _turns(20, 8, torch.device("cpu"))
    products = _turn(query, turns) @ _turn(key, turns).T
    for distance in range(-19, 20):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert products[0, 0] != pytest.approx(float(products[0, 5]), abs=1e-3)
    torch.testing.assert_close(products[0, 0], query[0] @ key[0])


def test_a_linear_start_keeps_distances_and_still_learns_from_other_frames():
    network = FrameTransformer(FrameTransformerConfig(**SMALL, dropout=0.0), 16, 16)
    network.start_linear()
    frames = 5 * torch.randn(1, 9, 16) + 2
    normed = torch.nn.functional.layer_norm(frames, (16,))
    hidden = network.project_in(network.norm_in(frames))
    torch.testing.assert_close(torch.cdist(hidden, hidden), torch.cdist(normed, normed), atol=1e-4, rtol=1e-4)
    direct = network.project_out(network.norm_out(hidden))
    torch.testing.assert_close(network(frames), direct)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    network(frames).square().mean().backward()
    optimiser.step()
    frames.requires_grad_()
    (gradient,) = torch.autograd.grad(network(frames)[0, 5].sum(), frames)
    assert gradient[0, :5].any()


def test_no_layers_is_a_map_of_each_frame():
    network = make_network(num_layers=0, attention="full").eval()
    frames = torch.randn(1, 7, 6)
    torch.testing.assert_close(network(frames)[:, 2:3], network(frames[:, 2:3]))


def test_features_of_another_width_are_refused():
    with pytest.raises(ConfigError, match=r"frames have 7 dimensions, but this network was made for 6"):
        make_network()(torch.randn(1, 3, 7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"width": 20, "num_heads": 4},
            "encoder.width is 20, which 4 heads of even width cannot share: .* multiple of 8",
        ),
        ({"dropout": 1.0}, "encoder.dropout is 1.0"),
        ({"num_layers": -1}, "encoder.num_layers is -1"),
        ({"attention": "lookahead"}, "'lookahead' with lookahead_frames 0: set attention"),
        ({"attention": "full", "lookahead_frames": 3}, "'full' with lookahead_frames 3"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        FrameTransformerConfig(**settings)


@pytest.mark.parametrize("attention", ["causal", "full", "lookahead"])
def test_how_far_a_layer_reaches(attention):
    ahead = {"lookahead_frames": 1} if attention == "lookahead" else {}
    config = FrameTransformerConfig(
        num_layers=2,
        width=16,
        num_heads=2,
        feedforward_dim=32,
        dropout=0.0,
        attention=attention,
        reach_frames=3,
        **ahead,
    )
    network = FrameTransformer(config, 6, 4).train()
    frames = torch.randn(1, 20, 6, requires_grad=True)
    out = network(frames)
    (gradient,) = torch.autograd.grad(out[0, 10].sum(), frames)
    seen = gradient[0].abs().sum(-1) > 0
    last = {"causal": 10, "full": 16, "lookahead": 11}[attention]
    assert torch.equal(seen, (torch.arange(20) >= 4) & (torch.arange(20) <= last))  # two layers of three frames
    assert network.reach == (6, last - 10)
    mask = torch.arange(25) < 20
    padded = torch.cat([frames[0], torch.full((5, 6), torch.nan)])[None]
    torch.testing.assert_close(network(padded, mask[None])[0, :20], out[0], atol=1e-6, rtol=1e-5)  # other kernels


def test_reach_without_limit_or_layers():
    assert make_network(reach_frames=None).reach is None
    assert make_network(num_layers=0, reach_frames=None).reach == (0, 0)
    assert make_network(num_layers=0, attention="lookahead", lookahead_frames=2).reach == (0, 0)


def test_a_negative_reach_is_refused():
    with pytest.raises(ConfigError, match=r"encoder.reach_frames is -1; it must not be negative"):
        FrameTransformerConfig(reach_frames=-1)
