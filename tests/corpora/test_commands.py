"""The commands audio, manifest and corpus: what they print, what they write, and their exit codes."""

import json

import pytest
import torch

from vocable.audio.io import audio_info
from vocable.audio.manifest import read_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.corpora import librispeech


@pytest.fixture
def recording(tmp_path, make_speechlike):
    path = tmp_path / "data" / "rec.wav"
    write_audio(path, make_speechlike(16_000), 16_000)
    path.with_suffix(".txt").write_text("hello")
    return path


def test_audio_info_shows_the_good_and_fails_for_the_bad(tmp_path, recording, capsys):
    assert main(["audio", "info", str(recording)]) == 0
    out = capsys.readouterr().out
    assert "16000" in out
    assert "1.000" in out
    assert main(["audio", "info", str(recording), str(tmp_path / "no.wav")]) == 2
    captured = capsys.readouterr()
    assert "16000" in captured.out
    assert "no.wav: no such file" in captured.err


def test_audio_resample(tmp_path, recording, capsys):
    out = tmp_path / "out.flac"
    assert main(["audio", "resample", str(recording), str(out), "--sample-rate", "8000"]) == 0
    assert audio_info(out)[:2] == (8000, 8000)
    assert f"{out}: 1.00 s at 8000 Hz" in capsys.readouterr().out
    assert main(["audio", "resample", str(recording), str(tmp_path / "out.xyz")]) == 2
    assert "suffix '.xyz' cannot be written" in capsys.readouterr().err


def test_import_then_validate(tmp_path, recording, capsys):
    (recording.parent / "bad.wav").write_text("no audio")
    out = tmp_path / "list" / "m.jsonl"
    assert main(["manifest", "import-folder", str(recording.parent), str(out), "--language", "en"]) == 0
    captured = capsys.readouterr().out
    assert f"{out}: 1 utterance, 0.000 h, 1.0 to 1.0 s" in captured
    assert "text      1 of 1" in captured
    assert "No speaker is known. From names: --speaker-pattern" in captured
    assert "m.rejected.jsonl: 1 left out" in captured
    (utterance,) = read_manifest(out)
    assert (utterance.audio, utterance.text, utterance.language) == (recording, "hello", "en")
    assert main(["manifest", "validate", str(out)]) == 0
    out.write_text(out.read_text() + "{broken\n" + json.dumps({"id": "x", "audio": "gone.wav"}) + "\n")
    capsys.readouterr()
    assert main(["manifest", "validate", str(out)]) == 2
    captured = capsys.readouterr()
    assert "line 2: Not JSON" in captured.out
    assert "line 3 (x): " in captured.out
    assert "2 of 3 lines cannot be used" in captured.err


def test_a_manifest_is_replaced_on_request_alone(tmp_path, recording, capsys):
    out, source = tmp_path / "m.jsonl", str(recording.parent)
    assert main(["manifest", "import-folder", source, str(out)]) == 0
    out.write_text(out.read_text().replace('"start"', '"mood": "by hand", "start"'))
    before = out.read_text()
    for command in (["import-folder", source, str(out)], ["set", str(out), str(out), 'language="en"']):
        assert main(["manifest", *command]) == 2
        assert f"{out}: is there already. Choose another name, or replace it: --overwrite" in capsys.readouterr().err
        assert out.read_text() == before
    assert main(["manifest", "set", str(out), str(out), 'language="en"', "--overwrite"]) == 0
    assert '"mood": "by hand"' in out.read_text() and '"language": "en"' in out.read_text()
    heard = tmp_path / "heard.wav"
    assert main(["audio", "resample", str(recording), str(heard)]) == 0
    assert main(["audio", "resample", str(recording), str(heard)]) == 2
    assert main(["audio", "resample", str(recording), str(heard), "--overwrite"]) == 0


