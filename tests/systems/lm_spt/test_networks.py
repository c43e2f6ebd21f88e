"""LM-SPT's networks: sizes, lengths, reach, batches, and the arithmetic against plain versions."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from systems.lm_spt import sizes
from vocable.config import config_from_dict
from vocable.errors import AudioFormatError, ConfigError
from vocable.features.frame_transformer import FrameTransformerConfig
from vocable.synthesis.layers import ConvNeXtBlock
from vocable.systems.lm_spt.conv_transformer import ConvTransformer, ConvTransformerConfig
from vocable.systems.lm_spt.dac import DacDecoder, DacDecoderConfig, DacEncoder, DacEncoderConfig, Snake
from vocable.systems.lm_spt.vocos import VocosDecoder, VocosDecoderConfig

SMALL_TRANSFORMER: dict[str, Any] = {"num_layers": 2, "width": 8, "num_heads": 2, "feedforward_dim": 16, "dropout": 0.0}
STRIDES = [(2,), (3,), (4, 5), (5, 4), (3, 5, 3), (2, 3, 7)]
SMALL_VOCOS: dict[str, Any] = {"dim": 12, "hidden_dim": 16, "num_layers": 2, "kernel_size": 3, "sample_rate": 800}


def make_encoder(strides: tuple[int, ...]) -> DacEncoder:
    torch.manual_seed(0)
    return DacEncoder(DacEncoderConfig(width=2, strides=strides), dim=6).eval()


def make_conv_transformer(**settings) -> ConvTransformer:
    torch.manual_seed(0)
    transformer = FrameTransformerConfig(**{**SMALL_TRANSFORMER, "reach_frames": 2, **settings})
    return ConvTransformer(ConvTransformerConfig(width=2, strides=(2, 3), transformer=transformer), dim=6).eval()


def make_decoder(strides: tuple[int, ...]) -> DacDecoder:
    torch.manual_seed(0)
    return DacDecoder(DacDecoderConfig(width=16, strides=strides, sample_rate=1000), dim=6).eval()


def make_vocos(**settings) -> VocosDecoder:
    torch.manual_seed(0)
    decoder = VocosDecoder(VocosDecoderConfig(**SMALL_VOCOS | settings), dim=6, frame_rate=10).eval()
    for parameter in decoder.parameters():  # small weights would hide errors
        nn.init.normal_(parameter, std=0.3)
    return decoder


DECODERS = {f"dac-{'-'.join(map(str, strides))}": (make_decoder, {"strides": strides}) for strides in STRIDES}
DECODERS |= {
    "vocos": (make_vocos, {}),
    "vocos-long-window": (make_vocos, {"n_fft_hops": 6}),
    "vocos-short-window": (make_vocos, {"n_fft_hops": 2}),
    "vocos-upsampled": (make_vocos, {"upsample": (2, 2)}),
    "vocos-upsampled-odd": (make_vocos, {"upsample": (5,), "fine_layers": 1}),
}
each_decoder = pytest.mark.parametrize(("make", "settings"), DECODERS.values(), ids=DECODERS)
ENCODERS = {f"dac-{'-'.join(map(str, strides))}": (make_encoder, {"strides": strides}) for strides in STRIDES}
ENCODERS |= {f"transformer-{view}": (make_conv_transformer, {"attention": view}) for view in ("full", "causal")}
each_encoder = pytest.mark.parametrize(("make", "settings"), ENCODERS.values(), ids=ENCODERS)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_encoder_has_the_published_number_of_parameters():
    with torch.device("meta"):
        found = count(DacEncoder(DacEncoderConfig(), dim=1024))
    assert found == sizes.dac_encoder(32, (4, 5, 6, 8, 2), 1024) and round(found / 1e6, 2) == 16.24


@pytest.mark.parametrize(
    ("width", "strides", "published"), [(1536, (2, 8, 6, 5, 4), 40.45), (128, (8, 8, 5, 4), 1.22)], ids=["main", "aux"]
)
def test_decoder_has_the_published_number_of_parameters(width: int, strides: tuple[int, ...], published: float):
    with torch.device("meta"):
        found = count(DacDecoder(DacDecoderConfig(width=width, strides=strides), dim=1024))
    assert found == sizes.dac_decoder(width, strides, 1024) and round(found / 1e6, 2) == published


def test_encoder_of_the_first_version_has_as_many_parameters_as_its_parts():
    with torch.device("meta"):
        encoder = ConvTransformer(ConvTransformerConfig(), dim=512)
    assert encoder.hop_length == 640 and count(encoder) == sizes.conv_transformer(32, (4, 4, 5, 8), 512)


def test_vocos_has_the_published_number_of_parameters():
    with torch.device("meta"):
        decoder = VocosDecoder(VocosDecoderConfig(), dim=512, frame_rate=25)
    assert (decoder.hop_length, decoder.n_fft) == (640, 2560)
    assert count(decoder) == sizes.vocos(512, 768, 2304, 12, 2560) and round(count(decoder) / 1e6, 2) == 47.33


def test_a_transformer_can_be_shared_and_reach_without_limit():
    semantic, acoustic = make_conv_transformer(), make_conv_transformer(reach_frames=None)
    assert semantic.reach is not None and acoustic.reach is None
    separate = count(nn.ModuleList([semantic, acoustic]))
    acoustic.transformer = semantic.transformer
    assert count(nn.ModuleList([semantic, acoustic])) == separate - count(semantic.transformer)
    waveforms = torch.randn(1, 30)
    assert torch.equal(acoustic(waveforms), semantic.transformer(acoustic.convolutions(waveforms)))


def test_snake_is_its_formula():
    snake = Snake(3)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([0.5, 1.0, 3.0])[:, None])
    signal = torch.randn(2, 3, 5)
    for channel, alpha in enumerate((0.5, 1.0, 3.0)):
        expected = [x + math.sin(alpha * x) ** 2 / alpha for x in signal[:, channel].flatten().tolist()]
        torch.testing.assert_close(snake(signal)[:, channel].flatten(), torch.tensor(expected))


@each_encoder
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_encoder_gives_the_frames_of_its_samples(make, settings, frames: int):
    encoder = make(**settings)
    assert encoder.hop_length == math.prod(settings.get("strides", (2, 3)))
    assert encoder(torch.randn(2, frames * encoder.hop_length)).shape == (2, frames, 6)


def test_encoder_refuses_incomplete_frames():
    for samples in (0, 7, 9):
        with pytest.raises(AudioFormatError, match=f"whole frames of 8 samples, not {samples}"):
            make_encoder((2, 4))(torch.zeros(1, samples))


@each_decoder
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_decoder_gives_the_samples_of_its_frames(make, settings, frames: int):
    decoder = make(**settings)
    assert decoder(torch.randn(2, frames, 6)).shape == (2, frames * decoder.hop_length)
    assert decoder.train()(torch.randn(2, frames, 6)).shape == (2, frames * decoder.hop_length)


def test_odd_strides_end_in_silence_as_in_the_release():
    """6 s are 75 frames; the release's main decoder gives 143,996 samples, the auxiliary one 95,996."""
    for strides, given in [((2, 8, 6, 5, 4), 143_996), ((8, 8, 5, 4), 95_996)]:
        config = DacDecoderConfig(width=32, strides=strides)
        waveform = DacDecoder(config, dim=2).eval()(torch.randn(1, 75, 2))[0]
        assert len(waveform) == given + 4
        assert (waveform[given:] == 0).all() and (waveform[given - 100 : given] != 0).all()


