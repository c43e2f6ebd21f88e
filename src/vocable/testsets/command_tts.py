"""Speech from text with any synthesiser that is a command line program, espeak-ng for example.

espeak-ng -v {voice} -w {wav} {text}    ->    a wav file per text; no word times

A program that reads phonemes gets them through `{phones}`, with spaces between them. One that takes longer than
`timeout_seconds` over a text is ended, with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import soundfile

from vocable.errors import ConfigError, MissingDependencyError
from vocable.testsets.speech import Speech

TIMEOUT_SECONDS = 120.0
"""How long a program may take over one text, unless the user says otherwise."""


class CommandSynthesizer:
    """Runs a command once per text; `{text}`, `{phones}`, `{voice}` and `{wav}` in it are filled in.

    Args:
        command: the command line; it is split as a shell would, but no shell runs it.
        timeout_seconds: how long it may take over one text.

    Raises:
        ConfigError: the command lacks `{wav}`, or both `{text}` and `{phones}`; or the timeout is not above 0.
        MissingDependencyError: the program is not on the path.
    """

    def __init__(self, command: str, timeout_seconds: float = TIMEOUT_SECONDS):
        self.arguments = shlex.split(command)
        self.name = command
        self.timeout_seconds = check_timeout(timeout_seconds)
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
            ConfigError: the command wants phones and there are none; the program failed, took too long, or wrote no
                readable wav.
        """
        if self.takes_phones and phones is None:
            raise ConfigError(f"The command {self.name!r} reads phones, but for {text[:60]!r} there are none.")
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "speech.wav"
            values = {"{text}": text, "{voice}": voice, "{wav}": str(wav), "{phones}": " ".join(phones or ())}
            try:
                status, said = _run([_fill(argument, values) for argument in self.arguments], self.timeout_seconds)
            except subprocess.TimeoutExpired as error:
                raise ConfigError(
                    f"{self.arguments[0]} took longer than {self.timeout_seconds:g} s over {text[:60]!r} as {voice!r} "
                    "and was ended. Does it wait for input? If it is only slow, allow more: --timeout-seconds"
                ) from error
            if status != 0 or not wav.is_file():
                raise ConfigError(
                    f"{self.arguments[0]} could not speak {text[:60]!r} as {voice!r}: "
                    f"{said.strip() or 'it wrote no wav file'}"
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


def check_timeout(seconds: float) -> float:
    """Return the timeout.

    Raises:
        ConfigError: it is not above 0.
    """
    if not seconds > 0:
        raise ConfigError(f"timeout_seconds is {seconds}; it must be above 0.")
    return seconds


def _run(arguments: Sequence[str], timeout_seconds: float) -> tuple[int, str]:
    """Run a program with no input; return its status and what it wrote to stderr.

    It has a process group of its own: what a script started ends with it, when time is up or this process is stopped.
    """
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _, said = process.communicate(timeout=timeout_seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


def _fill(argument: str, values: dict[str, str]) -> str:
    parts = [argument]
    for field in values:  # a field inside the user's text is not filled: only the template is split
        parts = [piece for part in parts for piece in _split_keep(part, field)]
    return "".join(values.get(part, part) for part in parts)


def _split_keep(part: str, field: str) -> list[str]:
    pieces = part.split(field)
    return [item for piece in pieces[:-1] for item in (piece, field)] + [pieces[-1]]
