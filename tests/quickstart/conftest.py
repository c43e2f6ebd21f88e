"""Small models in place of those that come with Vocable, and an empty cache of assets."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import TINY_DECODER, TINY_FRONTEND, save_tiny_encoder, write_speech
from vocable.assets import resolving
from vocable.audio.manifest import read_manifest
from vocable.features import EncoderConfig
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import Speaker
from vocable.synthesis.vocoder import UnitVocoder, VocoderConfig
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig

DECODER = replace(TINY_DECODER, speaker_dim=256)
VOICES = ("anna", "ben")


@pytest.fixture(scope="package")
def small_models(tmp_path_factory, make_speechlike) -> Path:
    """Eight units of a small Whisper encoder, a random vocoder with two voices, and a random speaker encoder."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models")
    encoder = EncoderConfig(name=str(save_tiny_encoder("openai/whisper-tiny.en", folder / "encoder")), layer=2)
    config = UnitTokenizerConfig(encoder=encoder, kmeans=KMeansConfig(num_clusters=8, init_frames=64))
    speech = read_manifest(write_speech(folder / "speech", make_speechlike, count=3))
    tokenizer = UnitTokenizer.fit(speech, config)
    tokenizer.save_pretrained(folder / "shipped" / "units-500")
    torch.manual_seed(0)
    sizes = {"codebook_size": 8, "codebook_dim": tokenizer.encoder.dim, "frontend": TINY_FRONTEND, "decoder": DECODER}
    fingerprint = encoder_fingerprint(tokenizer.encoder.description())
    vocoder = UnitVocoder(VocoderConfig(**sizes, prosody_dim=8, encoder_fingerprint=fingerprint))
    speakers = {name: Speaker(torch.randn(256), torch.tensor([4.8 + 0.3 * i, 0.2])) for i, name in enumerate(VOICES)}
    vocoder.with_voices(speakers).save_pretrained(folder / "shipped" / "voices")
    (folder / "resemblyzer").mkdir()
    save_file(SpeakerEncoder().state_dict(), folder / "resemblyzer" / "model.safetensors")
    return folder


@pytest.fixture
def workplace(small_models, tmp_path, monkeypatch) -> Path:
    """A working folder where the small models are found and no asset is cached."""
    shutil.copytree(small_models / "shipped", tmp_path / "shipped")
    monkeypatch.setattr(resolving, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("VOCABLE_CACHE", str(tmp_path / "no-assets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def speaker_encoder(small_models, workplace) -> None:
    """A speaker encoder in the working folder: a local folder goes before the asset of that name."""
    (workplace / "resemblyzer").symlink_to(small_models / "resemblyzer")
