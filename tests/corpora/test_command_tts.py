"""A synthesiser that is a program: here Python writes the wav."""

import shlex
import sys

import pytest

from vocable.corpora.command_tts import CommandSynthesizer
from vocable.errors import ConfigError, MissingDependencyError

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
