"""Discriminators: sizes, the spectra they see, and what they refuse."""

import math

import pytest
import torch

from vocable.errors import AudioFormatError, ConfigError
from vocable.synthesis.discriminators import (
    DAC_DISCRIMINATORS,
    BandSplitDiscriminator,
    DiscriminatorConfig,
    Discriminators,
)

TINY_BANDS = DiscriminatorConfig(
    periods=(2, 7), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4, band_edges=(0.0, 0.1, 0.5, 1.0)
)


@pytest.mark.parametrize("samples", [3000, 3001, 4410])
def test_discriminators_judge_any_length(samples):
    config = DiscriminatorConfig(periods=(2, 7), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4)
    judgements = Discriminators(config)(torch.randn(2, samples))
    assert len(judgements) == 3
    assert all(item.scores.shape[0] == 2 for item in judgements)
    assert [len(item.features) for item in judgements] == [3, 3, 4]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_discriminators_have_the_published_size():
    with torch.device("meta"):  # 47 million weights
        discriminators = Discriminators(DAC_DISCRIMINATORS)
    # a weight-normed convolution has its weights, and a length and a bias for each output
    period = (
        (1 * 5 * 32 + 2 * 32)
        + (32 * 5 * 128 + 2 * 128)
        + (128 * 5 * 512 + 2 * 512)
        + (512 * 5 * 1024 + 2 * 1024)
        + (1024 * 5 * 1024 + 2 * 1024)
        + (1024 * 3 * 1 + 2)
    )
    band = (2 * 27 * 64 + 2 * 64) + 3 * (64 * 27 * 64 + 2 * 64) + (64 * 9 * 64 + 2 * 64)
    resolution = 5 * band + (64 * 9 * 1 + 2)
    assert [count(part) for part in discriminators.parts] == [period] * 5 + [resolution] * 3
    assert count(discriminators) == 5 * 8_221_154 + 3 * 1_864_258
    assert [getattr(part, "period", None) or part.n_fft for part in discriminators.parts] == [
        2, 3, 5, 7, 11, 2048, 1024, 512,
    ]  # fmt: skip


