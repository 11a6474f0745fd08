"""The arguments of a function or class, read from its source: names, types, defaults and help, as command-line flags.

Nothing is imported for it, so that `counterpoise list` and every `--help` answer without loading torch.
"""

from __future__ import annotations

import argparse
import ast
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

from counterpoise.errors import InputError, unknown

PACKAGE = Path(__file__).parents[1]
Reader = Callable[[str], Any]
SCALARS: dict[str, Reader] = {"int": int, "float": float, "str": str, "bool": bool, "Path": Path}
SEQUENCES: dict[str, Callable[..., Any]] = {"list": list, "Sequence": list, "tuple": tuple}
WORDS: dict[Reader, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
}
KINDS: dict[Reader, type] = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool, Path: str}
TRUTH = {"true": True, "on": True, "false": False, "off": False}
LARGEST = 2**63 - 1  # what PyTorch and NumPy take as a whole number
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


class Code(str):
    """A default that is no plain value, as it is written in the source."""


class Kind(NamedTuple):
    """What an annotation says of the values that a flag takes."""

    type: Reader | None = None
    choices: tuple[Any, ...] = ()
    many: Callable[..., Any] | None = None
    single: bool = True


@dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        name: as in the signature.
        type: int, float, str, bool or Path, of one value; `None` for any other object, which is not a flag.
        default: the value, or `Code` where it is no plain one; `None` also where there is none (see `required`).
        required: whether it has no default.
        help: its line in the docstring; "" where it has none.
        choices: the only values allowed; empty when all are.
        many: list or tuple where several values are taken.
        single: whether one value may stand by itself, as in `int | Sequence[int]`.
    """

    name: str
    type: Reader | None = None
    default: Any = None
    required: bool = False
    help: str = ""
    choices: tuple[Any, ...] = ()
    many: Callable[..., Any] | None = None
    single: bool = True

    @property
    def flag(self) -> str:
        """The argument on the command line: `weight_decay` is `--weight-decay`."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default in words."""
        if self.required:
            return "required"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, (list, tuple)):
            return ",".join(map(str, self.default)) or "none"
        return "none" if self.default is None else str(self.default)


@dataclass(frozen=True)
class Description:
    """A docstring's first paragraph, and the arguments in order: its own, then those of its base classes."""

    summary: str
    arguments: tuple[Argument, ...]


def describe(module: str, name: str, *, package: Path = PACKAGE) -> Description:
    """Read the arguments of a function, a class or a method from source.

    A class has the arguments of its `__init__` (or its fields, as a dataclass), and where that passes `**others` on,
    those of its base class in Counterpoise too, except for what it sets itself in `super().__init__(...)`.

    Args:
        module: its name below the package, such as "contrast.simclr".
        name: a function or class in it, or "Class.method".
        package: the folder of the package's source.

    Raises:
        InputError: if there is no such module, or nothing of that name in it.

    >>> describe("arguments", "describe").arguments[1].help
    'a function or class in it, or "Class.method".'
    """
    outer, _, method = name.partition(".")
    found = Scope(module, package).find(outer)
    if found and method and isinstance(found.node, ast.ClassDef):
        found = found.method(method)
    if found is None or not isinstance(found.node, (ast.ClassDef, ast.FunctionDef)):
        raise InputError(f"module '{module}' has no function or class '{name}'")
    return Description(_docs(found.node).summary, tuple(_arguments(found)))


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, description: Description, skip: Iterable[str] = ()
) -> None:
    """Add a flag for every argument that has a plain type; flags not given leave no trace in the namespace.

    Args:
        parser: gets the flags: `--no-` beside each switch; lists may be repeated or separated by commas.
        description: of what will be called.
        skip: names of arguments that get no flag.
    """
    for argument in description.arguments:
        if argument.type is None or argument.name in skip:
            continue
        default = "required" if argument.required else f"default: {argument.shown_default}"
        text = f"{argument.help} ({default})".strip().replace("%", "%%")
        common: dict[str, Any] = {"dest": argument.name, "default": argparse.SUPPRESS, "required": argument.required}
        if argument.type is bool:
            # The help is set afterwards: Python 3.10 would append the default, which is the mark for "leave no trace".
            parser.add_argument(argument.flag, action=argparse.BooleanOptionalAction, **common).help = text
            continue
        word = "{" + ",".join(map(str, argument.choices)) + "}" if argument.choices else WORDS[argument.type][0]
        if argument.many:
            common |= {"action": "extend", "type": _reader_of_many(argument), "metavar": f"{word}[,…]"}
        else:
            common |= {"type": _reader(argument), "metavar": word}
        parser.add_argument(argument.flag, help=text, **common)


