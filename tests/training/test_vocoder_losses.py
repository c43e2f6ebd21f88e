"""Losses of vocoder training against slow, plain versions."""

import itertools
import math

import numpy as np
import pytest
import soxr
import torch

from tiny import save_tiny_encoder
from vocable.features import EncoderConfig, FeatureEncoder, load_encoder
from vocable.synthesis.discriminators import Judgement
from vocable.synthesis.source_filter import SourceFilterConfig, SourceFilterDecoder
from vocable.synthesis.unit_frontend import NeutralSpeech
from vocable.training.vocoder_losses import (
    FLOOR,
    ListenerLoss,
    MultiScaleMelLoss,
    SpectralLoss,
    TeacherLoss,
    adversarial_loss,
    content_loss,
    discriminator_loss,
    duration_loss,
    feature_matching_loss,
    prosody_loss,
    resample_differentiably,
)


def slow_mel(waveform: torch.Tensor, sample_rate: int, n_fft: int, bands: int) -> torch.Tensor:
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
            row.append(total)
        rows.append(row)
    return torch.tensor(rows)


def slow_log_mel(waveform: torch.Tensor, sample_rate: int, n_fft: int, bands: int) -> torch.Tensor:
    """Relative to the window's energy (half of n_fft, or 3/8 once squared), and to bins."""
    scale = sample_rate / n_fft / math.sqrt(3 / 8 * n_fft)
    return (slow_mel(waveform, sample_rate, n_fft, bands) * scale).clamp(min=FLOOR).log()


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


def test_mel_loss_of_dac_equals_its_definition():
    loss = MultiScaleMelLoss.dac(16_000)
    assert loss.n_ffts == (256, 512, 1024, 2048)
    assert [loss.get_buffer(f"filters_{n}").shape[1] for n in loss.n_ffts] == [40, 80, 160, 320]
    made, real = 0.3 * torch.randn(300), 0.3 * torch.sin(torch.arange(300) / 3)
    real[100:] = 0  # magnitudes under the floor
    small = MultiScaleMelLoss(
        16_000, (64, 128), (6, 8), floor=1e-5, normalised=False, log_weight=2 / math.log(10), linear_weight=1.0,
        reduction="sum",
    )  # fmt: skip
    assert all(getattr(small, name) == getattr(loss, name) for name in ("floor", "log_weight", "linear_weight"))
    assert (small.reduction, small.normalised) == (loss.reduction, loss.normalised)
    expected = 0.0
    for n_fft, bands in ((64, 6), (128, 8)):
        a, b = (slow_mel(item, 16_000, n_fft, bands) for item in (made, real))
        assert (b < 1e-5).any() and (b > 1e-3).any()
        logs = [torch.log10(item.clamp(min=1e-5) ** 2) for item in (a, b)]
        expected += float((logs[0] - logs[1]).abs().mean() + (a - b).abs().mean())
    assert float(small(made[None], real[None])) == pytest.approx(expected, rel=1e-4)
    noise = torch.randn(1, 4_000, requires_grad=True)
    loss(noise, torch.zeros(1, 4_000)).backward()
    assert noise.grad is not None and noise.grad.isfinite().all()


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


def test_losses_of_dac_add_up_over_discriminators_and_layers():
    real, made = [judged(2.0, 0.5), judged(-1.0)], [judged(-3.0, 0.0), judged(0.5)]
    squares = (1 + 0.25) / 2 + (9 + 0) / 2 + 4 + 0.25
    assert float(discriminator_loss(real, made, "least_squares", "sum")) == pytest.approx(squares)
    assert float(adversarial_loss(made, "least_squares", "sum")) == pytest.approx((16 + 1) / 2 + 0.25)
    assert float(adversarial_loss(made, "hinge", "sum")) == pytest.approx((4 + 1) / 2 + 0.5)
    sizes = ((2.0, 3.0), (10.0, 7.5), (1.0, 1.25))  # layers of different widths: of each the mean counts
    layers = [[torch.full((1, 4 * k + 1), pair[side]) for k, pair in enumerate(sizes)] for side in (0, 1)]
    a, b = ([Judgement(torch.zeros(1), side[:2]), Judgement(torch.zeros(1), side[2:])] for side in layers)
    assert float(feature_matching_loss(a, b, relative=False, reduction="sum")) == pytest.approx(1 + 2.5 + 0.25)
    assert float(feature_matching_loss(a, b)) == pytest.approx((0.5 + 0.25 + 0.25) / 3)


