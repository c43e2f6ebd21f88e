"""A command: a function of configs, whose fields are the command's words and options.

    "tokenize MANIFEST OUT": tokenize                 # in COMMANDS of a module of this package
    def tokenize(config: TokenizeConfig) -> None      # vocable tokenize dev.jsonl tokens/ --minutes-per-shard 10

Every field is an option (`--minutes-per-shard 10`, `--minutes_per_shard=10`) and a setting (`minutes_per_shard=10`);
fields of nested configs have dotted names (`kmeans.seed=1`). Lists are written with commas. null stands for None.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vocable.cli.settings import Setting, describe, find_definition, is_config, read_settings
from vocable.errors import ConfigError
from vocable.registry import nearest_name

SETTING = re.compile(r"[A-Za-z_][\w.-]*=")


@dataclass(frozen=True)
class Command:
    """A function, and how its settings are given on the command line."""

    function: Callable[..., None]
    words: str = ""
    """Settings that are given by their place: MANIFEST OUT; the last one takes all words that are left: FILES..."""
    short: Mapping[str, str] = field(default_factory=dict)
    """Shorter names of settings: {"clusters": "kmeans.num_clusters"}."""
    kinds: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Module and name of the configs that the function's annotations do not name, by parameter."""
    doc: str = ""
    """What the command does; without it, the function's docstring."""

    @property
    def places(self) -> list[str]:
        """Names of the settings that are given by their place."""
        return [word.strip(".").lower() for word in self.words.split()] or self._required_arguments()

    @functools.cached_property
    def settings(self) -> dict[str, Setting]:
        """All settings by their dotted names."""
        found: dict[str, Setting] = {}
        for setting in (setting for part in self.parts.values() for setting in part):
            found.setdefault(setting.name, setting)  # what several configs ask for is given once
        return found

    @functools.cached_property
    def parts(self) -> dict[str, list[Setting]]:
        """The settings of each parameter of the function."""
        return {name: list(self._settings_of(name)) for name in inspect.signature(self.function).parameters}

    @property
    def is_open(self) -> bool:
        """Takes settings that only the command itself knows, since a file says whose they are."""
        return self.parts.get("overrides") == []

    def run(self, arguments: Sequence[str]) -> None:
        """Parse the words behind the command and call the function.

        Raises:
            ConfigError: an option is unknown (the nearest is named), missing, or has a wrong value.
        """
        self.function(**self.configs(*self.parse(arguments)))

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Sort words into values of settings, by dotted name, and settings that only the command itself knows."""
        given: dict[str, Any] = {}
        free: list[str] = []
        places: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            key, equals, text = word.partition("=")
            if word == "--":
                places, rest = [*places, *rest], []
            elif word.startswith("-") and len(word) > 1:
                setting = self._find(key)
                if not equals and setting.type == "switch":
                    text = rest.pop(0) if rest[:1] in (["true"], ["false"], ["null"]) else "true"
                elif not equals:
                    if not rest or rest[0].startswith("--"):
                        raise ConfigError(f"{key} needs a value: {setting.type}.")
                    text = rest.pop(0)
                self._give(given, setting, text)
            elif SETTING.match(word) and self._knows(key) and not self._is_place(word, places):
                self._give(given, self._find(key), text)
            elif SETTING.match(word) and self.is_open and not self._is_place(word, places):
                free.append(word)
            else:
                places.append(word)
        return given | self._placed(places, given), free

    def configs(self, given: Mapping[str, Any], free: Sequence[str] = ()) -> dict[str, Any]:
        """Build the configs that the function takes from the values of settings.

        Raises:
            ConfigError: a required setting is missing, or a value is of the wrong type or out of range.
        """
        import json

        from vocable.config import config_from_dict, nest, read_yaml

        dotted = dict(given)
        file = dotted.pop("config", None) if "config" not in self.settings else None
        values = nest(dotted, below=read_yaml(Path(file)) if file else {})
        for name in values:
            self._find(name, source=f"{file}: ")  # unknown: names the nearest one
        for setting in self._required():
            if setting.name not in values:
                shown = setting.name.upper() if setting.name in self.places else _option(setting.name)
                raise ConfigError(f"{shown} is missing: {setting.doc or setting.type}")
        built: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        for name, part in self.parts.items():
            kind = self._config_of(name)
            chosen = {s.name: values[s.name] for s in part if s.name in values}
            if name == "overrides":
                own = {key: value for key, value in dotted.items() if key in {s.name for s in part}}
                built[name] = (*(f"{key}={json.dumps(value)}" for key, value in own.items()), *free)
            elif kind is None:
                plain |= chosen
            else:
                config = getattr(importlib.import_module(kind[0]), kind[1])
                built[name] = config_from_dict(config, chosen, source=str(file) if file else "")
        return built | self._arguments(plain)

    def help(self, name: str) -> str:
        """Explain the command: its words, its options, and the settings of its configs."""
        width = min(shutil.get_terminal_size().columns, 110)
        renamed = [replace(self.settings[long], name=short) for short, long in self.short.items()]
        shown = [s for key, s in self.settings.items() if not s.config and key not in self.short.values()]
        placed = [self.settings[place] for place in self.places]
        options = [setting for setting in shown if "." not in setting.name and setting not in placed] + renamed
        options.sort(key=lambda setting: setting.default is not None)
        nested = [setting for setting in shown if "." in setting.name]
        needed = [f"{_option(s.name)} {s.name.upper()}" for s in self._required() if s not in placed]
        usage = ["vocable", name, *(self.words.split() or [place.upper() for place in self.places]), *needed]
        text = [
            f"usage: {' '.join(usage)}{' [options]' if options else ''}",
            *_paragraphs(self._explanation(), width),
        ]
        for title, chosen, show in (
            ("words", [replace(setting, is_list=False) for setting in placed], str.upper),
            ("options", options, _option),
            ("settings, written name=value", nested, str),
        ):
            text += ["", f"{title}:"] * bool(chosen)
            for setting in chosen:
                text += _entry(show(setting.name), setting, width)
        return "\n".join(text)

    @property
    def summary(self) -> str:
        """What the command does, in one line."""
        return self._explanation().split("\n", 1)[0]

    def _explanation(self) -> str:
        return (self.doc or inspect.getdoc(self.function) or "").split("\nArgs:", 1)[0].strip()

    def _required(self) -> list[Setting]:
        parts = (part for name, part in self.parts.items() if name != "overrides")
        return [s for part in parts for s in part if s.default is None and "." not in s.name]

    def _find(self, key: str, source: str = "") -> Setting:
        """The setting of an option or of a name, in either spelling.

        Raises:
            ConfigError: there is none; the nearest one is named.
        """
        name = key.removeprefix("--").replace("-", "_")
        name = self.short.get(name, name)
        if name in self.settings:
            return self.settings[name]
        if name == "config" and any(self._config_of(part) for part in self.parts):
            return Setting("config", "path")
        if self._knows(name):
            return Setting(name)
        names = [*self.settings, *self.short, "help"]
        guess = nearest_name(name, names) or nearest_name(name.rsplit(".")[-1], names)
        show = _option if key.startswith("-") else str
        hint = f" Did you mean {show(guess)!r}?" if guess else ""
        raise ConfigError(f"{source}Unknown {'option' if key.startswith('-') else 'setting'} {key!r}.{hint}")

    def _knows(self, key: str) -> bool:
        """Whether `key` is a setting, or lies in one that holds further values."""
        name = key.replace("-", "_")
        parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]
        open_parent = any(p in self.settings and not self.settings[p].config and not self.settings[p].is_text
                          for p in parents)  # fmt: skip
        return name in self.settings or name in self.short or open_parent

    def _is_place(self, word: str, places: Sequence[str]) -> bool:
        """Whether a word with = in it is a path, not a setting: such a file is there, and a place for it is free."""
        return len(places) < len(self.places) and Path(word).exists()

    def _give(self, given: dict[str, Any], setting: Setting, text: str) -> None:
        value = read_value(setting, text)
        before = given.get(setting.name)
        given[setting.name] = [*before, *value] if isinstance(before, list) and isinstance(value, list) else value

    def _placed(self, words: list[str], given: Mapping[str, Any]) -> dict[str, Any]:
        """Give words to the settings that stand at their places."""
        names = [name for name in self.places if name not in given]
        found: dict[str, Any] = dict(zip(names, words))
        if names and self.settings[names[-1]].is_list and len(words) >= len(names):
            found[names[-1]] = words[len(names) - 1 :]
        elif len(words) > len(names):
            extra = words[len(names)]
            if SETTING.match(extra):
                self._find(extra.partition("=")[0])
            expected = " ".join(name.upper() for name in self.places) or "no words without an option"
            raise ConfigError(f"{extra!r} is one word too many: the command takes {expected}.")
        return found

    def _config_of(self, parameter: str) -> tuple[str, str] | None:
        """Module and name of the dataclass that a parameter takes; None for another type."""
        if parameter in self.kinds:
            return self.kinds[parameter]
        annotation = inspect.signature(self.function).parameters[parameter].annotation
        node = ast.parse(annotation, mode="eval").body if isinstance(annotation, str) else None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
            node = node.slice.elts[-1]  # type: ignore[union-attr]
        name = node.id if isinstance(node, ast.Name) else getattr(annotation, "__name__", "")
        found = find_definition(self.function.__module__, name) if name else None
        return (found[0], found[1].name) if found and is_config(found[1]) else None  # type: ignore[union-attr]

    def _settings_of(self, parameter: str) -> Iterator[Setting]:
        kind = self._config_of(parameter)
        if kind is not None:
            yield from read_settings(*kind)
        elif parameter != "overrides":
            yield self._argument(parameter)

    # Functions whose parameters are the settings themselves.

    def _required_arguments(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters.values()
        required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        return [p.name for p in required if p.name != "overrides" and self._config_of(p.name) is None]

    def _argument(self, name: str) -> Setting:
        parameter = inspect.signature(self.function).parameters[name]
        annotation = parameter.annotation if isinstance(parameter.annotation, str) else (
            getattr(parameter.annotation, "__name__", "") if isinstance(parameter.annotation, type)
            else str(parameter.annotation).replace("typing.", "").replace("pathlib.", ""))  # fmt: skip
        setting = describe(ast.parse(annotation, mode="eval").body, self.function.__module__, name)
        entry = re.search(rf"^    {name}: (.*?)(?=^    \w+: |\Z|^\S)", inspect.getdoc(self.function) or "", re.M | re.S)
        default = None if parameter.default is parameter.empty else parameter.default
        shown = (
            None
            if parameter.default is parameter.empty
            else ""
            if default is None
            else str(default).lower()
            if default in (True, False)
            else str(default)
        )
        return replace(setting, default=shown, doc=" ".join(entry[1].split()) if entry else "")

    def _arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        from dataclasses import make_dataclass

        from vocable.config import config_from_dict

        if not values:
            return {}
        parameters = inspect.signature(self.function).parameters
        hints = {name: parameters[name].annotation for name in values}
        scope = self.function.__globals__
        types = {name: eval(hint, scope) if isinstance(hint, str) else hint for name, hint in hints.items()}
        config = config_from_dict(make_dataclass("Arguments", list(types.items()), kw_only=True), values, source="")
        return {name: getattr(config, name) for name in values}


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
