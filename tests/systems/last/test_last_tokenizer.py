"""The trained tokenizer: the common interface, its folder and fingerprint, and what does not belong together."""

import json
from dataclasses import replace

import pytest
import torch

from features.tiny_encoders import save_tiny
from vocable.cli import main
from vocable.errors import AssetError, AudioFormatError, ConfigError, FingerprintError
from vocable.features import EncoderConfig, load_encoder
from vocable.features.frame_transformer import FrameTransformer, FrameTransformerConfig
from vocable.systems.last import LastTokenizer
from vocable.systems.last.model import LastQuantizerConfig
from vocable.systems.last.tokenizer import LastTokenizerConfig
from vocable.tokens import collapse_runs, load_tokenizer
from vocable.tokens.agreement import compare_tokens, encode_each
from vocable.tokens.quantizers import VectorQuantizer
from vocable.tokens.tokenizer import read_card

TRANSFORMER = FrameTransformerConfig(num_layers=2, width=16, num_heads=2, feedforward_dim=32, reach_frames=10)
CONFIG = LastTokenizerConfig(
    encoder=EncoderConfig(name="log-mel", layer=0),
    transformer=TRANSFORMER,
    quantizer=LastQuantizerConfig(dim=8, codebook_size=12),
)


def make_tokenizer(config: LastTokenizerConfig = CONFIG, seed: int = 0) -> LastTokenizer:
    encoder = load_encoder(config.encoder)
    torch.manual_seed(seed)
    transformer = FrameTransformer(config.transformer, encoder.dim, config.quantizer.dim)
    quantizer = VectorQuantizer(config.quantizer)
    quantizer.initialised.fill_(True)
    quantizer.codebook.mul_(0.5)
    return LastTokenizer(encoder, transformer, quantizer, config)


@pytest.fixture(scope="module")
def tokenizer() -> LastTokenizer:
    return make_tokenizer()


def test_encoding_is_both_encoders_then_the_nearest_entry_then_runs(tokenizer, make_speechlike):
    waveform = make_speechlike(20_000, seed=7)
    (tokens,) = tokenizer.encode([waveform])
    (features,) = tokenizer.encoder.encode([waveform])
    vectors = tokenizer.transformer(features[None])[0].double()
    units = (vectors[:, None] - tokenizer.quantizer.codebook.double()).square().sum(-1).argmin(-1)
    runs = collapse_runs(units)
    assert torch.equal(tokens.units, runs.units) and torch.equal(tokens.durations, runs.durations)
    assert tokens.num_frames == 125 and len(set(units.tolist())) > 3
    plain = LastTokenizer(
        tokenizer.encoder, tokenizer.transformer, tokenizer.quantizer, replace(CONFIG, collapse=False)
    )
    (frames,) = plain.encode([waveform])
    assert frames.durations is None and torch.equal(frames.units, units)
    assert plain.fingerprint == tokenizer.fingerprint  # runs can be expanded: the same units


def test_units_do_not_depend_on_company(tokenizer, make_speechlike):
    waveforms = [make_speechlike(length, seed=length) for length in (1600, 32_000, 7_777, 32_000, 161)]
    alone = encode_each(tokenizer, waveforms)
    assert tokenizer.encode(waveforms) == alone
    assert compare_tokens(alone, tokenizer.encode(waveforms)).num_different == 0


def test_long_recordings_in_windows(tokenizer, make_speechlike):
    waveform = make_speechlike(48_000, seed=3)
    windows = replace(CONFIG, window_seconds=1.0, context_seconds=0.25)
    cut = LastTokenizer(tokenizer.encoder, tokenizer.transformer, tokenizer.quantizer, windows)
    (whole,) = cut.encode([waveform])
    for size in (700, 16_000, 50_000):
        assert cut.encode_stream(waveform.split(size)) == whole
    # 25 frames of context cover what two layers of 10 frames each can reach: one pass but for rounding
    assert whole.num_frames == 300
    assert compare_tokens(tokenizer.encode([waveform]), [whole]).mismatch_rate < 0.02
    near = LastTokenizer(
        tokenizer.encoder, tokenizer.transformer, tokenizer.quantizer, replace(windows, context_seconds=0.0)
    )
    (features,) = near.encoder.encode([waveform])
    (tokens,) = near.encode([waveform])
    blocks = [near.window_units(block) for block in features.split(100)]
    assert torch.equal(tokens.units.repeat_interleave(tokens.durations), torch.cat(blocks))


def test_physics_and_card(tokenizer):
    assert (tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks) == (16_000, 100.0, 1)
    assert tokenizer.codebook_size == 12
    assert tokenizer.bits_per_second == pytest.approx(358.496, abs=1e-3)  # 100 * log2(12)
    card = tokenizer.card()
    assert json.loads(json.dumps(card)) == card
    assert card["tokenizer_type"] == "last" and card["encoder"]["family"] == "log-mel"