def collect(namespace: argparse.Namespace, description: Description) -> dict[str, Any]:
    """The arguments of `description` that were given on the command line, ready for a call.

    >>> parser = argparse.ArgumentParser()
    >>> description = Description("", (Argument("seeds", int, many=list, single=False), Argument("lr", float, 0.1)))
    >>> add_flags(parser, description)
    >>> collect(parser.parse_args(["--seeds", "1,2", "--seeds", "3"]), description)
    {'seeds': [1, 2, 3]}
    """
    given = {}
    for argument in description.arguments:
        if hasattr(namespace, argument.name):
            value = getattr(namespace, argument.name)
            if argument.many:
                value = value[0] if argument.single and len(value) == 1 else argument.many(value)
            given[argument.name] = value
    return given


def read_value(argument: Argument, text: str) -> Any:
    """The value of an argument from its text, as its flag would read it; on and off as true and false, none as `None`.

    Raises:
        InputError: naming the argument, for text that is no such value.

    >>> read_value(Argument("lr", float, 0.1), "1e-3"), read_value(Argument("fast", bool, False), "true")
    (0.001, True)
    """
    if argument.default is None and not argument.required and text.lower() == "none":
        return None
    if argument.type is None:
        raise InputError(f"{argument.name}: takes no plain value, got '{text}'")
    if argument.type is bool:
        if text.lower() not in TRUTH:
            raise InputError(f"{argument.name}: expected true or false, got '{text}'")
        return TRUTH[text.lower()]
    try:
        value = _reader(argument)(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{argument.name}: {error}") from error
    return argument.many([value]) if argument.many and not argument.single else value


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a path as text, numbers and arrays of NumPy and PyTorch as Python's own.

    >>> plain([Path("a/b"), 3])
    ['a/b', 3]
    """
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def check_value(argument: Argument, value: Any) -> None:
    """Refuse a value that the argument's flag could not give, such as 1.5 for a whole number.

    Args:
        argument: as `describe` gives it.
        value: a plain one.

    Raises:
        InputError: naming the argument.

    >>> check_value(Argument("epochs", int, 10), True)
    Traceback (most recent call last):
    counterpoise.errors.InputError: epochs: expected a whole number, got True
    """
    if argument.type is None:
        raise InputError(f"{argument.name}: takes an object, which a run cannot record; use the class itself for it")
    if value is None and argument.default is None and not argument.required:
        return
    if argument.many and isinstance(value, (list, tuple)):
        for one in value:
            check_value(replace(argument, many=None), one)
        return
    if argument.many and not argument.single:
        raise InputError(f"{argument.name}: expected several values, got {value!r}")
    if isinstance(value, bool) != (argument.type is bool) or not isinstance(value, KINDS[argument.type]):
        raise InputError(f"{argument.name}: expected {_expected(argument)}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{argument.name}: expected a finite number, got {value}")
    if argument.choices and value not in argument.choices:
        raise unknown(argument.name, value, map(str, argument.choices))


def _expected(argument: Argument) -> str:
    if argument.choices:
        return f"one of {', '.join(map(str, argument.choices))}"
    assert argument.type is not None
    return "true or false" if argument.type is bool else WORDS[argument.type][1]


def _reader(argument: Argument) -> Reader:
    def read(text: str) -> Any:
        assert argument.type is not None
        try:
            value = argument.type(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {WORDS[argument.type][1]}, got '{text}'") from error
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at most 64 bits, got one of {len(text)} digits"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number, got '{text}'")
        if argument.choices and value not in argument.choices:
            raise argparse.ArgumentTypeError(str(unknown("value", text, map(str, argument.choices))))
        return value

    return read


def _reader_of_many(argument: Argument) -> Reader:
    read = _reader(argument)

    def read_many(text: str) -> list[Any]:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts:
            raise argparse.ArgumentTypeError(f"expected values separated by commas, got '{text}'")
        return [read(part) for part in parts]

    return read_many


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Scope:
    """A module, in which names are looked up."""

    module: str
    package: Path

    def find(self, name: str) -> Found | None:
        """What a name stands for: a function, a class or a value, here or where it is imported from in Counterpoise."""
        path = self.package.joinpath(*self.module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():
            raise InputError(f"module '{self.module}' is not in {self.package}")
        for node in reversed(_parsed(path).body):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return Found(node, self)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return Found(node.value, self)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("counterpoise."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return replace(self, module=str(node.module).removeprefix("counterpoise.")).find(alias.name)
        return None


@dataclass(frozen=True)
class Found:
    """A piece of source, and the module whose names it uses."""

    node: ast.AST
    scope: Scope

    def base(self) -> Found | None:
        """The base class that is defined in Counterpoise."""
        assert isinstance(self.node, ast.ClassDef)
        for node in self.node.bases:
            found = self.scope.find(node.id) if isinstance(node, ast.Name) else None
            if found and isinstance(found.node, ast.ClassDef):
                return found
        return None

    def method(self, name: str) -> Found | None:
        """A method of this class, or of the nearest base class that defines it."""
        assert isinstance(self.node, ast.ClassDef)
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Found(node, self.scope)
        base = self.base()
        return base.method(name) if base else None


def _arguments(found: Found) -> list[Argument]:
    node, scope = found.node, found.scope
    if isinstance(node, ast.FunctionDef):
        return _parameters(node, _docs(node).help, scope)
    assert isinstance(node, ast.ClassDef)
    base = found.base()
    inherited = _arguments(base) if base else []
    docs = _docs(node).help
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    if init is not None:
        own = _parameters(init, docs | _docs(init).help, scope)
        passed = [] if init.args.kwarg is None else _without_fixed(init, inherited)
    else:
        own = _fields(node, docs, scope) if any(_last_name(mark) == "dataclass" for mark in node.decorator_list) else []
        passed = inherited
    helps = {argument.name: argument.help for argument in inherited}
    own = [argument if argument.help else replace(argument, help=helps.get(argument.name, "")) for argument in own]
    names = {argument.name for argument in own}
    return own + [argument for argument in passed if argument.name not in names]


def _without_fixed(init: ast.FunctionDef, inherited: list[Argument]) -> list[Argument]:
    """The base's arguments without those that `init` itself hands to `super().__init__`."""
    for call in ast.walk(init):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            fixed = {keyword.arg for keyword in call.keywords}
            return [argument for argument in inherited[len(call.args) :] if argument.name not in fixed]
    return []


def _parameters(function: ast.FunctionDef, helps: dict[str, str], scope: Scope) -> list[Argument]:
    positional = [*function.args.posonlyargs, *function.args.args]
    without_default = len(positional) - len(function.args.defaults)
    pairs = zip(
        positional + function.args.kwonlyargs,
        [None] * without_default + function.args.defaults + function.args.kw_defaults,
        strict=True,
    )
    return [_argument(arg.arg, arg.annotation, default, helps, scope) for arg, default in pairs if arg.arg != "self"]


def _fields(node: ast.ClassDef, helps: dict[str, str], scope: Scope) -> list[Argument]:
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)]
    return [_argument(ast.unparse(part.target), part.annotation, part.value, helps, scope) for part in fields]