@each_decoder
def test_a_clip_decodes_as_it_does_alone(make, settings):
    decoder = make(**settings)
    vectors = torch.randn(5, 7, 6)
    together = decoder(vectors)
    assert all(torch.equal(together[row : row + 1], decoder(vectors[row : row + 1])) for row in range(5))
    torch.testing.assert_close(together, decoder.train()(vectors), atol=1e-5, rtol=1e-5)


@each_encoder
def test_a_clip_encodes_as_it_does_alone(make, settings):
    encoder = make(**settings)
    waveforms = torch.randn(5, 4 * encoder.hop_length)
    together = encoder(waveforms)
    assert all(torch.equal(together[row : row + 1], encoder(waveforms[row : row + 1])) for row in range(5))
    torch.testing.assert_close(together, encoder.train()(waveforms), atol=1e-5, rtol=1e-5)


def reach_of(changed: list[bool], place: int) -> tuple[int, int]:
    """How far before and after itself a frame looks, told from which frames changed with the one at `place`."""
    frames = [frame for frame, moved in enumerate(changed) if moved]
    return max(frames) - place, place - min(frames)


@each_decoder
def test_decoder_reaches_as_far_as_it_says(make, settings):
    decoder = make(**settings).double()
    before, after = decoder.reach
    place, frames = after + 2, before + after + 5
    vectors = torch.randn(1, frames, 6).double()
    other = vectors.clone()
    other[0, place] += 5
    moved = (decoder(vectors) - decoder(other)).view(frames, -1).abs().amax(1) > 0
    assert reach_of(moved.tolist(), place) == (before, after)


@each_encoder
def test_encoder_reaches_as_far_as_it_says(make, settings):
    encoder = make(**settings).double()
    before, after = encoder.reach
    hop, place, frames = encoder.hop_length, after + 2, before + after + 5
    waveform = torch.randn(1, frames * hop).double()
    other = waveform.clone()
    other[0, place * hop : (place + 1) * hop] += 1
    moved = (encoder(waveform) - encoder(other))[0].abs().amax(1) > 0
    assert reach_of(moved.tolist(), place) == (before, after)


