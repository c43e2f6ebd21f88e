"""`vocable stories build` with a user's own text and synthesiser."""

import shlex
import sys

from vocable.audio.manifest import read_manifest
from vocable.cli import main

SCRIPT = """
import sys, wave
with wave.open(sys.argv[1], "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", None))
    file.writeframes(bytes([0, 0, 99, 33]) * 4000)
"""


def test_own_text_is_spoken_by_the_given_command(tmp_path, capsys):
    text = tmp_path / "My Notes.txt"
    text.write_text("# First\nHello there.\n# Second [test]\nGood bye.\n", encoding="utf-8")
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(SCRIPT)} {{wav}} {{text}}"
    arguments = ["--text", str(text), "--voices", "one, two", "--held_out_voices", "three", "--command", command]
    assert main(["stories", "build", str(tmp_path / "out"), *arguments]) == 0
    utterances = read_manifest(tmp_path / "out" / "manifest.jsonl", strict=True, check_audio=True)
    assert [(u.id, u.speaker, u.split) for u in utterances] == [
        ("first.one.00", "one", "train"),
        ("second.two.00", "two", "test"),
        ("second.three.00", "three", "test"),
    ]
    assert {(u.corpus, u.licence) for u in utterances} == {("My Notes", None)}  # not ours
    assert "3 utterances" in capsys.readouterr().out


def test_missing_text_is_named(tmp_path, capsys):
    missing = str(tmp_path / "none.txt")
    assert main(["stories", "build", str(tmp_path / "out"), "--text", missing, "--command", "true {text} {wav}"]) == 2
    assert f"{missing}: no such text file" in capsys.readouterr().err
