"""A clip's features do not depend on the clips beside it; a padded batch that leaks does not pass the same tests."""

import pytest
import torch

from features.tiny_encoders import HUBERT_FAMILY, WHISPER, naive_batch
from vocable.features import EncoderConfig, FeatureEncoder, load_encoder, log_mel

LAYER = 2
# 0.02 s to 40 s: below a receptive field, one frame, an odd length, two of equal length, more than Whisper takes
LENGTHS = [320, 400, 8_000, 50_193, 8_000, 640_000]
ENCODERS = [*HUBERT_FAMILY, "whisper-none", "whisper-30s", "whisper-none-remove", "log-mel"]
# Batched float32 sums run in another order than those of one clip. Ten times the worst difference seen, 4e-6.
TOLERANCE = {"atol": 4e-5, "rtol": 4e-5}


@pytest.fixture(scope="module")
def clips(make_speechlike) -> list[torch.Tensor]:
    return [make_speechlike(length, seed=seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def load(tiny_checkpoint):
    def load(name: str, **settings) -> FeatureEncoder:
        if name == "log-mel":
            return load_encoder(EncoderConfig(name=name, layer=0, **settings))
        if name.startswith(WHISPER):
            name, settings["padding"], settings["positions"] = f"{name}-keep".split("-")[:3]
        return load_encoder(EncoderConfig(name=str(tiny_checkpoint(name)), layer=LAYER, **settings))

    return load


@pytest.mark.parametrize("name", ENCODERS)
def test_company_changes_not_a_bit(load, clips, name):
    encoder = load(name)
    together = encoder.encode(clips)
    for clip, features in zip(clips, together, strict=True):
        assert features.shape == (encoder.num_frames(len(clip)), encoder.dim)
        assert torch.equal(features, encoder.encode([clip])[0])
    backwards = encoder.encode(clips[::-1])[::-1]
    assert all(torch.equal(one, other) for one, other in zip(together, backwards, strict=True))


@pytest.mark.parametrize("batch_seconds", [240.0, 6.0])
@pytest.mark.parametrize("batching", ["masked", "equal_length"])
@pytest.mark.parametrize("name", ENCODERS)
def test_batches_equal_single_clips_up_to_rounding(load, clips, name, batching, batch_seconds):
    encoder = load(name, batch_seconds=batch_seconds)
    clips = [clip[:96_000] for clip in clips]  # memory grows with the longest clip times their number
    expected = encoder.encode(clips)
    for found, wanted in zip(encoder.encode(clips, batching=batching), expected, strict=True):
        torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "whisper-30s"])
def test_a_naive_padded_batch_fails_the_same_comparison(load, clips, tiny_checkpoint, name):
    short, long = (
        clips[3][:50_081],
        torch.randn(60_000),
    )  # log-mel: the last frame of `short` is centred 10 ms before its end
    encoder = load(name)
    (wanted,) = encoder.encode([short])
    if name == "log-mel":
        padded = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
        naive = log_mel(padded, encoder.config)[0]
    elif name.startswith(WHISPER):
        padded = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
        naive = encoder(padded)[0]
    else:
        naive = naive_batch(tiny_checkpoint(name), [short, long], LAYER)[0]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(naive[: len(wanted)], wanted, **TOLERANCE)


@pytest.mark.parametrize("name", ["hubert-base", "wavlm-large", "whisper-none"])
def test_masking_is_what_keeps_padding_out(load, clips, name, monkeypatch):
    encoder = load(name)
    layers_up = encoder.layers_up
    monkeypatch.setattr(encoder, "layers_up", lambda hidden, mask: layers_up(hidden, None))
    (wanted,) = encoder.encode([clips[2]])
    found = encoder.encode([clips[2], clips[3]], batching="masked")[0]
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_no_clips_no_features(load):
    for batching in ("exact", "equal_length", "masked"):
        assert load("hubert-base").encode([], batching=batching) == []


@pytest.mark.parametrize("batching", ["exact", "masked"])
def test_slices_of_a_larger_tensor_give_the_same_bits(load, clips, batching):
    encoder = load("hubert-base")
    odd_address = clips[3][3:20_003]
    (wanted,) = encoder.encode([odd_address.clone()], batching=batching)
    assert torch.equal(encoder.encode([odd_address], batching=batching)[0], wanted)
