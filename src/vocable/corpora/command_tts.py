"""Speech from text with any synthesiser that is a command line program, espeak-ng for example.

espeak-ng -v {voice} -w {wav} {text}    ->    a wav file per text; no word times

A program that reads phonemes gets them through `{phones}`, with spaces between them.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import soundfile

from vocable.corpora.kokoro_tts import Speech
from vocable.errors import ConfigError, MissingDependencyError


class CommandSynthesizer:
    """Runs a command once per text; `{text}`, `{phones}`, `{voice}` and `{wav}` in it are filled in.

    Raises:
        ConfigError: the command lacks `{wav}`, or both `{text}` and `{phones}`.
        MissingDependencyError: the program is not on the path.
    """

    def __init__(self, command: str):
        self.arguments = shlex.split(command)
        self.name = command
        self.takes_phones = self._has("{phones}")
        for field in ("{text}", "{wav}"):
            if not self._has(field) and not (field == "{text}" and self.takes_phones):
                raise ConfigError(
                    f"The synthesiser command {command!r} lacks {field}. "
                    "An example: espeak-ng -v {voice} -w {wav} {text}"
                )
        if shutil.which(self.arguments[0]) is None:
            raise MissingDependencyError(f"The program {self.arguments[0]!r} is not on the path; install it.")

    def check_voices(self, voices: list[str]) -> None:
        """Do nothing: only the program knows its voices."""

    def speak(self, text: str, voice: str, phones: Sequence[str] | None = None) -> Speech:
        """Run the command for one text; `phones` fill `{phones}`, when the command has it.

        Raises:
            ConfigError: the command wants phones and there are none, the program failed, or wrote no readable wav.
        """
        if self.takes_phones and phones is None:
            raise ConfigError(f"The command {self.name!r} reads phones, but for {text[:60]!r} there are none.")
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "speech.wav"
            values = {"{text}": text, "{voice}": voice, "{wav}": str(wav), "{phones}": " ".join(phones or ())}
            result = subprocess.run(
                [_fill(argument, values) for argument in self.arguments], capture_output=True, text=True, check=False
            )
            if result.returncode != 0 or not wav.is_file():
                raise ConfigError(
                    f"{self.arguments[0]} could not speak {text[:60]!r} as {voice!r}: "
                    f"{result.stderr.strip() or 'it wrote no wav file'}"
                )
            try:
                waveform, sample_rate = soundfile.read(wav, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise ConfigError(
                    f"{self.arguments[0]} wrote no readable wav for {text[:60]!r} as {voice!r}: {error}"
                ) from error
        return Speech(waveform.mean(axis=1), sample_rate, ())

    def _has(self, field: str) -> bool:
        return any(field in argument for argument in self.arguments)


def _fill(argument: str, values: dict[str, str]) -> str:
    parts = [argument]
    for field in values:  # a field inside the user's text is not filled: only the template is split
        parts = [piece for part in parts for piece in _split_keep(part, field)]
    return "".join(values.get(part, part) for part in parts)


def _split_keep(part: str, field: str) -> list[str]:
    pieces = part.split(field)
    return [item for piece in pieces[:-1] for item in (piece, field)] + [pieces[-1]]
