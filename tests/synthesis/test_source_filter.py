"""The source-filter decoder: its source, its spectra and its reach, each against a plain version."""

import math

import pytest
import torch

from vocable.errors import ConfigError
from vocable.synthesis import source_filter
from vocable.synthesis.source_filter import (
    NOISE_BLOCK,
    SourceFilterConfig,
    SourceFilterDecoder,
    Spectra,
    noise,
    share_lookahead,
)

SMALL = {"dim": 16, "hidden_dim": 32, "num_layers": 2, "content_dim": 8, "sample_rate": 8000, "hop_length": 40}
SMALL = SMALL | {"n_fft": 160, "kernel_size": 3}


def make_decoder(**settings) -> SourceFilterDecoder:
    torch.manual_seed(0)
    decoder = SourceFilterDecoder(SourceFilterConfig(**SMALL | settings)).eval()
    for parameter in decoder.parameters():  # zero biases would hide errors
        torch.nn.init.normal_(parameter, std=0.2)
    for name, parameter in decoder.named_parameters():
        if name.endswith(".scale"):
            torch.nn.init.normal_(parameter)  # what blocks add is heard
    return decoder


def make_inputs(frames: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Content, F0 (a third of the frames unvoiced) and energy."""
    generator = torch.Generator().manual_seed(seed)
    content = torch.randn(batch, frames, 8, generator=generator)
    f0 = 120 + 80 * torch.rand(batch, frames, generator=generator)
    f0 = f0 * (torch.rand(batch, frames, generator=generator) > 0.3)
    return content, f0, 2.5 + 5.8 * torch.randn(batch, frames, generator=generator)


def empty_spectra(frames: int, bins: int, **parts: torch.Tensor) -> Spectra:
    """Spectra without any sound, but for `parts`."""
    quiet, zero = torch.full((1, frames, bins), -200.0), torch.zeros(1, frames, bins)
    silence = {"harmonic_log": quiet, "harmonic_phase": zero, "noise_log": quiet, "free_log": quiet, "free_phase": zero}
    return Spectra(**silence | parts)


def test_pulses_are_a_sum_of_cosines():
    decoder = make_decoder(sample_rate=24_000, hop_length=300, n_fft=1200)
    f0 = torch.tensor([[220.0, 231.5, 180.25, 180.25, 402.0]])
    found = decoder.pulses(f0, phase=0.3)[0].double()
    middles = torch.arange(5) * 300 + 149.5
    phase, expected, near = 0.3, torch.zeros(1500).double(), torch.zeros(1500, dtype=torch.bool)
    for sample in range(1500):  # F0 is a line between the middles of frames, flat before the first and after the last
        right = min(4, max(1, int((middles < sample).sum())))
        share = min(1.0, max(0.0, (sample - float(middles[right - 1])) / 300))
        hertz = float(f0[0, right - 1]) * (1 - share) + float(f0[0, right]) * share
        phase += hertz / 24_000
        count = int(11_000 / hertz)
        expected[sample] = sum(math.cos(2 * math.pi * k * phase) for k in range(1, count + 1))
        near[sample] = abs(2 * math.sin(math.pi * phase)) < 2.1e-3
    torch.testing.assert_close(found[~near], expected[~near], atol=1e-4, rtol=1e-6)  # float32
    torch.testing.assert_close(found[near], expected[near], atol=0.01, rtol=0.01)  # the limit, 61 harmonics at most
    assert near.sum() < 8


def test_pulses_stop_below_half_the_sample_rate_and_where_nothing_is_voiced():
    decoder = make_decoder()
    found = decoder.pulses(torch.full((1, 50), 300.0))[0]
    spectrum = torch.fft.rfft(found[:1600].double()).abs()  # 60 periods: all harmonics fall on bins
    peaks = torch.nonzero(spectrum > 100)[:, 0] * 8000 / 1600
    assert peaks.tolist() == [300.0 * k for k in range(1, 14)]
    assert decoder.pulses(torch.zeros(1, 9)).abs().max() == 0
    partly = decoder.pulses(torch.tensor([[200.0, 200.0, 0.0, 0.0, 0.0, 200.0]]))[0]
    assert partly[3 * 40 : 5 * 40 - 20].abs().max() == 0 and partly[:60].abs().max() > 1
    assert not decoder.pulses(torch.tensor([[1e9, 5000.0, 0.0]])).isnan().any()


def test_pitch_is_rounded_so_that_sums_of_other_lengths_agree():
    decoder = make_decoder()
    f0 = 100 + 100 * torch.rand(1, 40)
    step = source_filter.PITCH_STEP_HZ
    assert step == 1 / 16
    rounded = (f0 / step).round() * step
    nudged = (rounded * (1 + 1e-6)).float()
    assert not torch.equal(nudged, rounded)
    assert torch.equal(decoder.cycles(nudged), decoder.cycles(rounded))
    assert torch.equal(decoder.pulses(nudged), decoder.pulses(rounded))
    exact = decoder.cycles(rounded)[0, -1]
    line = torch.nn.functional.interpolate(rounded[None].double(), scale_factor=40, mode="linear")[0, 0]
    assert float(exact) == pytest.approx(float(line.sum()) / 8000, abs=1e-9)
    # how far the sum goes before a place is no matter to what comes after it, but for the phase that is passed on
    later = decoder.pulses(rounded[:, 20:], float(decoder.cycles(rounded)[0, 20 * 40 + 19] % 1))
    shift = float(decoder.cycles(rounded[:, 20:])[0, 19])
    phase = float(decoder.cycles(rounded)[0, 20 * 40 + 19]) - shift
    later = decoder.pulses(rounded[:, 20:], phase)
    torch.testing.assert_close(later[:, 20:], decoder.pulses(rounded)[:, 20 * 40 + 20 :], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_the_spectrum_of_the_pulses_is_that_of_torch(ratio):
    decoder = make_decoder(n_fft=40 * ratio)
    f0 = torch.tensor([[150.0, 160.0, 0.0, 170.0, 171.5, 190.0, 0.0]])
    found = decoder._harmonic_spectrum(f0, 0.1)
    window = torch.hann_window(40 * ratio)
    expected = torch.stft(
        decoder.pulses(f0, 0.1), 40 * ratio, 40, window=window, center=True, pad_mode="reflect", return_complex=True
    ).mT[:, :7]
    torch.testing.assert_close(found, expected / (40 * ratio / 4), atol=1e-5, rtol=1e-5)


def test_a_cosine_of_the_source_peaks_at_one():
    decoder = make_decoder(n_fft=800)
    f0 = torch.full((1, 60), 1000.0)
    middle = decoder._harmonic_spectrum(f0, 0.0)[0, 30].abs()
    assert middle[100::100][:3].tolist() == pytest.approx([1.0] * 3, abs=0.01)


@pytest.mark.parametrize("ratio", [2, 4])
def test_free_spectra_are_inverted_as_torch_does(ratio):
    decoder = make_decoder(n_fft=40 * ratio)
    bins = decoder.config.bins
    magnitude, angle = torch.randn(1, 9, bins), torch.randn(1, 9, bins)
    angle[..., [0, -1]] = 0  # these have no imaginary part
    found = decoder.synthesise(empty_spectra(9, bins, free_log=magnitude, free_phase=angle), torch.zeros(1, 9))
    spectra = torch.polar(magnitude.exp(), angle)
    expected = torch.istft(spectra.mT, 40 * ratio, 40, window=torch.hann_window(40 * ratio), center=True)
    assert found.shape == (1, 9 * 40) and expected.shape == (1, 8 * 40)
    torch.testing.assert_close(found[:, : 8 * 40], expected, atol=1e-4, rtol=1e-4)


def test_harmonics_pass_through_a_filter_of_one():
    decoder = make_decoder(sample_rate=24_000, hop_length=300, n_fft=1200)
    bins = decoder.config.bins
    f0 = torch.full((1, 12), 200.0)
    gain = math.log(300.0)  # the spectrum was divided by a quarter of n_fft
    found = decoder.synthesise(empty_spectra(12, bins, harmonic_log=torch.full((1, 12, bins), gain)), f0)
    torch.testing.assert_close(found[:, :3000], decoder.pulses(f0)[:, :3000], atol=1e-2, rtol=1e-3)
    turned = torch.full((1, 12, bins), 10.0)  # tanh of it is 1, half a turn
    other = decoder.synthesise(
        empty_spectra(12, bins, harmonic_log=torch.full((1, 12, bins), gain), harmonic_phase=turned), f0
    )
    torch.testing.assert_close(other[:, :3000], -found[:, :3000], atol=1e-2, rtol=1e-3)


def test_unvoiced_speech_has_no_harmonics():
    decoder = make_decoder()
    content, _, energy = make_inputs(20)
    silent = torch.zeros(1, 20)
    spectra = decoder(content, silent, energy)
    louder = spectra._replace(harmonic_log=spectra.harmonic_log + 3, harmonic_phase=spectra.harmonic_phase + 1)
    assert torch.equal(decoder.synthesise(spectra, silent), decoder.synthesise(louder, silent))
    voiced = torch.full((1, 20), 150.0)
    assert not torch.allclose(decoder.synthesise(spectra, voiced), decoder.synthesise(louder, voiced))


def test_noise_is_a_function_of_the_frame_number():
    whole = noise(0, 3 * NOISE_BLOCK, 5)
    assert whole.shape == (3 * NOISE_BLOCK, 5)
    for start, count in ((0, 1), (7, 2 * NOISE_BLOCK), (NOISE_BLOCK - 1, 2), (NOISE_BLOCK, NOISE_BLOCK), (95, 1)):
        assert torch.equal(noise(start, count, 5), whole[start : start + count])
    assert len(noise(10, 0, 5)) == 0
    rows = noise(0, 4000, 5)
    assert len({tuple(row.real.tolist()) for row in rows[:500]}) == 500
    for part in (rows.real, rows.imag):
        assert part.mean(0).abs().max() < 0.08 and (part.var(0) - 1).abs().max() < 0.12
    assert (rows.real * rows.imag).mean().abs() < 0.03


def test_start_chooses_the_noise_and_leaves_the_random_state_alone():
    decoder = make_decoder()
    spectra, f0 = empty_spectra(40, 81, noise_log=torch.zeros(1, 40, 81)), torch.zeros(1, 40)
    state = torch.get_rng_state()
    found = decoder.synthesise(spectra, f0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(decoder.synthesise(spectra, f0), found)
    later = decoder.synthesise(spectra, f0, start=3)
    assert not torch.allclose(later, found)
    # three frames on, the same noise: but for the edges, where other windows overlap
    torch.testing.assert_close(later[:, 120:-240], found[:, 240:-120], atol=1e-5, rtol=1e-4)


def test_a_batch_gives_what_each_gives_alone():
    decoder = make_decoder()
    content, f0, energy = make_inputs(15, batch=3)
    together = decoder.synthesise(decoder(content, f0, energy), f0)
    for row in range(3):
        alone = [item[row : row + 1] for item in (content, f0, energy)]
        found = decoder.synthesise(decoder(*alone), alone[1])
        torch.testing.assert_close(found, together[row : row + 1], atol=1e-5, rtol=1e-5)


def test_a_speaker_changes_nothing_at_first_and_then_does():
    torch.manual_seed(1)
    plain = SourceFilterDecoder(SourceFilterConfig(**SMALL))
    turned = SourceFilterDecoder(SourceFilterConfig(**SMALL, speaker_dim=6))
    turned.load_state_dict(plain.state_dict(), strict=False)
    inputs, speakers = make_inputs(12, batch=2), torch.randn(2, 6)
    for a, b in zip(turned(*inputs, speakers), plain(*inputs), strict=True):
        assert torch.equal(a, b)
    assert turned.film is not None
    torch.nn.init.normal_(turned.film.weight, std=0.1)
    first, second = turned(*inputs, speakers), turned(*inputs, speakers.flip(0))
    assert not torch.allclose(first.noise_log, plain(*inputs).noise_log)
    assert not torch.allclose(first.noise_log, second.noise_log)
    with pytest.raises(ConfigError, match="speaks with a speaker vector, and none was given"):
        turned(*inputs)


def test_film_scales_and_shifts_before_each_block():
    decoder = make_decoder(speaker_dim=4)
    content, f0, energy = make_inputs(10)
    speaker = torch.randn(1, 4)
    assert decoder.film is not None
    numbers = decoder.film(speaker)[0]
    frames = torch.cat([content, torch.stack([(1 + f0).log(), energy], -1) / 5], -1)
    frames = decoder.embed(torch.nn.functional.pad(frames.mT, (1, 1))).mT + numbers[:16]
    for layer, block in enumerate(decoder.blocks):
        first = 16 + 32 * layer
        frames = block(frames * (1 + numbers[first : first + 16]) + numbers[first + 16 : first + 32])
    torch.testing.assert_close(decoder.hidden(content, f0, energy, speaker), decoder.norm(frames))


def test_gradients_reach_what_is_spoken_and_who_speaks():
    decoder = make_decoder(speaker_dim=4)
    content, f0, energy = make_inputs(12)
    inputs = [content.requires_grad_(), energy.requires_grad_(), torch.randn(1, 4, requires_grad=True)]
    decoder.synthesise(decoder(inputs[0], f0, *inputs[1:]), f0).square().sum().backward()
    for item in [*inputs, *decoder.parameters()]:
        assert item.grad is not None and item.grad.isfinite().all() and item.grad.abs().sum() > 0


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_values_are_not_nan(extreme):
    decoder = make_decoder(speaker_dim=4)
    content = torch.full((1, 8, 8), extreme, requires_grad=True)
    energy = torch.full((1, 8), extreme, requires_grad=True)
    speaker = torch.full((1, 4), extreme, requires_grad=True)
    f0 = torch.tensor([[0.0, 1e6, 30.0, 41.0, 12_000.0, 0.0, 450.0, 1e-3]])
    waveform = decoder.synthesise(decoder(content, f0, energy, speaker), f0)
    waveform.abs().mean().backward()
    assert waveform.isfinite().all()
    assert all(item.grad is not None and item.grad.isfinite().all() for item in (content, energy, speaker))
    loud = empty_spectra(8, 81, free_log=torch.full((1, 8, 81), 1e5, requires_grad=True))
    sound = decoder.synthesise(loud, f0)
    assert sound.isfinite().all()  # the logarithm has a ceiling


REACHES = [
    {},
    {"lookahead": 0},
    {"lookahead": 1},
    {"lookahead": 2},
    {"lookahead": 2, "num_layers": 1, "n_fft": 80},
    {"lookahead": 3, "kernel_size": 5, "n_fft": 120},
    {"lookahead": 99, "kernel_size": 5},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("settings", REACHES, ids=str)
def test_what_a_sample_depends_on(settings):
    """Change one frame of the input; the samples that move are within the stated reach, and reach as far."""
    decoder = make_decoder(**settings)
    before, after = decoder.config.reach
    frames, changed = 40, 20
    content, f0, energy = make_inputs(frames, seed=3)
    f0 = torch.full((1, frames), 150.0)  # voiced all along, so that a change of pitch is heard at once
    whole = decoder.synthesise(decoder(content, f0, energy), f0)[0]

    def moved(**change: torch.Tensor) -> torch.Tensor:
        inputs = {"content": content, "f0": f0, "energy": energy} | change
        other = decoder.synthesise(decoder(inputs["content"], inputs["f0"], inputs["energy"]), inputs["f0"])[0]
        difference = (other - whole).abs().view(frames, 40).amax(1)
        return torch.nonzero(difference)[:, 0]

    mask = torch.arange(frames) == changed
    spoken = moved(content=content + 3.0 * mask[None, :, None], energy=energy + 3.0 * mask)
    # the first frame that hears of it is as far before as convolutions and windows look ahead
    overlap = -(-decoder.config.n_fft // 80)
    assert spoken.min() == changed - sum(decoder.config.futures) - overlap
    assert changed - after <= spoken.min() and spoken.max() <= changed + before
    config = decoder.config
    past = (config.kernel_size - 1) * (config.num_layers + 1) - sum(config.futures)
    assert spoken.max() >= changed + past + overlap - 1  # `before` is more where pulses reach further than convolutions
    pitched = moved(f0=f0 + 40.0 * mask)  # later frames hear of it by the phase
    assert pitched.min() >= changed - after


def test_lookahead_goes_to_the_first_convolutions():
    assert share_lookahead(None, (7, 7, 5)) == (3, 3, 2)
    assert share_lookahead(0, (7, 7)) == (0, 0)
    assert share_lookahead(4, (7, 7, 7)) == (3, 1, 0)
    assert share_lookahead(99, (7, 5)) == (3, 2)
    config = SourceFilterConfig()
    assert config.futures == (3,) * 9 and config.reach == (29, 29) and config.frame_rate == 80
    assert SourceFilterConfig(lookahead=5).reach[1] == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"n_fft": 100}, "n_fft is 100; it must be a multiple of hop_length"),
        ({"n_fft": 40}, "at least twice it"),
        ({"lookahead": -1}, "lookahead is -1"),
    ],
)
def test_impossible_configs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SourceFilterConfig(**SMALL | settings)
