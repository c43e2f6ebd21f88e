"""A synthesiser that is a program: here Python writes the wav."""

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from vocable.errors import ConfigError, MissingDependencyError
from vocable.testsets.command_tts import CommandSynthesizer

SCRIPT = """
import sys, wave
with wave.open(sys.argv[1], "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", None))
    file.writeframes(bytes(2 * len(sys.argv[2])))
"""


def command(script):
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {{wav}} {{text}} {{voice}}"


def test_the_wav_that_the_program_writes_is_read():
    speech = CommandSynthesizer(command(SCRIPT)).speak("a {voice} with; 'quotes'", "anna")
    assert len(speech.waveform) == len("a {voice} with; 'quotes'")  # one sample a letter: the text came unchanged
    assert speech.sample_rate == 8_000
    assert speech.words == ()


def test_a_failing_program_is_quoted():
    with pytest.raises(ConfigError, match="no such voice anna"):
        CommandSynthesizer(command("import sys; sys.exit('no such voice ' + sys.argv[3])")).speak("hello", "anna")


def test_a_wav_that_is_none_is_an_error_of_that_text():
    with pytest.raises(ConfigError, match="wrote no readable wav for 'hello' as 'anna'"):
        CommandSynthesizer(command("import sys; open(sys.argv[1], 'w').write('junk')")).speak("hello", "anna")


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    """A script that starts another program and waits for it, as wrappers do."""
    script = (
        "import pathlib, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    for seconds in (1, 4, 16, 64):  # until the machine is quick enough to have started it
        slow = CommandSynthesizer(command(script), timeout_seconds=seconds)
        with pytest.raises(ConfigError, match=f"longer than {seconds} s over 'hello' as 'anna'.*--timeout-seconds"):
            slow.speak("hello", "anna")
        if (tmp_path / "child").exists():
            break
    child = int((tmp_path / "child").read_text())
    for _ in range(600):  # a kill takes a moment, but not a minute
        if not is_running(child):
            return
        time.sleep(0.1)
    pytest.fail("the program that the script had started lives on")


def is_running(pid: int) -> bool:
    """Whether the process is there, and more than an entry that nobody has read."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_timeout_must_be_above_zero():
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"timeout_seconds is .*above 0"):
            CommandSynthesizer(command(SCRIPT), timeout_seconds=seconds)


def test_a_program_that_asks_gets_no_answer():
    with pytest.raises(ConfigError, match="EOFError"):
        CommandSynthesizer(command("input()")).speak("hello", "anna")


def test_a_command_without_a_wav_is_refused():
    with pytest.raises(ConfigError, match=r"lacks \{wav\}"):
        CommandSynthesizer("say {text}")


def test_a_missing_program_is_named():
    with pytest.raises(MissingDependencyError, match="'no-such-program' is not on the path"):
        CommandSynthesizer("no-such-program {wav} {text}")


def test_phones_fill_their_field():
    takes_phones = CommandSynthesizer(command(SCRIPT).replace("{text}", "{phones}"))
    assert len(takes_phones.speak("cat", "anna", ["K", "AE1", "T"]).waveform) == len("K AE1 T")
    with pytest.raises(ConfigError, match="reads phones, but for 'cat' there are none"):
        takes_phones.speak("cat", "anna")
