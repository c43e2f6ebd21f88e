"""`vocable vocoder train`, `align`, `synthesize` and `resynthesize`, from files to files."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tiny import TINY_FRONTEND, make_tiny_tokenizer, make_tiny_vocoder, save_tiny_encoder, write_speech
from tokens.example_tokenizers import SineCodec
from vocable.audio.io import Audio, read_audio, read_utterance
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.cli import main
from vocable.features import EncoderConfig
from vocable.synthesis import UnitVocoder
from vocable.synthesis.phonemes import open_phonemizer
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.text_to_speech import TextToSpeech, TextToSpeechConfig
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.logs import read_metrics
from vocable.training.phone_targets import PhoneTargets
from vocable.training.symbol_aligner import SymbolAligner

ROOT = Path(__file__).parents[2]
hears_speakers = pytest.mark.asset("resemblyzer")  # the manifests name several speakers
SMALL = [
    "init=random",
    "min_voice_seconds=0",
    "vocoder.prosody_dim=8",
    *(f"vocoder.frontend.{item}" for item in ("dim=8", "hidden_dim=16", "token_layers=1", "frame_layers=1")),
    *(f"vocoder.decoder.{item}" for item in ("dim=8", "hidden_dim=16", "num_layers=1", "content_dim=4")),
    *(f"vocoder.decoder.{item}" for item in ("sample_rate=16000", "hop_length=200", "n_fft=400")),
    "training.max_steps=2",
    "training.batch_size=2",
    "training.segment_seconds=0.2",
    "training.adversarial_segment_seconds=null",
    "training.adversarial_from=0.5",
    "training.precision=fp32",
    "training.num_workers=0",
    "training.validation_utterances=1",
    "training.log_every=1",
    "training.discriminators={periods: [3], period_channels: [4], n_ffts: [256], spectrogram_channels: 4}",
]


LOG_MEL = EncoderConfig(name="log-mel", layer=0)


def make_tokenizer(folder: Path, manifest: Path, seed: int = 0, encoder: EncoderConfig = LOG_MEL) -> Path:
    config = UnitTokenizerConfig(
        encoder=encoder,
        kmeans=KMeansConfig(num_clusters=6, init_frames=100, seed=seed),
    )
    UnitTokenizer.fit(read_manifest(manifest), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_speechlike):
    """A manifest, a tokenizer and a vocoder trained for two steps by the command line."""
    folder = tmp_path_factory.mktemp("trained")
    manifest = write_speech(folder / "speech", make_speechlike)
    tokenizer = make_tokenizer(folder / "tokenizer", manifest)
    command = ["vocoder", "train", str(manifest), str(folder / "run"), "--tokenizer", str(tokenizer)]
    assert main([*command, *SMALL]) == 0
    return manifest, tokenizer, folder / "run" / "vocoder"


@hears_speakers
def test_train_synthesize_resynthesize(trained, tmp_path, capsys):
    manifest, tokenizer, vocoder = trained
    loaded = UnitVocoder.from_pretrained(vocoder)
    utterances = read_manifest(manifest)
    assert set(loaded.voices) == {item.speaker for item in utterances if item.speaker}
    assert loaded.config.codebook_size == 6
    assert loaded.config.token_frame_rate == 100 or loaded.config.token_frame_rate == 50
    (shards,) = (vocoder.parent / "tokens").iterdir()
    assert main(["vocoder", "synthesize", str(shards), str(tmp_path / "made"), "--vocoder", str(vocoder)]) == 0
    made = read_manifest(tmp_path / "made" / "manifest.jsonl")
    assert [item.id for item in made] == [item.id for item in utterances]
    for item, (_, tokens) in zip(made, TokenShards(shards)):
        (expected,) = loaded.synthesize([tokens])
        found = read_utterance(item, loaded.sample_rate)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # 16-bit files
    command = ["vocoder", "resynthesize", str(manifest), str(tmp_path / "again"), "--tokenizer", str(tokenizer)]
    assert main([*command, "--vocoder", str(vocoder), "--limit", "2", "--predict_durations"]) == 0
    assert len(read_manifest(tmp_path / "again" / "manifest.jsonl")) == 2
    audio = str(made[0].audio)
    command = ["vocoder", "resynthesize", audio, str(tmp_path / "one"), "--tokenizer", str(tokenizer)]
    assert main([*command, "--vocoder", str(vocoder)]) == 0
    (one,) = read_manifest(tmp_path / "one" / "manifest.jsonl")
    assert read_audio(one.audio).sample_rate == loaded.sample_rate
    # each in its own voice, with its own melody
    command = ["vocoder", "resynthesize", str(manifest), str(tmp_path / "own"), "--tokenizer", str(tokenizer)]
    own = ["--vocoder", str(vocoder), "--voice", "own", "--prosody", "recording", "--limit", "2"]
    assert main([*command, *own]) == 0
    heard, units = read_manifest(tmp_path / "own" / "manifest.jsonl"), UnitTokenizer.from_pretrained(tokenizer)
    assert [item.speaker for item in heard] == [item.speaker for item in utterances[:2]]
    for item, utterance in zip(heard, utterances):
        recording = Audio(read_utterance(utterance, units.sample_rate), units.sample_rate)
        tokens = units.encode([recording.waveform])
        (expected,) = loaded.synthesize(tokens, recording, [recording])
        found = read_utterance(item, loaded.sample_rate)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        for other in (loaded.synthesize(tokens, recording), loaded.synthesize(tokens, None, [recording])):
            assert (other[0] - found).abs().max() > 1e-3  # neither is without effect


def test_a_codec_takes_no_prosody_of_recordings(tmp_path, make_speechlike, capsys):
    manifest = write_speech(tmp_path / "speech", make_speechlike, count=1)
    SineCodec.make().save_pretrained(tmp_path / "codec")
    command = ["vocoder", "resynthesize", str(manifest), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "codec")]
    assert main([*command, "--prosody", "recording"]) == 2
    assert "takes pitch and energy from the tokens; it cannot take them from a recording" in capsys.readouterr().err
    assert main(command) == 0


SYMBOLS = {symbol: number + 1 for number, symbol in enumerate("abdefiklmnost ˈ,.")}


@pytest.fixture
def text_model(monkeypatch) -> TextToSpeech:
    """A small random one in place of the asset `hibari`."""
    torch.manual_seed(0)
    decoder = SourceFilterConfig(content_dim=8, dim=8, hidden_dim=16, num_layers=1)
    model = TextToSpeech(TextToSpeechConfig(num_symbols=20, prosody_dim=8, decoder=decoder), SYMBOLS).eval()
    monkeypatch.setattr(TextToSpeech, "from_pretrained", lambda: model)
    return model


def test_align_writes_what_a_vocoder_is_trained_on(text_model, tmp_path, make_speechlike, capsys):
    """Out come words, phones and symbols; what cannot be read, and the worst, is listed apart."""
    texts = ["tˈadi bˈena, sˈo.", "sˈo bˈena", "mˈana lˈida. tˈo", "fˈidel", "", "tˈadi bˈena sˈo " * 40, "sˈo"]
    utterances = read_manifest(write_speech(tmp_path / "speech", make_speechlike, count=7))
    utterances = [dataclasses.replace(one, text=text) for one, text in zip(utterances, texts, strict=True)]
    utterances[6] = dataclasses.replace(utterances[6], audio=tmp_path / "missing.wav")
    write_manifest(utterances, tmp_path / "speech.jsonl")
    tokenizer = make_tiny_tokenizer()
    plain = make_tiny_vocoder(tokenizer)
    frontend = dataclasses.replace(TINY_FRONTEND, num_symbols=20)
    torch.manual_seed(2)
    vocoder = UnitVocoder(dataclasses.replace(plain.config, frontend=frontend)).eval()
    vocoder.save_pretrained(tmp_path / "vocoder")
    tokenizer.save_pretrained(tmp_path / "units")

    out = tmp_path / "aligned" / "speech.jsonl"
    command = ["vocoder", "align", str(tmp_path / "speech.jsonl"), str(out), "--tokenizer", str(tmp_path / "units")]
    given = ["--phonemizer", "given", "--worst", "0.3"]
    assert main([*command, "--vocoder", str(tmp_path / "vocoder"), *given]) == 0, capsys.readouterr().err
    assert f"{out}: 3 utterances; 4 left out" in capsys.readouterr().out

    aligner = SymbolAligner(vocoder, tokenizer, text_model, open_phonemizer("given"))
    expected = [aligner.align(one) for one in utterances[:4]]
    worst = min(range(4), key=lambda index: expected[index][1])  # 0.3 of four is one
    kept = read_manifest(out)
    assert kept == [one for index, (one, _) in enumerate(expected) if index != worst]
    for one in kept:
        assert one.words and one.extra["phones"] and one.duration is not None
        assert sum(one.extra["symbols"]["frames"]) == int(one.duration * 40)
        content = PhoneTargets(text_model)(one, 80)
        assert content is not None and content.places.max() > 0
    rejected = [json.loads(line) for line in (out.parent / f"{out.stem}.rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in rejected}
    assert set(reasons) == {utterances[index].id for index in (worst, 4, 5, 6)}
    assert f"matches its text badly: {expected[worst][1]:.2f} nats a frame" in reasons[utterances[worst].id]
    assert "too short for the" in reasons[utterances[5].id]
    assert "missing.wav" in reasons[utterances[6].id]

    assert main([*command, "--vocoder", str(tmp_path / "vocoder"), *given]) == 2
    assert f"{out} is there already" in capsys.readouterr().err
    out.unlink()
    assert main([*command, "--vocoder", str(tmp_path / "vocoder"), "--worst", "1"]) == 2
    assert "--worst is 1.0; it is a share of the utterances" in capsys.readouterr().err
    plain.save_pretrained(tmp_path / "plain")
    assert main([*command, "--vocoder", str(tmp_path / "plain"), *given]) == 2
    assert "tells no symbols apart, so it cannot align" in capsys.readouterr().err


@hears_speakers
def test_other_units_of_the_same_encoder_are_spoken_and_those_of_another_refused(trained, tmp_path, capsys):
    """It reads units by their vectors; see UnitVocoder.for_codebook."""
    manifest, tokenizer, vocoder = trained
    command = ["vocoder", "resynthesize", str(manifest), str(tmp_path / "out"), "--vocoder", str(vocoder)]
    alike = make_tokenizer(tmp_path / "alike", manifest, seed=1)
    assert UnitTokenizer.from_pretrained(alike).fingerprint != UnitTokenizer.from_pretrained(tokenizer).fingerprint
    assert main([*command, "--tokenizer", str(alike), "--limit", "1"]) == 0
    (one,) = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert read_audio(one.audio).waveform.any()

    hubert = save_tiny_encoder("facebook/hubert-base-ls960", tmp_path / "hubert")
    other = make_tokenizer(tmp_path / "other", manifest, encoder=EncoderConfig(name=str(hubert), layer=2))
    capsys.readouterr()
    assert main([*command, "--tokenizer", str(other)]) == 2
    message, vectors = capsys.readouterr().err, UnitTokenizer.from_pretrained(other).unit_vectors()
    for fingerprint in (UnitVocoder.from_pretrained(vocoder).config.encoder_fingerprint, vectors.encoder_fingerprint):
        assert fingerprint and fingerprint in message
    SineCodec.make().save_pretrained(tmp_path / "codec")
    assert main([*command, "--tokenizer", str(tmp_path / "codec")]) == 2
    assert "stand for no vectors of an encoder" in capsys.readouterr().err


@hears_speakers
@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "vocoder").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe, tmp_path, make_speechlike, capsys):
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    tokenizer = make_tokenizer(tmp_path / "tokenizer", manifest)
    command = ["vocoder", "train", str(manifest), str(tmp_path / "run"), "--tokenizer", str(tokenizer)]
    changes = [*SMALL, "training.max_minutes=null"]
    assert main([*command, "--config", str(recipe), *changes]) == 0, capsys.readouterr().err
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["split"] == "train"] == [1, 2]
