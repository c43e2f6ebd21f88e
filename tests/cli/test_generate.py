"""`vocable generate`: from a recording or a text to files, with models of units and of speech and text."""

import pytest

from tiny import make_tiny_tokenizer, save_tiny_joint_run, save_tiny_unit_run
from vocable.audio.io import read_audio
from vocable.audio.writing import write_audio
from vocable.cli import main

SAMPLING = ("max_seconds=0.29", "min_seconds=0.29")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_speechlike):
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = make_tiny_tokenizer()
    save_tiny_joint_run(folder / "joint", tokenizer)
    save_tiny_unit_run(folder / "units", tokenizer)
    write_audio(folder / "a.wav", make_speechlike(8000), 16_000)
    return folder


def generate(runs, kind, out, *words):
    run = runs / kind
    return main(["generate", "--model", str(run), "--vocoder", str(run / "vocoder"), "--out", str(out), *words])


def seconds(path):
    waveform, rate = read_audio(path)[:2]
    return len(waveform) / rate


def test_a_model_of_units_continues_speech(runs, tmp_path, capsys):
    out = tmp_path / "c.wav"
    audio = ("--audio", str(runs / "a.wav"), "--device", "cpu")
    assert generate(runs, "units", out, *audio, "--num-samples", "2", *SAMPLING) == 0, capsys.readouterr().err
    assert "c-2.wav: 0.3 s of new speech, 10 units (stopped: max_seconds)" in capsys.readouterr().out
    long = seconds(tmp_path / "c-1.wav")
    assert generate(runs, "units", out, *audio, "--include-prompt", "false", *SAMPLING) == 0
    assert 0 < seconds(out) < long - 0.3  # the prompt has half a second


def test_a_model_of_units_says_what_it_cannot(runs, tmp_path, capsys):
    for words in (["--audio", str(runs / "a.wav"), "--to", "text"], ["--text", "The cat"]):
        assert generate(runs, "units", tmp_path / "c.wav", *words) == 2
        assert "reads units only" in capsys.readouterr().err
    assert generate(runs, "units", tmp_path / "c.wav") == 2
    assert "Exactly one prompt is needed: --audio FILE or --text TEXT" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prompt", ["audio", "text"])
def test_speech_from_either_prompt(runs, tmp_path, capsys, prompt):
    words = ("--audio", str(runs / "a.wav")) if prompt == "audio" else ("--text", "The cat")
    assert generate(runs, "joint", tmp_path / "c.wav", *words, "--to", "speech", *SAMPLING) == 0, capsys.readouterr()
    assert "c.wav: 0.3 s of new speech, 10 units (stopped: max_seconds)" in capsys.readouterr().out
    assert (seconds(tmp_path / "c.wav") > 0.6) == (prompt == "audio")  # a spoken prompt comes first
    assert not (tmp_path / "c.txt").exists()


@pytest.mark.parametrize(
    "words", [("--text", "The cat"), ("--audio", "a.wav", "--to", "text"), ("--audio", "a.wav", "--task", "transcribe")]
)
def test_text_from_either_prompt(runs, tmp_path, capsys, words, monkeypatch):
    monkeypatch.chdir(runs)
    command = (*words, "--max-text-tokens", "7", "--num-samples", "2", "loop_repeats=null")
    assert generate(runs, "joint", tmp_path / "c.wav", *command) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    first, second = ((tmp_path / f"c-{index}.txt").read_text().strip() for index in (1, 2))
    assert f"c-1.txt: {first}" in shown
    assert (first == second) == ("transcribe" in words)  # which takes the likeliest tokens
    assert not list(tmp_path.glob("*.wav"))


def test_a_mixed_continuation_is_written_in_pieces_and_shown(runs, tmp_path, capsys):
    words = (
        "--text",
        "The cat",
        "--to",
        "both",
        "--max-text-tokens",
        "60",
        "max_seconds=3",
        "temperature=1.5",
        "seed=1",
    )
    assert generate(runs, "joint", tmp_path / "c.wav", *words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    pieces = sorted(tmp_path.glob("c-segment*.wav"))
    assert len(pieces) > 1 and all(str(path) in shown.replace("\n", "") for path in pieces)
    assert "prompt and continuation" in shown and "<T>" in shown
    assert (tmp_path / "c.txt").read_text().strip()


def test_task_and_form_must_fit(runs, tmp_path, capsys):
    assert generate(runs, "joint", tmp_path / "c.wav", "--text", "The cat", "--task", "transcribe") == 2
    assert "'transcribe' goes from speech to text, but the prompt is text" in capsys.readouterr().err
    assert generate(runs, "joint", tmp_path / "c.wav", "--text", " ", "--task", "speak", *SAMPLING) == 2
    assert "there is nothing to speak" in capsys.readouterr().err
