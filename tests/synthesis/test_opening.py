"""One way to open any synthesizer; tests/quickstart covers the shipped one, tests/tokens a codec's own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import make_tiny_tokenizer, make_tiny_vocoder
from vocable.audio.io import Audio
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.synthesis import UnitVocoder, load_synthesizer
from vocable.synthesis.opening import attach_synthesizer
from vocable.tokens.kmeans import KMeans
from vocable.tokens.unit_tokenizer import UnitTokenizer


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
    named = UnitVocoder(replace(plain.config, voices=("ann", "bob")))
    tokens = tokenizer.encode([torch.randn(3200)])
    for voice, kind in (
        (Path("me.wav"), "a recording"),
        (Audio(torch.zeros(10), 16_000), "a recording"),
        (torch.zeros(256), "a speaker vector"),
    ):
        with pytest.raises(ConfigError, match=rf"{kind}, but this synthesizer knows its voices by name \(ann, bob\)"):
            named.synthesize(tokens, voice)
        with pytest.raises(ConfigError, match=f"{kind}, but this synthesizer has one voice, without a name"):
            plain.synthesize(tokens, voice)
