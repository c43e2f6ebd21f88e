"""Commands whose parameters are the settings themselves."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vocable.cli.command import Command
from vocable.cli.settings import Setting, describe


class PlainCommand(Command):
    """A command without configs."""

    @property
    def places(self) -> list[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.cached_property
    def parts(self) -> dict[str, list[Setting]]:
        names = inspect.signature(self.function).parameters
        return {name: [] if name == "overrides" else [self._argument(name)] for name in names}

    def configs(self, given: Mapping[str, Any], free: Sequence[str] = ()) -> dict[str, Any]:
        for setting in self.required():
            self.check_given(setting, given)
        return self._arguments(given) | ({"overrides": tuple(free)} if "overrides" in self.parts else {})

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
