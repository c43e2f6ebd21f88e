"""Fill a frozen dataclass from yaml and dotted overrides, and write it back.

    recipes/twist/opt350m.yaml  +  lm.context_tokens=512   ->   TwistConfig(...)   ->   <run>/config.yaml

Defaults live in the dataclasses; a yaml holds only what it changes. Unknown keys are refused with the nearest name;
types are checked by pydantic.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vocable.errors import ConfigError
from vocable.files import write_text
from vocable.registry import nearest_name

C = TypeVar("C")


def load_config(kind: type[C], path: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Build a `kind` from a yaml file and overrides such as `lm.context_tokens=512`.

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown (the nearest one is named), a value has the
            wrong type or is out of range.
    """
    values = read_overrides(overrides, below=read_yaml(Path(path)) if path is not None else {})
    return config_from_dict(kind, values, source=str(path) if path else "overrides")


def read_overrides(overrides: Sequence[str], below: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Turn overrides such as `lm.context_tokens=512` into nested dictionaries, on top of `below`.

    Raises:
        ConfigError: an override has no "=".
    """
    dotted: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"Override {override!r} has no '='. Write it as lm.context_tokens=512.")
        dotted[key.strip().lstrip("-")] = yaml.safe_load(text)
    return nest(dotted, below)


def nest(dotted: Mapping[str, Any], below: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Turn dotted names into nested dictionaries, {"lm.warm": False} -> {"lm": {"warm": False}}, on top of `below`."""
    nested = _copied(below or {})
    for key, value in dotted.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return nested


def _copied(values: Any) -> Any:
    """Copy nested dictionaries. One that stands in several places (yaml's aliases) becomes several, to change apart."""
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    return [_copied(value) for value in values] if isinstance(values, list) else values


def system_of(path: Path) -> str:
    """Return which system a recipe is for: its key `system`; 'twist' where there is none.

    Raises:
        ConfigError: the file is missing or not a mapping.
    """
    return str(read_yaml(Path(path)).get("system", "twist"))


def config_from_dict(kind: type[C], values: Mapping[str, Any], source: str = "config") -> C:
    """Build a `kind` from nested dictionaries; the same checks and errors as `load_config`."""
    import pydantic

    _refuse_unknown_keys(kind, values, prefix="", source=source)
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(_explain(detail, source) for detail in error.errors())) from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain dictionaries that yaml and JSON can hold."""
    return _plain(dataclasses.asdict(config))


def save_config(config: Any, path: Path, note: str = "") -> None:
    """Write the whole resolved config, defaults included, as yaml, below `note` as a comment."""
    comment = "".join(f"# {line}\n" for line in note.splitlines())
    text = comment + yaml.safe_dump(config_to_dict(config), sort_keys=False)
    write_text(text, Path(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file that holds a mapping.

    Raises:
        ConfigError: the file is missing, or not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file. The shipped ones are in recipes/.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid yaml: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; a config is a mapping of names to values.")
    return values


def _refuse_unknown_keys(kind: type, values: Mapping[str, Any], prefix: str, source: str) -> None:
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            guess = nearest_name(str(key), known)
            hint = f" Did you mean {prefix + guess!r}?" if guess else ""
            raise ConfigError(
                f"{_opening(source)}unknown setting {prefix + str(key)!r}.{hint} Known: {', '.join(sorted(known))}."
            )
        child = _dataclass_in(hints[key], value)
        if child is not None and isinstance(value, Mapping):
            _refuse_unknown_keys(child, value, prefix=f"{prefix}{key}.", source=source)


def _dataclass_in(hint: Any, value: Any = None) -> type | None:
    """The dataclass in a type hint such as `LMConfig` or `LMConfig | None`; of several, that of the value's `kind`."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found = [choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    named = [choice for choice in found if kind is not None and getattr(choice, "__dataclass_fields__", {}).get("kind")]
    return next(
        (choice for choice in named if choice.__dataclass_fields__["kind"].default == kind), (found or [None])[0]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _explain(detail: Mapping[str, Any], source: str) -> str:
    """Say one thing that pydantic found wrong, in our words."""
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{_opening(source)}{cause}"
    setting = ".".join(str(part) for part in detail["loc"])
    expected = re.findall(r"'([^']*)'", detail["msg"]) if detail["type"] == "literal_error" else []
    guess = nearest_name(str(detail["input"]), expected)
    hint = f" Did you mean {guess!r}?" if guess else ""
    message = f"{detail['msg'][0].lower()}{detail['msg'][1:]}."
    return f"{_opening(source)}{setting} is {detail['input']!r}; {message}{hint}"


def _opening(source: str) -> str:
    """Name the file that a mistake is in; nothing where it is on the command line."""
    return f"{source}: " if source else ""
