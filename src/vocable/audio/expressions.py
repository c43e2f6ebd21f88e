"""Small expressions over the fields of a manifest line: conditions to choose lines by, and values to fill in.

    duration > 1 and speaker in ("anna", "ben")        lower(text)        match(id, "^(\\w+)-")

They are written as in Python, and only what is listed here can be written, so a text from anywhere is safe to evaluate:
fields by name, texts in quotes, numbers, lists, `and or not`, comparisons, `in`, `a if b else c`, + - * /, and the
functions in `FUNCTIONS`. A field that a line lacks is `null`; it is never smaller or larger than anything, what is
computed from it is `null`, and as a condition it is false.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from vocable.errors import ConfigError
from vocable.registry import nearest_name

Fields = Callable[[str], Any]
"""Returns the value of a field of one line; None where the line lacks it."""

WORDS = {"null": None, "true": True, "false": False}


def match(text: str, pattern: str) -> str | None:
    """The first group of a regular expression where it is found in the text, all that it matched without groups."""
    found = re.search(pattern, text)
    return found and found[1 if found.re.groups else 0]


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "match": match,
    "replace": lambda text, pattern, new: re.sub(pattern, new, text),
    "lower": str.lower,
    "upper": str.upper,
    "strip": str.strip,
    "len": len,
    "number": float,
    "text": str,
}
"""Functions of an expression; each returns null where its first argument is null."""

COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, many: value in many,
    ast.NotIn: lambda value, many: value not in many,
}
FOR_NULL_TOO = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot)
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: lambda left, right: float(left) * float(right),
    ast.Div: operator.truediv,
}


class Expression:
    """One expression, parsed and checked; call it with the fields of a line."""

    def __init__(self, source: str) -> None:
        """Parse `source`.

        Raises:
            ConfigError: it is not an expression, or holds what expressions do not have.
        """
        self.source = source
        self.names: set[str] = set()
        """Fields that it reads."""
        try:
            self._tree = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            single = " Equality is written ==." if re.search(r"[^=!<>]=[^=]", source) else ""
            raise ConfigError(
                f"{source!r} is not an expression: {getattr(error, 'msg', error)}.{single} Examples: duration > 1 and "
                'speaker != "anna";  lower(text)'
            ) from error
        self._check(self._tree)

    def check_names(self, known: set[str]) -> None:
        """Refuse names that are no field.

        Raises:
            ConfigError: the nearest field is named.
        """
        for name in sorted(self.names - known):
            guess = nearest_name(name, sorted(known))
            hint = f" Did you mean {guess!r}?" if guess else f" The fields: {', '.join(sorted(known))}."
            raise ConfigError(f'{self.source!r}: no line has a field {name!r}. Text stands in quotes: "{name}".{hint}')

    def __call__(self, fields: Fields) -> Any:
        """Compute the value for one line.

        Raises:
            ConfigError: values are of types that do not go together.
        """
        try:
            return self._value(self._tree, fields)
        except (TypeError, ValueError, ArithmeticError, re.error) as error:
            raise ConfigError(f"{self.source!r}: {error}.") from error

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self.names |= {node.id} - WORDS.keys()
        elif isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
                raise ConfigError(f"{self.source!r}: the functions are {', '.join(FUNCTIONS)}.")
            for argument in node.args:
                self._check(argument)
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, str | int | float | None):
                raise ConfigError(f"{self.source!r}: {node.value!r} is neither a text nor a number.")
        elif isinstance(node, ast.BoolOp | ast.UnaryOp | ast.Compare | ast.BinOp | ast.IfExp | ast.List | ast.Tuple):
            for child in ast.iter_child_nodes(node):
                self._check(child)
        elif not isinstance(node, (*COMPARISONS, *ARITHMETIC, ast.And, ast.Or, ast.Not, ast.USub, ast.Load)):
            what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise ConfigError(f"{self.source!r}: {what!r} cannot stand in an expression.")

    def _value(self, node: ast.AST, fields: Fields) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return WORDS[node.id] if node.id in WORDS else fields(node.id)
            case ast.List() | ast.Tuple():
                return [self._value(item, fields) for item in node.elts]
            case ast.BoolOp():
                value, stops = None, isinstance(node.op, ast.Or)
                for part in node.values:
                    value = self._value(part, fields)
                    if bool(value) is stops:
                        break
                return value
            case ast.UnaryOp(op=ast.Not()):
                return not self._value(node.operand, fields)
            case ast.UnaryOp():
                value = self._value(node.operand, fields)
                return None if value is None else -value
            case ast.IfExp():
                return self._value(node.body if self._value(node.test, fields) else node.orelse, fields)
            case ast.Compare():
                values = [self._value(part, fields) for part in (node.left, *node.comparators)]
                return all(map(_compare, node.ops, values, values[1:]))
            case ast.BinOp():
                left, right = self._value(node.left, fields), self._value(node.right, fields)
                return None if left is None or right is None else ARITHMETIC[type(node.op)](left, right)
            case ast.Call(func=ast.Name(id=name)):
                values = [self._value(part, fields) for part in node.args]
                return None if not values or values[0] is None else FUNCTIONS[name](*values)
        raise AssertionError(ast.dump(node))


def _compare(operation: ast.cmpop, left: Any, right: Any) -> bool:
    """Compare two values; null equals null alone, and is neither before nor after anything."""
    unknown = right is None or (left is None and not isinstance(right, list))
    if unknown and not isinstance(operation, FOR_NULL_TOO):
        return False
    return COMPARISONS[type(operation)](left, right)