def test_feature_matching_is_relative_and_sends_no_gradient_to_the_real_side():
    real = [Judgement(torch.zeros(1, 1), [torch.full((1, 4), 2.0, requires_grad=True)])]
    made = [Judgement(torch.zeros(1, 1), [torch.full((1, 4), 3.0, requires_grad=True)])]
    loss = feature_matching_loss(real, made)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.5)
    assert real[0].features[0].grad is None
    assert made[0].features[0].grad is not None


def test_mel_loss_does_not_hear_what_lies_above_its_limit():
    time = torch.arange(8000, dtype=torch.float64) / 16_000
    low, high = (torch.sin(2 * math.pi * hertz * time).float() for hertz in (500, 6000))
    limited, whole = MultiScaleMelLoss(16_000, top_hz=3000.0), MultiScaleMelLoss(16_000)
    one, both = low[None], (low + 0.3 * high)[None]
    inside = slice(4, -4)  # the signal begins and ends abruptly, which is heard everywhere
    for n_fft in limited.n_ffts:
        found = [limited.log_mel(item, n_fft)[:, inside].exp() for item in (one, both)]
        assert (found[0] - found[1]).abs().max() < 1e-3 * found[0].max()
    assert whole(one, both) > 20 * limited(one, both)
    assert limited(one, 2 * both) > 0.1  # but what lies below it
    assert torch.equal(
        MultiScaleMelLoss(16_000, top_hz=20_000.0).get_buffer("filters_512"), whole.get_buffer("filters_512")
    )


def test_duration_loss_sees_only_the_mask():
    durations, mask = torch.tensor([[1, 3, 9]]), torch.tensor([[True, True, False]])
    predicted = torch.tensor([[math.log(2), math.log(4) + 1, 77.0]])
    assert float(duration_loss(predicted, durations, mask)) == pytest.approx(0.5)


def test_prosody_losses_equal_slow_ones():
    neutral = torch.randn(3, 2, 5)
    made = NeutralSpeech(torch.zeros(2, 5, 3), neutral[0], neutral[1], neutral[2], torch.zeros(2, 5, 0))
    pitch, energy, voiced = torch.randn(2, 5), 6 * torch.randn(2, 5), torch.rand(2, 5) > 0.4
    measured = torch.rand(2, 5) > 0.4
    pitch[0, 0], measured[0, 0] = 9.0, True  # an octave error counts as 3.5 deviations
    height = [
        min(3.5, abs(float(made.pitch[i, j]) - float(pitch[i, j]))) ** 2
        for i in range(2)
        for j in range(5)
        if measured[i, j]
    ]
    crosses, squares = [], []
    for i in range(2):
        for j in range(5):
            share = 1 / (1 + math.exp(-float(made.voiced[i, j])))
            crosses.append(-math.log(share if voiced[i, j] else 1 - share))
            squares.append((float(made.energy[i, j]) - (float(energy[i, j]) - 2.5) / 5.8) ** 2)
    found = prosody_loss(made, pitch, measured, voiced, energy)
    expected = {"pitch": height, "voiced": crosses, "energy": squares}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert float(found[name]) == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert prosody_loss(made, pitch, torch.zeros(2, 5, dtype=torch.bool), voiced, energy)["pitch"] == 0


def test_content_loss_equals_a_slow_one():
    made, content, deviation = torch.randn(2, 4, 3), torch.randn(2, 4, 3), torch.rand(3) + 0.5
    known = torch.tensor([[True, False, True, True], [False, False, True, False]])
    errors = [
        sum(float((made[i, j, k] - content[i, j, k]) / deviation[k]) ** 2 for k in range(3)) / 3
        for i in range(2)
        for j in range(4)
        if known[i, j]
    ]
    assert float(content_loss(made, content, known, deviation)) == pytest.approx(sum(errors) / 4, rel=1e-5)
    assert content_loss(made, content, torch.zeros(2, 4, dtype=torch.bool), deviation) == 0


def make_decoder(speaker_dim: int | None = None) -> SourceFilterDecoder:
    sizes = {"dim": 8, "hidden_dim": 16, "num_layers": 2, "content_dim": 4, "kernel_size": 3}
    config = SourceFilterConfig(**sizes, sample_rate=8000, hop_length=40, n_fft=160, speaker_dim=speaker_dim)
    decoder = SourceFilterDecoder(config)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


