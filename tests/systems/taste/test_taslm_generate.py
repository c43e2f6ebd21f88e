"""`vocable generate` and pairs with a text-aligned language model: from a recording, a text, nothing."""

import json
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from systems.taste.plain_decoder import PlainDecoder, PlainDecoderConfig
from systems.taste.test_taslm import config_of
from systems.taste.tiny_taste import save_parts
from vocable.audio.io import read_audio
from vocable.cli import main
from vocable.errors import ConfigError
from vocable.evaluation.pairs import models
from vocable.features.voice import Speaker
from vocable.lm.spoken import Segment, load_lm
from vocable.recognition import transcribe
from vocable.systems.taste.speech import WordSynthesizer
from vocable.systems.taste.taslm import train
from vocable.types import Clip

pytest.importorskip("peft")
SAMPLING = ("temperature=1.5", "max_seconds=20", "min_seconds=8", "loop_repeats=null", "seed=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_speechlike):
    """A run whose tokenizer speaks each word as a tone."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer, shards = save_parts(folder, make_speechlike)
    torch.manual_seed(0)
    decoder = PlainDecoder(PlainDecoderConfig(), tokenizer.words.aggregator.shape.dim)
    vector = torch.nn.functional.normalize(torch.randn(12), dim=0)
    tokenizer.speech = WordSynthesizer(tokenizer, decoder.eval(), Speaker(vector, None))
    tokenizer.save_pretrained(folder / "tokenizer")
    train(config_of(folder), shards, tokenizer, folder / "lm", valid_share=0.3, show=False)
    return folder


def generate(run, out, *words):
    return main(["generate", "--model", str(run), "--out", str(out), "--device", "cpu", *words])


@pytest.mark.parametrize("prompt", ["recording", "text", "nothing"])
def test_it_goes_on_from_a_recording_a_text_or_nothing(run, tmp_path, capsys, prompt):
    audio = ("--audio", str(run / "speech" / "clip00.wav"), "--text", "The cat sat on the mat.")
    words = {"recording": audio, "text": ("--text", "The cat"), "nothing": ("--text", "")}[prompt]
    out = tmp_path / "c.wav"
    assert generate(run, out, *words, "--to", "speech", *SAMPLING) == 0, capsys.readouterr().err
    printed, text = capsys.readouterr().out, out.with_suffix(".txt").read_text()
    assert text.strip() and text.strip() in printed and "the first sentence after" in printed
    waveform, rate = read_audio(out)[:2]
    assert rate == 8_000 and len(waveform) > 400
    if prompt == "recording":
        again = tmp_path / "d.wav"
        assert generate(run, again, *audio, "--to", "speech", "--include-prompt", "false", *SAMPLING) == 0
        assert len(read_audio(again)[0]) < len(waveform) and again.with_suffix(".txt").read_text() == text


def test_a_recogniser_writes_the_prompt_down(run, tmp_path, capsys, monkeypatch):
    class Heard:
        def transcribe(self, waveforms):
            return ["The cat sat." for _ in waveforms]

    monkeypatch.setattr(transcribe, "load_transcriber", lambda name, device: Heard())
    audio = ("--audio", str(run / "speech" / "clip00.wav"), "--prompt-seconds", "0.9")
    assert generate(run, tmp_path / "c.wav", *audio, "--to", "speech", *SAMPLING) == 0, capsys.readouterr().err
    assert (tmp_path / "c.txt").read_text().strip() and (tmp_path / "c.wav").exists()


def test_a_text_is_spoken_and_samples_are_numbered(run, tmp_path, capsys):
    words = ("--text", "The cat sat on the mat.", "--task", "speak", "--num-samples", "2")
    assert generate(run, tmp_path / "c.wav", *words) == 0, capsys.readouterr().err
    assert "c-2.wav: " in (printed := capsys.readouterr().out) and "6 words (stopped: eos)" in printed
    assert torch.equal(read_audio(tmp_path / "c-1.wav")[0], read_audio(tmp_path / "c-2.wav")[0])


@pytest.mark.parametrize("written", [True, False])
def test_pairs_are_scored_by_text_and_speech(run, tmp_path, capsys, monkeypatch, written):
    texts = {"correct": "The cat sat on the mat.", "incorrect": "And then the hills were far away!"}
    for place, (role, text) in enumerate(texts.items()):
        shutil.copy(run / "speech" / f"clip0{place}.wav", tmp_path / f"1_{role}.wav")
        if written:
            (tmp_path / f"1_{role}.txt").write_text(text)
    heard = SimpleNamespace(sample_rate=16_000, weights={}, conventions={})
    heard.transcribe = lambda waveforms: [texts["correct" if len(one) == 16_000 else "incorrect"] for one in waveforms]
    monkeypatch.setattr(models, "load_transcriber", lambda name, language, device: heard)
    command = ["evaluate", "storycloze", str(tmp_path), "--model", str(run), "--cache", str(tmp_path / "cache")]
    command += ["--boundary", "bos_eos", "--device", "cpu"]
    found = {}
    for part in ("both", "text", "speech"):
        out = tmp_path / "results" / part
        assert main([*command, "--out", str(out), "--scored-part", part]) == 0, capsys.readouterr().err
        found[part] = pq.read_table(next(out.rglob("*.parquet"))).to_pylist()[0]
        assert json.loads(next(out.rglob("*.json")).read_text())["conventions"].get("scored_part", "both") == part
    lm = load_lm(run)
    for half, (role, text) in zip(("positive", "negative"), texts.items()):
        clip = Clip(read_audio(tmp_path / f"1_{role}.wav")[0], text)
        (score,) = lm.score(lm.rows([[Segment(tokens=lm.tokenizer.encode([clip])[0])]]))
        assert found["both"][f"nll_{half}"] == pytest.approx(score.nll, rel=1e-5)
        assert found["speech"][f"nll_{half}"] == pytest.approx(score.by_modality["speech"][0], rel=1e-5)
        assert found["text"][f"nll_{half}"] == pytest.approx(score.by_modality["text"][0], rel=1e-5)
        assert found["speech"][f"tokens_{half}"] == len(text.split())
    with pytest.raises(ConfigError, match="has no part 'symbol' to score"):
        score.of("symbol")
