"""`positions: remove` takes out of Whisper's features what their place in the clip puts there, and nothing else."""

import pytest
import torch
from torch import Tensor

from features.tiny_encoders import WHISPER
from vocable.config import config_from_dict
from vocable.errors import ConfigError
from vocable.features import EncoderConfig, FeatureEncoder, load_encoder

CLIPS, FRAMES = 24, 300


@pytest.fixture(scope="module")
def load(tiny_checkpoint):
    def load(**settings) -> FeatureEncoder:
        return load_encoder(EncoderConfig(**{"name": str(tiny_checkpoint(WHISPER)), "layer": 2, **settings}))

    return load


def share_of_place(clips: Tensor) -> float:
    """How much of the variance of (clips, frames, dim) the place in the clip explains, beyond what chance would."""
    deviations = clips - clips.mean((0, 1))
    explained = float(deviations.mean(0).square().sum(-1).mean() / deviations.square().sum(-1).mean())
    return (explained - 1 / len(clips)) / (1 - 1 / len(clips))


# random weights look at the silence behind a clip as much as at the clip; trained ones lose the same with both paddings
@pytest.mark.parametrize(("padding", "left"), [("none", 0.5), ("30s", 0.75)])
def test_other_sounds_lose_much_of_what_their_place_explains(load, make_speechlike, padding, left):
    starts = [7_919 * seed for seed in range(CLIPS)]  # so that pitch and syllables do not go along with the place
    waveforms = [make_speechlike(s + FRAMES * 320, seed=seed)[s:] for seed, s in enumerate(starts)]
    kept, removed = (
        torch.stack(load(padding=padding, positions=positions).encode(waveforms)) for positions in ("keep", "remove")
    )
    assert share_of_place(kept) > 0.1
    assert share_of_place(removed) < left * share_of_place(kept)


def test_what_goes_is_the_same_for_every_sound(load, make_speechlike):
    keep, remove = load(), load(positions="remove")
    clips = [make_speechlike(length, seed=seed) for seed, length in enumerate((48_000, 96_000, 320))]
    for kept, removed in zip(keep.encode(clips), remove.encode(clips), strict=True):
        # one subtraction, rounded in float32
        torch.testing.assert_close(removed + remove.places[: len(removed)], kept, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(remove.places.mean(0), torch.zeros(32), atol=1e-5, rtol=0)  # on average nothing moves


def test_at_the_input_of_the_layers_it_is_the_positional_embedding(load):
    encoder = load(layer=0, positions="remove")
    positions = encoder.embed_positions.weight
    error = (encoder.places - (positions - positions.mean(0)))[:, positions.std(0) > 0.1]
    # what stays is the noise of four clips, and the fastest waves, which the mean over three frames dampens
    assert float(error.square().sum() / positions.var(0, correction=0).sum() / len(positions)) < 0.1


def test_loading_again_gives_the_same_bits(load, make_speechlike):
    clip = make_speechlike(48_000)
    first, second = (load(positions="remove").encode([clip])[0] for _ in range(2))
    assert torch.equal(first, second)


def test_tokenizers_from_before_keep_their_fingerprint(load):
    kept, removed = load().description(), load(positions="remove").description()
    assert "positions" not in kept
    assert removed == {**kept, "positions": "remove"}


@pytest.mark.parametrize("name", ["hubert-base", "log-mel"])
def test_encoders_without_such_positions_refuse(tiny_checkpoint, name):
    layer = 0 if name == "log-mel" else 1
    name = name if name == "log-mel" else str(tiny_checkpoint(name))
    with pytest.raises(ConfigError, match="positions"):
        load_encoder(EncoderConfig(name=name, layer=layer, positions="remove"))


def test_a_misspelt_choice_is_named():
    with pytest.raises(ConfigError, match="positions is 'removed'; input should be 'keep' or 'remove'"):
        config_from_dict(EncoderConfig, {"positions": "removed"})
