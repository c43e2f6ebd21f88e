"""The command line itself: finding commands, their settings, errors, help, exit codes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from vocable import cli
from vocable.cli.command import Command
from vocable.cli.evaluate import BenchmarkCommand
from vocable.errors import ConfigError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A shape."""

    num_sides: int = 3
    """Sides of the shape."""
    start_seconds: float | None = None
    """When it begins."""

    def __post_init__(self) -> None:
        if self.num_sides < 3:
            raise ConfigError(f"shape.num_sides is {self.num_sides}; a shape needs 3.")


@dataclass(frozen=True, kw_only=True)
class Base:
    strict: bool = False
    """Stop at a problem."""


@dataclass(frozen=True, kw_only=True)
class Parting(Base):
    first: Path
    """What stands first."""


@dataclass(frozen=True, kw_only=True)
class Drawing(Base):
    shape: Shape = field(default_factory=lambda: Shape(num_sides=4))
    """What is drawn."""


calls: list = []


def join(
    first: Path,
    others: Sequence[Path] = (),
    second: int = 2,
    names: tuple[str, ...] | None = None,
    mode: Literal["fast", "slow"] = "fast",
    tokens: Path | None = None,
    voice: str | Path | None = None,
    loud: bool = True,
    strict: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Join things.

    One long
    sentence.

    vocable things join a b    an example
    vocable things join a      another

    Args:
        first: what stands first.
        others: what follows.
        second: a number.
        names: what to call them.
        mode: how.
        tokens: a folder.
        voice: who speaks.
        loud: say
            so.
        strict: stop at a problem.
        report: for Python alone.
    """
    calls.append({name: value for name, value in locals().items() if name != "report"})


def joining(first: Path, **given: object) -> dict:
    """What `join` is called with."""
    usual = {"others": (), "second": 2, "names": None, "mode": "fast", "tokens": None, "voice": None, "loud": True}
    return {"first": first, **usual, "strict": False, **given}


def draw(config: Parting, drawing: Drawing, second: int = 2) -> None:
    """Draw things."""
    calls.append((config, drawing, second))


def change(config: Base, overrides: Sequence[str] = ()) -> None:
    """Change things."""
    calls.append(overrides)


def reshape(config: Base, overrides: Annotated[tuple[str, ...], Shape] = ()) -> None:
    """Change a shape."""
    calls.append(overrides)


def fail(config: Base) -> None:
    """Always fail."""
    raise ConfigError("x is 1; it must be 2.")


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@pytest.fixture
def commands(monkeypatch):
    table = {
        "things change": Command(change),
        "things draw": Command(draw, "FIRST", {"sides": "shape.num_sides"}),
        "things fail": Command(fail),
        "things join": Command(join, "FIRST OTHERS..."),
        "things reshape": Command(reshape),
    }
    monkeypatch.setattr(cli, "find_commands", lambda first=None: table)
    return table


def run(*words: str, name: str = "join"):
    assert cli.main(["things", name, *words]) == 0
    return calls[-1]


def refused(capsys, *words: str, name: str = "join") -> str:
    assert cli.main(["things", name, *words]) == 2
    assert not calls
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a", {}),
        ("a b c", {"others": [Path("b"), Path("c")]}),
        ("--second 5 a --strict b", {"second": 5, "strict": True, "others": [Path("b")]}),
        ("a --loud false --second=7", {"loud": False, "second": 7}),
        ("a second=-7 loud=false", {"loud": False, "second": -7}),
        ("a --names x,y", {"names": ("x", "y")}),
        ("a --names 'x, y' --names z", {"names": ("x", "y", "z")}),
        ("a --names '[\"x,y\", z]'", {"names": ("x,y", "z")}),
        ("a --names null --tokens null", {}),
        ("a --tokens lr=0.1/tok", {"tokens": Path("lr=0.1/tok")}),
        ("a lr=0.1/tok '[id] a.wav'", {"others": [Path("lr=0.1/tok"), Path("[id] a.wav")]}),
        ("a -- --second", {"others": [Path("--second")]}),
        ("a mode=slow", {"mode": "slow"}),
    ],
)
def test_fields_are_words_and_options(commands, words, expected):
    assert run(*shlex.split(words)) == joining(Path("a"), **expected)


def test_a_file_whose_name_looks_like_a_setting_is_a_file(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("a", "second=7")["second"] == 7
    (tmp_path / "second=7").touch()
    assert run("a", "second=7") == joining(Path("a"), others=[Path("second=7")])


def test_both_spellings_of_an_option(commands):
    for word in ("--shape.num-sides=5", "--shape.num_sides=5", "shape.num-sides=5", "num_sides=5", "--sides=5"):
        assert run("a", word, name="draw")[1] == Drawing(shape=Shape(num_sides=5))


def test_several_configs_share_a_setting(commands):
    config, drawing, _ = run("a", "--strict", name="draw")
    assert config.strict and drawing.strict
    assert drawing.shape == Shape(num_sides=4)


def test_a_yaml_file_fills_what_the_line_does_not_say(commands, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("second: 9\nshape: {num_sides: 6, start_seconds: 1}\n")
    _, drawing, second = run("a", "--config", str(path), "shape.num_sides=7", name="draw")
    assert second == 9
    assert drawing.shape == Shape(num_sides=7, start_seconds=1.0)
    path.write_text("secnd: 9\n")
    calls.clear()
    assert "c.yaml: Unknown setting 'secnd'. Did you mean 'second'?" in refused(
        capsys, "a", "--config", str(path), name="draw"
    )


def test_settings_of_a_config_that_a_file_names_are_passed_on(commands, tmp_path):
    assert run("lm.x=3", "y=[1]", "--strict", name="change") == ("lm.x=3", "y=[1]")
    assert run("num_sides=5", "--start-seconds", "2", name="reshape") == ('num_sides="5"', 'start_seconds="2"')
    path = tmp_path / "c.yaml"
    path.write_text("num_sides: 6\nstart_seconds: 3\n")
    assert run("num_sides=5", "--config", str(path), name="reshape") == ('num_sides="5"', "start_seconds=3")


def test_errors_are_printed_without_a_traceback(commands, capsys):
    assert cli.main(["things", "fail"]) == 2
    assert capsys.readouterr().err == "vocable things fail: x is 1; it must be 2.\n"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("join", "", "FIRST is missing: What stands first."),
        ("join", "a --secnd 3", "Unknown option '--secnd'. Did you mean '--second'?"),
        ("join", "a --second", "--second needs a value: integer."),
        ("join", "a --tokens --strict", "--tokens needs a value: path."),
        ("join", "a --second x", "second is 'x'; input should be a valid integer"),
        ("join", "a --mode slwo", "mode is 'slwo'; input should be 'fast' or 'slow'. Did you mean 'slow'?"),
        ("draw", "a b", "'b' is one word too many: the command takes FIRST."),
        ("draw", "a secnd=3", "Unknown setting 'secnd'. Did you mean 'second'?"),
        ("draw", "a shape.num_side=3", "Unknown setting 'shape.num_side'. Did you mean 'shape.num_sides'?"),
        ("draw", "a shape.num_sides=2", "shape.num_sides is 2; a shape needs 3."),
        ("draw", "a --num-side 3", "Unknown option '--num-side'. Did you mean '--shape.num-sides'?"),
        ("reshape", "num_side=3", "Unknown setting 'num_side'. Did you mean 'num_sides'?"),
    ],
)
def test_mistakes_are_one_clear_line(commands, capsys, name, words, message):
    shown = refused(capsys, *shlex.split(words), name=name)
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["thing"], "Unknown command 'thing'. Did you mean 'things'?"),
        (["things", "jion"], "Unknown command 'things jion'. Did you mean 'things join'?"),
    ],
)
def test_misspelt_commands_get_the_nearest_one(commands, capsys, words, message):
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_help_shows_plain_types_defaults_and_docstrings(commands, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["--help"]) == 0
    assert re.search(r"things join +Join things\.\n", capsys.readouterr().out)
    assert cli.main(["things", "join", "--help"]) == 0
    shown = capsys.readouterr().out
    examples = "  vocable things join a b    an example\n  vocable things join a      another\n"
    assert f"Join things.\n\nOne long sentence.\n\n{examples}" in shown
    assert shown.startswith("usage: vocable things join FIRST OTHERS... [options]\n")
    for entry in (
        "  FIRST  path, required\n      What stands first.\n",
        "  OTHERS  path\n      What follows.\n",
        "  --second  integer, default 2\n      A number.\n",
        "  --names  text, several with commas\n      What to call them.\n",
        "  --mode  one of fast, slow, default fast\n      How.\n",
        "  --loud  default true\n      Say so.\n",
        "  --strict\n      Stop at a problem.\n",
    ):
        assert entry in shown
    assert cli.main(["things", "draw", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "  --sides  integer, default 4\n      Sides of the shape.\n" in shown
    assert shown.count("Sides of the shape.") == 1
    assert "  shape.start_seconds  seconds\n      When it begins.\n" in shown


def test_help_of_every_command_loads_no_heavy_library():
    script = (
        "import sys\nfrom vocable import cli\ncli.main(['--help'])\n"
        "for name in cli.find_commands(): assert cli.main([*name.split(), '--help']) == 0, name\n"
        "heavy = {'torch', 'numpy', 'transformers', 'pyarrow', 'pydantic', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_has_a_summary_an_example_and_documented_settings():
    for name, command in cli.find_commands().items():
        assert command.summary.endswith("."), name
        undocumented = [s.name for s in command.settings.values() if not s.doc and "." not in s.name]
        assert not undocumented, f"{name}: {undocumented}"
        shown = command.help(name)
        assert f"\n  vocable {name}" in shown, f"{name} has no example"
        assert "<class" not in shown and "Literal[" not in shown and "value" not in shown.split("\n\n", 1)[0], name


def test_examples_in_the_help_parse():
    commands = cli.find_commands()
    num_examples = 0
    for name, command in commands.items():
        for line in command.help(name).splitlines():
            words = shlex.split(line, comments=True) if line.startswith("  vocable ") else []
            if words:
                assert words[1 : 1 + len(name.split())] == name.split(), line
                command.configs(*command.parse(words[1 + len(name.split()) :]))
                num_examples += 1
    assert num_examples > 40


def around(function: Callable[..., None], out: Path, strict: bool = False, **settings: object) -> None:
    """Call a function.

    Args:
        out: what to write.
        strict: stop at any problem.
    """
    calls.append((function, out, strict, settings))


def test_a_command_may_call_its_function_through_another(monkeypatch):
    command = Command(join, "FIRST OUT", through=around)
    monkeypatch.setattr(cli, "find_commands", lambda first=None: {"things join": command})
    function, out, strict, settings = run("a", "b", "--strict", "--second", "3")
    assert (function, out, strict, settings) == (join, Path("b"), True, {"first": Path("a"), "second": 3})
    shown = command.help("things join")
    assert "  --strict\n      Stop at any problem." in shown and "  --loud  default true\n      Say so.\n" in shown
    assert "report" not in shown and "Args:" not in shown and "for Python" not in shown


def test_a_voice_is_a_name_or_a_path(commands, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("a", "--voice", "anna")["voice"] == "anna"
    assert run("a", "voice=me.FLAC")["voice"] == Path("me.FLAC")
    assert run("a", "--voice", "voices/anna")["voice"] == Path("voices/anna")
    (tmp_path / "anna").mkdir()
    assert run("a", "--voice", "anna")["voice"] == "anna"  # a folder is no recording
    (tmp_path / "bert").touch()
    assert run("a", "--voice", "bert")["voice"] == Path("bert")
    assert run("a", "--voice", "null")["voice"] is None


def test_every_command_with_a_voice_takes_a_recording():
    voices = [setting for command in cli.find_commands().values() for setting in command.settings.values()]
    voices = [setting for setting in voices if setting.name == "voice"]
    assert len(voices) == 9 and {setting.type for setting in voices} == {"text or path"}


def test_settings_agree_with_the_configs_themselves():
    """What is read from the source is what Python made of it: names and defaults."""
    seen = set()
    for command in cli.find_commands().values():
        function = inspect.signature(command.through or command.load()).parameters
        for parameter in command.parameters:
            if parameter.name in function and not isinstance(command, BenchmarkCommand):  # some need `out`
                needed = function[parameter.name].default is inspect.Parameter.empty
                assert (parameter.default is None) == needed, (command, parameter)
            if not parameter.config or parameter.config in seen:
                continue
            seen.add(parameter.config)
            config = getattr(importlib.import_module(parameter.config[0]), parameter.config[1])
            fields = {f.name: f for f in dataclasses.fields(config)}
            read = {s.name: s for s in command.parts[parameter.name] if "." not in s.name}
            assert set(read) == set(fields), parameter
            for name, setting in read.items():
                needed = all(d is dataclasses.MISSING for d in (fields[name].default, fields[name].default_factory))
                assert (setting.default is None) == needed, (parameter, name)
    assert len(seen) >= 10


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(before, after):
    """The setting counts only if it is there when torch is loaded: the command line must not have loaded it."""
    code = "import os, sys; from vocable import cli; loaded = 'torch' in sys.modules; cli.main(['--version'])\n"
    code += "print(loaded, os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == f"False {after}"