@pytest.mark.parametrize("samples", [1_024, 1_025, 1_100, 1_279])
def test_spectra_of_bands_are_those_of_the_definition(samples):
    part = BandSplitDiscriminator(256, 4, (0.0, 0.1, 0.25, 0.5, 0.75, 1.0))
    assert part.edges == [0, 12, 32, 64, 96, 129]
    waveform = torch.randn(samples)
    found = part.spectra(waveform[None])
    num_frames = math.ceil(samples / 64)
    assert found.shape == (1, 2, num_frames, 129)
    window = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / 256) for n in range(256)], dtype=torch.float64)
    for frame in (0, 1, num_frames // 2, num_frames - 1):
        piece = []
        for n in range(256):
            place = frame * 64 + 32 - 128 + n  # centred half a hop past the frame's hop; the ends are mirrored
            place = abs(place) if place < samples else 2 * (samples - 1) - place
            piece.append(float(waveform[place]))
        expected = torch.fft.rfft(torch.tensor(piece, dtype=torch.float64) * window)
        torch.testing.assert_close(found[0, 0, frame].double(), expected.real, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[0, 1, frame].double(), expected.imag, atol=1e-4, rtol=1e-4)


def test_bands_are_judged_apart():
    part = BandSplitDiscriminator(256, 4, (0.0, 0.1, 0.5, 1.0))
    waveforms = torch.randn(2, 1_280)
    features, ends = [], []
    for band, (low, high) in enumerate(((0, 12), (12, 64), (64, 129))):
        signal = part.spectra(waveforms)[..., low:high]
        for place, (stride, reach) in enumerate(((1, 4), (2, 4), (2, 4), (2, 4), (1, 1))):
            layer = part.bands[band][place]
            signal = torch.conv2d(signal, layer.weight, layer.bias, (1, stride), (1, reach))
            signal = torch.maximum(signal, 0.1 * signal)
            features.append(signal)
        ends.append(signal)
    scores = torch.conv2d(torch.cat(ends, -1), part.last.weight, part.last.bias, padding=1)
    found = part(waveforms)
    for made, expected in zip(found.features, features, strict=True):
        torch.testing.assert_close(made, expected)
    torch.testing.assert_close(found.scores, scores.flatten(1))
    widths = [12, 6, 3, 2, 2, 52, 26, 13, 7, 7, 65, 33, 17, 9, 9]
    assert [feature.shape for feature in found.features] == [(2, 4, 20, width) for width in widths]


@pytest.mark.parametrize("config", [TINY_BANDS, DiscriminatorConfig(n_ffts=(256,))], ids=["bands", "magnitudes"])
def test_gradients_reach_the_waveform_and_every_weight(config):
    discriminators = Discriminators(config)
    waveforms = torch.randn(2, 2_000, requires_grad=True)
    sum(
        item.scores.square().sum() + sum(f.abs().sum() for f in item.features) for item in discriminators(waveforms)
    ).backward()
    assert waveforms.grad is not None and waveforms.grad.abs().sum(1).min() > 0
    for name, parameter in discriminators.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert name.endswith("bias") or "parametrizations.weight.original" in name  # weight norm everywhere


def test_conditioned_input_has_neither_offset_nor_loudness():
    plain, conditioned = (
        DiscriminatorConfig(periods=(2,), period_channels=(4,), n_ffts=(), normalise_input=on) for on in (False, True)
    )
    ours, theirs = Discriminators(plain), Discriminators(conditioned)
    theirs.load_state_dict(ours.state_dict())
    waveforms = torch.randn(2, 400)
    by_hand = waveforms - waveforms.mean(1, keepdim=True)
    by_hand = 0.8 * by_hand / by_hand.abs().max(1, keepdim=True).values
    expected = ours(by_hand)[0].scores
    torch.testing.assert_close(theirs(waveforms)[0].scores, expected)
    torch.testing.assert_close(theirs(0.05 * waveforms + 0.3)[0].scores, expected, atol=1e-5, rtol=1e-4)
    assert theirs(torch.zeros(1, 400))[0].scores.isfinite().all()
    quiet = torch.zeros(1, 400, requires_grad=True)
    theirs(quiet)[0].scores.sum().backward()
    assert quiet.grad is not None and quiet.grad.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [
        TINY_BANDS,
        DiscriminatorConfig(periods=(40,)),
        DiscriminatorConfig(periods=(), n_ffts=(256,)),
        DAC_DISCRIMINATORS,
    ],
    ids=["bands", "periods", "magnitudes", "dac"],
)
def test_short_waveforms_are_refused(config):
    small = DiscriminatorConfig(
        periods=config.periods, period_channels=(2,), n_ffts=config.n_ffts, spectrogram_channels=2,
        band_edges=config.band_edges,
    )  # fmt: skip
    discriminators = Discriminators(small)
    fewest = discriminators.fewest_samples
    for samples in range(fewest, fewest + 40):
        assert all(item.scores.isfinite().all() for item in discriminators(torch.randn(1, samples)))
    with pytest.raises(AudioFormatError, match=rf"cannot judge {fewest - 1} samples; they need {fewest}\."):
        discriminators(torch.randn(1, fewest - 1))


def test_bad_bands_are_refused():
    for edges in ((0.0,), (0.5, 0.25), (0.0, 1.5), (-0.5, 1.0)):
        with pytest.raises(ConfigError, match=r"band_edges is .* at least two edges that rise, from 0 to 1"):
            DiscriminatorConfig(band_edges=edges)
    with pytest.raises(ConfigError, match=r"a window of 16 samples has no frequency in one of the bands"):
        DiscriminatorConfig(band_edges=(0.0, 0.1, 1.0), n_ffts=(16,))
