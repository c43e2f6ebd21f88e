"""Read the settings of a config or a function from its source: name, type, default and explanation of each.

    class ShardsConfig:
        minutes_per_shard: float = 60.0       ->   Setting("minutes_per_shard", "minutes", "60.0", "A file is full ...")
        \"\"\"A file is full when ...\"\"\"

A function's parameters are explained under `Args:` in its docstring. The source is parsed, not imported: much of it
stands beside code that needs torch, and help must not wait for torch.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

PLAIN = {"Path": "path", "int": "integer", "float": "number", "str": "text", "bool": "switch"}
MEASURES = ("seconds", "minutes", "hours", "megabytes", "db")
"""Last words of a field's name that say what its number counts."""
LISTS = ("list", "tuple", "Sequence", "Iterable")
ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""A parameter under `Args:` in a docstring, and what is said about it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, as the command line reads and shows it."""

    name: str
    """Dotted where configs are nested: kmeans.seed."""
    type: str = "value"
    """In words: path, seconds, one of a, b."""
    default: str | None = None
    """As it would be typed; None where a value must be given."""
    doc: str = ""
    is_list: bool = False
    is_optional: bool = False
    """Takes null."""
    config: tuple[str, str] | None = None
    """Module and name of the dataclass that the value is, where it is one; its fields follow as settings."""

    @property
    def is_open(self) -> bool:
        """Holds values under names of their own."""
        return not (self.is_text or self.is_list or self.config)

    @property
    def is_text(self) -> bool:
        """Words are taken as they stand; other values may be written as yaml."""
        plain = (*PLAIN.values(), *MEASURES, "hertz", "text or path")
        return self.type in plain or self.type.startswith("one of")


def read_settings(
    module: str, name: str, prefix: str = "", given: Mapping[str, ast.expr] | None = None
) -> Iterator[Setting]:
    """Yield the settings of the dataclass `name` of a module: nested ones under dotted names, inherited ones last.

    `given` are defaults that the field which holds this config changes.
    """
    fields: dict[str, Setting] = {}
    nested: dict[str, list[Setting]] = {}
    where, node = find_definition(module, name) or (module, None)
    assert isinstance(node, ast.ClassDef), f"{module} has no class {name}."
    for statement, following in zip(node.body, [*node.body[1:], ast.Pass()]):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        field = statement.target.id
        default = (given or {}).get(field, statement.value)
        setting = describe(statement.annotation, where, prefix + field)
        doc = following.value.value if _is_text(following) else ""  # type: ignore[union-attr]
        fields[setting.name] = replace(setting, default=_shown(default, where), doc=" ".join(str(doc).split()))
        if setting.config:
            nested[setting.name] = list(read_settings(*setting.config, f"{prefix}{field}.", _changes(default)))
    for base in node.bases:
        if isinstance(base, ast.Name) and is_config((find_definition(where, base.id) or ("", base))[1]):
            for setting in read_settings(where, base.id, prefix, given):
                fields.setdefault(setting.name, setting)
    for key, setting in fields.items():
        yield setting
        yield from nested.get(key, ())


def read_parameters(module: str, name: str) -> Iterator[Setting]:
    """Yield a setting for each parameter of a function; those of types that cannot be typed are for Python alone."""
    where, node = find_definition(module, name) or (module, None)
    assert isinstance(node, ast.FunctionDef), f"{module} has no function {name}."
    docs = dict(ARGUMENT.findall(ast.get_docstring(node) or ""))
    arguments = node.args
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + [*arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*arguments.args, *arguments.kwonlyargs], defaults):
        setting = describe(argument.annotation or ast.Name("str"), where, argument.arg)
        if setting.type != "value":
            doc = " ".join(docs.get(argument.arg, "").split())
            yield replace(setting, default=_shown(default, where), doc=doc[:1].upper() + doc[1:])


def describe(node: ast.expr, module: str, name: str) -> Setting:
    """Say in plain words what a type annotation of a module allows."""
    last = name.rsplit("_", 1)[-1].rsplit(".", 1)[-1]
    match node:
        case ast.Constant(value=str(text)):  # an annotation in quotes
            return describe(ast.parse(text, mode="eval").body, module, name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            if isinstance(right, ast.Constant) and right.value is None:
                return replace(describe(left, module, name), is_optional=True)
            first, second = describe(left, module, name), describe(right, module, name)
            if (first.type, second.type) == ("path", "text"):  # a path in either form, which Python's callers like
                return first
            return replace(first, type=f"{first.type} or {second.type}", is_optional=first.is_optional, config=None)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            choices = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return Setting(name, "one of " + ", ".join(str(ast.literal_eval(choice)) for choice in choices))
        case ast.Subscript(value=ast.Name(id=kind), slice=inner) if kind in LISTS:
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return replace(describe(items[0], module, name), is_list=True)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[*_, last_item])):
            return describe(last_item, module, name)
        case ast.Name(id="int" | "float") if last in MEASURES:
            return Setting(name, last)
        case ast.Name(id="int" | "float") if name.endswith(("sample_rate", "frame_rate")):
            return Setting(name, "hertz")
        case ast.Name(id=kind) if kind in PLAIN:
            return Setting(name, PLAIN[kind])
        case ast.Name(id=kind) if found := find_definition(module, kind):
            where, definition = found
            if isinstance(definition, ast.expr):
                return describe(definition, where, name)
            if is_config(definition):
                return Setting(name, "settings", config=(where, definition.name))
    return Setting(name)


@functools.cache
def find_definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef | ast.expr] | None:
    """Find what a module calls `name`, and the module that defines it; None for what is not ours."""
    for node in _statements(_parse(module)):
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                return module, node
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return module, value
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == name:
                return module, value
            case ast.ImportFrom(module=str(source), names=aliases):
                for alias in aliases:
                    if name == (alias.asname or alias.name):
                        return find_definition(source, alias.name)
    return None


def _statements(tree: ast.Module | ast.If) -> Iterator[ast.stmt]:
    """Yield the statements of a module, and those in its blocks `if TYPE_CHECKING`."""
    for node in tree.body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node)


@functools.cache
def _parse(module: str) -> ast.Module:
    return ast.parse(_source(module))


@functools.cache
def _source(module: str) -> str:
    """Return the source of a module that is loaded, or that is part of this package; "" for others."""
    if module.startswith("vocable."):
        place = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    elif module in sys.modules and module.partition(".")[0] not in sys.stdlib_module_names:
        file = inspect.getsourcefile(sys.modules[module])
    else:
        file = None
    return Path(file).read_text(encoding="utf-8") if file else ""


def read_summary(module: str, name: str) -> str:
    """Return the first line of the docstring of a class or function, without parsing the module."""
    found = re.search(rf'^(?:class|def) {name}\b[\s\S]*?:\n    """(.*?)(?:"""|$)', _source(module), re.MULTILINE)
    return found[1] if found else ""


def class_value(module: str, name: str, attribute: str) -> ast.expr | None:
    """Return what a class, or the first base that does, sets an attribute to."""
    where, node = find_definition(module, name) or (module, None)
    for statement in node.body if isinstance(node, ast.ClassDef) else ():
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == attribute:
                return value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                for target, value in zip(targets, values):
                    if isinstance(target, ast.Name) and target.id == attribute:
                        return value
            case ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value) if found == attribute:
                return value
    for base in node.bases if isinstance(node, ast.ClassDef) else ():
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name) and (value := class_value(where, base.id, attribute)) is not None:
            return value
    return None


def is_config(node: ast.AST) -> bool:
    """Whether a definition is a dataclass."""
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(word) for word in node.decorator_list)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _made(default: ast.expr | None) -> ast.expr | None:
    """Value of a default: the value itself, or what the factory of `field(default_factory=...)` makes."""
    if isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id == "field":
        factory = next((word.value for word in default.keywords if word.arg == "default_factory"), None)
        return factory.body if isinstance(factory, ast.Lambda) else factory
    return default


def _changes(default: ast.expr | None) -> dict[str, ast.expr]:
    made = _made(default)
    return {word.arg: word.value for word in made.keywords if word.arg} if isinstance(made, ast.Call) else {}


def _shown(default: ast.expr | None, module: str) -> str | None:
    """Write a default as it would be typed; "" for None, whose meaning the docstring tells, and for a config."""
    made = _made(default)
    if made is None:
        return None
    if isinstance(made, ast.Name):
        found = find_definition(module, made.id)
        return _shown(found[1], found[0]) if found and isinstance(found[1], ast.expr) else ""
    if isinstance(made, ast.Call):
        return ast.literal_eval(made.args[0]) if made.args and isinstance(made.args[0], ast.Constant) else ""
    try:
        value = ast.literal_eval(made)
    except ValueError:
        return ast.unparse(made)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
