"""The commands, from argument words to what they print and write."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vocable.audio.manifest import write_manifest
from vocable.cli import main
from vocable.tokens import TokenShards, UnitTokenizer, load_tokenizer
from vocable.types import Clip, Utterance


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_speechlike) -> Path:
    """A manifest, and a tokenizer that was fitted on it by the command."""
    folder = tmp_path_factory.mktemp("commands")
    utterances = []
    for index in range(3):
        path = folder / f"{index}.wav"
        soundfile.write(path, make_speechlike(8_000 + 1_234 * index, seed=index).numpy(), 16_000)
        utterances.append(Utterance(id=f"u{index}", audio=path))
    write_manifest(utterances, folder / "all.jsonl")
    settings = "--encoder log-mel --layer 0 --clusters 8 --device cpu kmeans.max_iterations=3 kmeans.init_frames=100"
    assert main(["tokenizer", "fit", str(folder / "all.jsonl"), str(folder / "units"), *settings.split()]) == 0
    return folder


def test_a_codebook_that_others_may_stand_on_is_not_replaced(folder, capsys):
    before = {path.name: path.read_bytes() for path in (folder / "units").iterdir()}
    assert main(["tokenizer", "fit", str(folder / "all.jsonl"), str(folder / "units"), "kmeans.num_clusters=3"]) == 2
    assert "units: is there already. Choose another name, or replace it: --overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (folder / "units").iterdir()} == before


def test_fit_writes_the_tokenizer_and_prints_the_report(folder: Path, tmp_path: Path, capsys):
    tokenizer = load_tokenizer(folder / "units")
    assert isinstance(tokenizer, UnitTokenizer)
    assert tokenizer.codebook_size == 8 and tokenizer.config.kmeans.max_iterations == 3
    words = ["tokenizer", "fit", str(folder / "all.jsonl"), str(tmp_path / "again"), "--device", "cpu"]
    settings = ["encoder.name=log-mel", "encoder.layer=0", "--clusters=8", "kmeans.max_iterations=3"]
    assert main([*words, *settings, "kmeans.init_frames=100"]) == 0
    printed = capsys.readouterr().out
    assert "perplexity" in printed and "dead codes" in printed
    assert f"Tokenizer {tokenizer.fingerprint} is in" in printed  # the same settings give the same codebook


def test_a_misspelt_setting_names_the_nearest(folder: Path, tmp_path: Path, capsys):
    words = ["tokenizer", "fit", str(folder / "all.jsonl"), str(tmp_path / "out"), "kmeans.num_cluster=9"]
    assert main(words) == 2
    assert "Did you mean 'kmeans.num_clusters'?" in capsys.readouterr().err


def test_card(folder: Path, capsys):
    assert main(["tokenizer", "card", str(folder / "units")]) == 0
    printed = capsys.readouterr().out
    assert load_tokenizer(folder / "units").fingerprint in printed and "encoder.log_mel.num_mels" in printed


def test_verify(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    words = ["tokenizer", "verify", str(folder / "units"), str(folder / "all.jsonl"), "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for mode in ("exact", "equal_length", "masked", "bfloat16"):
        assert mode in printed
    assert "every unit is the same, alone or in company" in printed
    encode = UnitTokenizer.encode_clips

    def leaky(self, clips, batching):
        return encode(self, [Clip(clip.waveform * len(clips)) for clip in clips], batching)

    monkeypatch.setattr(UnitTokenizer, "encode_clips", leaky)
    assert main(words) == 2
    assert "The exact mode differs in" in capsys.readouterr().err


def test_tokenize(folder: Path, tmp_path: Path, capsys):
    words = ["tokenize", str(folder / "all.jsonl"), str(tmp_path / "out"), "--tokenizer", str(folder / "units")]
    assert main([*words, "--device", "cpu"]) == 0
    assert "real-time factor" in capsys.readouterr().out
    assert len(TokenShards(tmp_path / "out")) == 3
    assert main([*words, "--device", "cpu"]) == 0
    assert "1 of 1 shards were there already" in capsys.readouterr().out
    assert main(words[:3]) == 2
    assert "--tokenizer is missing: Folder of the tokenizer" in capsys.readouterr().err


def test_import_kmeans(folder: Path, tmp_path: Path, capsys):
    joblib = pytest.importorskip("joblib")
    cluster = pytest.importorskip("sklearn.cluster")
    model = cluster.KMeans(6)
    model.cluster_centers_ = np.random.default_rng(0).normal(size=(6, 80)).astype(np.float32)
    joblib.dump(model, tmp_path / "km.bin")
    np.save(tmp_path / "km.npy", model.cluster_centers_)
    for name in ("km.bin", "km.npy"):
        words = ["tokenizer", "import-kmeans", str(tmp_path / name), str(tmp_path / name[3:])]
        assert main([*words, "--encoder", "log-mel", "--layer", "0"]) == 0
        assert "6 centroids of 80 dimensions on log-mel layer 0" in capsys.readouterr().out
        tokenizer = load_tokenizer(tmp_path / name[3:])
        assert isinstance(tokenizer, UnitTokenizer)
        assert np.array_equal(tokenizer.kmeans.centroids.numpy(), model.cluster_centers_)
        assert tokenizer.config.kmeans.num_clusters == 6
    np.save(tmp_path / "wrong.npy", np.zeros((6, 79), dtype=np.float32))
    words = ["tokenizer", "import-kmeans", str(tmp_path / "wrong.npy"), str(tmp_path / "wrong")]
    assert main([*words, "--encoder", "log-mel", "--layer", "0"]) == 2
    assert "codebook has 79 dimensions, but 'log-mel' layer 0 gives 80" in capsys.readouterr().err