@pytest.mark.parametrize("speaker_dim", [None, 5])
def test_a_frozen_decoder_teaches_content(speaker_dim):
    decoder = make_decoder(speaker_dim)
    decoder.norm.weight.requires_grad_(False)  # is no parameter of the training at all
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in decoder.named_parameters()}
    loss = TeacherLoss(decoder, bands=10)
    content, made = torch.randn(2, 9, 4), torch.randn(2, 9, 4, requires_grad=True)
    f0, energy = 150 * (torch.rand(2, 9) > 0.3).float(), torch.randn(2, 9)
    known = torch.ones(2, 9, dtype=torch.bool)
    known[:, 6:] = False
    assert loss(decoder, content.clone(), content, known, f0, energy) == 0
    found = loss(decoder, made, content, known, f0, energy)
    found.backward()
    assert made.grad is not None and made.grad.isfinite().all() and made.grad[:, :6].abs().amax(-1).gt(0).all()
    assert {name: parameter.requires_grad for name, parameter in decoder.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    # slow: both contents through the decoder, in its own voice; power of the spectra, weighted into ten bands
    voice = None if speaker_dim is None else torch.zeros(2, 5)
    hidden = [decoder.hidden(item.detach(), f0, energy, voice) for item in (made, content)]
    total, count = 0.0, 0
    for row in range(2):
        for frame in range(6):
            logs = []
            for item in hidden:
                parts = decoder.spectra(item)
                tones, hiss, free = (
                    (2 * part[row, frame]).exp() for part in (parts.harmonic_log, parts.noise_log, parts.free_log)
                )
                power = tones * float(f0[row, frame] > 40) + 2 * hiss + free  # noise: two parts of unit power
                logs.append([math.log(float((power * loss.filters[:, band]).sum()) + 1e-5) for band in range(10)])
            total += float((hidden[0][row, frame] - hidden[1][row, frame]).square().mean())
            total += sum(abs(a - b) for a, b in zip(*logs)) / 10
            count += 1
    assert float(found.detach()) == pytest.approx(total / count, rel=1e-4)
    assert loss.filters.sum(0).tolist() == pytest.approx([1.0] * 10, abs=1e-4)  # flat spectra have flat envelopes


def slow_spectral_loss(made: np.ndarray, real: np.ndarray, n_fft: int, kept: int) -> float:
    """Spectral convergence and log difference of one window size, window by window."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    squares, size, logs, count = 0.0, 0.0, 0.0, 0
    padded = [np.pad(one, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect") for one in (made, real)]
    for row in range(len(made)):
        for first in range(0, padded[0].shape[1] - n_fft + 1, n_fft // 4):
            a, b = (np.abs(np.fft.rfft(one[row, first : first + n_fft] * window))[:kept] for one in padded)
            squares, size = squares + float(((a - b) ** 2).sum()), size + float((b**2).sum())
            logs, count = logs + float(np.abs(np.log(a + 0.01) - np.log(b + 0.01)).sum()), count + kept
    return math.sqrt(squares / size) + logs / count


def test_spectral_loss_equals_its_definition():
    made, real = 0.3 * torch.randn(2, 400), 0.1 * torch.randn(2, 400)
    for top_hz, kept in ((None, (33, 65)), (4000.0, (17, 33))):  # bins up to 8 kHz, and up to 4 kHz
        loss = SpectralLoss(16_000, n_ffts=(64, 128), top_hz=top_hz)
        slow = [slow_spectral_loss(made.numpy(), real.numpy(), n, k) for n, k in zip((64, 128), kept, strict=True)]
        assert float(loss(made, real)) == pytest.approx(sum(slow) / 2, rel=1e-4)


def make_voices(count: int, samples: int, sample_rate: int) -> torch.Tensor:
    """Steady harmonics, with a little noise: (count, samples)."""
    time = torch.arange(samples, dtype=torch.float64) / sample_rate
    pitch, number = 110 * torch.arange(1, count + 1), torch.arange(1, 12)[:, None]
    tones = (torch.sin(2 * math.pi * pitch[:, None, None] * number * time) / number).sum(1)
    return (0.1 * tones + 0.003 * torch.randn(count, samples)).float()


@pytest.fixture(scope="module")
def listener(tmp_path_factory) -> FeatureEncoder:
    folder = save_tiny_encoder("whisper", tmp_path_factory.mktemp("whisper"))
    return load_encoder(EncoderConfig(name=str(folder), layer=3))


@pytest.mark.parametrize("kind", ["spectral", "mel", "listener"])
def test_distances_of_sound_fall_with_the_noise_and_teach_what_was_made(kind, listener):
    loss = {
        "spectral": lambda: SpectralLoss(24_000, top_hz=7600.0),
        "mel": lambda: MultiScaleMelLoss(24_000, top_hz=7600.0),
        "listener": lambda: ListenerLoss(listener, 24_000),
    }[kind]()
    real = make_voices(2, 12_000, 24_000)
    noise = torch.randn_like(real)
    distances = [float(loss(real + level * noise, real)) for level in (0.1, 0.03, 0.01, 0.003, 0.0)]
    assert all(a > 1.2 * b for a, b in itertools.pairwise(distances)) and distances[-1] == 0
    made, wanted = (real + 0.01 * noise).requires_grad_(), real.clone().requires_grad_()
    loss(made, wanted if kind == "listener" else real).backward()
    assert made.grad is not None and made.grad.isfinite().all()
    assert made.grad[:, 2000:-2000].abs().amax(-1).gt(0).all()
    assert wanted.grad is None
    step = made.detach() - 1e-3 * made.grad / made.grad.norm()
    assert loss(step, real) < loss(made.detach(), real)


def test_a_listener_hears_its_last_layers_and_stays_as_it_was(listener):
    """Against the layers one by one, each frame with a mean of 0 and a variance of 1."""
    before = {name: value.clone() for name, value in listener.state_dict().items()}
    loss = ListenerLoss(listener, 16_000, num_layers=2)
    real = make_voices(2, 6400 + 77, 16_000)
    made = (real + 0.02 * torch.randn_like(real)).requires_grad_()

    def slow(waveforms: torch.Tensor) -> list[torch.Tensor]:
        hidden, found = listener.front(waveforms[:, :6400]), []  # whole frames of 20 ms
        for layer in listener.layers:  # type: ignore[union-attr]
            output = layer(hidden, attention_mask=None)
            hidden = output[0] if isinstance(output, tuple) else output
            mean, variance = hidden.mean(-1, keepdim=True), hidden.var(-1, unbiased=False, keepdim=True)
            found.append((hidden - mean) / (variance + 1e-5).sqrt())
        return found[-2:]

    with torch.no_grad():
        heard = loss.features(real)
        assert [tuple(one.shape) for one in heard] == [(2, 20, 32)] * 2
        pairs = list(zip(slow(made), slow(real), strict=True))
    for mine, (_, theirs) in zip(heard, pairs, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
    found = loss(made, real)
    terms = [float((a - b).abs().sum() / b.abs().sum()) for a, b in pairs]
    assert float(found.detach()) == pytest.approx(sum(terms) / 2, rel=1e-3)
    found.backward()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in listener.parameters())
    assert all(torch.equal(value, before[name]) for name, value in listener.state_dict().items())
    assert not loss.heard  # nothing of a batch is kept


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(24_000, 16_000), (8000, 16_000), (22_050, 16_000), (16_000, 24_000)]
)
def test_differentiable_resampling_equals_soxr(from_rate, to_rate):
    """Below 0.8 of the narrower half band, where both filters are flat, and 0.1 s from the edges.

    The window has side lobes of -44 dB at the edge of the band, which fall by 18 dB an octave: inside it, a thousandth
    of the sound is left.
    """
    rng, top = np.random.default_rng(0), 0.8 * min(from_rate, to_rate) / 2
    time = np.arange(from_rate) / from_rate
    tones = rng.uniform(50, top, 40)
    waveform = sum(np.sin(2 * np.pi * hertz * time + rng.uniform(0, 6)) for hertz in tones) / 10
    found = resample_differentiably(torch.from_numpy(waveform)[None], from_rate, to_rate)[0]
    expected = soxr.resample(waveform, from_rate, to_rate, quality="VHQ")
    assert len(found) == to_rate
    inside = slice(to_rate // 10, -to_rate // 10)
    assert np.abs(found.numpy() - expected)[inside].max() < 2e-3 * np.abs(expected).max()


def test_what_lies_above_the_lower_rate_is_removed():
    time = torch.arange(24_000, dtype=torch.float64) / 24_000
    for hertz in (9000, 10_000, 11_500):
        found = resample_differentiably(torch.sin(2 * math.pi * hertz * time)[None], 24_000, 16_000)
        assert found[0, 1600:-1600].abs().max() < 0.01  # -40 dB
    same = torch.randn(2, 100)
    assert resample_differentiably(same, 16_000, 16_000) is same


def test_resampling_sends_back_the_gradient_of_a_linear_map():
    """The product with any direction is that of the forward way: <R'w, v> = <w, Rv>."""
    x, v = torch.randn(2, 2, 300, dtype=torch.float64)
    x.requires_grad_()
    made = resample_differentiably(x, 24_000, 16_000)
    w = torch.randn_like(made)
    (made * w).sum().backward()
    assert x.grad is not None and x.grad.abs().amin() > 0
    forward = (w * resample_differentiably(v, 24_000, 16_000)).sum()
    torch.testing.assert_close((x.grad * v).sum(), forward)
