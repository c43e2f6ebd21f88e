"""Losses of vocoder training against slow, plain versions."""

import math

import pytest
import torch

from vocable.synthesis.discriminators import DiscriminatorConfig, Discriminators, Judgement
from vocable.training.vocoder_losses import (
    FLOOR,
    MultiScaleMelLoss,
    adversarial_loss,
    discriminator_loss,
    duration_loss,
    feature_matching_loss,
    pitch_loss,
)


def slow_log_mel(waveform: torch.Tensor, sample_rate: int, n_fft: int, bands: int) -> torch.Tensor:
    """Frame by frame by the definition of the discrete Fourier transform; triangles between slaney mel centres."""

    def to_mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) * 27 / math.log(6.4)

    def to_hertz(mel: float) -> float:
        return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)

    top = to_mel(sample_rate / 2)
    edges = [to_hertz(top * k / (bands + 1)) for k in range(bands + 2)]
    window = torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft) for n in range(n_fft)], dtype=torch.float64)
    time = torch.arange(n_fft, dtype=torch.float64)
    half = n_fft // 2
    padded = torch.cat([waveform[1 : half + 1].flip(0), waveform, waveform[-half - 1 : -1].flip(0)]).double()
    rows = []
    for first in range(0, len(padded) - n_fft + 1, n_fft // 4):
        piece = padded[first : first + n_fft] * window
        magnitude = []
        for k in range(half + 1):
            angle = 2 * math.pi * k * time / n_fft
            magnitude.append(math.hypot(float((piece * angle.cos()).sum()), float((piece * angle.sin()).sum())))
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:]):
            total = 0.0
            for k, size in enumerate(magnitude):
                hertz = k * sample_rate / n_fft
                weight = max(0.0, min((hertz - low) / (centre - low), (high - hertz) / (high - centre)))
                total += weight * 2 / (high - low) * size
            row.append(math.log(max(FLOOR, total * sample_rate / n_fft / math.sqrt(float(window.square().sum())))))
        rows.append(row)
    return torch.tensor(rows)


def test_mel_loss_equals_its_definition():
    loss = MultiScaleMelLoss(16_000, n_ffts=(64, 128), num_mels=(6, 8))
    made, real = 0.3 * torch.randn(300), 0.1 * torch.randn(300)
    expected = 0.0
    for n_fft, bands in ((64, 6), (128, 8)):
        slow = slow_log_mel(made, 16_000, n_fft, bands), slow_log_mel(real, 16_000, n_fft, bands)
        torch.testing.assert_close(loss.log_mel(made[None], n_fft)[0], slow[0], atol=1e-4, rtol=1e-4)
        expected += float((slow[0] - slow[1]).abs().mean()) / 2
    assert float(loss(made[None], real[None])) == pytest.approx(expected, rel=1e-4)
    assert loss(real[None], real[None]) == 0


def judged(*scores: float) -> Judgement:
    return Judgement(torch.tensor([scores]), [])


def test_adversarial_losses_by_hand():
    real, made = [judged(2.0, 0.5), judged(-1.0)], [judged(-3.0, 0.0), judged(0.5)]
    # hinge: real 0 + .5 over 2, made 0 + 1 over 2; second part 2 and 1.5; mean of the two parts
    assert float(discriminator_loss(real, made, "hinge")) == pytest.approx((0.25 + 0.5 + 2 + 1.5) / 2)
    assert float(adversarial_loss(made, "hinge")) == pytest.approx(((4 + 1) / 2 + 0.5) / 2)
    squares = (1 + 0.25) / 2 + (9 + 0) / 2 + 4 + 0.25
    assert float(discriminator_loss(real, made, "least_squares")) == pytest.approx(squares / 2)
    assert float(adversarial_loss(made, "least_squares")) == pytest.approx(((16 + 1) / 2 + 0.25) / 2)


def test_feature_matching_is_relative_and_sends_no_gradient_to_the_real_side():
    real = [Judgement(torch.zeros(1, 1), [torch.full((1, 4), 2.0, requires_grad=True)])]
    made = [Judgement(torch.zeros(1, 1), [torch.full((1, 4), 3.0, requires_grad=True)])]
    loss = feature_matching_loss(real, made)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5)
    assert real[0].features[0].grad is None
    assert made[0].features[0].grad is not None


def test_duration_and_pitch_losses_see_only_the_mask():
    durations, mask = torch.tensor([[1, 3, 9]]), torch.tensor([[True, True, False]])
    predicted = torch.tensor([[math.log(2), math.log(4) + 1, 77.0]])
    assert float(duration_loss(predicted, durations, mask)) == pytest.approx(0.5)
    voiced = torch.tensor([[True, False, True]])
    log_f0, target = torch.tensor([[math.log(2), 5.0, 9.0]]), torch.zeros(1, 3)
    logits = torch.zeros(1, 3)
    # one octave wrong in the only voiced frame inside the mask, and a fair coin for voicing
    assert float(pitch_loss(log_f0, logits, target, voiced, mask)) == pytest.approx(1 + math.log(2))


@pytest.mark.parametrize("samples", [3000, 3001, 4410])
def test_discriminators_judge_any_length(samples):
    config = DiscriminatorConfig(periods=(2, 7), period_channels=(4, 8), n_ffts=(256,), spectrogram_channels=4)
    judgements = Discriminators(config)(torch.randn(2, samples))
    assert len(judgements) == 3
    assert all(item.scores.shape[0] == 2 for item in judgements)
    assert [len(item.features) for item in judgements] == [3, 3, 4]
