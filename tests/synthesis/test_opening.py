"""One way to open any synthesizer, and the one that comes with Vocable; tests/tokens covers a codec's own."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import TINY_DECODER, TINY_FRONTEND, make_tiny_tokenizer, make_tiny_vocoder, save_tiny_encoder
from vocable.audio.io import Audio
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.features import EncoderConfig, load_encoder
from vocable.synthesis import UnitVocoder, VocoderConfig, load_synthesizer, opening
from vocable.synthesis.opening import attach_synthesizer
from vocable.tokens.fingerprint import encoder_fingerprint
from vocable.tokens.kmeans import KMeans
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig


def test_a_trained_vocoder_fits_its_tokenizer_only(tmp_path: Path):
    tokenizer = make_tiny_tokenizer()
    make_tiny_vocoder(tokenizer).save_pretrained(tmp_path / "vocoder")
    opened = load_synthesizer(tmp_path / "vocoder", tokenizer)
    assert isinstance(opened, UnitVocoder) and opened.tokenizer_fingerprint == tokenizer.fingerprint
    assert load_synthesizer(str(tmp_path / "vocoder")).sample_rate == 16_000
    assert attach_synthesizer(tokenizer, tmp_path / "vocoder") is tokenizer
    assert load_synthesizer(None, tokenizer) is tokenizer.synthesizer
    other = UnitTokenizer(tokenizer.encoder, KMeans(torch.zeros(8, tokenizer.encoder.dim)), tokenizer.config)
    with pytest.raises(FingerprintError, match=f"{tokenizer.fingerprint}, but .*{other.fingerprint}"):
        load_synthesizer(tmp_path / "vocoder", other)


def test_what_is_no_synthesizer_is_refused(tmp_path: Path):
    tokenizer = make_tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "units")
    with pytest.raises(AssetError, match="makes no sound by itself"):
        load_synthesizer(tmp_path / "units")
    with pytest.raises(AssetError, match=r"no config\.json"):
        load_synthesizer(tmp_path, tokenizer)


def test_a_synthesizer_that_knows_names_refuses_other_voices():
    tokenizer = make_tiny_tokenizer()
    plain = make_tiny_vocoder(tokenizer)
    named = UnitVocoder(replace(plain.config, voices=("ann",)))
    tokens = tokenizer.encode([torch.randn(3200)])
    for voice, kind in (
        (Path("me.wav"), "a recording"),
        (Audio(torch.zeros(10), 16_000), "a recording"),
        (torch.zeros(256), "a speaker vector"),
    ):
        with pytest.raises(ConfigError, match=rf"{kind}, but this synthesizer knows its voices by name \(ann\)"):
            named.synthesize(tokens, voice)
        with pytest.raises(ConfigError, match=f"{kind}, but this synthesizer has one voice, without a name"):
            plain.synthesize(tokens, voice)


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch) -> Path:
    """A small Whisper encoder, and a random vocoder for its units in place of the one that comes with Vocable."""
    folder = save_tiny_encoder("openai/whisper-tiny.en", tmp_path / "encoder")
    loaded = load_encoder(EncoderConfig(name=str(folder), layer=2))
    parts = {"frontend": TINY_FRONTEND, "decoder": TINY_DECODER, "prosody_dim": 8}
    fingerprint = encoder_fingerprint(loaded.description())
    config = VocoderConfig(codebook_size=4, codebook_dim=loaded.dim, encoder_fingerprint=fingerprint, **parts)
    UnitVocoder(config).save_pretrained(tmp_path / "shipped")
    monkeypatch.setattr(opening, "SHIPPED", tmp_path / "shipped")
    return folder


def units_of(encoder: Path, size: int = 5, layer: int = 2) -> UnitTokenizer:
    loaded = load_encoder(EncoderConfig(name=str(encoder), layer=layer))
    return UnitTokenizer(loaded, KMeans(torch.randn(size, loaded.dim)), UnitTokenizerConfig())


def test_shipped_vocoder_refuses_units_of_another_encoder(encoder):
    other = units_of(encoder, layer=1)
    with pytest.raises(FingerprintError, match=encoder_fingerprint(other.encoder.description())):
        load_synthesizer(tokenizer=other)


@pytest.mark.parametrize("size", [5, 11])
def test_shipped_vocoder_speaks_any_codebook_of_its_encoder(encoder, size):
    tokenizer = attach_synthesizer(units_of(encoder, size))
    (speech,) = tokenizer.decode(tokenizer.encode([torch.randn(16_000)]))
    assert len(speech) == 16_000


def test_an_encoder_may_be_found_under_another_name(encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "moved")
    torch.manual_seed(0)
    here = load_synthesizer(tokenizer=units_of(encoder))
    torch.manual_seed(0)
    assert load_synthesizer(tokenizer=units_of(tmp_path / "moved")).tokenizer_fingerprint == here.tokenizer_fingerprint
