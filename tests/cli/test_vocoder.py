"""`vocable vocoder train`, `synthesize` and `resynthesize`, from files to files."""

from pathlib import Path

import pytest
import torch

from tiny import write_speech
from vocable.audio.io import read_audio, read_utterance
from vocable.audio.manifest import read_manifest
from vocable.cli import main
from vocable.features import EncoderConfig
from vocable.synthesis import UnitVocoder
from vocable.tokens.kmeans import KMeansConfig
from vocable.tokens.shards import TokenShards
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.training.logs import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = [
    "vocoder.dim=16",
    "vocoder.hidden_dim=16",
    "vocoder.num_layers=1",
    "vocoder.prosody_dim=8",
    "vocoder.pitch_layers=1",
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


def make_tokenizer(folder: Path, manifest: Path, seed: int = 0) -> Path:
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0),
        kmeans=KMeansConfig(num_clusters=6, init_frames=100, seed=seed),
    )
    UnitTokenizer.fit(read_manifest(manifest), config).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(tmp_path, make_speechlike):
    """A manifest, a tokenizer and a vocoder trained for two steps by the command line."""
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    tokenizer = make_tokenizer(tmp_path / "tokenizer", manifest)
    command = ["vocoder", "train", str(manifest), str(tmp_path / "run"), "--tokenizer", str(tokenizer)]
    assert main([*command, *SMALL]) == 0
    return manifest, tokenizer, tmp_path / "run" / "vocoder"


def test_train_synthesize_resynthesize(trained, tmp_path, capsys):
    manifest, tokenizer, vocoder = trained
    loaded = UnitVocoder.from_pretrained(vocoder)
    utterances = read_manifest(manifest)
    assert set(loaded.voices) == {item.speaker for item in utterances if item.speaker}
    assert loaded.config.codebook_size == 6
    assert loaded.config.token_frame_rate == 100 or loaded.config.token_frame_rate == 50
    (shards,) = (tmp_path / "run" / "tokens").iterdir()
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


def test_foreign_tokenizer_is_refused(trained, tmp_path, capsys):
    manifest, tokenizer, vocoder = trained
    other = make_tokenizer(tmp_path / "other", manifest, seed=1)
    command = ["vocoder", "resynthesize", str(manifest), str(tmp_path / "again"), "--tokenizer", str(other)]
    assert main([*command, "--vocoder", str(vocoder)]) == 2
    message = capsys.readouterr().err
    for folder in (tokenizer, other):
        assert UnitTokenizer.from_pretrained(folder).fingerprint in message


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "vocoder").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_runs_two_steps(recipe, tmp_path, make_speechlike, capsys):
    manifest = write_speech(tmp_path / "speech", make_speechlike)
    tokenizer = make_tokenizer(tmp_path / "tokenizer", manifest)
    command = ["vocoder", "train", str(manifest), str(tmp_path / "run"), "--tokenizer", str(tokenizer)]
    changes = [*SMALL, "training.max_minutes=null"]
    assert main([*command, "--config", str(recipe), *changes]) == 0, capsys.readouterr().err
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["split"] == "train"] == [1, 2]