def _argument(
    name: str, annotation: ast.expr | None, default: ast.expr | None, helps: dict[str, str], scope: Scope
) -> Argument:
    kind = _kind(annotation, scope)._asdict()
    value = None if default is None else _value(default, scope)
    return Argument(name, default=value, required=default is None, help=helps.get(name, ""), **kind)


class Docs(NamedTuple):
    """A docstring's first paragraph, and its line for every argument."""

    summary: str
    help: dict[str, str]


def _docs(node: ast.ClassDef | ast.FunctionDef) -> Docs:
    text = ast.get_docstring(node) or ""
    params = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE).params
    help = {param.arg_name: " ".join((param.description or "").split()) for param in params}
    return Docs(" ".join(text.partition("\n\n")[0].split()), help)


def _kind(node: ast.expr | None, scope: Scope) -> Kind:
    """The values that an annotation allows; `Kind()` when they cannot be written on a command line."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _kind(ast.parse(node.value, mode="eval").body, scope)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either([_kind(side, scope) for side in (node.left, node.right) if not _is(None, side)])
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        name = _last_name(node.value)
        if name == "Literal":
            choices = tuple(_value(part, scope) for part in parts)
            types = {type(choice) for choice in choices}
            return Kind(types.pop(), choices) if len(types) == 1 else Kind()
        if name in SEQUENCES:
            kinds = {_kind(part, scope) for part in parts if not _is(..., part)}
            kind = kinds.pop()
            if not kinds and kind.type not in (None, bool) and kind.many is None:
                return kind._replace(many=SEQUENCES[name], single=False)
        return Kind()
    name = "" if node is None else _last_name(node)
    if name in SCALARS:
        return Kind(SCALARS[name])
    alias = scope.find(name) if isinstance(node, ast.Name) else None
    return _kind(alias.node, alias.scope) if alias and isinstance(alias.node, ast.expr) else Kind()


def _either(kinds: list[Kind]) -> Kind:
    """The kind of a union; `int | float` reads numbers, `str | Path` text."""
    types = {kind.type for kind in kinds}
    if types == {int, float}:
        types = {float}
    if types == {str, Path}:
        types = {str}
    if len(types) > 1:
        return Kind()
    choices = tuple(choice for kind in kinds for choice in kind.choices) if all(kind.choices for kind in kinds) else ()
    many = next((kind.many for kind in kinds if kind.many), None)
    return Kind(types.pop(), choices, many, any(kind.single for kind in kinds))


def _value(node: ast.expr, scope: Scope) -> Any:
    """The value of an expression of literals, arithmetic and constants of the module; its source for anything else."""
    try:
        return _evaluate(node, scope)
    except ValueError:
        return Code(ast.unparse(node))


def _evaluate(node: ast.expr, scope: Scope) -> Any:
    if isinstance(node, ast.Name):
        found = scope.find(node.id)
        if found is None or not isinstance(found.node, ast.expr):
            raise ValueError(node.id)
        return _evaluate(found.node, found.scope)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, scope)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left, scope), _evaluate(node.right, scope))
    if isinstance(node, (ast.Tuple, ast.List)):
        values = [_evaluate(part, scope) for part in node.elts]
        return tuple(values) if isinstance(node, ast.Tuple) else values
    return ast.literal_eval(node)


def _is(value: Any, node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _last_name(node: ast.expr) -> str:
    """`Literal` for `typing.Literal`, `dataclass` for `@dataclasses.dataclass(frozen=True)`."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def as_words(name: str, given: Any) -> tuple[str, ...]:
    """Several words as a tuple; one by itself is taken for such, too.

    Raises:
        InputError: for anything else.

    >>> as_words("imperfect", "long-tail=10"), as_words("loggers", ["wandb", "mlflow"])
    (('long-tail=10',), ('wandb', 'mlflow'))
    """
    words = [given] if isinstance(given, str) else plain(given)
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise InputError(f"{name}: expected texts, got {given!r}")
    return tuple(words)


def check_arguments(module: str, name: str, **given: Any) -> None:
    """Refuse arguments of a function or class that are of another kind than it takes; unknown ones are passed over.

    >>> check_arguments("contrast.simclr", "SimCLR", temperature="warm")
    Traceback (most recent call last):
    counterpoise.errors.InputError: temperature: expected a number, got 'warm'
    """
    for argument in describe(module, name).arguments:
        if argument.name in given:
            check_value(argument, given[argument.name])