def test_one_duplicate_does_not_stop_an_import(tmp_path, recording, capsys):
    source = {"type": "file", "channels": [0], "source": str(recording)}
    cut = {"id": "c", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0, "recording": {"sources": [source]}}
    rows = [cut, {**cut, "duration": 0.5}, {**cut, "id": "d"}]
    (tmp_path / "cuts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    assert main(["manifest", "import-lhotse-cuts", str(tmp_path / "cuts.jsonl"), str(out)]) == 0
    assert [(one.id, one.duration) for one in read_manifest(out)] == [("c", 1.0), ("d", 1.0)]
    (row,) = map(json.loads, (tmp_path / "out.rejected.jsonl").read_text().splitlines())
    assert row["id"] == "c" and "The id 'c' came before" in row["reason"]


def test_nothing_usable_says_where_the_reasons_are(tmp_path, capsys):
    (tmp_path / "bad.wav").write_text("no audio")
    assert main(["manifest", "import-folder", str(tmp_path), str(tmp_path / "m.jsonl")]) == 2
    assert "no utterance to write. 1 were left out; see" in capsys.readouterr().err
    assert not (tmp_path / "m.jsonl").exists()


def test_the_other_importers_are_commands_too(tmp_path, recording):
    datasets = pytest.importorskip("datasets")
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"rec {recording}\n")
    (tmp_path / "a.tsv").write_text(f"{recording.parent}\nrec.wav\t16000\n")
    source = {"type": "file", "channels": [0], "source": str(recording)}
    cut = {"id": "c", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0, "recording": {"sources": [source]}}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
    rows = {"sound": [{"bytes": recording.read_bytes(), "path": "x.wav"}], "words": ["hi"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("sound", datasets.Audio())
    datasets.DatasetDict({"dev": dataset}).save_to_disk(tmp_path / "hf")
    for arguments in (
        ["import-kaldi", kaldi],
        ["import-fairseq-tsv", tmp_path / "a.tsv"],
        ["import-lhotse-cuts", tmp_path / "cuts.jsonl"],
        ["import-hf-dataset", tmp_path / "hf", "--split=dev", "--audio-column=sound", "--text-column=words"],
    ):
        command, source, *options = map(str, arguments)
        out = tmp_path / "out" / f"{command}.jsonl"
        assert main(["manifest", command, source, str(out), *options]) == 0
        (utterance,) = read_manifest(out, strict=True, check_audio=True)
        assert utterance.duration == 1.0
    assert utterance.text == "hi"


def test_an_unknown_dataset_is_refused(tmp_path, capsys):
    assert main(["manifest", "import-hf-dataset", str(tmp_path), str(tmp_path / "m.jsonl")]) == 2
    assert "split 'train', cannot be loaded" in capsys.readouterr().err


def test_corpus_commands(tmp_path, capsys, monkeypatch):
    assert main(["corpus", "download", "librispech", str(tmp_path)]) == 2
    assert "Did you mean 'librispeech'" in capsys.readouterr().err
    calls = []
    monkeypatch.setattr(
        librispeech, "download_librispeech", lambda folder, splits, show: calls.append(splits) or folder
    )
    assert main(["corpus", "download", "librispeech", str(tmp_path), "--splits", "dev-clean, test-clean"]) == 0
    assert calls == [("dev-clean", "test-clean")]
    assert "Next: vocable corpus prepare librispeech" in capsys.readouterr().out
    folder = tmp_path / "LJSpeech-1.1"
    write_audio(folder / "wavs" / "LJ001-0001.wav", torch.zeros(22_050), 22_050)
    (folder / "metadata.csv").write_text("LJ001-0001|a|b\n")
    assert main(["corpus", "prepare", "ljspeech", str(tmp_path), str(tmp_path / "lj.jsonl")]) == 0
    assert read_manifest(tmp_path / "lj.jsonl", check_audio=True)[0].text == "b"
    assert main(["corpus", "prepare", "librispeech", str(tmp_path), str(tmp_path / "ls.jsonl")]) == 2
    assert "vocable corpus download librispeech" in capsys.readouterr().err


def test_a_manifest_is_divided_by_speaker(tmp_path, recording, capsys):
    lines = [{"id": f"u{i}", "audio": "data/rec.wav", "speaker": f"s{i // 4}", "split": "test"} for i in range(40)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["manifest", "split", str(tmp_path / "all.jsonl"), str(tmp_path / "out.jsonl")]
    assert main([*command, "--valid", "0.3", "--test=0.3", "--by", "speaker"]) == 0, capsys.readouterr().err
    found = read_manifest(tmp_path / "out.jsonl", strict=True)
    sides = {name: {u.speaker for u in found if u.split == name} for name in ("train", "valid", "test")}
    assert all(sides.values()) and sum(map(len, sides.values())) == 10
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("│ test ")]
    assert [(row[3], row[-2]) for row in rows] == [(str(4 * len(sides["test"])), str(len(sides["test"])))]
    assert main([*command, "--by", "voice"]) == 2
    assert main([*command, "--valid=0.5", "--test=0.5", "--overwrite"]) == 2
    assert "must add up to below 1" in capsys.readouterr().err
