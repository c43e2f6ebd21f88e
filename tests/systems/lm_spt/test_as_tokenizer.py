"""A codec is a tokenizer like any other: all that works for units works on its semantic stream."""

import json
import random
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from systems.lm_spt.test_long_recordings import make_tokenizer
from systems.lm_spt.tiny_codec import HOP, RATE
from tiny import make_tiny_recogniser, save_tiny_lm, write_speech
from vocable.audio.io import read_audio, read_clip
from vocable.audio.manifest import read_manifest, write_manifest
from vocable.cli import main
from vocable.evaluation.judges import Judges
from vocable.evaluation.reconstruction import Reconstruction, ReconstructionConfig
from vocable.evaluation.results import load_result
from vocable.evaluation.runner import run_benchmark
from vocable.lm.spoken import load_lm
from vocable.recognition.transcribe import WhisperTranscriber
from vocable.sequences.subwords import UnitSubwords
from vocable.tokens import load_tokenizer
from vocable.tokens.shards import TokenShards
from vocable.types import Phone, SpeechTokens

TEXTS = ["Anna saw a cat", "the cat sat", "a dog ran home", "we went up", "it was late", "birds sing at noon"]
STREAM = ("--stream", "semantic")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_speechlike) -> Path:
    """Twelve recordings; every 0.1 s is one of two phones, drawn at random."""
    folder = tmp_path_factory.mktemp("speech")
    manifest = write_speech(folder, make_speechlike, texts=TEXTS)
    labelled = []
    for utterance in read_manifest(manifest):
        count = int(utterance.duration * 10)
        drawn = random.Random(utterance.id).choices("ab", k=count)
        phones = [Phone(phone=phone, start=i / 10, end=(i + 1) / 10) for i, phone in enumerate(drawn)]
        labelled.append(replace(utterance, extra={"phones": [asdict(phone) for phone in phones]}))
    write_manifest(labelled, manifest)
    return manifest


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    return make_tokenizer(name="tiny").save_pretrained(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def tokens(codec, corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tokens"
    assert main(["tokenize", str(corpus), str(folder), "--tokenizer", str(codec), "--device", "cpu"]) == 0
    return folder


def run(capsys, *words) -> str:
    code = main(list(map(str, words)))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def test_shards_hold_both_streams(codec, corpus, tokens):
    shards, tokenizer = TokenShards(tokens), load_tokenizer(codec)
    assert len(shards) == 12 and shards.fingerprint == tokenizer.fingerprint
    for utterance, found in shards:
        assert found == tokenizer.encode([read_clip(utterance, RATE)])[0]
    assert shards.stream("semantic").fingerprint == tokenizer.stream("semantic").fingerprint


def test_card_and_verify(codec, corpus, capsys):
    shown = run(capsys, "tokenizer", "card", codec)
    assert "8 codes, 12.5 Hz" in shown and "8 x 8 codes" in shown
    checked = run(capsys, "tokenizer", "verify", codec, corpus, "--device", "cpu")
    assert "every unit is the same, alone or in company" in checked and "bfloat16" in checked


@pytest.mark.parametrize("benchmark", ["phones", "abx", "units"])
def test_measures_of_units(benchmark, codec, corpus, tokens, tmp_path, capsys):
    words = [] if benchmark == "units" else ["--manifest", corpus]
    run(capsys, "evaluate", benchmark, "--tokens", tokens, *words, *STREAM, "--out", tmp_path, "num_resamples=10")
    result = load_result(tmp_path / f"{benchmark}.json")
    assert result.fingerprints["tokenizer"] == load_tokenizer(codec).stream("semantic").fingerprint


def test_subwords_are_fitted(tokens, tmp_path, capsys):
    run(capsys, "subwords", "fit", tokens, tmp_path / "subwords", *STREAM, "--vocabulary-size", "12")
    assert UnitSubwords.load(tmp_path / "subwords").size == 12


def test_twist_on_the_semantic_stream_speaks_through_the_auxiliary_decoder(codec, tokens, tmp_path, capsys, corpus):
    recipe = Path(__file__).parents[3] / "recipes" / "twist" / "cpu.yaml"
    model = save_tiny_lm("opt", tmp_path / "text")
    settings = [f"lm.text_model={model}", "stream=semantic", "training.max_steps=2", "valid_share=0.3"]
    words = ["train", recipe, "--tokens", tokens, "--tokenizer", codec, "--out", tmp_path / "run"]
    run(capsys, *words, *settings)
    lm, whole = load_lm(tmp_path / "run" / "lm", tokenizer=codec), load_tokenizer(codec)
    assert lm.tokenizer.fingerprint == whole.stream("semantic").fingerprint
    prompt = read_manifest(corpus)[0].audio
    words = ["generate", "--model", tmp_path / "run", "--tokenizer", codec, "--audio", prompt]
    words += ["--out", tmp_path / "said.wav"]
    said = run(capsys, *words, "--device", "cpu", "max_seconds=1.6", "min_seconds=1.6", "--include-prompt", "false")
    num_units = int(re.search(r"(\d+) units", said)[1])
    assert num_units >= 20
    found = read_audio(tmp_path / "said.wav")
    assert found.sample_rate == RATE and len(found.waveform) == num_units * HOP
    codes = SpeechTokens(codes=torch.zeros(1, 4, dtype=torch.long))
    auxiliary = whole.codec.decode(codes.codes, None)
    torch.testing.assert_close(whole.stream("semantic").decode([codes])[0], auxiliary.clamp(-1, 1))


def test_sutlm_reads_it(codec, tokens, tmp_path, capsys):
    recipe = Path(__file__).parents[3] / "recipes" / "sutlm" / "cpu.yaml"
    settings = ["lm.text_model=tiny", "stream=semantic", "training.max_steps=2", "valid_share=0.3"]
    settings += ["text.vocabulary_size=300", "subwords.vocabulary_size=20"]
    run(capsys, "train", recipe, "--tokens", tokens, "--tokenizer", codec, "--out", tmp_path / "run", *settings)
    lm, semantic = load_lm(tmp_path / "run" / "lm", tokenizer=codec), load_tokenizer(codec).stream("semantic")
    assert lm.tokenizer.fingerprint == semantic.fingerprint


def test_both_streams_are_heard_again(codec, corpus, tmp_path, capsys):
    run(capsys, "vocoder", "resynthesize", corpus, tmp_path / "heard", "--tokenizer", codec, "--limit", "2")
    first = read_manifest(corpus)[0]
    heard = read_audio(tmp_path / "heard" / f"{first.id}.wav")
    tokenizer = load_tokenizer(codec)
    wanted = tokenizer.decode(tokenizer.encode([read_clip(first, RATE)]))[0]
    torch.testing.assert_close(heard.waveform, wanted, atol=1 / 32767, rtol=0)


def test_reconstruction_by_levels(codec, corpus):
    judges = Judges(WhisperTranscriber(*make_tiny_recogniser(), "test/tiny-whisper", batch_size=2))
    opened = {"utterances": read_manifest(corpus)[:2], "judges": judges}
    config = ReconstructionConfig(manifest=corpus, tokenizer=codec, levels=("all", 1, "semantic"))
    result = run_benchmark(Reconstruction(config, opened))
    for name in ("all", "first_1", "semantic"):
        assert any(score.endswith(name) for score in result.scores), name
    assert json.dumps(result.measurements)
