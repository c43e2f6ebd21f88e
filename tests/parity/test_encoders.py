"""Same weights, same clip: our encoders against transformers, layer by layer."""

import itertools

import pytest
import torch

from features.tiny_encoders import HUBERT_FAMILY, NUM_LAYERS, WHISPER, reference_hidden_states
from vocable.features import EncoderConfig, LogMelConfig, load_encoder, log_mel

# float32 sums run in another order (fused attention, our own normalisation). Ten times the worst seen, 7e-6.
TOLERANCE = {"atol": 7e-5, "rtol": 7e-5}


@pytest.mark.parametrize("layer", range(NUM_LAYERS + 1))
@pytest.mark.parametrize("name", HUBERT_FAMILY)
def test_hubert_family_equals_transformers(tiny_checkpoint, make_speechlike, name, layer):
    folder, waveform = tiny_checkpoint(name), make_speechlike(23_456)
    encoder = load_encoder(EncoderConfig(name=str(folder), layer=layer))
    (features,) = encoder.encode([waveform])
    torch.testing.assert_close(features, reference_hidden_states(folder, waveform)[layer], **TOLERANCE)


@pytest.mark.parametrize("layer", range(NUM_LAYERS + 1))
def test_padded_whisper_equals_transformers(tiny_checkpoint, make_speechlike, layer):
    folder, waveform = tiny_checkpoint(WHISPER), make_speechlike(23_456)
    encoder = load_encoder(EncoderConfig(name=str(folder), layer=layer, padding="30s"))
    (features,) = encoder.encode([waveform])
    assert features.shape == (74, 32)  # 23,456 samples are 73.3 hops of 320
    torch.testing.assert_close(features, reference_hidden_states(folder, waveform)[layer][:74], **TOLERANCE)


@pytest.mark.parametrize("layer", range(NUM_LAYERS + 1))
def test_whisper_at_full_length_is_the_same_with_and_without_padding(tiny_checkpoint, make_speechlike, layer):
    folder, waveform = tiny_checkpoint(WHISPER), make_speechlike(480_000)
    encoder = load_encoder(EncoderConfig(name=str(folder), layer=layer))
    (features,) = encoder.encode([waveform])
    torch.testing.assert_close(features, reference_hidden_states(folder, waveform)[layer], **TOLERANCE)


def test_layers_differ_by_far_more_than_the_tolerance(tiny_checkpoint, make_speechlike):
    for name in [*HUBERT_FAMILY, WHISPER]:
        states = reference_hidden_states(tiny_checkpoint(name), make_speechlike(23_456))
        for lower, upper in itertools.pairwise(states):
            assert (lower - upper).abs().mean() > 0.05, name


@pytest.mark.parametrize("num_samples", [480_000, 123_456])
def test_log_mel_equals_the_whisper_feature_extractor(make_speechlike, num_samples):
    from transformers import WhisperFeatureExtractor

    waveform = make_speechlike(num_samples)
    expected = WhisperFeatureExtractor()(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
    padded = torch.nn.functional.pad(waveform, (0, 480_000 - num_samples))
    found = log_mel(padded, LogMelConfig(scaling="whisper"))
    # its filters are float64 rounded to float32, as ours; what is left is the order of float32 sums under a logarithm
    torch.testing.assert_close(found.mT, expected, atol=1e-4, rtol=0)
