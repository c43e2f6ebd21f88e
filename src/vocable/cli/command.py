"""A command: a function of configs, whose fields are the command's words and options.

    "tokenize MANIFEST OUT": tokenize                 # in COMMANDS of a module of this package
    def tokenize(config: TokenizeConfig) -> None      # vocable tokenize dev.jsonl tokens/ --minutes-per-shard 10

Every field is an option (`--minutes-per-shard 10`, `--minutes_per_shard=10`) and a setting (`minutes_per_shard=10`).
Fields of nested configs have dotted names (`kmeans.seed=1`), of which the last word is enough where it is the only one.
Lists are written with commas; null stands for None.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vocable.cli.settings import Setting, find_definition, is_config, read_settings
from vocable.errors import ConfigError
from vocable.registry import nearest_name

SETTING = re.compile(r"[A-Za-z_][\w.-]*=")
CONFIG = Setting("config", "path", default="", doc="Yaml file with settings; those on the command line replace them.")


@dataclass(frozen=True)
class Command:
    """A function of configs, and how these are given on the command line.

    A parameter `overrides` gets the settings of a config that the function builds by itself: those of the dataclass in
    its annotation, or any, where a file says which they are.
    """

    function: Callable[..., None]
    words: str = ""
    """Settings that are given by their place: MANIFEST OUT; the last one takes all words that are left: FILES..."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Shorter names of settings: {"clusters": "kmeans.num_clusters"}."""

    @property
    def places(self) -> list[str]:
        """Names of the settings that are given by their place."""
        return [word.strip(".").lower() for word in self.usage.split()]

    @property
    def usage(self) -> str:
        """The words that are given by their place, in capitals."""
        return self.words

    @functools.cached_property
    def parts(self) -> dict[str, list[Setting]]:
        """The settings of each parameter of the function."""
        names = inspect.signature(self.function).parameters
        return {name: list(read_settings(*kind)) if (kind := self.config_of(name)) else [] for name in names}

    @functools.cached_property
    def settings(self) -> dict[str, Setting]:
        """All settings by their dotted names; what several configs ask for is given once."""
        found: dict[str, Setting] = {}
        for setting in (setting for part in self.parts.values() for setting in part):
            found.setdefault(setting.name, setting)
        return found

    def config_of(self, parameter: str) -> tuple[str, str] | None:
        """Module and name of the config that a parameter takes; None for open settings."""
        annotation = inspect.signature(self.function).parameters[parameter].annotation
        if isinstance(annotation, type):
            return annotation.__module__, annotation.__name__
        node = ast.parse(annotation, mode="eval").body
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):  # Annotated[tuple[str, ...], Config]
            node = node.slice.elts[-1]
        found = find_definition(self.function.__module__, node.id) if isinstance(node, ast.Name) else None
        return (found[0], found[1].name) if found and is_config(found[1]) else None  # type: ignore[union-attr]

    def run(self, arguments: Sequence[str]) -> None:
        """Parse the words after the command and call the function.

        Raises:
            ConfigError: an option is unknown (the nearest is named), missing, or has a wrong value.
        """
        self.function(**self.configs(*self.parse(arguments)))

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
        if names and self.settings[names[-1]].is_list and len(placed) >= len(names):
            given[names[-1]] = placed[len(names) - 1 :]
        elif len(placed) > len(names):
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
        built: dict[str, Any] = {}
        for name, part in self.parts.items():
            top = {setting.name: values[setting.name] for setting in part if setting.name in values}
            if name == "overrides":
                said = {**below, **given}
                own = [f"{s.name}={json.dumps(said[s.name])}" for s in part if s.name in said]
                built[name] = (*own, *free)
            elif kind := self.config_of(name):
                config = getattr(importlib.import_module(kind[0]), kind[1])
                built[name] = config_from_dict(config, top, source=str(file or ""))
        return built

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
        return self.explanation.split("\n", 1)[0]

    @property
    def explanation(self) -> str:
        """Explanation of the command: its function's docstring."""
        return (inspect.getdoc(self.function) or "").strip()

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
    if setting.is_list:
        return yaml.safe_load(text) if text.startswith("[") else [p for part in text.split(",") if (p := part.strip())]
    return text if setting.is_text else yaml.safe_load(text)


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
