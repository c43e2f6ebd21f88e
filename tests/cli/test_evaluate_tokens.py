"""The commands that judge tokens, from a manifest to result files, with a tiny tokenizer."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from vocable.audio.manifest import read_manifest, write_manifest
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.evaluation.results import load_result
from vocable.features import EncoderConfig, load_encoder
from vocable.tokens.kmeans import KMeans, KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Phone, Utterance, Word

PITCHES = {"a": 300.0, "b": 900.0, "c": 2500.0}
"""A phone is a tone here."""


@pytest.fixture
def folder(tmp_path):
    """Twelve recordings of tones, with phones and words; a tokenizer whose units follow them, and its tokens."""
    generator = np.random.default_rng(0)
    utterances = []
    for index in range(12):
        names = generator.choice(list(PITCHES), 20).tolist()
        time = torch.arange(1600) / 16_000
        sound = torch.cat([0.3 * torch.sin(2 * torch.pi * PITCHES[name] * time) for name in names])
        path = tmp_path / "audio" / f"u{index}.wav"
        write_audio(path, sound, 16_000)
        phones = [Phone(phone=name, start=i / 10, end=(i + 1) / 10) for i, name in enumerate(names)]
        utterances.append(
            Utterance(
                id=path.stem,
                audio=path,
                duration=2.0,
                speaker=f"s{index % 3}",
                words=tuple(Word(word=p.phone, start=p.start, end=p.end) for p in phones),
                extra={"phones": [asdict(phone) for phone in phones]},
            )
        )
    write_manifest(utterances, tmp_path / "m.jsonl")
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    tones = [torch.sin(2 * torch.pi * pitch * torch.arange(8000) / 16_000) * 0.3 for pitch in PITCHES.values()]
    centroids = torch.stack([features[10:-10].mean(0) for features in encoder.encode(tones)])
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=3, init_frames=3)
    )
    UnitTokenizer(encoder, KMeans(centroids), config).save_pretrained(tmp_path / "tok")
    return tmp_path


def run(folder, *words) -> int:
    return main([str(folder / word[1:]) if word.startswith("@") else word for word in words])


def test_phones_from_a_tokenizer_and_from_shards_are_the_same(folder, capsys):
    base = ["evaluate", "phones", "--manifest", "@m.jsonl", "--device", "cpu"]
    assert run(folder, *base, "--tokenizer", "@tok", "--out", "@r1") == 0
    assert "phones.json" in capsys.readouterr().out
    result = load_result(folder / "r1" / "phones.json")
    assert result.scores["pnmi"].value > 0.6  # type: ignore[operator]
    assert result.scores["pnmi"].num_speakers == 3
    assert run(folder, "tokenize", "@m.jsonl", "@tokens", "--tokenizer", "@tok", "--device", "cpu") == 0
    assert run(folder, *base, "--tokens", "@tokens", "--out", "@r2") == 0
    assert load_result(folder / "r2" / "phones.json").items == result.items
    assert run(folder, *base, "--tokens", "@tokens", "--out", "@r2") == 2
    assert "holds an earlier result" in capsys.readouterr().err
    assert run(folder, *base, "--out", "@r3") == 2
    assert "either a folder of token shards (tokens) or a tokenizer" in capsys.readouterr().err


def test_units_are_printed_and_saved(folder, capsys):
    assert run(folder, "tokenize", "@m.jsonl", "@tokens", "--tokenizer", "@tok", "--device", "cpu") == 0
    assert run(folder, "evaluate", "units", "@tokens") == 0
    assert "nominal_bits_per_second" in capsys.readouterr().out
    assert run(folder, "evaluate", "units", "@tokens", "--out", "@r") == 0
    record = json.loads((folder / "r" / "units.json").read_text())
    assert record["scores"]["used"]["value"] == 1 and len(record["measurements"]["codebooks"]) == 1


def test_abx_of_units_features_and_files(folder, capsys):
    base = ["evaluate", "abx", "--manifest", "@m.jsonl", "--device", "cpu", "--kernel", "torch"]
    assert run(folder, *base, "--tokenizer", "@tok", "--span", "phone", "--out", "@units") == 0
    assert run(folder, *base, "--encoder", "log-mel", "--layer", "0", "--span", "phone", "--out", "@mels") == 0
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    (folder / "npy").mkdir()
    from vocable.audio.io import read_utterance

    for utterance in read_manifest(folder / "m.jsonl"):
        (frames,) = encoder.encode([read_utterance(utterance, 16_000)])
        np.save(folder / "npy" / f"{utterance.id}.npy", frames.numpy())
    rate = str(encoder.frame_rate)
    stored = [*base, "--features", "@npy", "--frame-rate", rate, "--span", "phone", "--out", "@files"]
    assert run(folder, *stored) == 0
    units, mels, files = (load_result(folder / name / "abx.json") for name in ("units", "mels", "files"))
    assert units.scores["within"].value < 0.1 and units.scores["across"].value < 0.1  # type: ignore[operator]
    assert units.conventions["distance"] == "identical" and mels.conventions["distance"] == "angular"
    assert [row["error"] for row in mels.items] == pytest.approx([row["error"] for row in files.items])
    assert mels.fingerprints["encoder"]
    capsys.readouterr()
    assert run(folder, *base, "--out", "@none") == 2
    assert "Give one of tokens, tokenizer, encoder and features; there are 0." in capsys.readouterr().err
    assert run(folder, *base, "--features", "@npy", "--out", "@none") == 2
    assert "frame_rate is None: say how many frames a second" in capsys.readouterr().err
    np.save(folder / "npy" / "u3.npy", np.full((200, 2), np.nan))
    assert run(folder, *stored[:-1], "@again") == 2
    assert "u3.npy: shape (200, 2); expected finite numbers" in capsys.readouterr().err


def test_abx_reads_item_files(folder):
    from vocable.evaluation.abx_items import items_from_manifest

    items = items_from_manifest(read_manifest(folder / "m.jsonl"))
    rows = [f"{item.file} {item.onset:.4f} {item.offset:.4f} {' '.join(item[3:])}\n" for item in items]
    header = "#file onset offset #phone prev-phone next-phone speaker\n"
    (folder / "a.item").write_text(header + "".join(rows), encoding="utf-8")
    base = ["evaluate", "abx", "--manifest", "@m.jsonl", "--device", "cpu", "--tokenizer", "@tok"]
    base += ["--speakers", "across", "--kernel", "torch"]
    assert run(folder, *base, "--out", "@r1") == 0
    assert run(folder, *base, "--items", "@a.item", "--out", "@r2") == 0
    first, second = (load_result(folder / name / "abx.json") for name in ("r1", "r2"))
    assert first.items == second.items and set(first.scores) == {"across"}


def test_abx_without_phones_says_what_is_missing(folder, capsys):
    bare = [Utterance(id=u.id, audio=u.audio, speaker=u.speaker) for u in read_manifest(folder / "m.jsonl")]
    write_manifest(bare, folder / "bare.jsonl")
    words = ["evaluate", "abx", "--manifest", "@bare.jsonl", "--tokenizer", "@tok", "--out", "@r"]
    assert run(folder, *words) == 2
    assert "no line holds phones and a speaker" in capsys.readouterr().err


def test_signal_of_a_folder_of_copies(folder, capsys):
    for utterance in read_manifest(folder / "m.jsonl")[:10]:
        sound = torch.from_numpy(np.random.default_rng(1).normal(size=32_000)).float() * 0.05
        write_audio(folder / "copies" / f"{utterance.id}.wav", sound, 16_000)
    base = ["evaluate", "signal", "--manifest", "@m.jsonl", "--metrics", "mel,prosody,durations"]
    assert run(folder, *base, "--copies", "@copies", "--out", "@noise") == 0
    assert run(folder, *base, "--copies", "@m.jsonl", "--out", "@same") == 0
    noise, same = (load_result(folder / name / "signal.json") for name in ("noise", "same"))
    assert same.scores["mel_distance"].value == 0 and same.scores["duration_consistency"].value == 1
    assert noise.scores["mel_distance"].value > 1  # type: ignore[operator]
    assert noise.excluded["no copy"] == 2 and noise.excluded["durations: no word times in the copy"] == 10
    capsys.readouterr()
    assert run(folder, *base[:-1], "stio", "--copies", "@copies", "--out", "@x") == 2
    assert "Unknown signal metric 'stio'. Did you mean 'stoi'?" in capsys.readouterr().err
