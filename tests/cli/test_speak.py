"""`vocable speak`: a text or the lines of a file, with words changed."""

import json
from pathlib import Path

import pytest

from vocable.audio.io import audio_info
from vocable.cli import main

PHONEMES = "ðə ˈOld fˈɑɹməɹ kˈæɹid ɐ jˈɛlO bˈæskət."
pytestmark = pytest.mark.asset("hibari")


def test_a_text_is_spoken_and_words_are_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changes = tmp_path / "changes.json"
    changes.write_text(json.dumps([{"word": "jˈɛlO", "stretch": 2.0, "semitones": 3, "pause": 0.5}]), encoding="utf-8")
    plain, changed = tmp_path / "plain.wav", tmp_path / "changed.flac"
    assert main(["speak", PHONEMES, str(plain), "--phonemizer", "given"]) == 0
    assert "plain.wav: 2." in capsys.readouterr().out
    assert main(["speak", PHONEMES, str(changed), "--phonemizer", "given", "--prosody", str(changes)]) == 0
    assert audio_info(plain).sample_rate == 24_000
    assert 0.6 < audio_info(changed).duration - audio_info(plain).duration < 1.2


def test_lines_of_a_file_become_files_of_a_folder(tmp_path: Path):
    lines = tmp_path / "lines.txt"
    lines.write_text("kˈæt.\n\ndˈɔɡ\n", encoding="utf-8")
    assert main(["speak", str(lines), str(tmp_path / "out"), "--phonemizer", "given", "--speed", "1.5"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.wav", "0002.wav"]


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("", None, "holds no word to speak"),
        ("kˈ@t", None, "symbols that this voice does not know: '@'"),
        ("kˈæt", [{"word": "dˈɔɡ", "stretch": 2}], "no word 'dˈɔɡ' to change"),
        ("kˈæt", {"word": "kˈæt"}, "must be a list of tables"),
        ("lines.txt", [], "Words are changed in one text"),
        ("kˈæt", "lines.txt", "lines.txt: no JSON"),
    ],
)
def test_what_cannot_be_spoken_is_said_in_a_line(tmp_path: Path, capsys, monkeypatch, text, changes, message):
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("kˈæt", encoding="utf-8")
    arguments = ["speak", text, "out.wav", "--phonemizer", "given"]
    if changes == "lines.txt":
        arguments += ["--prosody", "lines.txt"]
    elif changes is not None:
        Path("changes.json").write_text(json.dumps(changes), encoding="utf-8")
        arguments += ["--prosody", "changes.json"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.wav").exists()
