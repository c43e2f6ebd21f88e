"""A command: a function, whose parameters and configs are the command's words and options.

    "tokenize MANIFEST OUT": tokenize                 # in COMMANDS of a module of this package
    def tokenize(manifest: Path, out: Path, shards: ShardsConfig, processes: int = 1) -> None
    vocable tokenize dev.jsonl tokens/ --minutes-per-shard 10

Every parameter, and every field of a config, is an option (`--minutes-per-shard 10`, `--minutes_per_shard=10`) and a
setting (`minutes_per_shard=10`). Fields of nested configs have dotted names (`kmeans.seed=1`), of which the last word
is enough where it is the only one. Lists are written with commas; null stands for None.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vocable.cli.settings import Setting, find_definition, read_parameters, read_settings, read_summary
from vocable.errors import ConfigError
from vocable.registry import nearest_name

SETTING = re.compile(r"[A-Za-z_][\w.-]*=")
CONFIG = Setting("config", "path", default="", doc="Yaml file with settings; those on the command line replace them.")


@dataclass(frozen=True)
class Command:
    """A function, and how its parameters are given on the command line.

    The fields of a config that a parameter takes are settings of their own. A parameter `overrides` gets the settings
    of a config that the function builds by itself: those of the dataclass in its annotation, or any, where a file says
    which they are.
    """

    function: Callable[..., Any] | str
    """The function, or "module:name" of one that is not imported before it runs."""
    words: str = ""
    """Settings that are given by their place: MANIFEST OUT; a list takes the words that others leave: FILES..."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Shorter names of settings: {"clusters": "kmeans.num_clusters"}."""
    through: Callable[..., None] | None = None
    """A function that is called instead, with this one, a parameter or more of its own, and the settings of both."""

    @property
    def usage(self) -> str:
        """The words that are given by their place, in capitals."""
        return self.words

    @property
    def places(self) -> list[str]:
        """Names of the settings that are given by their place."""
        return [word.strip(".").lower() for word in self.usage.split()]

    @property
    def home(self) -> tuple[str, str]:
        """Module and name of the function."""
        if isinstance(self.function, str):
            return tuple(self.function.split(":"))  # type: ignore[return-value]
        return self.function.__module__, self.function.__name__

    @functools.cached_property
    def parameters(self) -> list[Setting]:
        """The parameters of the function, and of the one that it is called through."""
        own = list(read_parameters(*self.home))
        outer = [] if self.through is None else read_parameters(*Command(self.through).home)
        return list({one.name: one for one in [*own, *outer]}.values())

    @functools.cached_property
    def parts(self) -> dict[str, list[Setting]]:
        """The settings of each parameter of the function."""
        return {
            one.name: list(read_settings(*one.config)) if one.config else [one] * (one.name != "overrides")
            for one in self.parameters
        }

    @functools.cached_property
    def settings(self) -> dict[str, Setting]:
        """All settings by their dotted names; what several parameters ask for is given once."""
        found: dict[str, Setting] = {}
        for setting in (setting for part in self.parts.values() for setting in part):
            found.setdefault(setting.name, setting)
        return found

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, name = self.home
        return getattr(importlib.import_module(module), name) if isinstance(self.function, str) else self.function

    def run(self, arguments: Sequence[str]) -> None:
        """Parse the words after the command and call the function.

        Raises:
            ConfigError: an option is unknown (the nearest is named), missing, or has a wrong value.
        """
        values, function = self.configs(*self.parse(arguments)), self.load()
        if self.through is not None:
            function = functools.partial(self.through, function)
        function(**values)

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Sort words into values of settings, by dotted name, and settings that only the command itself knows."""
        given: dict[str, Any] = {}
        free: list[str] = []
        placed: list[str] = []
        rest = list(arguments)
        is_open = self.parts.get("overrides") == []
        while rest:
            word = rest.pop(0)
            key, equals, text = word.partition("=")
            is_path = len(placed) < len(self.places) and Path(word).exists()  # and there is a place for it
            if word == "--":
                placed, rest = [*placed, *rest], []
            elif word.startswith("-") and len(word) > 1:
                setting = self.find(key)
                if not equals and setting.type == "switch":
                    text = rest.pop(0) if rest[:1] in (["true"], ["false"], ["null"]) else "true"
                elif not equals:
                    if not rest or rest[0].startswith("--"):
                        raise ConfigError(f"{key} needs a value: {setting.type}.")
                    text = rest.pop(0)
                _give(given, setting, text)
            elif SETTING.match(word) and not is_path and (setting := self.resolve(key)):
                _give(given, setting, text)
            elif SETTING.match(word) and not is_path and is_open:
                free.append(word)
            else:
                placed.append(word)
        names = [name for name in self.places if name not in given]
        several = next((index for index, name in enumerate(names) if self.settings[name].is_list), None)
        if several is not None and len(placed) >= len(names):
            end = len(placed) - (len(names) - several - 1)
            values = [*placed[:several], placed[several:end], *placed[end:]]
            return dict(zip(names, values)) | given, free
        if len(placed) > len(names):
            extra = placed[len(names)]
            if SETTING.match(extra):
                self.find(extra.partition("=")[0])
            raise ConfigError(f"{extra!r} is one word too many: the command takes {self.usage or 'options only'}.")
        return dict(zip(names, placed)) | given, free

    def configs(self, given: Mapping[str, Any], free: Sequence[str] = ()) -> dict[str, Any]:
        """Build the configs that the function takes from the values of settings.

        Raises:
            ConfigError: a required setting is missing, or a value is of the wrong type or out of range.
        """
        from vocable.config import config_from_dict, nest, read_yaml

        file = None if "config" in self.settings else given.get("config")
        below = read_yaml(Path(file)) if file else {}
        for name in below:
            self.find(name, source=f"{file}: ")  # unknown: names the nearest one
        values = nest({key: value for key, value in given.items() if key != "config" or not file}, below)
        for setting in self.required():
            if setting.name not in values:
                shown = setting.name.upper() if setting.name in self.places else _option(setting.name)
                raise ConfigError(f"{shown} is missing: {setting.doc or setting.type}")
        source, built = str(file or ""), {}
        plain = [one.name for one in self.parameters if not one.config and one.name != "overrides"]
        if plain:
            made = dataclasses.make_dataclass("Parameters", [(name, kind, None) for name, kind in self.kinds(plain)])
            chosen = {name: values[name] for name in plain if name in values}
            checked = config_from_dict(made, chosen, source)
            built = {name: getattr(checked, name) for name in chosen}
        for one in self.parameters:
            part = self.parts[one.name]
            if one.name == "overrides":
                said = {**below, **given}
                own = [f"{s.name}={json.dumps(said[s.name])}" for s in part if s.name in said]
                built[one.name] = (*own, *free)
            elif one.config:
                top = {setting.name: values[setting.name] for setting in part if setting.name in values}
                config = getattr(importlib.import_module(one.config[0]), one.config[1])
                built[one.name] = config_from_dict(config, top, source)
        return built

    def kinds(self, names: Sequence[str]) -> list[tuple[str, Any]]:
        """The types of plain parameters; the annotations of others may name what is imported for type checkers."""
        found: dict[str, Any] = {}
        for function in map(inspect.unwrap, filter(inspect.isfunction, (self.load(), self.through))):
            written = {name: kind for name, kind in function.__annotations__.items() if name in names}
            found |= typing.get_type_hints(types.SimpleNamespace(__annotations__=written), function.__globals__)
        return [(name, found[name]) for name in names]

    def required(self) -> list[Setting]:
        """Settings without a default."""
        parts = (part for name, part in self.parts.items() if name != "overrides")
        return [setting for part in parts for setting in part if setting.default is None and "." not in setting.name]

    def resolve(self, key: str) -> Setting | None:
        """Return the setting of an option or name, in either spelling; None where there is none."""
        name = key.lstrip("-").replace("-", "_")
        name = self.short.get(name, name)
        ends = [full for full in self.settings if full.endswith(f".{name}")]
        if name in self.settings or len(ends) == 1:
            return self.settings.get(name) or self.settings[ends[0]]
        is_inside = any(name.startswith(f"{full}.") and setting.is_open for full, setting in self.settings.items())
        return Setting(name) if is_inside else CONFIG if name == "config" else None

    def find(self, key: str, source: str = "") -> Setting:
        """Return the setting of an option or name.

        Raises:
            ConfigError: there is none; the nearest one is named.
        """
        if setting := self.resolve(key):
            return setting
        is_option = key.startswith("-")
        name, names = key.lstrip("-").replace("-", "_"), [*self.settings, *self.short, "help"]
        guess = nearest_name(name, names) or nearest_name(name, [known.rsplit(".")[-1] for known in names])
        hint = f" Did you mean {(_option(guess) if is_option else guess)!r}?" if guess else ""
        raise ConfigError(f"{source}Unknown {'option' if is_option else 'setting'} {key!r}.{hint}")

    @property
    def summary(self) -> str:
        """Summary of the command in one line."""
        return read_summary(*self.home)

    @property
    def explanation(self) -> str:
        """Explanation of the command: the docstring of its function, without parameters and errors."""
        found = find_definition(*self.home)
        text = ast.get_docstring(found[1]) if found and not isinstance(found[1], ast.expr) else None
        return re.split(r"\n\n(?:Args|Returns|Raises):\n", text or "")[0]

    def help(self, name: str) -> str:
        """Explain the command: its words, its options, and the settings of its configs."""
        width = min(shutil.get_terminal_size().columns, 110)
        shown = [s for key, s in self.settings.items() if not s.config and key not in self.short.values()]
        nested = [setting for setting in shown if "." in setting.name]
        options = [setting for setting in shown if setting not in nested and setting.name not in self.places]
        options += [replace(self.settings[long], name=short) for short, long in self.short.items()]
        options += [CONFIG] * bool(nested and "config" not in self.settings)
        options.sort(key=lambda setting: setting.default is not None)
        placed = [replace(self.settings[place], is_list=False) for place in self.places]
        needed = [f"{_option(s.name)} {s.name.upper()}" for s in self.required() if s.name not in self.places]
        usage = ["usage: vocable", name, self.usage, *needed, "[options]" if options else ""]
        text = [" ".join(filter(None, usage)), *_paragraphs(self.explanation, width)]
        for title, chosen, show in (
            ("words", placed, str.upper),
            ("options", options, _option),
            ("settings, written name=value", nested, str),
        ):
            text += ["", f"{title}:"] * bool(chosen)
            text += [line for setting in chosen for line in _entry(show(setting.name), setting, width)]
        return "\n".join(text)


def _give(given: dict[str, Any], setting: Setting, text: str) -> None:
    """Note the value of a setting; a list that is given twice is one list."""
    value, before = read_value(setting, text), given.get(setting.name)
    given[setting.name] = [*before, *value] if isinstance(before, list) and isinstance(value, list) else value


def read_value(setting: Setting, text: str) -> Any:
    """Turn the text of a setting into a value that its config can check: None, a list, or the text itself."""
    import yaml

    if text == "null" and (setting.is_optional or not setting.is_text):
        return None
    if setting.type == "text or path":
        return as_path(text)
    if setting.is_list:
        return yaml.safe_load(text) if text.startswith("[") else [p for part in text.split(",") if (p := part.strip())]
    return text if setting.is_text else yaml.safe_load(text)


def as_path(text: str) -> str | Path:
    """Take a text for a path where it looks like one: a file that is there, a separator, or the suffix of audio."""
    from vocable.files import AUDIO_SUFFIXES

    is_path = "/" in text or os.sep in text or Path(text).suffix.lower() in AUDIO_SUFFIXES or Path(text).is_file()
    return Path(text) if is_path else text


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _entry(shown: str, setting: Setting, width: int) -> list[str]:
    """Two lines or more: name, type and default; then the docstring."""
    kind = {"switch": ""}.get(setting.type, setting.type) + (", several with commas" if setting.is_list else "")
    default = "required" if setting.default is None else f"default {setting.default}" if setting.default else ""
    if setting.type == "switch" and setting.default == "false":
        default = ""
    head = f"  {shown}  {', '.join(filter(None, (kind, default)))}".rstrip()
    doc = textwrap.wrap(setting.doc, width - 6, break_on_hyphens=False)
    return [head, *(" " * 6 + line for line in doc)]


def _paragraphs(text: str, width: int) -> list[str]:
    """Fill paragraphs; examples, lines that begin with `vocable`, stay as they are."""
    lines: list[str] = []
    for part in re.split(r"\n\n+", text.strip("\n")):
        rows = [row.strip() for row in part.splitlines()]
        examples = rows[0].startswith("vocable ")
        lines += ["", *(f"  {row}" for row in rows)] if examples else ["", *textwrap.wrap(" ".join(rows), width)]
    return lines
