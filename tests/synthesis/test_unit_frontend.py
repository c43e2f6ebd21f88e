"""The front end: interpolation, rates, how far it sees, and noise in training only."""

from dataclasses import replace

import pytest
import torch

from vocable.errors import ConfigError
from vocable.synthesis.unit_frontend import FrontendConfig, UnitFrontend, between, frame_positions
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig

SMALL = {"dim": 12, "hidden_dim": 24, "token_layers": 2, "frame_layers": 1, "kernel_size": 3}


def make_frontend(**settings) -> UnitFrontend:
    torch.manual_seed(0)
    frontend = UnitFrontend(FrontendConfig(**SMALL | settings), 8).eval()
    for parameter in frontend.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    for name, parameter in frontend.named_parameters():
        if name.endswith(".scale"):
            torch.nn.init.normal_(parameter)
    return frontend


@pytest.mark.parametrize("rate", [50.0, 12.5, 75.0, 80.0, 100.0])
def test_frames_lie_between_their_tokens(rate):
    tokens, frames = torch.randn(1, 9, 4), int(9 * 80 / rate)
    found = between(tokens, frame_positions(0, frames, rate / 80)[None])[0]
    for frame in range(frames):
        seconds = (frame + 0.5) / 80  # middle of the frame
        place = seconds * rate - 0.5  # middles of tokens are at 0.5, 1.5, ... token lengths
        left = max(0, min(8, int(place // 1)))
        right, share = min(8, left + 1), min(1.0, max(0.0, place - left))
        expected = tokens[0, left] * (1 - share) + tokens[0, right] * share
        torch.testing.assert_close(found[frame], expected, atol=1e-5, rtol=1e-5)
    if rate == 80.0:
        assert torch.equal(found, tokens[0])


def test_positions_are_told_from_a_later_token_too():
    whole = frame_positions(0, 50, 0.625)
    torch.testing.assert_close(frame_positions(20, 10, 0.625, first_token=7), whole[20:30] - 7)
    far = frame_positions(1_000_000, 3, 0.625, first_token=624_990)
    assert far.tolist() == pytest.approx([9.8125, 10.4375, 11.0625], abs=1e-5)


def test_rows_of_a_batch_have_places_of_their_own():
    tokens, positions = torch.randn(2, 5, 3), torch.tensor([[0.5, -2.0, 3.25], [4.0, 9.0, 0.0]])
    found = between(tokens, positions)
    torch.testing.assert_close(found[0, 0], tokens[0, :2].mean(0))
    torch.testing.assert_close(found[0, 2], 0.75 * tokens[0, 3] + 0.25 * tokens[0, 4])
    assert torch.equal(found[0, 1], tokens[0, 0])
    assert torch.equal(found[1], tokens[1, [4, 4, 0]])


def test_content_has_the_mean_and_the_deviation_that_were_measured():
    frontend = make_frontend()
    tokens, positions = torch.randn(1, 6, 12), frame_positions(0, 9, 0.625)[None]
    plain = frontend(tokens, positions)
    mean, deviation = torch.randn(8), torch.rand(8) + 0.5
    frontend.content_mean.copy_(mean)
    frontend.content_deviation.copy_(deviation)
    found = frontend(tokens, positions)
    torch.testing.assert_close(found.content, plain.content * deviation + mean)
    for name in ("pitch", "voiced", "energy"):
        assert torch.equal(getattr(found, name), getattr(plain, name))
    assert found.content.shape == (1, 9, 8) and found.pitch.shape == (1, 9)


@pytest.mark.parametrize("rate", [50.0, 12.5, 75.0, 80.0, 100.0])
@pytest.mark.parametrize(
    "settings", [{}, {"lookahead": 0}, {"lookahead": 1}, {"lookahead": 2, "kernel_size": 5}, {"lookahead": 99}], ids=str
)
def test_what_a_frame_depends_on(rate, settings):
    """Change one token: frames that move are within the stated reach of its own frames, and not far from its ends."""
    frontend, ratio = make_frontend(**settings), rate / 80
    before, after = frontend.config.reach(ratio)
    tokens, changed = torch.randn(1, 60, 12), 30
    positions = frame_positions(0, int(60 / ratio), ratio)[None]
    other = tokens.clone()
    other[0, changed] += 1.0
    pairs = zip(frontend(tokens, positions), frontend(other, positions), strict=True)
    differences = torch.stack(
        [(a - b).abs().view(1, positions.shape[1], -1).amax((0, 2)) for a, b in pairs if a.numel()]
    )
    moved = torch.nonzero(differences.amax(0))[:, 0]
    # with the tokens before it, a stream has the frames before `complete`; with this one, up to `full`
    complete, full = int(changed / ratio + 1e-9), int((changed + 1) / ratio + 1e-9)
    assert moved.min() >= complete - after
    assert moved.max() < full + before + 1
    assert moved.min() <= complete - after + 1 + 2 / ratio  # no frames are held back for nothing
    if settings == {"lookahead": 0}:
        assert after == -(-1 // ratio)
    noted = {**SMALL, **settings}
    if settings.get("lookahead") == 99:
        assert sum(frontend.config.token_futures) == noted["token_layers"] * (noted["kernel_size"] // 2)


def test_noise_is_added_to_vectors_in_training_only():
    noisy = FrontendConfig(**SMALL, noise=0.5)
    config = VocoderConfig(codebook_size=6, codebook_dim=5, prosody_dim=8, frontend=noisy)
    vocoder = UnitVocoder(config)
    vocoder.set_codebooks([torch.randn(6, 5)], standardise=True)
    codes, positions = torch.randint(0, 6, (1, 1, 8)), frame_positions(0, 12, 0.625)[None]

    def twice(model: UnitVocoder) -> bool:
        return torch.equal(model(codes, positions)[0].content, model(codes, positions)[0].content)

    assert twice(vocoder.eval()) and not twice(vocoder.train())
    quiet = UnitVocoder(replace(config, frontend=FrontendConfig(**SMALL, noise=0.0))).train()
    quiet.set_codebooks([torch.randn(6, 5)])
    assert twice(quiet)
    table = UnitVocoder(replace(config, codebook_dim=None)).train()
    assert twice(table)  # a table with a row per unit is not disturbed
    heard = []  # its spread is that share of the spread of the embedded vectors
    vocoder.frontend.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    many = torch.randint(0, 6, (4, 1, 2000))
    vocoder(many, positions.expand(4, 12))
    embedded = vocoder.embed(many, vocoder.unit_embedding)
    assert float((heard[0] - embedded).std() / embedded.std()) == pytest.approx(0.5, rel=0.03)


def test_an_even_kernel_is_refused():
    with pytest.raises(ConfigError, match=r"frontend\.kernel_size is 4"):
        FrontendConfig(kernel_size=4)