@each_decoder
def test_a_window_with_its_reach_decodes_as_the_whole(make, settings):
    decoder = make(**settings).double()
    before, after = decoder.reach
    vectors = torch.randn(1, before + after + 9, 6).double()
    first, last = before + 2, before + 5
    window = decoder(vectors[:, first - before : last + after])
    hop = decoder.hop_length
    expected = decoder(vectors)[:, first * hop : last * hop]
    torch.testing.assert_close(window[:, before * hop : (before + last - first) * hop], expected)


@each_encoder
def test_a_window_with_its_reach_encodes_as_the_whole(make, settings):
    encoder = make(**settings).double()
    (before, after), hop = encoder.reach, encoder.hop_length
    waveform = torch.randn(1, (before + after + 9) * hop).double()
    first, last = before + 2, before + 5
    window = encoder(waveform[:, (first - before) * hop : (last + after) * hop])
    # rotations are float32, and a window counts its positions from its own start
    torch.testing.assert_close(
        window[:, before : before + last - first], encoder(waveform)[:, first:last], atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_vocos_adds_up_windowed_spectra():
    """One spectrum at a time, with torch's own inverse transform and division by the summed squares of the windows."""
    decoder = make_vocos().double()
    vectors = torch.randn(1, 6, 6).double()
    found = decoder(vectors)[0]
    frames = decoder.norm_in(decoder.embed(vectors.mT).mT)
    for block in decoder.blocks:
        assert isinstance(block, ConvNeXtBlock)
        mixed = block.norm(block.depthwise(torch.nn.functional.pad(frames.mT, (1, 1))).mT)
        frames = frames + block.scale * block.contract(torch.nn.functional.gelu(block.expand(mixed)))
    log_magnitude, phase = decoder.head(decoder.norm_out(frames))[0].chunk(2, -1)
    hop, n_fft = decoder.hop_length, decoder.n_fft
    assert (hop, n_fft) == (80, 320)
    total, weight = torch.zeros(5 * hop + n_fft).double(), torch.zeros(5 * hop + n_fft).double()
    for frame in range(6):
        magnitude = log_magnitude[frame].exp().clamp(max=100)
        spectrum = torch.complex(magnitude * phase[frame].cos(), magnitude * phase[frame].sin())
        window = torch.hann_window(n_fft).double()
        total[frame * hop : frame * hop + n_fft] += torch.fft.irfft(spectrum) * window
        weight[frame * hop : frame * hop + n_fft] += window.square()
    start = (n_fft - hop) // 2
    expected = (total / weight)[start : start + 6 * hop]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)  # the window here is of float32
    assert expected.abs().max() > 0.1


def test_loud_spectra_are_finite_and_so_are_their_gradients():
    decoder = make_vocos()
    with torch.no_grad():
        decoder.head.bias.fill_(1000.0)
    vectors = torch.randn(1, 4, 6, requires_grad=True)
    waveform = decoder(vectors)
    waveform.sum().backward()
    assert waveform.isfinite().all() and vectors.grad is not None and vectors.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DacEncoderConfig, {"width": 0}, "encoder.width is 0"),
        (DacEncoderConfig, {"strides": []}, r"encoder.strides is \[\]"),
        (DacEncoderConfig, {"strides": [4, 1]}, r"encoder.strides is \[4, 1\].*at least 2"),
        (ConvTransformerConfig, {"width": 0}, "encoder.width is 0"),
        (ConvTransformerConfig, {"strides": [4, 1]}, r"encoder.strides is \[4, 1\]"),
        (ConvTransformerConfig, {"transformer": {"num_heads": 7}}, "encoder.width is 512, which 7 heads"),
        (DacDecoderConfig, {"width": 36, "strides": [2, 2, 2]}, "decoder.width is 36.*halved 3 times.*multiple of 8"),
        (DacDecoderConfig, {"sample_rate": 0}, "decoder.sample_rate is 0"),
        (DacDecoderConfig, {"kind": "vocos"}, "kind is 'vocos'"),
        (VocosDecoderConfig, {"dim": 0}, "decoder.dim is 0"),
        (VocosDecoderConfig, {"num_layers": -1}, "decoder.num_layers is -1"),
        (VocosDecoderConfig, {"kernel_size": 4}, "decoder.kernel_size is 4; an odd number"),
        (VocosDecoderConfig, {"n_fft_hops": 1}, "decoder.n_fft_hops is 1; it must be at least 2"),
        (VocosDecoderConfig, {"upsample": [2, 1]}, r"decoder.upsample is \[2, 1\]"),
    ],
)
def test_impossible_sizes_are_refused(kind, values: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(kind, values)


def test_vocos_refuses_rates_that_do_not_divide():
    with pytest.raises(ConfigError, match=r"decoder.sample_rate is 16000, which 75 spectra a second do not divide"):
        VocosDecoder(VocosDecoderConfig(upsample=(3,)), dim=8, frame_rate=25)
    assert VocosDecoder(VocosDecoderConfig(dim=8, hidden_dim=8, num_layers=1), 8, 6.25).hop_length == 2560
