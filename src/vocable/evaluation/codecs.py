"""Codecs of others, as baselines: Opus as it comes with libsndfile, or any that can be called by command lines.

    opus
    opus_6k = opusenc --bitrate 6 {input} {coded}; opusdec --rate 16000 {coded} {output}
    codec2 = ffmpeg -i {input} -ar 8000 -f s16le {folder}/in; c2enc 700C {folder}/in {coded};
             c2dec 700C {coded} {folder}/out; ffmpeg -f s16le -ar 8000 -i {folder}/out {output}

A command is started without a shell. `{input}` is a recording (wav, mono, 16 bits), `{output}` the wav that the last
command writes, `{coded}` the compressed file, whose size, container included, gives the bit rate, and `{folder}` a
folder for anything else.
"""

import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import read_audio
from vocable.audio.writing import encode_audio, write_audio
from vocable.errors import AudioFormatError, ConfigError, MissingDependencyError

NAME = re.compile(r"[a-z]\w*", re.ASCII | re.IGNORECASE)
FILES = {"input": "input.wav", "coded": "coded", "output": "output.wav", "folder": "."}
TIMEOUT_SECONDS = 600.0
"""Longest time that one command may take for one recording."""


class Coded(NamedTuple):
    """A recording after a codec."""

    waveform: Float[Tensor, " samples"]
    num_bytes: int | None
    """Size of the compressed file; None where no command names it."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec by name; without commands, Opus at the lowest rate that libsndfile asks for (about 6 kbit/s of sound)."""

    name: str
    commands: tuple[tuple[str, ...], ...] = ()

    def __call__(self, waveform: Float[Tensor, " samples"], sample_rate: int) -> Coded:
        """Compress a recording, and decode it at the same rate.

        Raises:
            ConfigError: a command fails, or no sound comes out.
        """
        with tempfile.TemporaryDirectory() as place:
            files = {name: Path(place) / file for name, file in FILES.items()}
            if self.commands:
                write_audio(files["input"], waveform, sample_rate)
                for command in self.commands:
                    self._run([re.sub(r"\{(\w+)\}", lambda found: str(files[found[1]]), word) for word in command])
            else:
                files["output"] = files["coded"]
                files["coded"].write_bytes(encode_audio(waveform, sample_rate, format="opus", compression=1.0))
            try:
                decoded = read_audio(files["output"], sample_rate).waveform
            except AudioFormatError as error:
                raise ConfigError(f"The codec {self.name!r} left no sound in {{output}}: {error}") from error
            return Coded(decoded, files["coded"].stat().st_size if files["coded"].is_file() else None)

    def _run(self, words: list[str]) -> None:
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"The codec {self.name!r}: {shlex.join(words)}: {error}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
            raise ConfigError(
                f"The codec {self.name!r}: {shlex.join(words)} ended with status {done.returncode}: {said[-1]}"
            )


def parse_codec(text: str) -> Codec:
    """Read `opus`, or `NAME = COMMAND; COMMAND`.

    Raises:
        ConfigError: it is neither, a place such as {input} is unknown, or no command has {input} or {output} in it.
        MissingDependencyError: a program is not installed.
    """
    name, equals, rest = (part.strip() for part in text.partition("="))
    if text.strip() == "opus":
        return Codec("opus")
    if not equals or not NAME.fullmatch(name):
        raise ConfigError(
            f"{text!r} is no codec. Write opus, or a name of letters, digits and _ with its commands: "
            "opus_6k = opusenc --bitrate 6 {input} {coded}; opusdec {coded} {output}"
        )
    try:
        commands = tuple(tuple(shlex.split(command)) for command in rest.split(";") if command.strip())
    except ValueError as error:
        raise ConfigError(f"The codec {name!r}: {rest}: {error}") from error
    places = {place for command in commands for word in command for place in re.findall(r"\{(\w+)\}", word)}
    if not {"input", "output"} <= places <= FILES.keys():
        raise ConfigError(
            f"The codec {name!r}: {rest!r} must name the files {{input}} and {{output}}; it may name {{coded}} and "
            "{folder} too, and no others."
        )
    for program, *_ in commands:
        if shutil.which(program) is None:
            raise MissingDependencyError(f"The codec {name!r} needs the program {program!r}, which is not installed.")
    return Codec(name, commands)