def test_saved_and_loaded(tokenizer, tmp_path, make_speechlike):
    folder = tokenizer.save_pretrained(tmp_path / "saved")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_tokenizer(folder)
    assert isinstance(loaded, LastTokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint == read_card(folder)["fingerprint"]
    waveforms = [make_speechlike(9_000, seed=1), make_speechlike(20_000, seed=2)]
    assert loaded.encode(waveforms) == tokenizer.encode(waveforms)
    again = loaded.save_pretrained(tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_changes_the_fingerprint(tokenizer):
    assert make_tokenizer().fingerprint == tokenizer.fingerprint
    assert make_tokenizer(replace(CONFIG, name="other")).fingerprint == tokenizer.fingerprint
    reach = replace(TRANSFORMER, reach_frames=9)
    cosine = replace(CONFIG.quantizer, distance="cosine")
    changed = [
        make_tokenizer(seed=1),
        make_tokenizer(replace(CONFIG, transformer=reach)),
        make_tokenizer(replace(CONFIG, quantizer=cosine)),
        make_tokenizer(replace(CONFIG, window_seconds=30.0)),
    ]
    assert len({tokenizer.fingerprint, *(other.fingerprint for other in changed)}) == 5


def test_a_changed_folder_is_refused(tokenizer, tmp_path):
    folder = tokenizer.save_pretrained(tmp_path)
    path = folder / "config.json"
    content = path.read_text()
    path.write_text(content.replace('"reach_frames": 10', '"reach_frames": 11'))
    with pytest.raises(FingerprintError, match=tokenizer.fingerprint):
        load_tokenizer(folder)
    path.write_text(content.replace('"codebook_size": 12', '"codebook_size": 13'))
    with pytest.raises(AssetError, match=r"do not fit \(quantizer.codebook"):
        load_tokenizer(folder)
    path.write_text(content.replace('"num_layers": 2', '"num_layers": 1'))
    with pytest.raises(AssetError, match=r"do not fit \(transformer.layers.1"):
        load_tokenizer(folder)


def test_another_encoder_is_refused(tmp_path):
    encoder = save_tiny("whisper", tmp_path / "encoder")
    settings = replace(CONFIG, encoder=EncoderConfig(name=str(encoder), layer=2))
    folder = make_tokenizer(settings).save_pretrained(tmp_path / "tokenizer")
    save_tiny("whisper", tmp_path / "encoder", seed=1)
    with pytest.raises(FingerprintError, match="was fitted on encoder"):
        load_tokenizer(folder)
    with pytest.raises(ConfigError, match=r"reads 80 dimensions, but .* gives 32"):
        LastTokenizer(load_encoder(settings.encoder), make_tokenizer().transformer, make_tokenizer().quantizer, CONFIG)


def test_bad_input_and_no_vocoder(tokenizer, make_speechlike):
    with pytest.raises(AudioFormatError):
        tokenizer.encode([torch.zeros(0)])
    with pytest.raises(AudioFormatError):
        tokenizer.encode([torch.full((400,), torch.nan)])
    with pytest.raises(ConfigError, match="has no synthesizer"):
        tokenizer.decode(tokenizer.encode([make_speechlike(4_000)]))
    with pytest.raises(ConfigError, match=r"window_seconds is 1.0 and context_seconds 0.5"):
        replace(CONFIG, window_seconds=1.0, context_seconds=0.5)


class Beep:
    """A vocoder of one sample a unit."""

    sample_rate = 8000
    tokenizer_fingerprint: str
    voices = ()

    def synthesize(self, tokens, voice=None):
        return [item.units.float() for item in tokens]


def test_a_vocoder_of_its_units_speaks(make_speechlike):
    tokenizer, vocoder = make_tokenizer(), Beep()
    vocoder.tokenizer_fingerprint = "0" * 16
    with pytest.raises(FingerprintError, match=tokenizer.fingerprint):
        tokenizer.synthesizer = vocoder
    vocoder.tokenizer_fingerprint = tokenizer.fingerprint
    tokenizer.synthesizer = vocoder
    tokens = tokenizer.encode([make_speechlike(4_000)])
    assert torch.equal(tokenizer.decode(tokens)[0], tokens[0].units.float())


def test_the_command_that_verifies_tokenizers_accepts_it(tokenizer, tmp_path, make_speechlike, capsys):
    from tiny import write_speech

    folder = tokenizer.save_pretrained(tmp_path / "tokenizer")
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=4)
    assert main(["tokenizer", "verify", str(folder), str(manifest)]) == 0, capsys.readouterr().err
    assert "every unit is the same" in capsys.readouterr().out


def test_other_processes_find_the_kind():
    """`vocable tokenize` loads tokenizers without having imported any system."""
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="vocable.tokenizers", name="last")
    assert entry.load() is LastTokenizer
